//! Numbers of FUSE's operations.

pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const SETATTR: u32 = 4;
pub(super) const UNLINK: u32 = 10;
pub(super) const RMDIR: u32 = 11;
pub(super) const RENAME: u32 = 12;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const RELEASE: u32 = 18;
pub(super) const FSYNC: u32 = 20;
pub(super) const GETXATTR: u32 = 22;
pub(super) const READDIR: u32 = 28;
pub(super) const CREATE: u32 = 35;
pub(super) const INTERRUPT: u32 = 36;
pub(super) const DESTROY: u32 = 38;
pub(super) const BATCH_FORGET: u32 = 42;
pub(super) const READDIRPLUS: u32 = 44;
pub(super) const RENAME2: u32 = 45;

/// Their names, by number. The first one is for numbers that have none.
#[rustfmt::skip]
pub(super) const NAMES: [&str; 53] = [
    "other", "lookup", "forget", "getattr", "setattr", "readlink", "symlink", "other", "mknod", "mkdir", "unlink", "rmdir", "rename",
    "link", "open", "read", "write", "statfs", "release", "other", "fsync", "setxattr", "getxattr", "listxattr", "removexattr",
    "flush", "init", "opendir", "readdir", "releasedir", "fsyncdir", "getlk", "setlk", "setlkw", "access", "create", "interrupt",
    "bmap", "destroy", "ioctl", "poll", "notify_reply", "batch_forget", "fallocate", "readdirplus", "rename2", "lseek",
    "copy_file_range", "setupmapping", "removemapping", "syncfs", "tmpfile", "statx",
];

/// Its name; `other` for one that is not known.
pub(super) fn name(opcode: u32) -> &'static str {
    let index = usize::try_from(opcode).unwrap_or_default();
    NAMES.get(index).copied().unwrap_or(NAMES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_their_numbers() {
        let named = [LOOKUP, RENAME, READ, FSYNC, READDIR, CREATE, DESTROY, BATCH_FORGET, RENAME2, 52, 53].map(name);
        let expected = ["lookup", "rename", "read", "fsync", "readdir", "create", "destroy", "batch_forget", "rename2"];
        assert_eq!(named[..9], expected);
        assert_eq!(named[9..], ["statx", "other"]);
    }
}
