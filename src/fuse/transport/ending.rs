//! Threads that a mount depends on report their end: without one of them, requests would remain unanswered.

use std::sync::mpsc::Sender;

use crate::error::{Error, Kind, Result};
use crate::sys::thread::caught;

/// Does a thread's work, and reports how it ended.
pub(super) fn report(ended: &Sender<Result<()>>, work: impl FnOnce() -> Result<()>) {
    let outcome = caught(work).unwrap_or_else(|| Err(unwound()));
    let _ = ended.send(outcome);
}

/// Does a thread's work, and reports only a failure.
pub(super) fn report_failure(ended: &Sender<Result<()>>, work: impl FnOnce() -> Result<()>) {
    if let Err(error) = caught(work).unwrap_or_else(|| Err(unwound())) {
        let _ = ended.send(Err(error));
    }
}

/// Does the work of a thread that the mount always needs: any end of it is a failure.
pub(super) fn report_any(ended: &Sender<Result<()>>, work: impl FnOnce()) {
    let outcome = caught(work).map_or_else(unwound, |()| Error::new(Kind::Io, "a thread of the mount ended before it"));
    let _ = ended.send(Err(outcome));
}

fn unwound() -> Error {
    Error::new(Kind::Io, "a thread of the mount failed: this is a bug, please report it")
}
