//! The one gate that every operation passes: whatever makes, changes, opens or destroys something that keys protect.
//!
//! [`perform`] asks whether the operation may be done, does it, leaves its events, and counts and times it. An operation
//! says what it is about before it begins, and reports to its [`Trail`] what becomes known on the way. Operations of verbs
//! are in `operations`; the file system has those that programs ask for through a mount.

pub mod counts;
mod object;
mod principal;
mod trail;

use std::time::Instant;

pub use object::Object;
pub use principal::Principal;
pub use trail::Trail;

use crate::error::Result;
use crate::event::EventName;
use crate::progress::{OnProgress, Progress};
use counts::Ending;

/// Something that is done to an object, whichever caller asks for it.
pub trait Operation: Sized {
    /// The name that its events and counters have, and that permission is given for.
    const NAME: EventName;
    /// What comes of it.
    type Outcome;

    /// What it is done to.
    fn object(&self) -> Object;

    /// Does it. An error of `on_progress` stops it at its next safe point.
    ///
    /// # Errors
    /// Those of the operation.
    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Self::Outcome>;
}

/// Does an operation for a principal, if it may be done.
///
/// # Errors
/// `Denied` when it may not, and those of the operation.
pub fn perform<O: Operation>(operation: O, principal: Principal, on_progress: OnProgress<'_>) -> Result<O::Outcome> {
    let begun = Instant::now();
    let object = operation.object();
    let mut trail = Trail::new(O::NAME, principal, &object);
    let (result, ending) = match principal.may(O::NAME, &object) {
        Err(refusal) => (Err(refusal), Ending::Refused),
        Ok(()) => {
            let result = operation.run(&mut trail, on_progress);
            let ending = if result.is_ok() { Ending::Ok } else { Ending::Failed };
            (result, ending)
        }
    };
    counts::add(O::NAME, ending, begun.elapsed());
    trail.end(&result);
    result
}

/// Progress that is not shown.
///
/// # Errors
/// None.
pub fn unwatched(_: &Progress) -> Result<()> {
    Ok(())
}

#[cfg(test)]
pub mod refusing;
#[cfg(test)]
mod tests;
