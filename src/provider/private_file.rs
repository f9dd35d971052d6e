//! Files that only their owner may read: the configuration, primary keys, and what a host has seen.
//!
//! Written so that a crash leaves the old file, the new one, or none, and refused when others could read or change them.

mod lock;
mod read;
mod wipe;
mod write;

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::text::Show;

pub use lock::try_lock;
pub(crate) use lock::{lock, lock_within};
pub(crate) use read::check_owner;
pub(super) use read::{absolute, read_text};
pub use read::{open, open_regular, read_at_most, read_if_there};
pub use wipe::replace_and_wipe;
pub(crate) use wipe::{wipe, wipe_former};
pub use write::{create, replace};

/// The configuration file of root, unless another one is named.
pub const CONFIG_OF_ROOT: &str = "/etc/vmcryptfs/config.toml";
/// Longest configuration file, in bytes.
pub(super) const MAX_CONFIG_LEN: u64 = 1 << 20;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Makes a folder, and those above it, that only this user can enter.
///
/// # Errors
/// `Io`, and `Exists` when a file has its name.
pub fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    create_folder(above)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(above),
    }
    .context(|| format!("creating the folder {}", folder.shown()))
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new(if path.is_absolute() { "/" } else { "." }),
    }
}

/// The hidden file of the same folder whose name is made of that of `path` and `suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(suffix);
    path.with_file_name(name)
}

/// Makes the names in a folder durable, where the file system can: some network ones answer EINVAL.
///
/// # Errors
/// The system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    sync_open_folder(&File::open(folder)?)
}

/// As [`sync_folder`], of a folder that is open.
pub(crate) fn sync_open_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}
