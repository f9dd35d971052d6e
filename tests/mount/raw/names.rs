//! Names of extents, parents and attached disks that are written in another way than the files are called.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::host::Host;
use crate::transport::wait_for_the_close_of;

fn descriptor(settings: &str, extent: &[u8]) -> Vec<u8> {
    let head =
        format!("# Disk DescriptorFile\nversion=1\n{settings}CID=1\nparentCID=ffffffff\ncreateType=\"vmfs\" # note\n");
    [head.as_bytes(), b"RW 0 ZERO\nRW 8 VMFS \"", extent, b"\"\n"].concat()
}

#[test]
fn extents_are_found_by_encoding_bytes_case_and_unicode_form() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let content: Vec<u8> = (0..4096_u32).map(|at| (at % 251) as u8).collect();
    // Disk, its descriptor's settings, the extent's name in it, and on disk.
    let disks: [(&str, &str, &[u8], &[u8]); 6] = [
        ("cyrillic", "encoding=\"windows-1251\"\n", b"\xc4-flat.vmdk", "Д-flat.vmdk".as_bytes()),
        ("korean", "encoding=\"windows-949-2000\"\n", b"\xb0\xa1-flat.vmdk", "가-flat.vmdk".as_bytes()),
        ("unknown", "encoding=\"cp437\"\n", b"plain-flat.vmdk", b"plain-flat.vmdk"),
        ("bytes", "", b"\xfc-flat.vmdk", b"\xfc-flat.vmdk"),
        ("case", "", b"UPPER-Flat.vmdk", b"upper-flat.vmdk"),
        ("form", "encoding=\"UTF-8\"\n", "é-flat.vmdk".as_bytes(), "e\u{301}-flat.vmdk".as_bytes()),
    ];
    for (disk, settings, named, called) in disks {
        fs::write(mount.path(disk).with_extension("vmdk"), descriptor(settings, named)).unwrap();
        fs::write(mount.root().join(OsStr::from_bytes(called)), &content).unwrap();
        let image = mount.root().join(".raw").join(disk).with_extension("raw");
        assert_eq!(fs::read(&image).unwrap(), content, "{disk}");
        fs::OpenOptions::new().write(true).open(&image).unwrap().write_all(&content).unwrap();
    }
    // Of several that differ only in case none is meant.
    fs::write(mount.path("UPPER-FLAT.vmdk"), &content).unwrap();
    let error = fs::read(mount.root().join(".raw/case.raw")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    fs::remove_file(mount.path("UPPER-FLAT.vmdk")).unwrap();

    let settings = b".encoding = \"cp437\"\nannotation = \"\x84\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"Cyrillic.vmdk\"\n";
    fs::write(mount.path("web01.vmx"), settings).unwrap();
    // `info` reads no file that is written.
    for (disk, _, _, called) in disks {
        let flat = Path::new(host.path("web01")).join(OsStr::from_bytes(called));
        for beneath in [&Path::new(host.path("web01")).join(disk).with_extension("vmdk"), &flat] {
            wait_for_the_close_of(beneath, mount.pid());
        }
    }
    wait_for_the_close_of(host.path("web01/web01.vmx").as_ref(), mount.pid());
    let info: serde_json::Value = serde_json::from_str(&host.run(&["info", host.path("web01"), "--json"])).unwrap();
    let vmdks = info[0]["vmdks"].as_array().unwrap_or_else(|| panic!("{info}"));
    assert_eq!(vmdks.len(), disks.len());
    for vmdk in vmdks {
        assert_eq!(vmdk["extents"][0]["stored_as"], "disk", "{vmdk}");
        let attached = if vmdk["name"] == "cyrillic.vmdk" { 1 } else { 0 };
        assert_eq!(vmdk["attached"].as_array().unwrap().len(), attached, "{vmdk}");
    }

    fs::write(mount.path("web01.vmx"), vec![b' '; 20 << 20]).unwrap();
    let output = host.try_run(&["info", host.path("web01")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("web01.vmx") && told.contains("where disks are attached is not known"), "{told}");
}
