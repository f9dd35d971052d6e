//! Which mount an open directory is of, found out without asking the file system that is mounted: it may not answer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The file system type of our mounts.
pub const MOUNT_TYPE: &str = "fuse.vmcryptfs";

/// Number of the mount that a file was opened through; a path (`O_PATH`) is enough.
///
/// # Errors
/// The system's.
pub fn mount_id(file: &File) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no number of the mount in /proc/self/fdinfo"))
}

/// Whether the mount with this number is one of ours.
///
/// # Errors
/// The system's.
pub fn is_ours(mount_id: u64) -> io::Result<bool> {
    // Names of other mounts may be of any bytes.
    let table = std::fs::read("/proc/self/mountinfo")?;
    let start = format!("{mount_id} ");
    let line = table.split(|&byte| byte == b'\n').find(|line| line.starts_with(start.as_bytes()));
    Ok(line.and_then(file_system_type).is_some_and(|found| found == MOUNT_TYPE.as_bytes()))
}

/// Of a line of mountinfo (proc(5)): the fields that are optional end with a dash.
fn file_system_type(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.split(|&byte| byte == b' ');
    fields.find(|field| field == b"-")?;
    fields.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_number() {
        let proc = mount_id(&File::open("/proc").unwrap()).unwrap();
        assert_ne!(proc, mount_id(&File::open("/").unwrap()).unwrap());
        assert!(!is_ours(proc).unwrap());
        let line = b"36 35 0:98 / /mnt/\xe9 rw,nosuid shared:1 - fuse.vmcryptfs /vms rw";
        assert_eq!(file_system_type(line), Some(&b"fuse.vmcryptfs"[..]));
        assert_eq!(file_system_type(b"36 35 0:98 / /mnt rw"), None);
    }
}
