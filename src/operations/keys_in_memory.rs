//! Keys of a mount's components, unlocked and locked while it is in use. The watcher of the keyring records the result for each
//! component.

use std::path::Path;

use crate::error::Result;
use crate::event::EventName;
use crate::gate::{Object, Operation, Trail};
use crate::progress::OnProgress;
use crate::serve::ServedFolder;
use crate::vm::scan::FoundComponent;

/// Tries to unlock what is locked.
pub struct Unlock<'a> {
    /// What is served.
    pub served: &'a ServedFolder,
    /// Below that; without it, everything.
    pub below: Option<&'a Path>,
}

impl Operation for Unlock<'_> {
    const NAME: EventName = EventName::Unlock;
    type Outcome = Vec<FoundComponent>;

    fn object(&self) -> Object {
        object(self.served, self.below)
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<FoundComponent>> {
        trail.in_parts();
        self.served.unlock(self.below)
    }
}

/// Wipes keys from memory.
pub struct Lock<'a> {
    /// What is served.
    pub served: &'a ServedFolder,
    /// Below that; without it, everything.
    pub below: Option<&'a Path>,
}

impl Operation for Lock<'_> {
    const NAME: EventName = EventName::Lock;
    type Outcome = Vec<FoundComponent>;

    fn object(&self) -> Object {
        object(self.served, self.below)
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<FoundComponent>> {
        trail.in_parts();
        self.served.lock(self.below)
    }
}

fn object(served: &ServedFolder, below: Option<&Path>) -> Object {
    Object::at(below.map_or_else(|| served.path().to_path_buf(), |below| served.path().join(below)))
}
