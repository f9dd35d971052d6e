//! What a guest writes into its disk leads nowhere: neither `.raw` nor a verb takes it for the descriptor of a VMDK.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::refusals::{HEAD, errno, names};
use crate::host::{Host, Mount};

const NVRAM: &str = "variables of the firmware";
const NAMES_NVRAM: &str = "RW 128 FLAT \"vm.nvram\" 0\n";

/// The header of a sparse disk without grains, which carries a descriptor.
fn sparse_header(descriptor: &str) -> Vec<u8> {
    let mut bytes = b"KDMV\x01\0\0\0\x01\0\0\0".to_vec();
    for field in [0_u64, 16, 1, 20] {
        bytes.extend(field.to_le_bytes()); // sectors of the disk and of a grain; where the descriptor is, and its sectors
    }
    bytes.extend(512_u32.to_le_bytes());
    for field in [0_u64, 21, 128] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(b"\0\n \r\n");
    bytes.resize(512, 0);
    bytes.extend(descriptor.as_bytes());
    bytes.resize(21 * 512, 0);
    bytes
}

fn write_as_guest(mount: &Mount<'_>, disk: &str, bytes: &[u8]) {
    File::options().write(true).open(mount.path(disk)).unwrap().write_all_at(bytes, 0).unwrap();
}

fn with_nvram(host: &Host) -> Mount<'_> {
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("vm.nvram"), NVRAM.repeat(3000)).unwrap();
    mount
}

#[test]
fn an_extent_never_becomes_a_vmdk() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/root.vmdk"), "--size", "1M"]);
    let mount = with_nvram(&host);
    let text = format!("{HEAD}{NAMES_NVRAM}");
    for written in [format!("{text:\n<512}").into_bytes(), sparse_header(&text)] {
        write_as_guest(&mount, "root-flat.vmdk", &written);
        assert_eq!(names(&mount.path(".raw")), ["root.raw"]);
        let image = mount.path(".raw/root-flat.raw");
        assert_eq!(errno(File::options().read(true).write(true).open(&image)), Some(libc::ENOENT));
        assert_eq!(errno(fs::metadata(&image)), Some(libc::ENOENT));
        assert!(fs::read(mount.path(".raw/root.raw")).unwrap().starts_with(&written), "its own disk is what it wrote");
    }
    assert_eq!(fs::read_to_string(mount.path("vm.nvram")).unwrap(), NVRAM.repeat(3000));
    assert!(!host.run(&["info", "--json", host.path("web01")]).contains("root-flat.raw"));
    mount.unmount();
}

#[test]
fn a_disk_leads_to_other_files_only_if_settings_say_that_it_is_a_vmdk() {
    let host = Host::with_vm();
    let mount = with_nvram(&host);
    let header = sparse_header(&format!("{HEAD}{NAMES_NVRAM}"));
    fs::write(mount.path("data.vmdk"), &header).unwrap(); // a disk, since a format of disks begins so
    let image = mount.path(".raw/data.raw");
    assert_eq!(errno(fs::metadata(&image)), Some(libc::EPERM));
    assert!(host.log().contains("no settings or descriptor in the home say that it is a VMDK"), "{}", host.log());
    fs::write(mount.path("web01.vmx"), "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"data.vmdk\"\n").unwrap();
    assert!(NVRAM.repeat(3000).as_bytes().starts_with(&fs::read(&image).unwrap()));
    mount.unmount();
}
