//! The backing directory tree, reached by paths below its root that can never leave it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::fs::modes;
use crate::fs::stat::{self, Stat};
use crate::sys;
use crate::sys::file::{open_beneath, open_unnoticed, proc_entry, readable};
use crate::sys::mount_table::refuse_ours;
use crate::text::Show;
use crate::vm::acl;

/// Returns once content, attributes and, in a folder, names are durable.
pub(super) fn sync(file: &File) -> Result<()> {
    rustix::fs::fsync(file).context(|| "making a change durable".into())
}

pub(super) fn stat(file: &File) -> Result<Stat> {
    modes::own(|| modes::look(file))
}

pub(super) fn stat_at(dir: &File, name: &OsStr) -> Result<Stat> {
    let look = || io::Result::Ok(rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, stat::WANTED)?.into());
    refuse_ours(dir, name).and_then(|()| modes::own(look)).context(|| format!("reading attributes of {}", name.shown()))
}

/// Linux's limits on an extended attribute's value and on the list of all names, in bytes.
const XATTR_SIZE_MAX: usize = 65_536;
const XATTR_LIST_MAX: usize = 65_536;

pub(super) fn set_mode(file: &File, mode: u32) -> Result<()> {
    let _alone = modes::alone(file)?;
    modes::set(file, mode)
}

pub(super) fn set_owner(file: &File, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    let _alone = modes::alone(file)?; // it takes bits from the mode
    rustix::fs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH).context(|| "setting the owner".into())
}

pub(super) fn set_times(file: &File, times: &Timestamps) -> Result<()> {
    rustix::fs::utimensat(file, "", times, AtFlags::EMPTY_PATH).context(|| "setting times".into())
}

pub(super) fn remove(dir: &File, name: &OsStr, flags: AtFlags) -> Result<()> {
    rustix::fs::unlinkat(dir, name, flags).context(|| format!("removing {}", name.shown()))
}

pub(super) fn make_dir(dir: &File, name: &OsStr, mode: u32) -> Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777))
        .context(|| format!("creating folder {}", name.shown()))
}

pub(super) fn rename(from: (&File, &OsStr), to: (&File, &OsStr), flags: RenameFlags) -> Result<()> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)
        .context(|| format!("renaming {} to {}", from.1.shown(), to.1.shown()))
}

/// A regular file by its name in an open directory.
pub(super) fn file_at(dir: &File, name: &OsStr, flags: OFlags) -> Result<File> {
    open_unnoticed(dir, name, flags).context(|| format!("opening {}", name.shown()))
}

/// An open directory, opened once more to be read: what reads it keeps its position in it.
pub(super) fn open_again(dir: &File) -> Result<File> {
    readable(dir).context(|| "opening the folder".into())
}

/// A file of which there is a handle, opened once more.
pub(super) fn reopen(file: &File, flags: OFlags) -> Result<File> {
    sys::file::reopen(file, flags).context(|| "opening the file".into())
}

/// A handle on anything in an open directory, good only for attributes.
pub(super) fn any_at(dir: &File, name: &OsStr) -> Result<File> {
    open_beneath(dir, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
        .context(|| format!("opening {}", name.shown()))
}

/// A directory in an open one, for operations on names in it.
pub(super) fn dir_at(dir: &File, name: &OsStr) -> Result<File> {
    open_beneath(dir, Path::new(name), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
        .context(|| format!("opening folder {}", name.shown()))
}

/// `mode` with its type bits.
pub(super) fn make_special(dir: &File, name: &OsStr, mode: u32, device: u64) -> Result<()> {
    let kind = FileType::from_raw_mode(mode);
    rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode & 0o7777), device)
        .context(|| format!("creating {}", name.shown()))
}

pub(super) fn make_symlink(dir: &File, name: &OsStr, target: &str) -> Result<()> {
    rustix::fs::symlinkat(target, dir, name).context(|| format!("creating symbolic link {}", name.shown()))
}

/// Stored target of a symbolic link.
pub(super) fn read_symlink(link: &File) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(link, "", Vec::new())
        .map(std::ffi::CString::into_bytes)
        .context(|| "reading a symbolic link".into())
}

pub(super) fn link(from: (&File, &OsStr), to: (&File, &OsStr)) -> Result<()> {
    rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())
        .context(|| format!("linking {} to {}", to.1.shown(), from.1.shown()))
}

pub(super) fn xattr(file: &File, name: &OsStr) -> Result<Vec<u8>> {
    let _alone = acl::is_acl(name).then(|| modes::alone(file)).transpose()?;
    let entry = proc_entry(file);
    answer(XATTR_SIZE_MAX, |value| rustix::fs::getxattr(&entry, name, value))
        .context(|| format!("reading extended attribute {}", name.shown()))
}

/// What a call answers that fills a buffer and tells how much. Nearly all answers are short, and most say that there is
/// nothing: only those that are not are worth a buffer of the size that any of them fits into.
fn answer(most: usize, call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut short = [0; 512];
    match call(&mut short) {
        Err(Errno::RANGE) => {
            let mut long = vec![0; most];
            let len = call(&mut long)?;
            long.truncate(len);
            Ok(long)
        }
        other => Ok(short[..other?].to_vec()),
    }
}

pub(super) fn set_xattr(file: &File, name: &OsStr, value: &[u8], flags: XattrFlags) -> Result<()> {
    let _alone = acl::is_acl(name).then(|| modes::alone(file)).transpose()?;
    rustix::fs::setxattr(proc_entry(file), name, value, flags)
        .context(|| format!("setting extended attribute {}", name.shown()))
}

/// Names of all extended attributes, each ended by a zero byte.
pub(super) fn xattr_names(file: &File) -> Result<Vec<u8>> {
    let entry = proc_entry(file);
    names(|names| rustix::fs::listxattr(&entry, names)).context(|| "listing extended attributes".into())
}

/// A file system without extended attributes has none to list, even if it says so by an error.
fn names(list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    answer(XATTR_LIST_MAX, |names| match list(names) {
        Err(Errno::OPNOTSUPP) => Ok(0),
        other => other,
    })
}

pub(super) fn remove_xattr(file: &File, name: &OsStr) -> Result<()> {
    let _alone = acl::is_acl(name).then(|| modes::alone(file)).transpose()?;
    rustix::fs::removexattr(proc_entry(file), name).context(|| format!("removing extended attribute {}", name.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_no_extended_attributes_none_are_listed() {
        assert_eq!(names(|_| Err(Errno::OPNOTSUPP)).unwrap(), b"");
        assert_eq!(names(|_| Err(Errno::IO)).unwrap_err().raw_os_error(), Some(libc::EIO));
        let long = vec![b'x'; 1000];
        let list = |names: &mut [u8]| match names.get_mut(..long.len()) {
            Some(room) => {
                room.copy_from_slice(&long);
                Ok(long.len())
            }
            None => Err(Errno::RANGE),
        };
        assert_eq!(names(list).unwrap(), long);
    }
}
