//! Progress and cancellation of long-running work.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Progress of long-running work. Its names in JSON are part of the control socket's protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// What is being worked on: a component's path, or what is done.
    pub what: String,
    /// How much is done.
    pub done: u64,
    /// Of how much.
    pub total: u64,
    /// What is counted.
    pub unit: Unit,
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes of plaintext.
    Bytes,
    /// Homes and disks.
    Components,
    /// Files.
    Files,
}

/// Told of progress at least once a second by work that takes longer. An error stops the work at its next safe point; it is
/// of kind `Stopped` when that was requested.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress) -> Result<()>;

/// Says whether work that goes through names looks at any more of them.
pub type GoOn<'g> = dyn Fn() -> Result<()> + 'g;

/// Of work that nothing stops but the end of its process.
///
/// # Errors
/// None.
pub fn to_the_end() -> Result<()> {
    Ok(())
}

impl Progress {
    /// Of work that does not know yet how much there is to do. It has changed nothing.
    pub fn looking() -> Self {
        Self { what: "looking at the folder".to_owned(), done: 0, total: 0, unit: Unit::Files }
    }

    /// Whether it is of such work.
    pub fn is_looking(&self) -> bool {
        self.total == 0
    }
}

/// Work that only looks, and can be stopped at each name.
pub struct Looking<'a>(RefCell<OnProgress<'a>>);

impl<'a> Looking<'a> {
    /// Reports to `on_progress`.
    pub fn new(on_progress: OnProgress<'a>) -> Self {
        Self(RefCell::new(on_progress))
    }

    /// Another name is looked at.
    ///
    /// # Errors
    /// `Stopped` when that was requested.
    pub fn tell(&self) -> Result<()> {
        (self.0.borrow_mut())(&Progress::looking())
    }
}
