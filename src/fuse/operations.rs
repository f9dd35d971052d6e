//! Each operation on names, attributes and open files, written once: what a request asks for is carried out on a [`FileSystem`], and the
//! result is a [`Reply`]. fuser's adapter and the requests that a transport serves itself come here, each with a coding of its own.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use fuser::FopenFlags;
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::fs::{
    Attr, CacheMode, Caller, Capacity, Changes, FileSystem, HandleNumber, NewFile, NodeNumber, OpenMode, RenameMode,
    Seek, Space, XattrMode,
};
use crate::fuse::errno::{On, refuse};
use crate::fuse::{claims, damage};

/// How long the kernel may rely on a name or an attribute: another host may change the folder.
const TTL: Duration = Duration::from_secs(1);
/// QEMU opens disks with O_DIRECT: no second cache of the plaintext, writes side by side.
const DIRECT_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// A name in a directory, or of an extended attribute.
pub(super) type Name<'a> = Cow<'a, OsStr>;

/// A request for a [`FileOperation`].
pub(super) struct FileRequest<'a> {
    /// The operation's name in messages.
    pub(super) name: &'static str,
    pub(super) node: NodeNumber,
    pub(super) caller: Caller,
    pub(super) operation: FileOperation<'a>,
}

/// What a request asks for. It is done to the request's node, which is the directory of the first name. Numbers that are not decoded
/// are those of the system call.
pub(super) enum FileOperation<'a> {
    Lookup(Name<'a>),
    Attributes,
    Change(Changes),
    MakeDir(Name<'a>, NewFile),
    /// With the device's number.
    MakeNode(Name<'a>, NewFile, u32),
    MakeSymlink(Name<'a>, PathBuf, NewFile),
    ReadSymlink,
    /// The name that the node gets, and its directory.
    Link(NodeNumber, Name<'a>),
    /// With the flags of `setxattr(2)`.
    SetXattr(Name<'a>, Vec<u8>, i32),
    /// With the length of the caller's buffer; 0 asks for the length of the value.
    Xattr(Name<'a>, u32),
    XattrNames(u32),
    RemoveXattr(Name<'a>),
    Unlink(Name<'a>),
    RemoveDir(Name<'a>),
    /// With the flags of `renameat2(2)`.
    Rename(Name<'a>, NodeNumber, Name<'a>, u32),
    /// With the flags of `open(2)`.
    Open(i32),
    Create(Name<'a>, NewFile, i32),
    Sync(HandleNumber),
    /// Nothing is held back: each write is with the backing file when it is answered.
    Flush,
    Close(HandleNumber),
    OpenDir,
    SyncDir,
    Capacity,
    /// Offset and length, and the mode of `fallocate(2)`.
    Allocate(HandleNumber, [u64; 2], i32),
    /// The offset, and `whence` of `lseek(2)`.
    Seek(HandleNumber, i64, i32),
}

impl FileOperation<'_> {
    /// Whether it changes anything, or is the beginning of that.
    fn may_change(&self) -> bool {
        match self {
            Self::Change(_)
            | Self::MakeDir(..)
            | Self::MakeNode(..)
            | Self::MakeSymlink(..)
            | Self::Link(..)
            | Self::SetXattr(..)
            | Self::RemoveXattr(_)
            | Self::Unlink(_)
            | Self::RemoveDir(_)
            | Self::Rename(..)
            | Self::Create(..)
            | Self::Allocate(..) => true,
            Self::Open(flags) => flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0,
            Self::Lookup(_)
            | Self::Attributes
            | Self::ReadSymlink
            | Self::Xattr(..)
            | Self::XattrNames(_)
            | Self::Sync(_)
            | Self::Flush
            | Self::Close(_)
            | Self::OpenDir
            | Self::SyncDir
            | Self::Capacity
            | Self::Seek(..) => false,
        }
    }
}

/// What a reply says.
#[derive(Debug)]
pub(super) enum Reply {
    Nothing,
    Entry(Attr),
    Attributes(Attr),
    Opened(HandleNumber, CacheMode),
    Created(Attr, HandleNumber, CacheMode),
    OpenedDir(HandleNumber),
    Bytes(Vec<u8>),
    /// The length of an extended attribute.
    Length(u32),
    Capacity(Capacity),
    Offset(u64),
}

impl FileRequest<'_> {
    /// Carries the operation out.
    ///
    /// # Errors
    /// Those of the file system, `Invalid` or `EOPNOTSUPP` for flags that it does not have.
    pub(super) fn run(&self, fs: &FileSystem) -> Result<Reply> {
        use FileOperation as Op;
        let Self { node, caller, .. } = *self;
        if fs.served().options().read_only && self.operation.may_change() {
            // The kernel refuses it before, unless someone has made its side of the mount writable.
            return Err(Error::new(Kind::ReadOnly, "it was mounted read-only: unmount it, and mount it writable"));
        }
        match &self.operation {
            Op::Lookup(name) => fs.lookup(node, name).map(Reply::Entry),
            Op::Attributes => fs.attributes(node).map(Reply::Attributes),
            Op::Change(changes) => fs.change(node, changes, &caller).map(Reply::Attributes),
            Op::MakeDir(name, new) => fs.make_dir(node, name, *new).map(Reply::Entry),
            Op::MakeNode(name, new, device) => fs.make_node(node, name, *new, *device).map(Reply::Entry),
            Op::MakeSymlink(name, target, new) => fs.make_symlink(node, name, target, *new).map(Reply::Entry),
            Op::ReadSymlink => fs.read_symlink(node).map(|target| Reply::Bytes(target.into_encoded_bytes())),
            Op::Link(parent, name) => fs.link(node, *parent, name).map(Reply::Entry),
            Op::SetXattr(name, value, flags) => {
                fs.set_xattr(node, name, value, xattr_mode(*flags)?, &caller).map(|()| Reply::Nothing)
            }
            Op::Xattr(name, room) => fs.xattr(node, name).and_then(|value| xattr_reply(value, *room)),
            Op::XattrNames(room) => fs.xattr_names(node, &caller).and_then(|names| xattr_reply(names, *room)),
            Op::RemoveXattr(name) => fs.remove_xattr(node, name).map(|()| Reply::Nothing),
            Op::Unlink(name) => fs.remove(node, name, false).map(|()| Reply::Nothing),
            Op::RemoveDir(name) => fs.remove(node, name, true).map(|()| Reply::Nothing),
            Op::Rename(name, parent, new_name, flags) => {
                fs.rename((node, name), (*parent, new_name), rename_mode(*flags)?).map(|()| Reply::Nothing)
            }
            Op::Open(flags) => open(fs, node, *flags, &caller),
            Op::Create(name, new, flags) => create(fs, node, name, *new, *flags),
            Op::Sync(handle) => fs.sync(*handle).map(|()| Reply::Nothing),
            Op::Flush => Ok(Reply::Nothing),
            Op::Close(handle) => {
                fs.close(*handle);
                Ok(Reply::Nothing)
            }
            Op::OpenDir => fs.open_dir(node, &caller).map(Reply::OpenedDir),
            Op::SyncDir => fs.sync_dir(node).map(|()| Reply::Nothing),
            Op::Capacity => fs.capacity(node).map(Reply::Capacity),
            Op::Allocate(handle, [offset, len], mode) => {
                fs.allocate(*handle, *offset, *len, space(*mode)?, &caller).map(|()| Reply::Nothing)
            }
            Op::Seek(handle, offset, whence) => seek(fs, *handle, *offset, *whence),
        }
    }

    /// The result as it goes to the kernel; a refused request is logged.
    pub(super) fn finish(&self, fs: &FileSystem, done: Result<Reply>) -> std::result::Result<Reply, fuser::Errno> {
        done.map_err(|error| {
            claims::record(fs, self.node, &error);
            refuse(On(self.name, fs, self.node), &error)
        })
    }

    /// Whether it waits for a key provider in any case: a VM folder is made with a key of its own.
    pub(super) fn makes_vm_folder(&self, fs: &FileSystem) -> bool {
        matches!(self.operation, FileOperation::MakeDir(..)) && fs.holds_vm_folders(self.node)
    }
}

/// How long the kernel may rely on attributes.
pub(super) fn ttl(attr: &Attr) -> Duration {
    if attr.lasting { TTL } else { Duration::ZERO }
}

/// Nothing is held back until a file is closed, so nothing needs to be flushed then.
pub(super) fn open_flags(cache: CacheMode) -> FopenFlags {
    let flags = FopenFlags::FOPEN_NOFLUSH;
    match cache {
        CacheMode::Direct => flags | DIRECT_FLAGS,
        CacheMode::Kernel => flags,
    }
}

fn open(fs: &FileSystem, node: NodeNumber, flags: i32, caller: &Caller) -> Result<Reply> {
    let opened = fs.open_file(node, OpenMode::of_flags(flags), caller);
    let (handle, cache) = opened.inspect_err(|error| damage::record(fs, node, error))?;
    after_open(fs, node, handle, flags);
    Ok(Reply::Opened(handle, cache))
}

fn create(fs: &FileSystem, parent: NodeNumber, name: &OsStr, new: NewFile, flags: i32) -> Result<Reply> {
    let (attr, handle, cache) = fs.create(parent, name, new, OpenMode::of_flags(flags))?;
    after_open(fs, attr.number, handle, flags);
    Ok(Reply::Created(attr, handle, cache))
}

/// What every open ends with.
fn after_open(fs: &FileSystem, node: NodeNumber, handle: HandleNumber, flags: i32) {
    fs.heed_open_flags(handle, flags);
    if let Some(why) = fs.why_cached(handle) {
        tracing::warn!("data of {} goes through the page cache: {why}", fs.name(node));
    }
}

fn seek(fs: &FileSystem, handle: HandleNumber, offset: i64, whence: i32) -> Result<Reply> {
    let what = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(unknown("whence", whence)),
    };
    let offset = u64::try_from(offset).map_err(|_| Error::errno("a negative offset", Errno::NXIO))?;
    fs.seek(handle, offset, what).map(Reply::Offset)
}

fn space(mode: i32) -> Result<Space> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(Space::Allocate { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(Space::Punch),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Space::Zero { keep_size }),
        _ => Err(Error::errno(format!("mode {mode:#x}"), Errno::OPNOTSUPP)),
    }
}

fn rename_mode(flags: u32) -> Result<RenameMode> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::KeepExisting),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(unknown("flags", flags)),
    }
}

fn xattr_mode(flags: i32) -> Result<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(unknown("flags", flags)),
    }
}

fn xattr_reply(value: Vec<u8>, room: u32) -> Result<Reply> {
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => Ok(Reply::Length(len)),
        Ok(len) if len <= room => Ok(Reply::Bytes(value)),
        _ => Err(Error::errno(format!("{} bytes do not fit {room}", value.len()), Errno::RANGE)),
    }
}

fn unknown(what: &str, number: impl std::fmt::LowerHex) -> Error {
    Error::new(Kind::Invalid, format!("unknown {what} {number:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattr_is_measured_given_or_refused() {
        let value = || b"value".to_vec();
        assert!(matches!(xattr_reply(value(), 0), Ok(Reply::Length(5))));
        assert!(matches!(xattr_reply(value(), 5), Ok(Reply::Bytes(bytes)) if bytes == b"value"));
        assert_eq!(xattr_reply(value(), 4).unwrap_err().os_error(), Some(libc::ERANGE));
    }

    #[test]
    fn flags_that_the_file_system_does_not_have_are_refused() {
        assert_eq!(rename_mode(libc::RENAME_EXCHANGE).unwrap(), RenameMode::Exchange);
        assert_eq!(rename_mode(libc::RENAME_WHITEOUT).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(xattr_mode(3).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(space(libc::FALLOC_FL_COLLAPSE_RANGE).unwrap_err().os_error(), Some(libc::EOPNOTSUPP));
    }
}
