//! Mounts of other kinds that are made of files that a mount of ours shows: a request to one of them may become one to our mount.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::unescape;

/// Whether the mount of a line of mountinfo lies over files below one of `mountpoints`, as far as the table tells: layers of an
/// overlay, folders and files that are the source of a mount, a loop device's file, an NFS export of this host. Only absolute paths
/// tell, and those of another mount namespace do not.
pub(super) fn lies_over(line: &[u8], mountpoints: &[PathBuf]) -> bool {
    let below = |path: &Path| mountpoints.iter().any(|mountpoint| path.starts_with(mountpoint));
    let mut fields = line.split(|&byte| byte == b' ').skip_while(|field| *field != b"-").skip(1);
    let (Some(kind), Some(source)) = (fields.next(), fields.next().map(unescape)) else { return false };
    let options = fields.next().unwrap_or_default();
    below(&source)
        || (kind == b"overlay" && layers(options).iter().any(|layer| below(layer)))
        || file_of_loop(&source).is_some_and(|file| below(&file))
        || (kind.starts_with(b"nfs") && export_of_this_host(&source, options).is_some_and(|folder| below(&folder)))
}

/// The folders of an overlay: a colon stands between those of one option, and `\:` for one in a name.
fn layers(options: &[u8]) -> Vec<PathBuf> {
    const KEYS: [&[u8]; 5] = [b"lowerdir", b"lowerdir+", b"datadir+", b"upperdir", b"workdir"];
    let mut layers = Vec::new();
    for option in options.split(|&byte| byte == b',') {
        let Some(at) = option.iter().position(|&byte| byte == b'=') else { continue };
        if !KEYS.contains(&&option[..at]) {
            continue;
        }
        let value = unescape(&option[at + 1..]);
        let mut layer = Vec::new();
        let mut bytes = value.as_os_str().as_bytes().iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => layer.extend(bytes.next()),
                b':' => layers.push(PathBuf::from(OsStr::from_bytes(&std::mem::take(&mut layer)))),
                _ => layer.push(byte),
            }
        }
        layers.push(PathBuf::from(OsStr::from_bytes(&layer)));
    }
    layers
}

/// The file that is the medium of a loop device.
fn file_of_loop(source: &Path) -> Option<PathBuf> {
    let name = source.strip_prefix("/dev").ok()?.to_str().filter(|name| name.starts_with("loop"))?;
    let device = &name[..name.rfind('p').filter(|&at| at > "loop".len()).unwrap_or(name.len())]; // of a partition
    let file = std::fs::read(format!("/sys/block/{device}/loop/backing_file")).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(file.trim_ascii_end())))
}

/// The folder that an NFS mount shows, if its server is this host.
fn export_of_this_host(source: &Path, options: &[u8]) -> Option<PathBuf> {
    let option = |name: &str| {
        let found = options.split(|&byte| byte == b',').find_map(|option| option.strip_prefix(name.as_bytes()));
        found.and_then(|value| std::str::from_utf8(value).ok())
    };
    let server = option("addr=")?;
    let is_own = server.starts_with("127.") || server == "::1" || option("clientaddr=") == Some(server);
    let text = source.as_os_str().as_bytes();
    let at = text.windows(2).rposition(|pair| pair == b":/")?;
    is_own.then(|| PathBuf::from(OsStr::from_bytes(&text[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_over_a_mount_of_ours_is_known() {
        let ours = [PathBuf::from("/mnt/v ms"), PathBuf::from("/run/a:b")];
        let over = |rest: &str| lies_over(format!("36 35 0:98 / /vms/x rw shared:1 - {rest}").as_bytes(), &ours);
        for rest in [
            r"overlay overlay rw,lowerdir=/mnt/v\040ms,upperdir=/u,workdir=/w",
            r"overlay none rw,lowerdir=/l1:/mnt/v\040ms/web01:/l2",
            r"overlay none rw,lowerdir+=/l1,lowerdir+=/mnt/v\040ms/web01",
            r"overlay none rw,lowerdir=/l1:/run/a\134:b/x",
            r"overlay none rw,lowerdir=/l1,upperdir=/run/a\134:b,workdir=/w",
            r"fuse.bindfs /mnt/v\040ms/web01 rw",
            r"ecryptfs /run/a:b rw",
            r"nfs4 localhost:/mnt/v\040ms/web01 rw,vers=4.2,clientaddr=127.0.0.1,addr=127.0.0.1",
            r"nfs4 host:/mnt/v\040ms rw,vers=4.2,clientaddr=10.0.0.5,addr=10.0.0.5",
            r"nfs [::1]:/mnt/v\040ms rw,vers=3,addr=::1",
        ] {
            assert!(over(rest), "{rest}");
        }
        for rest in [
            r"overlay overlay rw,lowerdir=/mnt/v,upperdir=/u,workdir=/w",
            r"overlay none rw,lowerdir=/mnt/v\040ms-too",
            r"nfs4 host:/mnt/v\040ms rw,vers=4.2,clientaddr=10.0.0.5,addr=10.0.0.6",
            r"nfs4 localhost:/vms rw,addr=127.0.0.1",
            r"ext4 /dev/loop9999 rw",
            "ext4",
            "",
        ] {
            assert!(!over(rest), "{rest}");
        }
    }
}
