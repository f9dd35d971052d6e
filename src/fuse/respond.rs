//! Our replies in fuser's types.

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr,
};

use crate::fs::{Attr, FileKind};
use crate::fuse::BLOCK_SIZE;
use crate::fuse::operations::{Reply, open_flags, ttl};

/// One of fuser's replies.
pub(super) trait Respond: Send + 'static {
    /// Sends it.
    fn respond(self, result: Result<Reply, Errno>);
}

/// Lists which values each of fuser's replies takes.
macro_rules! respond {
    ($($type:ident($reply:ident) { $($value:pat => $send:expr),+ })+) => {
        $(impl Respond for $type {
            fn respond(self, result: Result<Reply, Errno>) {
                let $reply = self;
                match result {
                    $(Ok($value) => $send,)+
                    Ok(other) => {
                        tracing::error!("{other:?} is not what this request asks for: this is a bug, please report it");
                        $reply.error(Errno::EIO);
                    }
                    Err(errno) => $reply.error(errno),
                }
            }
        })+
    };
}

respond! {
    ReplyEmpty(reply) { Reply::Nothing => reply.ok() }
    ReplyEntry(reply) { Reply::Entry(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), generation(&attr)) }
    ReplyAttr(reply) { Reply::Attributes(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)) }
    ReplyData(reply) { Reply::Bytes(bytes) => reply.data(&bytes) }
    ReplyXattr(reply) { Reply::Bytes(value) => reply.data(&value), Reply::Length(len) => reply.size(len) }
    ReplyOpen(reply) {
        Reply::Opened(handle, cache) => reply.opened(FileHandle(handle), open_flags(cache)),
        Reply::OpenedDir(handle) => reply.opened(FileHandle(handle), FopenFlags::empty())
    }
    ReplyCreate(reply) {
        Reply::Created(attr, handle, cache) => {
            reply.created(&ttl(&attr), &file_attr(&attr), generation(&attr), FileHandle(handle), open_flags(cache));
        }
    }
    ReplyStatfs(reply) {
        Reply::Capacity(capacity) => {
            let ([blocks, free, available], [files, free_files]) = (capacity.blocks, capacity.files);
            reply.statfs(blocks, free, available, files, free_files, BLOCK_SIZE, 255, capacity.block_size);
        }
    }
    ReplyLseek(reply) { Reply::Offset(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)) }
}

fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation.into())
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let [accessed, modified, changed] = attr.times;
    FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.blocks,
        atime: accessed,
        mtime: modified,
        ctime: changed,
        crtime: changed,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}
