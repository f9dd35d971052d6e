//! What a file of a VM folder is, by its name and, for `.vmdk`, its content.

use crate::disk_file::DiskFile;
use crate::name::{ends_with_ignoring_case, strip_suffix_ignoring_case};

/// Which component of a VM a file is part of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The home: settings, state, logs.
    Home,
    /// A disk: its guest's sectors.
    Disk,
}

/// What a file of a VM folder is. The names in the variants' descriptions are those that VMware gives, `x` being the
/// VM.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// `x.vmx`: settings.
    Config,
    /// `x.vmxf`: settings of teams and more.
    ExtendedConfig,
    /// `x.vmtx`: settings of a template.
    Template,
    /// `x.nvram`: firmware variables; the vTPM's state too.
    Nvram,
    /// `x.vmsd`: the tree of snapshots.
    SnapshotList,
    /// `x-Snapshot1.vmsn`: a snapshot's state.
    SnapshotState,
    /// `x-Snapshot1.vmem`, `x.vmem`: the guest's memory.
    Memory,
    /// `x.vmss`: a suspended VM's state.
    Suspend,
    /// `x.vswp`, `vmx-x-*.vswp`: swapped memory.
    Swap,
    /// `x.vmdk`: a disk's descriptor, or a whole disk in one file; see [`Role::with_content`].
    Disk,
    /// A whole disk in one file, by content.
    MonolithicDisk,
    /// `x-flat.vmdk`, `x-f001.vmdk`: a disk's bytes.
    FlatExtent,
    /// `x-s001.vmdk`: a disk's grains.
    SparseExtent,
    /// `x-000001-delta.vmdk`, `x-000001-sesparse.vmdk`: the grains of a disk that were written since a snapshot.
    SnapshotExtent,
    /// `x-rdm.vmdk`, `x-rdmp.vmdk`: a raw device mapping.
    DeviceMapping,
    /// `x-ctk.vmdk`: which blocks changed; not what they hold.
    ChangeTracking,
    /// A disk of another format than VMware's: `.raw`, `.img`, `.qcow2`, `.vdi`, `.vhdx`.
    ForeignDisk,
    /// `vmware.log`, `vmware-1.log`: logs, of which some show what the guest did.
    Log,
    /// `x.hlog`: the log of a storage migration.
    MigrationLog,
    /// `x.scoreboard`: statistics.
    Statistics,
    /// `x.vmx.lck`, `.lck-*`, `x.vmx~`: locks and half-written files.
    Lock,
    /// `vmmcores.gz`, `vmware-vmx-debug-core`: memory of a crashed process.
    Core,
    /// `screenshot*.png`: what the guest showed.
    Screenshot,
    /// None of these.
    Other,
}

impl Role {
    /// What a file of this name is.
    pub fn of_name(name: &str) -> Self {
        let ends = |suffix: &str| ends_with_ignoring_case(name, suffix);
        if ends(".lck") || name.starts_with(".lck-") || ends("~") {
            return Self::Lock;
        }
        if let Some(stem) = strip_suffix_ignoring_case(name, ".vmdk") {
            return Self::of_disk(stem);
        }
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        if let Some((_, role)) = ENDINGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending)) {
            return *role;
        }
        // What other endings leave open: a disk may be called `server-core.qcow2` or `screenshot.raw`.
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("vmmcores") || lower.contains("-core.") || lower.ends_with("-core") {
            Self::Core
        } else if lower.starts_with("screenshot") || lower.ends_with(".png") && lower.contains("screenshot") {
            Self::Screenshot
        } else {
            Self::Other
        }
    }

    /// What the file is once its content is known too: a `.vmdk` may hold a descriptor or a whole disk.
    #[must_use]
    pub fn with_content(self, content: &DiskFile) -> Self {
        match (self, content) {
            (_, DiskFile::Descriptor(_)) => Self::Disk,
            (_, DiskFile::Monolithic { .. }) => Self::MonolithicDisk,
            (Self::SnapshotExtent, DiskFile::Extent(_)) => Self::SnapshotExtent,
            (_, DiskFile::Extent(_)) => Self::SparseExtent,
        }
    }

    /// The component that it is part of. [`Role::Disk`] counts as a descriptor, which is of the home.
    pub fn side(self) -> Side {
        match self {
            Self::MonolithicDisk
            | Self::FlatExtent
            | Self::SparseExtent
            | Self::SnapshotExtent
            | Self::DeviceMapping
            | Self::ForeignDisk => Side::Disk,
            Self::Config
            | Self::ExtendedConfig
            | Self::Template
            | Self::Nvram
            | Self::SnapshotList
            | Self::SnapshotState
            | Self::Memory
            | Self::Suspend
            | Self::Swap
            | Self::Disk
            | Self::ChangeTracking
            | Self::Log
            | Self::MigrationLog
            | Self::Statistics
            | Self::Lock
            | Self::Core
            | Self::Screenshot
            | Self::Other => Side::Home,
        }
    }

    fn of_disk(stem: &str) -> Self {
        let ends = |suffix: &str| ends_with_ignoring_case(stem, suffix);
        if ends("-flat") || is_numbered(stem, 'f') {
            Self::FlatExtent
        } else if is_numbered(stem, 's') {
            Self::SparseExtent
        } else if ends("-delta") || ends("-sesparse") {
            Self::SnapshotExtent
        } else if ends("-rdm") || ends("-rdmp") {
            Self::DeviceMapping
        } else if ends("-ctk") {
            Self::ChangeTracking
        } else {
            Self::Disk
        }
    }
}

/// Endings, and what files of them are. Those of disks are not here.
const ENDINGS: &[(&str, Role)] = &[
    ("vmx", Role::Config),
    ("vmxf", Role::ExtendedConfig),
    ("vmtx", Role::Template),
    ("nvram", Role::Nvram),
    ("vmsd", Role::SnapshotList),
    ("vmsn", Role::SnapshotState),
    ("vmem", Role::Memory),
    ("vmss", Role::Suspend),
    ("vswp", Role::Swap),
    ("log", Role::Log),
    ("hlog", Role::MigrationLog),
    ("scoreboard", Role::Statistics),
    ("raw", Role::ForeignDisk),
    ("img", Role::ForeignDisk),
    ("qcow2", Role::ForeignDisk),
    ("vdi", Role::ForeignDisk),
    ("vhdx", Role::ForeignDisk),
];

/// Whether VMware gives this name, in lower case, in every VM folder.
pub(super) fn is_common(lower: &str) -> bool {
    let vmware_log = lower.starts_with("vmware") && lower.ends_with(".log");
    vmware_log || lower.starts_with("vmmcores") || lower.starts_with("screenshot") || lower.starts_with(".lck-")
}

/// `-s001`: a dash, the letter, and three or more digits (Virtual Disk Format 5.0, "Naming").
fn is_numbered(stem: &str, letter: char) -> bool {
    let Some((_, number)) = stem.rsplit_once('-') else { return false };
    let digits = number.strip_prefix([letter, letter.to_ascii_uppercase()]).unwrap_or_default();
    digits.len() >= 3 && digits.bytes().all(|digit| digit.is_ascii_digit())
}
