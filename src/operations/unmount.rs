//! Taking a mount down.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::control::mounts::Mounted;
use crate::control::{self, mounts};
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::fuse::mount::{Unmount, unmount};
use crate::gate::{Object, Operation, Trail};
use crate::progress::OnProgress;
use crate::sys::process;
use crate::text::Show;

/// How long the process may take to end after its mount is gone.
const ENDING: Duration = Duration::from_secs(60);
/// How often the process is looked at during it.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Unmounts. The mount's process records that it ended.
pub struct UnmountFolder {
    /// What is unmounted.
    pub mount: Mounted,
    /// Whether open files are not waited for.
    pub lazy: bool,
}

impl Operation for UnmountFolder {
    const NAME: EventName = EventName::Unmount;
    /// Where else the mount still shows, for people.
    type Outcome = Option<String>;

    fn object(&self) -> Object {
        Object::Folder(self.mount.source.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Option<String>> {
        trail.in_parts();
        end(&self.mount, self.lazy)
    }
}

fn end(mount: &Mounted, lazy: bool) -> Result<Option<String>> {
    let process = control::watch(&mount.mountpoint);
    let when = if lazy { Unmount::WhenUnused } else { Unmount::Now };
    unmount(&mount.mountpoint, when)?;
    let still = mounts::all()?.into_iter().find(|other| other.device == mount.device && other.source == mount.source);
    if let Some(still) = still {
        let at = still.mountpoint.shown();
        let text = format!(
            "{} is unmounted, but its mount still shows on {at}, and ends when that is unmounted",
            mount.mountpoint.shown()
        );
        return if lazy { Ok(Some(text)) } else { Err(Error::new(Kind::Busy, text)) };
    }
    match process {
        Ok(stream) if !lazy => wait_for_end(stream)?,
        // Its process had died before, or has no parent that waits.
        _ => {}
    }
    Ok(None)
}

/// Waits until the mount's process has ended, which is the other side of a stream.
fn wait_for_end(mut stream: UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(LOOK_PERIOD)).context(|| "limiting the wait".into())?;
    let start = Instant::now();
    loop {
        match stream.read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => {
                process::wait_for_closed_peer(&stream, ENDING);
                return Ok(());
            }
        }
        if let Some(pid) = process::stopped_peer(&stream) {
            let text = format!(
                "unmounted, but process {pid} of the mount is stopped, and its keys stay in memory: `kill -CONT {pid}` lets it end"
            );
            return Err(Error::new(Kind::Busy, text));
        }
        if start.elapsed() > ENDING {
            return Err(Error::new(Kind::Busy, "unmounted, but the mount's process has not ended yet"));
        }
    }
}
