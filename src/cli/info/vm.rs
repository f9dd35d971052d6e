//! What `info` says of a VM folder as a whole: its VMDKs, their extents and parents, and its home files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vmdk_layout::{Extent, Role};

use crate::cli::progress::perform;
use crate::cli::{size, table};
use crate::error::{Error, Result};
use crate::operations::look::ReadVmdks;
use crate::store::header_area::StoredHeader;
use crate::text::{self, Show, quoted};
use crate::vm::clear;
use crate::vm::folder::open_dir;
use crate::vm::inventory::{Inventory, NO_SIGN, clear_what};
use crate::vm::vmdk::{self, FoundFile, FoundVmdk};

/// Field names are part of the stable JSON output.
#[derive(Default, Serialize)]
pub(super) struct VmInfo {
    home_files: Vec<FileInfo>,
    /// Absent when the home is locked.
    #[serde(skip_serializing_if = "Option::is_none")]
    vmdks: Option<Vec<VmdkInfo>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<String>,
    /// Settings of the VM that cannot be read, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread_settings: Vec<String>,
    /// What is not as the VM's list of disks says, where the home was opened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    misplaced: Vec<String>,
}

#[derive(Serialize)]
struct FileInfo {
    #[serde(with = "crate::text::path")]
    path: PathBuf,
    size: u64,
    what: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    in_the_clear: bool,
    /// Why it may be a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    looks_like_disk: Option<&'static str>,
}

#[derive(Serialize)]
struct VmdkInfo {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_type: Option<&'static str>,
    extents: Vec<ExtentInfo>,
    parents: Vec<String>,
    attached: Vec<String>,
    #[serde(with = "crate::text::path", skip_serializing_if = "Option::is_none")]
    raw_image: Option<PathBuf>,
    writable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct ExtentInfo {
    size: u64,
    access: &'static str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    stored_as: &'static str,
}

impl VmInfo {
    /// Reads a VM folder. Keys are asked for only if there may be VMDKs.
    pub(super) fn of(
        folder: &Path,
        inventory: &Inventory,
        home: &StoredHeader,
        config: &dyn Fn() -> Result<PathBuf>,
    ) -> Result<Self> {
        let dir = &open_dir(folder)?;
        let files = vmdk::files(inventory);
        let mut home_files: Vec<FileInfo> = files.iter().filter(|file| !file.is_disk).map(FileInfo::of).collect();
        if !files.iter().any(|file| file.role == Role::Disk) {
            return Ok(Self { home_files, vmdks: Some(Vec::new()), ..Self::default() });
        }
        let files = &files;
        let found = config().and_then(|config| perform(ReadVmdks { folder, dir, home, files, config: &config }));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let locked = Some(error.chain());
                return Ok(Self { home_files, locked, ..Self::default() });
            }
        };
        let misplaced = found.misplaced.into_iter().map(|other| other.message).collect();
        let found = found.vmdks;
        let unread = |(path, error): &(PathBuf, Error)| format!("{}: {}", path.shown(), error.chain());
        let unread_settings = found.unread_settings.iter().map(unread).collect();
        let vmdks = found.vmdks.iter().map(|vmdk| VmdkInfo::of(vmdk, files)).collect();
        for file in &mut home_files {
            let format = found.disk_like.iter().find(|(path, _)| *path == file.path).map(|(_, format)| *format);
            file.looks_like_disk = format.or(file.looks_like_disk);
        }
        Ok(Self { home_files, vmdks: Some(vmdks), locked: None, unread_settings, misplaced })
    }

    /// Prints tables of what there is, each after an empty line.
    pub(super) fn print(&self) {
        let vmdks = self.vmdks.as_deref().unwrap_or_default();
        if !vmdks.is_empty() {
            println!();
            let rows: Vec<_> = vmdks.iter().map(VmdkInfo::row).collect();
            table::print(["VMDK", "SIZE", "TYPE", "PARENTS", "ATTACHED", "RAW IMAGE"], &rows);
            println!();
            let rows: Vec<_> = vmdks.iter().flat_map(VmdkInfo::extent_rows).collect();
            table::print(["VMDK", "EXTENT", "SIZE", "TYPE", "ACCESS", "STORED AS"], &rows);
        }
        if !self.home_files.is_empty() {
            println!();
            let row = |file: &FileInfo| [file.path.shown().to_string(), size::show(file.size), file.what.clone()];
            table::print(["HOME FILE", "SIZE", "WHAT"], &self.home_files.iter().map(row).collect::<Vec<_>>());
        }
        for (vmdk, problem) in vmdks.iter().filter_map(|vmdk| Some((vmdk, vmdk.problem.as_ref()?))) {
            eprintln!("{}: {problem}", vmdk.name);
        }
        for (file, why) in self.home_files.iter().filter_map(|file| Some((file, file.looks_like_disk?))) {
            let (name, path) = (file.path.shown(), quoted(&Path::new("VM_FOLDER").join(&file.path)));
            eprintln!("{name} is a home file that looks like a disk ({why}): `vmcryptfs convert {path}` makes it one");
        }
        for unread in &self.unread_settings {
            eprintln!("{unread}\nThese settings cannot be read, so where disks are attached is not known.");
        }
        self.misplaced.iter().for_each(|other| eprintln!("Not as the VM's list of disks says: {other}"));
        if let Some(locked) = &self.locked {
            eprintln!("The home is locked, so VMDKs are not shown: {locked}");
        }
    }
}

