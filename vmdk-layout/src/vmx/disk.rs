//! The devices that a VM attaches to its disk controllers.

use std::collections::BTreeMap;
use std::fmt;

use super::{Setting, Vmx};
use crate::error::Result;
use crate::name::{FileName, ends_with_ignoring_case, last_component, written_component};

/// A kind of disk controller.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Bus {
    /// `ide0:0`
    Ide,
    /// `scsi0:0`
    Scsi,
    /// `sata0:0`
    Sata,
    /// `nvme0:0`
    Nvme,
}

impl Bus {
    /// Its name in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::Scsi => "scsi",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
        }
    }

    const ALL: [Self; 4] = [Self::Ide, Self::Scsi, Self::Sata, Self::Nvme];
}

/// What is attached.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DeviceKind {
    /// A hard disk, by its `deviceType` or, without one, by a file name that ends in `.vmdk`.
    Disk,
    /// A CD-ROM with an image.
    CdromImage,
    /// A CD-ROM of the host.
    CdromDevice,
    /// Something else, such as a passed-through SCSI device.
    Other,
}

/// A device on a disk controller, as `<bus><controller>:<unit>.<property>` settings describe it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachedDevice {
    /// The kind of controller.
    pub bus: Bus,
    /// Which controller of that kind.
    pub controller: u8,
    /// Which place on the controller.
    pub unit: u8,
    /// What it is.
    pub kind: DeviceKind,
    /// `fileName`: a path as written, hostile until checked by [`file_name`](Self::file_name). What its encoding cannot be
    /// read as is U+FFFD.
    pub path: Option<String>,
    /// The bytes of the last component of that path, where they are not its UTF-8.
    pub written: Option<Vec<u8>>,
    /// `present`: whether the VM sees it. VMware takes FALSE where it is not said.
    pub present: bool,
    /// `mode`, such as `persistent` or `independent-nonpersistent`.
    pub mode: Option<String>,
}

impl AttachedDevice {
    /// The attached file, if it is one of the VM folder.
    ///
    /// # Errors
    /// `Denied` or `Invalid` as by [`FileName::new`].
    pub fn file_name(&self) -> Result<Option<FileName>> {
        self.path.as_deref().map(FileName::new).transpose()?;
        self.base_name()
    }

    /// The last component of the path: what the attached file is called, wherever it is.
    ///
    /// # Errors
    /// `Invalid` if it names no file.
    pub fn base_name(&self) -> Result<Option<FileName>> {
        let base = self.path.as_deref().map(last_component);
        let name = base.map(|base| match &self.written {
            Some(written) => FileName::read_from(base, written),
            None => FileName::new(base),
        });
        name.transpose()
    }
}

impl fmt::Display for AttachedDevice {
    /// Its place, as in `scsi0:1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", self.bus.name(), self.controller, self.unit)
    }
}

impl Vmx {
    /// All devices on disk controllers, present or not, by bus, controller and unit.
    pub fn devices(&self) -> Vec<AttachedDevice> {
        let mut found: BTreeMap<(Bus, u8, u8), Properties> = BTreeMap::new();
        for Setting { key, value, written } in self.all() {
            let Some((place, property)) = key.split_once('.') else { continue };
            let Some(place) = place_of(place) else { continue };
            let properties = found.entry(place).or_default();
            let property = property.to_ascii_lowercase();
            match property.as_str() {
                "filename" => {
                    let decode = |bytes: &[u8]| self.encoding.decode_lossy(bytes).into_owned();
                    let base = written.as_deref().and_then(|all| written_component(all, last_component(value), decode));
                    properties.path = Some(value.clone());
                    properties.written = base.map(<[u8]>::to_vec);
                }
                "present" => properties.present = value.eq_ignore_ascii_case("TRUE") || value == "1",
                "devicetype" => properties.device_type = Some(value.to_ascii_lowercase()),
                "mode" => properties.mode = Some(value.to_owned()),
                _ => {}
            }
        }
        found.into_iter().map(|(place, properties)| properties.at(place)).collect()
    }

    /// The hard disks among [`devices`](Self::devices), present or not.
    pub fn disks(&self) -> Vec<AttachedDevice> {
        let devices = self.devices().into_iter();
        devices.filter(|device| device.kind == DeviceKind::Disk && device.path.is_some()).collect()
    }
}

#[derive(Default)]
struct Properties {
    path: Option<String>,
    written: Option<Vec<u8>>,
    present: bool,
    device_type: Option<String>,
    mode: Option<String>,
}

impl Properties {
    fn at(self, (bus, controller, unit): (Bus, u8, u8)) -> AttachedDevice {
        let is_vmdk = self.path.as_deref().is_some_and(|path| ends_with_ignoring_case(path, ".vmdk"));
        let kind = match self.device_type.as_deref() {
            Some(kind) if kind.ends_with("disk") => DeviceKind::Disk,
            Some("cdrom-image") => DeviceKind::CdromImage,
            Some(kind) if kind.contains("cdrom") => DeviceKind::CdromDevice,
            None if is_vmdk => DeviceKind::Disk,
            Some(_) | None => DeviceKind::Other,
        };
        let Self { path, written, present, mode, .. } = self;
        AttachedDevice { bus, controller, unit, kind, path, written, present, mode }
    }
}

/// `scsi0:1` as its parts.
fn place_of(place: &str) -> Option<(Bus, u8, u8)> {
    let bus = Bus::ALL.into_iter().find(|bus| starts_with_ignoring_case(place, bus.name()))?;
    let (controller, unit) = place.get(bus.name().len()..)?.split_once(':')?;
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()));
    Some((bus, number(controller)?, number(unit)?))
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
