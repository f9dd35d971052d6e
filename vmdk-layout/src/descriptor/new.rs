//! The text of a new disk's descriptor.

use super::{Access, Cid, CreateType, Descriptor, Extent, ExtentType, line};
use crate::error::{Error, Kind, Result, shown};
use crate::limits::{MAX_DISK_SECTORS, SECTOR_LEN};
use crate::name::{FileName, strip_suffix_ignoring_case};

/// The controller that VMware attaches a disk to, and for which it computes the geometry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Adapter {
    /// `ide`
    Ide,
    /// `buslogic`
    BusLogic,
    /// `lsilogic`, which VMware also writes for SAS, PVSCSI, SATA and NVMe disks.
    LsiLogic,
}

impl Adapter {
    /// The value of `ddb.adapterType`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::BusLogic => "buslogic",
            Self::LsiLogic => "lsilogic",
        }
    }

    /// Cylinders, heads and sectors of a disk of `sectors`, as BIOSes of these controllers reckon.
    fn geometry(self, sectors: u64) -> (u64, u64, u64) {
        const GIB: u64 = (1 << 30) / SECTOR_LEN;
        /// The most that ATA's cylinder field takes.
        const MAX_CYLINDERS: u64 = 16383;
        let (heads, per_track, most) = match self {
            Self::Ide => (16, 63, MAX_CYLINDERS),
            Self::BusLogic | Self::LsiLogic if sectors <= GIB => (64, 32, u64::MAX),
            Self::BusLogic if sectors <= 2 * GIB => (128, 32, u64::MAX),
            Self::BusLogic | Self::LsiLogic => (255, 63, u64::MAX),
        };
        ((sectors / (heads * per_track)).clamp(1, most), heads, per_track)
    }
}

/// What a new flat disk's descriptor says.
///
/// ```
/// use vmdk_layout::{Adapter, Cid, FileName, NewDisk};
///
/// let data = NewDisk::data_name(&FileName::new("root.vmdk")?)?; // root-flat.vmdk
/// let disk = NewDisk::flat(20 << 30, data, Cid(0x1234_5678))?.adapter(Adapter::LsiLogic);
/// let descriptor = disk.descriptor()?;
/// assert_eq!(descriptor.len(), 20 << 30);
/// assert!(descriptor.to_bytes().starts_with(b"# Disk DescriptorFile\nversion=1\n"));
/// # Ok::<(), vmdk_layout::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewDisk {
    create_type: CreateType,
    cid: Cid,
    adapter: Adapter,
    extent: Extent,
    ddb: Vec<(String, String)>,
}

impl NewDisk {
    /// A disk of `len` bytes in one flat file of its own, as VMware Workstation and QEMU make it (`monolithicFlat`).
    ///
    /// # Errors
    /// `Invalid` unless `len` is a positive multiple of 512 that a disk can have, `cid` can be a disk's own, and `data`
    /// can be quoted.
    pub fn flat(len: u64, data: FileName, cid: Cid) -> Result<Self> {
        Self::new(len, data, cid, CreateType::MonolithicFlat, ExtentType::Flat)
    }

    /// The same in the spelling of ESXi (`vmfs`), which QEMU reads as well.
    ///
    /// # Errors
    /// As [`flat`](Self::flat).
    pub fn vmfs(len: u64, data: FileName, cid: Cid) -> Result<Self> {
        Self::new(len, data, cid, CreateType::Vmfs, ExtentType::Vmfs)
    }

    /// What VMware calls the data file of the disk `descriptor`: `root-flat.vmdk` for `root.vmdk`.
    ///
    /// # Errors
    /// `Invalid` unless `descriptor` ends in `.vmdk` and leaves room for the longer name.
    pub fn data_name(descriptor: &FileName) -> Result<FileName> {
        let stem = strip_suffix_ignoring_case(descriptor.as_str(), ".vmdk").filter(|stem| !stem.is_empty());
        let stem = stem.ok_or_else(|| {
            let message =
                format!("{} is not a name of a disk, expected one that ends in .vmdk", shown(descriptor.as_str()));
            Error::new(Kind::Invalid, message)
        })?;
        FileName::new(&format!("{stem}-flat.vmdk"))
    }

    /// Another controller than LSI Logic.
    #[must_use]
    pub fn adapter(self, adapter: Adapter) -> Self {
        Self { adapter, ..self }
    }

    /// One more entry of the disk data base; `key` without `ddb.`, as in `("thinProvisioned", "1")`.
    #[must_use]
    pub fn ddb(mut self, key: &str, value: &str) -> Self {
        self.ddb.push((format!("ddb.{key}"), value.to_owned()));
        self
    }

