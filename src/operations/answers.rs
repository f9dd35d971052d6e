//! Work that a mount's process does for another process of the same user, with reports of progress.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::control::{Answer, send};
use crate::error::{Context, Error, Kind, Result};
use crate::fs::FileSystem;
use crate::gate::Principal;
use crate::operations::vm_task::VmTask;
use crate::progress::Progress;
use crate::serve::BackingId;

/// Does work and answers with what came of it. Progress goes before, a line each.
pub(super) fn serve(fs: &FileSystem, task: VmTask, stream: &mut UnixStream) -> Result<Answer> {
    let principal = Principal::of_peer(&*stream)?;
    stream.set_nonblocking(false).context(|| "preparing the control socket".into())?;
    let mut on_progress = |progress: &Progress| {
        let told = send(stream, &Answer::Progress { progress: progress.clone() });
        if told.is_err() || has_ended(stream)? {
            return Err(Error::new(Kind::Stopped, "stopped at the requester's wish; run it again to resume"));
        }
        Ok(())
    };
    let (vm, component) = fs.served().vm_at(task.at())?;
    let outcome = task.perform(&vm, component, principal, &mut on_progress)?;
    Ok(Answer::Done { outcome })
}

/// Whether the other side will send no more: a client that wants work to stop closes its sending half.
fn has_ended(stream: &mut UnixStream) -> Result<bool> {
    let doing = || "looking at the control socket".into();
    stream.set_nonblocking(true).context(doing)?;
    let ended = matches!(stream.read(&mut [0; 1]), Ok(0));
    stream.set_nonblocking(false).context(doing)?;
    Ok(ended)
}

/// Names the folder that a path is of to a mount's process.
pub(super) fn identity(fs: &FileSystem, mountpoint: &Path) -> Result<Answer> {
    let BackingId { device, inode } = fs.served().id()?;
    Ok(Answer::Serving {
        pid: std::process::id(),
        mountpoint: mountpoint.to_path_buf(),
        device,
        inode,
        read_only: fs.served().options().read_only,
    })
}
