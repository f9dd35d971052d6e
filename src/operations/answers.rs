//! What the process of a mount answers other processes of its user, and does for them.

use std::thread;

use crate::control::{self, Answer, Asking, Request, status_of};
use crate::error::Result;
use crate::fs::FileSystem;
use crate::gate::{self, unwatched};
use crate::metrics;
use crate::operations::keys_in_memory::{Lock, Unlock};
use crate::serve::BackingId;

/// Does what a request asks for, and says what came of it.
///
/// # Errors
/// Those of what it asks for.
pub(super) fn answer(fs: &FileSystem, request: Request, asking: &mut Asking) -> Result<Answer> {
    let found = match request {
        Request::Status => return control::status(fs).map(Answer::Status),
        Request::Introduce => return identity(fs, asking),
        Request::Metrics => return Ok(Answer::Metrics { families: metrics::of_mount(fs) }),
        Request::WaitForEnd => loop {
            thread::park(); // the end of the process closes the connection
        },
        Request::Work { work } => {
            let (vm, component) = fs.served().vm_at(work.at())?;
            let outcome = work.perform(&vm, component, asking.principal()?, &mut |progress| asking.tell(progress))?;
            return Ok(Answer::Done { outcome });
        }
        Request::Unlock { path } => {
            let unlock = Unlock { served: fs.served(), below: path.as_deref() };
            gate::perform(unlock, asking.principal()?, &mut unwatched)?
        }
        Request::Lock { path } => {
            let lock = Lock { served: fs.served(), below: path.as_deref() };
            gate::perform(lock, asking.principal()?, &mut unwatched)?
        }
    };
    Ok(Answer::Status(status_of(&found, fs)))
}

/// Names the folder that a path is of to a mount's process.
fn identity(fs: &FileSystem, asking: &Asking) -> Result<Answer> {
    let BackingId { device, inode } = fs.served().id()?;
    Ok(Answer::Serving {
        pid: std::process::id(),
        mountpoint: asking.mountpoint(),
        device,
        inode,
        read_only: fs.served().options().read_only,
    })
}
