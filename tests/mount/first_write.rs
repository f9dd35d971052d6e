//! What a file becomes that has no disk's name: a disk, if the first write to it begins as a disk's format does.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, SeekFrom, XattrFlags};

use crate::disk_names::disks;
use crate::hang::transports;
use crate::host::Host;

const HEAD: &[u8] = b"QFI\xfb\0\0\0\x03 and so on";

fn new_file(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

/// A folder `web01` without disks.
fn host() -> Host {
    let host = Host::new();
    host.run(&["create", host.path("web01")]);
    host
}

fn content_of(file: &File) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn an_empty_file_whose_first_write_begins_a_disks_format_becomes_a_disk() {
    for transport in transports() {
        let host = host();
        let mount = host.mount("web01", &["--transport", transport]);
        let file = new_file(&mount.path("vm1"));
        let number = file.metadata().unwrap().ino();
        // Nothing of this decides.
        file.set_len(0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.read_at(&mut [0; 512], 0).unwrap(), 0);
        assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(0)), Err(rustix::io::Errno::NXIO));
        assert_eq!(rustix::fs::fgetxattr(&file, "user.note", &mut [0; 9]), Err(rustix::io::Errno::NODATA));
        let other = File::options().read(true).write(true).open(mount.path("vm1")).unwrap();
        let reader = File::open(mount.path("vm1")).unwrap();
        file.write_all_at(HEAD, 0).unwrap();
        assert_eq!(disks(&host, "web01"), ["vm1"], "{transport}");
        // What has it open still works.
        other.write_all_at(&[7; 100_000], 60_000).unwrap();
        file.write_all_at(b"!", 159_999).unwrap();
        let mut content = vec![0; 160_000];
        content[..HEAD.len()].copy_from_slice(HEAD);
        content[60_000..].fill(7);
        content[159_999] = b'!';
        for file in [&file, &other, &reader] {
            assert!(content_of(file) == content, "{transport}");
        }
        rustix::fs::setxattr(mount.path("vm1"), "user.note", b"of the disk", XattrFlags::empty()).unwrap();
        map(&mount.path("vm1"), 1000, &[9]);
        content[1000] = 9;
        other.sync_all().unwrap();
        fs::rename(mount.path("vm1"), mount.path("vm2")).unwrap();
        host.run(&["rekey", "--deep", host.path("web01"), "--disk", "vm2"]);
        assert!(content_of(&reader) == content, "{transport}: after a deep rekey");
        file.set_len(2000).unwrap();
        content.truncate(2000);
        drop((file, other, reader));
        assert_eq!(fs::metadata(mount.path("vm2")).unwrap().ino(), number);
        mount.unmount();
        let mount = host.mount("web01", &["--transport", transport]);
        assert!(fs::read(mount.path("vm2")).unwrap() == content, "{transport}: mounted again");
        let mut note = [0; 32];
        let len = rustix::fs::getxattr(mount.path("vm2"), "user.note", &mut note).unwrap();
        assert_eq!(&note[..len], b"of the disk");
        mount.unmount();
        assert!(!host.run(&["check", host.path("web01")]).contains("problem"));
        let made = host.events().iter().filter(|event| event["operation"] == "create-disk").count();
        assert_eq!(made, 1, "{:?}", host.events());
    }
}

/// Puts bytes into a file by mapping it.
fn map(path: &Path, offset: usize, bytes: &[u8]) {
    const PROGRAM: &str = "import mmap, sys
with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as shared:
    data = bytes.fromhex(sys.argv[3])
    shared[int(sys.argv[2]):int(sys.argv[2]) + len(data)] = data
    shared.flush()";
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new("python3");
    assert!(command.args(["-c", PROGRAM]).arg(path).args([offset.to_string(), digits]).status().unwrap().success());
}