impl FileInfo {
    fn of(file: &FoundFile) -> Self {
        let what = match file.clear {
            None => what(file.role).to_owned(),
            Some(kind) if kind.may_be_ciphertext() => NO_SIGN.to_owned(),
            Some(kind) => format!("IN THE CLEAR: {}", clear_what(kind)),
        };
        let name = file.path.file_name().unwrap_or_default();
        let looks_like_disk = if file.clear.is_some() { None } else { clear::disk_by_name(name, file.plain_len) };
        let in_the_clear = file.clear.is_some();
        Self { path: file.path.clone(), size: file.plain_len, what, in_the_clear, looks_like_disk }
    }
}

impl VmdkInfo {
    fn of(found: &FoundVmdk, files: &[FoundFile]) -> Self {
        let descriptor = found.descriptor.as_ref().ok();
        let unread = found.descriptor.as_ref().err();
        let extents = descriptor.map(|descriptor| descriptor.extents()).unwrap_or_default();
        // The name that a monolithic disk has for itself may be an older one.
        let whole = extents.len() == 1 && extents[0].file.is_some() && file_of(&extents[0], files).is_none();
        let own = whole.then_some(found.name.as_os_str());
        Self {
            name: text::path::to_text(Path::new(&found.name)).into_owned(),
            size: descriptor.map(vmdk_layout::Descriptor::len),
            create_type: descriptor.map(|descriptor| descriptor.create_type().name()),
            extents: extents.iter().map(|extent| ExtentInfo::of(extent, own, files)).collect(),
            parents: found.parents.clone(),
            attached: found.attached.clone(),
            raw_image: vmdk::raw_name(&found.name).map(|name| Path::new(".raw").join(name)),
            writable: found.is_writable,
            problem: unread.or(found.broken_chain.as_ref()).map(crate::error::Error::chain),
        }
    }

    fn row(&self) -> [String; 6] {
        let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
        let image = self.raw_image.as_ref().map_or_else(|| "-".to_owned(), |path| path.shown().to_string());
        [
            self.name.clone(),
            self.size.map_or_else(|| "-".to_owned(), size::show),
            self.create_type.unwrap_or("-").to_owned(),
            list(&self.parents),
            list(&self.attached),
            format!("{image} ({})", if self.writable { "rw" } else { "ro" }),
        ]
    }

    fn extent_rows(&self) -> impl Iterator<Item = [String; 6]> {
        self.extents.iter().map(|extent| {
            [
                self.name.clone(),
                // From a descriptor that may be anyone's, and goes to a terminal.
                extent.file.as_deref().unwrap_or("-").replace(char::is_control, "?"),
                size::show(extent.size),
                extent.r#type.to_owned(),
                extent.access.to_owned(),
                extent.stored_as.to_owned(),
            ]
        })
    }
}

impl ExtentInfo {
    /// `own` is the name of the VMDK if the extent is in its own file.
    fn of(extent: &Extent, own: Option<&OsStr>, files: &[FoundFile]) -> Self {
        let own = own.filter(|_| !extent.extent_type.is_flat());
        let found = match own {
            Some(own) => files.iter().find(|file| file.path == Path::new(own)),
            None => file_of(extent, files),
        };
        let named =
            extent.file.as_ref().map(|name| own.map_or_else(|| name.clone(), |own| own.to_string_lossy().into()));
        let stored = named.as_ref().map(|_| found.map(FoundFile::stored_as));
        Self {
            size: extent.sectors.saturating_mul(vmdk_layout::limits::SECTOR_LEN),
            access: extent.access.name(),
            r#type: extent.extent_type.name(),
            file: named,
            stored_as: match stored {
                None => "nothing",
                Some(None) => "missing",
                Some(Some(form)) => form,
            },
        }
    }
}

/// The file of a VM folder that an extent means.
fn file_of<'f>(extent: &Extent, files: &'f [FoundFile]) -> Option<&'f FoundFile> {
    let wanted = extent.file_name().ok().flatten()?;
    let own = files.iter().filter(|file| file.path.parent() == Some(Path::new("")));
    let name = vmdk::meant(&wanted, own.map(|file| file.path.clone().into()).collect()).ok()?;
    files.iter().find(|file| file.path == Path::new(&name))
}

fn what(role: Role) -> &'static str {
    match role {
        Role::Config => "settings",
        Role::ExtendedConfig => "more settings",
        Role::Template => "settings of a template",
        Role::Nvram => "firmware variables",
        Role::SnapshotList => "list of snapshots",
        Role::SnapshotState => "state of a snapshot",
        Role::Memory => "memory",
        Role::Suspend => "suspended state",
        Role::Swap => "swap",
        Role::Disk | Role::MonolithicDisk => "VMDK",
        Role::FlatExtent | Role::SparseExtent | Role::SnapshotExtent => "extent of a VMDK",
        Role::DeviceMapping => "mapping of a device",
        Role::ChangeTracking => "changed blocks of a VMDK",
        Role::ForeignDisk => "disk image",
        Role::Log | Role::MigrationLog => "log",
        Role::Statistics => "statistics",
        Role::Lock => "lock",
        Role::Core => "core dump",
        Role::Screenshot => "screenshot",
        Role::Other => "-",
    }
}
