//! What verbs work on: its path on either side of a mount, and what it is called.

use std::path::{Component, Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};

pub(super) use crate::control::mounts::{backing, refuse_read_only};
use crate::control::{local, mounts};
use crate::error::{Context, Error, Kind, Result};
pub(super) use crate::operations::whole;
use crate::text::Show;
use crate::text::advice::Places;
use crate::vm::scan;

/// What a component is called that lies below `path`, which is a folder, or is `path` itself.
pub(super) fn shown(path: &Path, component: &Path) -> String {
    whole(path, component).shown().to_string()
}

/// The mount that shows what lies at a path of either side, and where below the mount that is. If there is none, but one whose process
/// has died, it is that: asking it says so, and what to do.
///
/// # Errors
/// `NotFound` when nothing is there, or no mount of this user shows it.
pub(super) fn mount_of(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if let Some((mounted, below)) = mounts::showing(path)? {
        return Ok((mounted.mountpoint, below));
    }
    match local::serving(path)? {
        Some(serving) => Ok((serving.mountpoint, serving.below)),
        None => local::dead(path)?.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("no VM folder or datastore is mounted on {}, or shown by a mount of this user", path.shown()),
            )
        }),
    }
}

/// The text with the paths in its advice, as far as `path` says them: a VM folder's, or that of something in one.
pub(super) fn advised(path: &Path, text: &str) -> String {
    scan::advised(Some(path), None, text)
}

/// The same for an error of a verb about what was named to it. What is wrong may be any component of a folder.
pub(super) fn advised_error(named: &Path, error: Error) -> Error {
    let vm_folder = scan::vm_folder_of(named);
    let component = (!named.is_dir()).then_some(named);
    error.with_places(&Places { vm_folder: vm_folder.as_deref(), component, mountpoint: None })
}

/// Refuses what a mount of ours shows where the backing file or folder is needed: [`parser`] leaves such a path only if it could not tell.
///
/// # Errors
/// `Denied`, or `Io`.
pub(super) fn refuse_mounted(path: &Path) -> Result<()> {
    let whole = std::fs::canonicalize(path).context(|| format!("finding {}", path.shown()))?;
    match mounts::all()?.into_iter().find(|mount| whole.starts_with(&mount.mountpoint)) {
        None => Ok(()),
        Some(mount) => {
            let (path, source) = (path.shown(), mount.source.shown());
            Err(Error::new(
                Kind::Denied,
                format!("{path} is in a mount of vmcryptfs, of {source}: name its path there"),
            ))
        }
    }
}

/// The path below a VM folder of a file that was given with the folder's path before it, of either side, or without.
pub(super) fn below(folder: &Path, file: &Path) -> PathBuf {
    let plain = |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    let (folder, file) = (plain(folder), plain(file));
    let whole = backing(file.clone());
    let below = file.strip_prefix(&folder).or_else(|_| whole.strip_prefix(&folder));
    below.unwrap_or(&file).to_path_buf()
}

/// Parses a path of either side, of what is about to be changed, as the backing one; [`refuse_read_only`] then refuses one that a
/// read-only mount shows. A verb that forgets it finds nothing that can be changed there.
pub(super) fn parser_to_change() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(mounts::backing_to_change)
}

/// Parses a path of either side as the backing one.
pub(super) fn parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(backing)
}
