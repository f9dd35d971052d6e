//! `umount`: a mount taken down.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::place;
use crate::cli::progress::perform;
use crate::control::mounts::{self, Mounted};
use crate::error::{Error, Kind, Result};
use crate::operations::unmount::UnmountFolder;
use crate::text::Show;

/// What to unmount.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs umount /mnt\n\n\
    Returns when the mount's process has ended and its keys are gone. Where the mount shows in another place as well, by a bind \
    mount, this one is unmounted, the other one named, and the exit code 6.")]
pub(super) struct UmountArgs {
    /// Where it is mounted, or what is mounted there
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Do not wait for open files: the mount vanishes now, and ends when the last of them is closed
    #[arg(long)]
    lazy: bool,
}

pub(super) fn run(args: &UmountArgs) -> Result<()> {
    let umount = UnmountFolder { mount: mount_on_or_of(&args.mountpoint)?, lazy: args.lazy };
    if let Some(note) = perform(umount)? {
        eprintln!("vmcryptfs: {note}");
    }
    Ok(())
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