#[test]
fn any_other_first_change_makes_a_home_file() {
    let host = host();
    let mount = host.mount("web01", &[]);
    type Change = fn(&File) -> io::Result<()>;
    let changes: [(&str, Change); 7] = [
        ("text", |file| file.write_all_at(b"QFI, as text", 0)),
        ("later", |file| file.write_all_at(HEAD, 512)),
        ("longer", |file| file.set_len(4096)),
        ("reserved", |file| Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, 4096)?)),
        ("zeroed", |file| Ok(rustix::fs::fallocate(file, FallocateFlags::ZERO_RANGE, 0, 4096)?)),
        ("attribute", |file| Ok(rustix::fs::fsetxattr(file, "user.note", b"x", XattrFlags::empty())?)),
        ("cut", |file| file.write_all_at(b"x", 0).and_then(|()| file.set_len(0))),
    ];
    for (name, change) in changes {
        let file = new_file(&mount.path(name));
        change(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        file.write_all_at(HEAD, 0).unwrap();
        assert_eq!(&content_of(&file)[..HEAD.len()], HEAD, "{name}");
    }
    let mapped = new_file(&mount.path("map"));
    mapped.set_len(4096).unwrap();
    map(&mount.path("map"), 0, HEAD);
    assert_eq!(disks(&host, "web01"), Vec::<String>::new());
    drop(mapped);
    mount.unmount();
    let mount = host.mount("web01", &[]);
    for name in ["text", "longer", "reserved", "zeroed", "attribute", "cut", "map"] {
        assert!(fs::read(mount.path(name)).unwrap().starts_with(HEAD), "{name}");
    }
    assert_eq!(fs::read(mount.path("later")).unwrap().len(), 512 + HEAD.len());
}

#[test]
fn what_makes_disks_makes_disks_under_any_name() {
    let host = host();
    for transport in transports() {
        let mount = host.mount("web01", &["--transport", transport]);
        let system = |command: &str| {
            let output = Command::new("sh").args(["-c", command]).current_dir(mount.root()).output().unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let mut names: Vec<String> = Vec::new();
        for format in ["qcow2", "qed", "vdi", "vhdx", "vmdk"] {
            system(&format!("qemu-img create -q -f {format} {transport}-{format} 64M"));
            system(&format!("qemu-io -f {format} -c 'write -P 5 1M 3M' -c flush {transport}-{format}"));
            system(&format!("cp {transport}-{format} {transport}-{format}.copy"));
            names.extend([format!("{transport}-{format}"), format!("{transport}-{format}.copy")]);
        }
        system(&format!("qemu-img create -q -f qcow2 -F qcow2 -b {transport}-qcow2 {transport}.snap1"));
        names.push(format!("{transport}.snap1"));
        names.sort();
        let mut found = disks(&host, "web01");
        found.retain(|name| name.starts_with(transport));
        assert_eq!(found, names);
        for name in names {
            let shown = if name.ends_with("snap1") { "qcow2" } else { name.trim_end_matches(".copy") };
            let format = shown.trim_start_matches(&format!("{transport}-"));
            system(&format!("qemu-io -r -f {format} -c 'read -P 5 1M 3M' {name} | grep -v failed"));
        }
        mount.unmount();
    }
}

/// A crash while a disk is made leaves its length, and parts of its header without the first sector.
#[test]
fn a_disk_that_a_crash_left_begun_is_a_file_of_zeros() {
    let host = host();
    let begun = new_file(Path::new(host.path("web01/x.vmdk")));
    begun.set_len(8 << 20).unwrap();
    begun.write_all_at(&[3; 4096], 4096).unwrap();
    drop(begun);
    let mount = host.mount("web01", &[]);
    assert!(fs::read(mount.path("x.vmdk")).unwrap().iter().all(|&byte| byte == 0));
    fs::write(mount.path("x.vmdk"), HEAD).unwrap();
    assert_eq!(fs::read(mount.path("x.vmdk")).unwrap(), HEAD);
}
