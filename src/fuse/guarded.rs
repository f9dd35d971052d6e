//! A bug that one request triggers must not end the thread that serves it: fuser does not replace a thread that unwound, and
//! after the last of them nothing is answered any more.

use std::cell::OnceCell;
use std::sync::mpsc::Sender;

use crate::error::{Error, Kind, Result};
use crate::sys::thread::{caught, may_fail};

/// Keeps the handlers of fuser's threads from unwinding; a thread that ends nevertheless reports it.
pub(super) struct Guard(pub(super) Sender<Result<()>>);

impl Guard {
    /// Does a handler's work. A reply that is dropped when it unwinds is an I/O error.
    pub(super) fn run(&self, operation: &str, work: impl FnOnce()) {
        ENDING.with(|ending| {
            ending.get_or_init(|| Ending(self.0.clone()));
        });
        let done = caught(|| {
            may_fail("handler");
            work();
        });
        if done.is_none() {
            tracing::error!("{operation}: a request failed within the program: this is a bug, please report it");
        }
        may_fail("fuser");
    }
}

/// Goes with its thread.
struct Ending(Sender<Result<()>>);

impl Drop for Ending {
    fn drop(&mut self) {
        // At the end of a mount nothing listens any more.
        let _ = self.0.send(Err(Error::new(Kind::Io, "a thread of the dispatcher ended before the mount")));
    }
}

thread_local! {
    static ENDING: OnceCell<Ending> = const { OnceCell::new() };
}
