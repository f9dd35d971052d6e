//! Threads that a mount cannot do without say when they end: one that is missing would leave requests without an answer.

use std::sync::mpsc::Sender;

use crate::error::{Error, Kind, Result};
use crate::sys::thread::caught;

/// Does a thread's work, and sends how it ended.
pub(super) fn tell(ended: &Sender<Result<()>>, work: impl FnOnce() -> Result<()>) {
    let outcome = caught(work).unwrap_or_else(|| Err(unwound()));
    let _ = ended.send(outcome);
}

/// Does a thread's work, of which only a failure is news.
pub(super) fn tell_failure(ended: &Sender<Result<()>>, work: impl FnOnce() -> Result<()>) {
    if let Err(error) = caught(work).unwrap_or_else(|| Err(unwound())) {
        let _ = ended.send(Err(error));
    }
}

/// Does the work of a thread that has to be there as long as the mount: that it ends is a failure, whatever it says.
pub(super) fn tell_any(ended: &Sender<Result<()>>, work: impl FnOnce()) {
    let outcome = caught(work).map_or_else(unwound, |()| Error::new(Kind::Io, "a thread of the mount ended before it"));
    let _ = ended.send(Err(outcome));
}

fn unwound() -> Error {
    Error::new(Kind::Io, "a thread of the mount failed: this is a bug, please report it")
}
