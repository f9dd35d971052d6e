use std::process::Command;

use proptest::prelude::*;

use super::*;

fn paths(image: &[u8]) -> Vec<String> {
    of(image).unwrap().into_iter().map(|reference| reference.path.to_str().unwrap().to_owned()).collect()
}

/// What qemu-img makes of these arguments; `@` stands for a folder of its own.
fn made_by_qemu(args: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let args = args.replace('@', dir.path().to_str().unwrap());
    let made = Command::new("qemu-img").args(args.split_whitespace()).output().unwrap();
    assert!(made.status.success(), "qemu-img {args}: {}", String::from_utf8_lossy(&made.stderr));
    std::fs::read(dir.path().join("image")).unwrap()
}

#[test]
fn what_qemu_writes_is_found() {
    for (args, expected) in [
        ("create -q -f qcow2 @/image 1M", &[][..]),
        ("create -q -u -f qcow2 -F raw -b /vms/a/base.raw @/image 1M", &["/vms/a/base.raw"]),
        ("create -q -u -f qcow2 -o compat=0.10 -F qcow2 -b ../9/base.qcow2 @/image 1M", &["../9/base.qcow2"]),
        ("create -q -u -f qcow2 -F raw -b file:/vms/b.raw @/image 1M", &["/vms/b.raw"]),
        ("create -q -u -f qcow2 -F raw -b nbd://host/disk @/image 1M", &[]),
        (
            "create -q -u -f qcow2 -F qcow2 -b \
             json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/vms/c.qcow2\"}} @/image 1M",
            &["/vms/c.qcow2"],
        ),
        (
            "create -q -u -f qcow2 -F raw -b json:{\"driver\":\"raw\",\"file.filename\":\"d.raw\"} @/image 1M",
            &["d.raw"],
        ),
        ("create -q -u -f qed -F raw -b /vms/e.raw @/image 1M", &["/vms/e.raw"]),
        ("create -q -f vmdk -o subformat=monolithicFlat @/image 1M", &["image-flat"]),
        ("create -q -f vhdx @/image 1M", &[]),
        ("create -q -f vpc @/image 1M", &[]),
        ("create -q -f vdi @/image 1M", &[]),
        ("create -q -f raw @/image 1M", &[]),
    ] {
        assert_eq!(paths(&made_by_qemu(args)), expected, "{args}");
    }
    let found = of(&made_by_qemu("create -q -u -f qcow2 -F vmdk -b /a @/image 1M")).unwrap();
    assert_eq!(found[0].role, Role::Backing(Some("vmdk".into())));
    let image = made_by_qemu("create -q -f qcow2 -o data_file=@/d.img,data_file_raw=on @/image 1M");
    assert_eq!(of(&image).unwrap()[0].role, Role::Data);
    assert!(paths(&image)[0].ends_with("/d.img"));
}

#[test]
fn parents_and_extents_of_vmdks_are_found() {
    let text = b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\nparentFileNameHint=\"/vms/a/base.vmdk\"\n\
        createType=\"monolithicFlat\"\nRW 8 FLAT \"/vms/a/x-flat.vmdk\" 0\n";
    assert_eq!(paths(text), ["/vms/a/x-flat.vmdk", "/vms/a/base.vmdk"]);
    let windows =
        b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\nparentFileNameHint=\"C:\\\\vms\\\\base.vmdk\"\n\
        createType=\"monolithicFlat\"\nRW 8 FLAT \"x-flat.vmdk\" 0\n";
    assert_eq!(paths(windows), ["x-flat.vmdk"]);
    assert_eq!(of(&b"# Disk DescriptorFile\nversion=1\nCID=nonsense\n"[..]).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn parents_of_a_vhd_are_found() {
    let mut image = vec![0; 4096];
    image[..8].copy_from_slice(b"conectix");
    image[16..24].copy_from_slice(&512_u64.swap_bytes().to_le_bytes());
    image[512..520].copy_from_slice(b"cxsparse");
    let name = b"file:///vms/a/base.vhd";
    let locator = 512 + 576;
    image[locator..locator + 4].copy_from_slice(b"MacX");
    image[locator + 8..locator + 12].copy_from_slice(&u32::try_from(name.len()).unwrap().swap_bytes().to_le_bytes());
    image[locator + 16..locator + 24].copy_from_slice(&2048_u64.swap_bytes().to_le_bytes());
    image[2048..2048 + name.len()].copy_from_slice(name);
    assert_eq!(paths(&image), ["/vms/a/base.vhd"]);
}

proptest! {
    /// Nothing panics, nothing takes long, and names are never longer than the image.
    #[test]
    fn hostile_images_are_refused_or_read(
        magic in prop::sample::select(vec![&b"QFI\xfb\0\0\0\x03"[..], b"QFI\xfb\0\0\0\x02", b"QED\0", b"vhdxfile", b"conectix", b"KDMV"]),
        rest in prop::collection::vec(any::<u8>(), 0..700),
        fields in prop::collection::vec((0..132_usize, any::<u8>()), 0..8),
    ) {
        let mut image = [magic, &vec![0; 132 - magic.len()], &rest].concat();
        for (at, byte) in fields {
            image[at.max(magic.len())] = byte;
        }
        if let Ok(found) = of(image.as_slice()) {
            prop_assert!(found.iter().all(|reference| reference.path.as_os_str().len() <= image.len()));
        }
    }
}
