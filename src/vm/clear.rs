//! What a file in the clear is: a disk image, or a file of the home. Content decides; the name only if content is inconclusive.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vmdk_layout::{Descriptor, DiskFile, Role, Side, Source};

use crate::error::{Context, Result};
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::format::names::DiskNames;
use crate::sys::file::seek_data;

/// What a file in the clear becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClearKind {
    /// A disk, and what tells.
    Disk(&'static str),
    /// A file of the home, and what tells.
    Home(&'static str),
}

impl ClearKind {
    /// The evidence, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Disk(reason) | Self::Home(reason) => reason,
        }
    }

    /// Whether it may as well be an encrypted disk whose header is lost: only its name or size says that it is a disk, and there is
    /// no pattern in its content.
    pub fn may_be_ciphertext(self) -> bool {
        matches!(self, Self::Disk(BY_NAME_AND_NOISE | BY_SIZE_AND_NOISE))
    }

    /// Whether its content says what it is.
    pub fn is_shown(self) -> bool {
        match self {
            Self::Disk(reason) => ![BY_NAME, BY_SIZE, BY_NAME_AND_NOISE, BY_SIZE_AND_NOISE].contains(&reason),
            Self::Home(reason) => reason == DESCRIPTOR,
        }
    }

    /// Whether it is a disk.
    pub fn is_disk(self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// A text or number at an offset by which a format is known.
struct Magic(u64, &'static [u8], &'static str);

/// Formats of disk images, and what stands first on a whole disk without partitions.
const CONTAINERS: [Magic; 6] = [
    Magic(0, b"QFI\xfb", "qcow2 image"),
    Magic(0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI image"),
    Magic(0, b"vhdxfile", "VHDX image"),
    Magic(0, b"conectix", "VHD image"),
    Magic(0, b"QED\0", "QED image"),
    Magic(0, b"LUKS\xba\xbe", "raw image: LUKS"),
];
const RAW: [Magic; 16] = [
    Magic(512, b"EFI PART", "raw image: GPT"),
    Magic(4096, b"EFI PART", "raw image: GPT"),
    Magic(0, b"XFSB", "raw image: XFS"),
    Magic(0x10040, b"_BHRfS_M", "raw image: btrfs"),
    Magic(0x410, &[0x10, 0x20, 0xf5, 0xf2], "raw image: F2FS"),
    Magic(3, b"NTFS    ", "raw image: NTFS"),
    Magic(3, b"EXFAT   ", "raw image: exFAT"),
    Magic(3, b"ReFS\0\0\0\0", "raw image: ReFS"),
    Magic(0x36, b"FAT1", "raw image: FAT"),
    Magic(0x52, b"FAT32", "raw image: FAT"),
    Magic(0x8001, b"CD001", "raw image: ISO 9660"),
    Magic(0x8001, b"BEA01", "raw image: UDF"),
    Magic(512, b"LABELONE", "raw image: LVM"),
    Magic(0xff6, b"SWAPSPACE2", "raw image: swap"),
    Magic(0, b"hsqs", "raw image: squashfs"),
    Magic(0x1000, &[0xfc, 0x4e, 0x2b, 0xa9], "raw image: Linux RAID"),
];
/// Anything smaller is not a disk: a saved boot sector has a partition table as well.
pub(in crate::vm) const MIN_RAW_LEN: u64 = 64 << 10;
/// Without any other sign, a file of whole MiB from this size on is taken for a disk.
const MIN_BLANK_LEN: u64 = 16 << 20;
const MIB: u64 = 1 << 20;
const DESCRIPTOR: &str = "VMDK descriptor";
const BY_NAME: &str = "by its name";
const BY_SIZE: &str = "by its size";
const BY_NAME_AND_NOISE: &str = "by its name, without any pattern in its content";
const BY_SIZE_AND_NOISE: &str = "by its size, without any pattern in its content";
/// Places where content is looked at that no format explains, and how much is read there.
const SAMPLES: u64 = 64;
const SAMPLE_LEN: usize = 4096;

/// Says what a file in the clear is. Where its content is silent, it is a disk by the names that its home, or the home that it will
/// get, has for disks.
///
/// # Errors
/// `Io`.
pub fn kind_of(file: &File, name: &OsStr, disk_names: &DiskNames) -> Result<ClearKind> {
    let bytes = Bytes::of(file)?;
    let shown = name.to_string_lossy();
    let role = Role::of_name(&shown);
    let reading = || format!("reading {shown}");
    let by_name = by_name(name, disk_names, role, bytes.len);
    if let Some(found) = bytes.disk_or_descriptor(role).context(reading)? {
        // The text of a descriptor in what is called as a disk and can be one is its guest's.
        let may_be_guests = !found.is_disk() && by_name.is_disk() && bytes.may_be_raw_disk();
        return Ok(if may_be_guests { by_name } else { found });
    }
    Ok(match by_name {
        ClearKind::Disk(reason) if bytes.has_noise().context(reading)? => {
            ClearKind::Disk(if reason == BY_SIZE { BY_SIZE_AND_NOISE } else { BY_NAME_AND_NOISE })
        }
        kind @ (ClearKind::Disk(_) | ClearKind::Home(_)) => kind,
    })
}

/// What a home file is taken for, by its name and length, that could be a disk: for people, since they know more.
pub fn disk_by_name(name: &OsStr, len: u64) -> Option<&'static str> {
    let named = DiskNames::default().matches(name) || Role::of_name(&name.to_string_lossy()).side() == Side::Disk;
    (named && len >= MIN_RAW_LEN).then_some(BY_NAME)
}

/// The format of a disk image whose first bytes these are: 512 of them, or all.
pub fn disk_in(head: &[u8]) -> Option<&'static str> {
    let stands = |Magic(offset, magic, _): &&Magic| {
        let at = usize::try_from(*offset).unwrap_or(usize::MAX);
        head.get(at..).is_some_and(|rest| rest.starts_with(magic))
    };
    let sparse = || (DiskFile::is_recognised(head) && !Descriptor::is_recognised(head)).then_some("VMDK image");
    CONTAINERS.iter().find(stands).map(|magic| magic.2).or_else(sparse)
}

