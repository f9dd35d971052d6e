use super::*;
use crate::disk_file::DiskFile;

fn descriptor(extent: &str, parent: Option<&str>) -> Descriptor {
    let parent = parent.map(|name| format!("parentCID=1\nparentFileNameHint=\"{name}\"\n")).unwrap_or_default();
    let text = format!("version=1\nCID=1\ncreateType=\"custom\"\n{parent}RW 1 {extent}\n");
    Descriptor::parse(text.as_bytes()).unwrap()
}

#[test]
fn every_name_that_vmware_gives_has_its_role_and_side() {
    for (name, role, side) in [
        ("x.vmx", Role::Config, Side::Home),
        ("X.VMX", Role::Config, Side::Home),
        ("x.vmxf", Role::ExtendedConfig, Side::Home),
        ("x.vmtx", Role::Template, Side::Home),
        ("x.nvram", Role::Nvram, Side::Home),
        ("x.vmsd", Role::SnapshotList, Side::Home),
        ("x-Snapshot1.vmsn", Role::SnapshotState, Side::Home),
        ("x-Snapshot1.vmem", Role::Memory, Side::Home),
        ("x-1a2b.vmss", Role::Suspend, Side::Home),
        ("x-1a2b.vswp", Role::Swap, Side::Home),
        ("vmx-x-1a2b-1.vswp", Role::Swap, Side::Home),
        ("x.vmdk", Role::Disk, Side::Home),
        ("x-000001.vmdk", Role::Disk, Side::Home),
        ("x-flat.vmdk", Role::FlatExtent, Side::Disk),
        ("x-f001.vmdk", Role::FlatExtent, Side::Disk),
        ("x-s001.vmdk", Role::SparseExtent, Side::Disk),
        ("x-000001-s012.vmdk", Role::SparseExtent, Side::Disk),
        ("x-s1.vmdk", Role::Disk, Side::Home),
        ("x-000001-delta.vmdk", Role::SnapshotExtent, Side::Disk),
        ("x-000001-sesparse.vmdk", Role::SnapshotExtent, Side::Disk),
        ("x-rdm.vmdk", Role::DeviceMapping, Side::Disk),
        ("x-rdmp.vmdk", Role::DeviceMapping, Side::Disk),
        ("x-ctk.vmdk", Role::ChangeTracking, Side::Home),
        ("x.qcow2", Role::ForeignDisk, Side::Disk),
        ("vmware.log", Role::Log, Side::Home),
        ("vmware-3.log", Role::Log, Side::Home),
        ("x.hlog", Role::MigrationLog, Side::Home),
        ("x.scoreboard", Role::Statistics, Side::Home),
        ("x.vmx.lck", Role::Lock, Side::Home),
        (".lck-3f00000000000000", Role::Lock, Side::Home),
        ("x.vmx~", Role::Lock, Side::Home),
        ("vmmcores.gz", Role::Core, Side::Home),
        ("vmware-vmx-debug-core.gz", Role::Core, Side::Home),
        ("screenshot-0.png", Role::Screenshot, Side::Home),
        ("server-core.qcow2", Role::ForeignDisk, Side::Disk),
        ("x-core.raw", Role::ForeignDisk, Side::Disk),
        ("screenshot-vm.raw", Role::ForeignDisk, Side::Disk),
        ("x-core.vmx", Role::Config, Side::Home),
        ("notes.txt", Role::Other, Side::Home),
        ("", Role::Other, Side::Home),
    ] {
        assert_eq!((Role::of_name(name), Role::of_name(name).side()), (role, side), "{name}");
    }
}

#[test]
fn content_tells_descriptors_from_whole_disks() {
    let text = descriptor("ZERO", None);
    assert_eq!(Role::Disk.with_content(&DiskFile::Descriptor(text)), Role::Disk);
}

#[test]
fn files_belong_by_the_vmx_by_disks_and_by_name() {
    let vmx = Vmx::parse(
        b"nvram = \"x.nvram\"\nscsi0:0.fileName = \"x-000001.vmdk\"\nscsi0:1.fileName = \"/other/data.vmdk\"\n",
    );
    let snapshot = descriptor("SPARSE \"odd name.vmdk\"", Some("base.vmdk"));
    let base = descriptor("FLAT \"base-data.bin\" 0", Some("x-000001.vmdk"));
    let names = [
        "x.vmx",
        "x.nvram",
        "x-000001.vmdk",
        "odd name.vmdk",
        "base.vmdk",
        "base-data.bin",
        "x.vmsd",
        "vmx-x-77.vswp",
        "x.vmdk.lck",
        "base.vmdk.lck",
        "vmware-2.log",
        "data.vmdk",
        "data-flat.vmdk",
        "notes.txt",
        "xy.vmx",
        "x-notes.txt",
    ];
    let descriptors = [("x-000001.vmdk", &snapshot), ("base.vmdk", &base)];
    let found = vm_files(names, "x.vmx", &vmx.unwrap(), &descriptors);
    let belongs: Vec<_> = found.iter().map(|file| file.belongs).collect();
    use Belongs::{ByName, Common, Named, No, PartOfDisk};
    assert_eq!(
        belongs,
        [
            Named, Named, Named, PartOfDisk, PartOfDisk, PartOfDisk, ByName, ByName, ByName, ByName, Common, No, No,
            No, No, No
        ]
    );
    assert_eq!(found[3].name, "odd name.vmdk");
}