    /// The descriptor, ready to be [printed](Descriptor::to_bytes).
    ///
    /// # Errors
    /// `Invalid` if an added entry does not fit on a line.
    pub fn descriptor(&self) -> Result<Descriptor> {
        let mut text = String::from("# Disk DescriptorFile\n");
        for (key, value) in [
            ("version", "1"),
            ("encoding", "UTF-8"),
            ("CID", &self.cid.to_string()),
            ("parentCID", &Cid::NO_PARENT.to_string()),
            ("createType", self.create_type.name()),
        ] {
            text += &format!("{}\n", line::printed(key, value));
        }
        text += &format!("\n# Extent description\n{}\n\n# The Disk Data Base\n#DDB\n\n", self.extent);
        let mut descriptor = Descriptor::parse(text.as_bytes())?;
        let (cylinders, heads, sectors) = self.adapter.geometry(self.extent.sectors);
        descriptor.set("ddb.adapterType", self.adapter.name())?;
        descriptor.set("ddb.geometry.cylinders", &cylinders.to_string())?;
        descriptor.set("ddb.geometry.heads", &heads.to_string())?;
        descriptor.set("ddb.geometry.sectors", &sectors.to_string())?;
        descriptor.set("ddb.virtualHWVersion", "4")?; // the oldest that all of today's products still read
        for (key, value) in &self.ddb {
            descriptor.set(key, value)?;
        }
        Ok(descriptor)
    }

    fn new(len: u64, data: FileName, cid: Cid, create_type: CreateType, extent_type: ExtentType) -> Result<Self> {
        let invalid = |message: String| Error::new(Kind::Invalid, message);
        let sectors = len / SECTOR_LEN;
        if !len.is_multiple_of(SECTOR_LEN) || sectors == 0 || sectors > MAX_DISK_SECTORS {
            return Err(invalid(format!(
                "a disk cannot be {len} bytes long, expected a positive multiple of {SECTOR_LEN}"
            )));
        }
        if cid == Cid::NO_PARENT || cid == Cid::LONG {
            return Err(invalid(format!("a new disk's CID cannot be {cid}, which has a meaning of its own")));
        }
        if data.as_str().contains('"') {
            return Err(invalid(format!("{} cannot be written in double quotes", shown(data.as_str()))));
        }
        let file = Some(data.as_str().to_owned());
        let extent = Extent {
            access: Access::ReadWrite,
            sectors,
            extent_type,
            file,
            written: None,
            offset: 0,
            device: None,
            line: 0,
        };
        Ok(Self { create_type, cid, adapter: Adapter::LsiLogic, extent, ddb: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_disk_says_what_was_asked_for() {
        let data = FileName::new("my disk-flat.vmdk").unwrap();
        let disk = NewDisk::vmfs(1 << 30, data, Cid(7)).unwrap().ddb("thinProvisioned", "1").descriptor().unwrap();
        assert_eq!(disk.create_type(), CreateType::Vmfs);
        assert_eq!((disk.len(), disk.cid(), disk.parent()), (1 << 30, Cid(7), None));
        assert_eq!(disk.extents()[0].to_string(), "RW 2097152 VMFS \"my disk-flat.vmdk\"");
        assert_eq!(disk.value("ddb.thinProvisioned"), Some("1"));
        assert_eq!(disk.value("ddb.geometry.cylinders"), Some("1024"));
        assert_eq!(Descriptor::parse(&disk.to_bytes()).unwrap().to_bytes(), disk.to_bytes());
    }

    #[test]
    fn sizes_names_and_cids_that_cannot_be_written_are_refused() {
        let name = |text| FileName::new(text).unwrap();
        for len in [0, 1, 513, u64::MAX - 511] {
            assert_eq!(NewDisk::flat(len, name("a"), Cid(1)).unwrap_err().kind(), Kind::Invalid);
        }
        assert!(NewDisk::flat(512, name("a\"b"), Cid(1)).is_err());
        assert!(NewDisk::flat(512, name("a"), Cid::NO_PARENT).is_err());
        assert!(NewDisk::flat(512, name("a"), Cid(1)).unwrap().ddb("a b", "c").descriptor().is_err());
        assert!(NewDisk::flat(512, name("a"), Cid(1)).unwrap().ddb("a", "c\"").descriptor().is_err());
    }

    #[test]
    fn data_is_named_after_its_disk() {
        let of = |name: &str| NewDisk::data_name(&FileName::new(name).unwrap());
        assert_eq!(of("a b.VMDK").unwrap().as_str(), "a b-flat.vmdk");
        for bad in ["a.raw", ".vmdk", "vmdk", &format!("{}.vmdk", "x".repeat(250))] {
            assert_eq!(of(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn ide_cylinders_stop_where_ata_stops() {
        assert_eq!(Adapter::Ide.geometry(1 << 40), (16383, 16, 63));
        assert_eq!(Adapter::LsiLogic.geometry(1), (1, 64, 32));
    }
}