/// A file, as the library that understands VMware's disks reads it.
struct Bytes<'f> {
    file: &'f File,
    len: u64,
}

impl Bytes<'_> {
    fn of(file: &File) -> Result<Bytes<'_>> {
        let len = file.metadata().context(|| "reading the length".into())?.len();
        Ok(Bytes { file, len })
    }

    /// What the content says.
    fn disk_or_descriptor(&self, role: Role) -> io::Result<Option<ClearKind>> {
        if let Some(found) = self.first_of(&CONTAINERS)? {
            return Ok(Some(ClearKind::Disk(found)));
        }
        if self.len >= 512 && self.stands(&Magic(self.len - 512, b"conectix", ""))? {
            return Ok(Some(ClearKind::Disk("VHD image")));
        }
        match DiskFile::read(self) {
            Ok(DiskFile::Descriptor(_)) => return Ok(Some(ClearKind::Home(DESCRIPTOR))),
            Ok(DiskFile::Monolithic { .. }) => return Ok(Some(ClearKind::Disk("VMDK image"))),
            Ok(DiskFile::Extent(_)) => return Ok(Some(ClearKind::Disk("VMDK extent"))),
            // A flat extent is neither, and so is what is not a VMDK at all.
            Err(_) => {}
        }
        if may_be_raw(role) && self.may_be_raw_disk() {
            if let Some(found) = self.first_of(&RAW)? {
                return Ok(Some(ClearKind::Disk(found)));
            }
            if self.is_ext()? {
                return Ok(Some(ClearKind::Disk("raw image: ext2, 3 or 4")));
            }
            if self.has_partitions()? {
                return Ok(Some(ClearKind::Disk("raw image: partition table")));
            }
        }
        Ok(None)
    }

    fn may_be_raw_disk(&self) -> bool {
        self.len >= MIN_RAW_LEN && self.len.is_multiple_of(512)
    }

    fn stands(&self, Magic(offset, magic, _): &Magic) -> io::Result<bool> {
        let mut found = [0; 16];
        let found = &mut found[..magic.len()];
        if offset + magic.len() as u64 > self.len {
            return Ok(false);
        }
        self.file.read_exact_at(found, *offset)?;
        Ok(found == *magic)
    }

    fn first_of(&self, magics: &[Magic]) -> io::Result<Option<&'static str>> {
        for magic in magics {
            if self.stands(magic)? {
                return Ok(Some(magic.2));
            }
        }
        Ok(None)
    }

    /// Magic, and a state and a way of handling errors that exist: two bytes on their own say little.
    fn is_ext(&self) -> io::Result<bool> {
        let mut fields = [0; 6];
        self.file.read_exact_at(&mut fields, 0x438)?;
        Ok(fields[..2] == [0x53, 0xef] && matches!(fields[2], 0..=7) && matches!(fields[4], 1..=3))
    }

    /// Whether a part of it looks as ciphertext does, where that of a disk would be.
    fn has_noise(&self) -> io::Result<bool> {
        let mut sample = [0; SAMPLE_LEN];
        let data_len = self.len.saturating_sub(DEFAULT_DATA_OFFSET); // the least that a disk has
        for nth in 0..SAMPLES {
            let block = data_len / SAMPLES * nth / SAMPLE_LEN as u64;
            let start = DEFAULT_DATA_OFFSET + block * SAMPLE_LEN as u64;
            let Some(start) = seek_data(self.file, start)? else { return Ok(false) };
            if start + SAMPLE_LEN as u64 > self.len {
                return Ok(false);
            }
            self.file.read_exact_at(&mut sample, start)?;
            if is_noise(&sample) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A boot signature, and four entries that are used or empty, at least one of them used.
    fn has_partitions(&self) -> io::Result<bool> {
        let mut sector = [0; 512];
        self.file.read_exact_at(&mut sector, 0)?;
        let (entries, _) = sector[446..510].as_chunks::<16>();
        let valid = entries.iter().all(|entry| matches!(entry[0], 0 | 0x80));
        let used = entries.iter().any(|entry| entry[4] != 0 && entry[12..16] != [0; 4]);
        Ok(sector[510..] == [0x55, 0xaa] && valid && used)
    }
}

/// Whether all bytes are about equally frequent (chi-squared). Of ciphertext one block in more than 10^8 is not; text, code and tables of
/// file systems never are.
fn is_noise(sample: &[u8; SAMPLE_LEN]) -> bool {
    const EXPECTED: u64 = SAMPLE_LEN as u64 / 256;
    const MAX_DEVIATION: u64 = 400; // of 255 on average, with a deviation of 23
    let mut counts = [0_u64; 256];
    sample.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let deviation: u64 = counts.iter().map(|count| count.abs_diff(EXPECTED).pow(2)).sum();
    deviation <= MAX_DEVIATION * EXPECTED
}

/// Whether the signs of a raw image are believed in a file of this name. What is saved of a guest's memory may hold
/// anything, a partition table for instance; a copy or lock of something may be one of a disk.
fn may_be_raw(role: Role) -> bool {
    role.side() == Side::Disk || matches!(role, Role::Disk | Role::Other | Role::Lock | Role::Screenshot)
}

fn by_name(name: &OsStr, disk_names: &DiskNames, role: Role, len: u64) -> ClearKind {
    // A list that has all names does not mean those that VMware gives to settings, logs and what is saved of memory.
    let listed = disk_names.matches(name) && (may_be_raw(role) || DiskNames::default().matches(name));
    if listed || role.side() == Side::Disk {
        return ClearKind::Disk(BY_NAME);
    }
    let blank = len >= MIN_BLANK_LEN && len.is_multiple_of(MIB);
    // A descriptor that cannot be read stays one: only a name that says nothing leaves it to the size.
    if blank && role == Role::Other && !has_other_ending(&name.to_string_lossy()) {
        return ClearKind::Disk(BY_SIZE);
    }
    ClearKind::Home(home_reason(role))
}

/// Endings of large files of whole MiB that are no disks.
fn has_other_ending(name: &str) -> bool {
    const ENDINGS: [&str; 14] =
        ["bin", "core", "db", "dump", "fd", "fw", "gz", "mem", "ova", "rom", "save", "sqlite", "tar", "zst"];
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending))
}

fn home_reason(role: Role) -> &'static str {
    match role {
        Role::Config | Role::ExtendedConfig | Role::Template => "settings",
        Role::Nvram => "firmware variables",
        Role::SnapshotList | Role::SnapshotState => "snapshot",
        Role::Memory | Role::Suspend | Role::Swap | Role::Core => "memory",
        Role::ChangeTracking => "change tracking",
        Role::Log | Role::MigrationLog | Role::Statistics => "log",
        Role::Lock => "lock",
        Role::Screenshot => "screenshot",
        Role::Disk
        | Role::MonolithicDisk
        | Role::FlatExtent
        | Role::SparseExtent
        | Role::SnapshotExtent
        | Role::DeviceMapping
        | Role::ForeignDisk
        | Role::Other => "file",
    }
}

impl Source for Bytes<'_> {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

#[cfg(test)]
mod tests;
