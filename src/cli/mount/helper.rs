//! `mount` as mount(8), fstab and systemd call it: as the helper of a file system type, or without a verb.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Names of this program by which mount(8) finds it.
const NAMES: [&str; 2] = ["mount.vmcryptfs", "mount.fuse.vmcryptfs"];

/// The arguments of the program, its name first, with the verb `mount` where it goes without saying: mount(8) runs
/// `mount.fuse.vmcryptfs FOLDER MOUNTPOINT -o OPTION,...` if there is one, else mount.fuse(8) runs `vmcryptfs FOLDER MOUNTPOINT -o
/// OPTION,...`. `None`: mount(8) wants it only tried.
pub(in crate::cli) fn with_verb(arguments: impl IntoIterator<Item = OsString>) -> Option<Vec<OsString>> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if NAMES.iter().any(|known| name == Some(OsStr::new(known))) {
        return of_helper(&arguments[1..]);
    }
    let is_path = |argument: &OsString| argument.as_bytes().contains(&b'/') && argument.as_bytes()[0] != b'-';
    if arguments.len() > 2
        && is_path(&arguments[1])
        && arguments[2].as_bytes().first().is_some_and(|&byte| byte != b'-')
    {
        let (program, rest) = arguments.split_at(1);
        return Some([program, &["mount".into()], rest].concat());
    }
    Some(arguments)
}

/// `mount.TYPE FOLDER MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTION,...] [-t TYPE]`, mount(8).
fn of_helper(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let mut made: Vec<OsString> = vec!["vmcryptfs".into(), "mount".into()];
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let letters = argument.as_bytes().strip_prefix(b"-").filter(|letters| !letters.is_empty());
        match letters {
            Some(b"N" | b"t") => drop(rest.next()),
            Some(letters) if letters.iter().all(|letter| b"sfnv".contains(letter)) => {
                if letters.contains(&b'f') {
                    return None;
                }
            }
            _ => made.push(argument.clone()),
        }
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_verb(line: &str) -> Option<String> {
        let made = super::with_verb(line.split(' ').map(OsString::from))?;
        Some(made.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn what_mount_calls_is_the_verb_mount() {
        for (called, meant) in [
            ("/sbin/mount.fuse.vmcryptfs /vms /mnt -o rw,nofail", "vmcryptfs mount /vms /mnt -o rw,nofail"),
            ("mount.vmcryptfs /vms /mnt -sv -n -N /proc/1 -t fuse.vmcryptfs -o ro", "vmcryptfs mount /vms /mnt -o ro"),
            ("vmcryptfs /vms /mnt -o rw", "vmcryptfs mount /vms /mnt -o rw"),
            ("/usr/bin/vmcryptfs ./vms mnt", "/usr/bin/vmcryptfs mount ./vms mnt"),
        ] {
            assert_eq!(with_verb(called).as_deref(), Some(meant));
        }
        assert_eq!(with_verb("mount.vmcryptfs /vms /mnt -f"), None);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for line in [
            "vmcryptfs",
            "vmcryptfs /vms",
            "vmcryptfs info /vms",
            "vmcryptfs --config /c info",
            "vmcryptfs /vms --help",
        ] {
            assert_eq!(with_verb(line).as_deref(), Some(line));
        }
    }
}
