//! POSIX ACLs, which the system keeps as extended attributes. Like modes they are stored as they are.

use std::ffi::{OsStr, OsString};
use std::fs::File;

use rustix::fs::{Mode, Stat, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::file::proc_entry;
use crate::text::Show;
use crate::vm::attributes::{XATTR_MAX, set_xattr, xattr_names};

/// Name of the attribute of access rights. Its mask is the group's bits of the mode.
pub const ACCESS: &str = "system.posix_acl_access";
/// Name of the attribute of a directory that says what is made in it gets.
const DEFAULT: &str = "system.posix_acl_default";

/// Whether an extended attribute is an ACL.
pub fn is_acl(name: &OsStr) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Whether a file's file system knows ACLs.
///
/// # Errors
/// `Io`.
pub fn are_known_to(file: &File) -> Result<bool> {
    match rustix::fs::getxattr_query(proc_entry(file), ACCESS) {
        Ok(_) | Err(Errno::NODATA) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(Error::errno("reading an ACL", error)),
    }
}

/// Gives the ACL of a file to another one, which has none then if the file has none. Handles that are only good for attributes
/// will do.
///
/// # Errors
/// `Io`.
pub(crate) fn copy(from: &File, to: &File) -> Result<()> {
    let mut value = vec![0; XATTR_MAX];
    let copied = match rustix::fs::getxattr(proc_entry(from), ACCESS, value.as_mut_slice()) {
        Ok(len) => rustix::fs::setxattr(proc_entry(to), ACCESS, &value[..len], XattrFlags::empty()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => match rustix::fs::removexattr(proc_entry(to), ACCESS) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        },
        Err(error) => Err(error),
    };
    copied.context(|| "copying an ACL".into())
}

/// Gives a new file, which only its owner may use yet, the ACLs `acls` and the mode that `stat` tells. The ACLs before the
/// mode: without them its group would have what is their mask's.
///
/// # Errors
/// `Io`.
pub(crate) fn give_permissions(stat: &Stat, acls: &[(OsString, Vec<u8>)], file: &File) -> Result<()> {
    // A folder's default ACL may have given the new file what the original does not have.
    for name in xattr_names(file)?.iter().filter(|name| is_acl(name)) {
        if !acls.iter().any(|(known, _)| known == name) {
            rustix::fs::fremovexattr(file, name.as_os_str())
                .context(|| format!("removing extended attribute {}", name.shown()))?;
        }
    }
    for (name, value) in acls {
        set_xattr(file, name, value)?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o7777)).context(|| "setting the mode".into())
}

/// Whether what is made in an open directory gets its ACL and mode from there, and no umask counts.
///
/// # Errors
/// `Io`.
pub fn is_inherited_in(dir: &File) -> Result<bool> {
    match rustix::fs::getxattr_query(proc_entry(dir), DEFAULT) {
        Ok(len) => Ok(len > 0),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(Error::errno("reading a folder's default ACL", error)),
    }
}
