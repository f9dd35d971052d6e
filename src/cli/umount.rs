//! `umount`: a mount taken down.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::place;
use crate::control::mounts::Mounted;
use crate::control::{self, mounts};
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::fuse::mount::{Unmount, unmount};
use crate::gate::{self, Object, Operation, Principal, Trail, unwatched};
use crate::progress::OnProgress;
use crate::sys::process;
use crate::text::Show;

/// What to unmount.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs umount /mnt\n\n\
    Returns when the mount's process has ended and its keys are gone. Where the mount shows in another place as well, by a bind\n\
    mount, this one is unmounted, the other one named, and the exit code 6.")]
pub(super) struct UmountArgs {
    /// Where it is mounted, or what is mounted there
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Do not wait for open files: the mount vanishes now, and ends when the last of them is closed
    #[arg(long)]
    lazy: bool,
}

/// How long the process may take to end after its mount is gone.
const ENDING: Duration = Duration::from_secs(60);
/// How often the process is looked at during it.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

pub(super) fn run(args: &UmountArgs) -> Result<()> {
    let umount = UnmountFolder { mount: mount_on_or_of(&args.mountpoint)?, lazy: args.lazy };
    gate::perform(umount, Principal::Process, &mut unwatched)
}

/// Unmounts. The mount's process records that it ended.
struct UnmountFolder {
    mount: Mounted,
    lazy: bool,
}

impl Operation for UnmountFolder {
    const NAME: EventName = EventName::Unmount;
    type Outcome = ();

    fn object(&self) -> Object {
        Object::Folder(self.mount.source.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<()> {
        trail.in_parts();
        end(&self.mount, self.lazy)
    }
}

fn end(mount: &Mounted, lazy: bool) -> Result<()> {
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
        if lazy {
            eprintln!("vmcryptfs: {text}");
            return Ok(());
        }
        return Err(Error::new(Kind::Busy, text));
    }
    match process {
        Ok(stream) if !lazy => wait_for_end(stream),
        // Its process had died before, or has no parent that waits.
        _ => Ok(()),
    }
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

/// The mount on a mountpoint, or of a folder on the backing side.
fn mount_on_or_of(path: &Path) -> Result<Mounted> {
    mounts::find(path).or_else(|nothing_there| {
        let Ok((mountpoint, below)) = place::mount_of(path) else { return Err(nothing_there) };
        match below.as_os_str().is_empty() {
            true => mounts::find(&mountpoint),
            false => Err(Error::new(
                Kind::NotFound,
                format!("{} is not mounted by itself, but in the mount on {}", path.shown(), mountpoint.shown()),
            )),
        }
    })
}
