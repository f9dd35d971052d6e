//! What a VM folder holds without being mounted: its files, and with the home's keys its VMDKs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmdk_layout::{Ancestry, Descriptor, DeviceKind, DiskFile, FileName, Role, Source, Vmx};

use super::{VmFiles, describe, has_vmdk_name, is_writable, meant, named};
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::home_file;
use crate::format::names::DiskNames;
use crate::storage::claims::Claim;
use crate::storage::{Access, BackingIo, FileStorage};
use crate::store::home_file::HomeKeys;
use crate::store::raw_image::{ImageFile, vmdk_error};
use crate::sys::file::file_beneath;
use crate::text::Show;
use crate::vm::clear::ClearKind;
use crate::vm::inventory::{Entry, Inventory, What};
use crate::vm::keyring::Keyring;
use crate::vm::open_form::OpenForm;
use crate::vm::owner::Owner;
use crate::vm::{clear, disk, home};

/// A regular file of a VM folder.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Below the VM folder.
    pub path: PathBuf,
    /// Whether it is a disk.
    pub is_disk: bool,
    /// Of a file that is neither a disk nor sealed in the home: what it is, by its content.
    pub clear: Option<ClearKind>,
    /// Length in bytes, as its backing file tells it.
    pub plain_len: u64,
    /// What it is, by its name.
    pub role: Role,
}

impl FoundFile {
    fn of(entry: &Entry) -> Self {
        let shape = entry.headers().and_then(|(_, headers)| headers.unverified()?.claims().shape.disk());
        let (is_disk, len) = (entry.is_disk(), entry.stored_len());
        let (clear, plain_len) = if is_disk {
            (None, shape.map_or(0, |shape| shape.plain_len(len)))
        } else if let What::Clear(kind) = entry.what {
            (Some(kind), len)
        } else {
            (None, home_file::plain_len(len))
        };
        let role = Role::of_name(&entry.path.file_name().unwrap_or_default().to_string_lossy());
        Self { path: entry.path.clone(), is_disk, clear, plain_len, role }
    }

    /// The form that it has, in our words.
    pub fn stored_as(&self) -> &'static str {
        match (self.is_disk, self.clear) {
            (true, _) => "disk",
            (false, None) => "home file",
            (false, Some(kind)) if kind.may_be_ciphertext() => "unknown",
            (false, Some(_)) => "in the clear",
        }
    }
}

/// A VMDK and what its descriptor says.
#[derive(Debug)]
pub struct FoundVmdk {
    /// Its file in the VM folder.
    pub name: OsString,
    /// Its descriptor, or why there is none to be read.
    pub descriptor: Result<Descriptor>,
    /// Whether its raw image can be written.
    pub is_writable: bool,
    /// Names of its parents, its own first, as far as they were found.
    pub parents: Vec<String>,
    /// Why its parents are not all those that it was made of.
    pub broken_chain: Option<Error>,
    /// Where the VM's settings attach it, as in `scsi0:0`.
    pub attached: Vec<String>,
}

/// What the descriptors and settings of a VM folder say.
#[derive(Debug)]
pub struct VmdkInventory {
    /// The VMDKs, by name.
    pub vmdks: Vec<FoundVmdk>,
    /// Settings of a VM that cannot be read, and why: disks may be attached by them.
    pub unread_settings: Vec<(PathBuf, Error)>,
    /// Home files that begin as a disk image does, and which. One that is in use is not looked at.
    pub disk_like: Vec<(PathBuf, &'static str)>,
}

/// All regular files of a VM folder of which this is the inventory, by name. One that cannot be read counts as a home file, as in
/// a mount.
pub fn files(folder: &Inventory) -> Vec<FoundFile> {
    let shown = folder.entries.iter().filter(|entry| entry.is_shown_file());
    shown.map(FoundFile::of).collect()
}

/// The VMDKs of a VM folder, of which `files` are the files. Extents are not opened, so they may be in use.
///
/// # Errors
/// None: a file that cannot be read has its reason in its place.
pub fn vmdks(dir: &File, files: &[FoundFile], (keys, owner): (&HomeKeys, &Owner), keyring: &Keyring) -> VmdkInventory {
    let own = |file: &&FoundFile| file.path.parent() == Some(Path::new(""));
    let names: Vec<OsString> = files.iter().filter(own).map(|file| file.path.clone().into()).collect();
    let folder = Folder { dir, keys, keyring, owner, names: &names };
    let mut disks: BTreeMap<OsString, Result<DiskFile>> = BTreeMap::new();
    for file in files.iter().filter(own).filter(|file| has_vmdk_name(file.path.as_os_str())) {
        let name = file.path.as_os_str();
        disks.extend(describe(&folder, name).transpose().map(|disk| (name.to_os_string(), disk)));
    }
    let (mut settings, mut unread_settings) = (Vec::new(), Vec::new());
    for file in files.iter().filter(own).filter(|file| file.role == Role::Config && !file.is_disk) {
        match folder.open(file.path.as_os_str()).and_then(|open| named::settings(&open)) {
            Ok(vmx) => settings.push(vmx),
            Err(error) => unread_settings.push((file.path.clone(), error)),
        }
    }
    let descriptors: BTreeMap<_, _> = disks
        .iter()
        .filter_map(|(name, disk)| Some((name.clone(), disk.as_ref().ok()?.descriptor()?.clone())))
        .collect();
    let found = |(name, disk): (OsString, Result<DiskFile>)| {
        let mut parents = Vec::new();
        let broken_chain = disk
            .as_ref()
            .ok()
            .and_then(DiskFile::descriptor)
            .and_then(|own| ancestors(&name.to_string_lossy(), own, &descriptors, &mut parents).err());
        let attached = settings.iter().flat_map(|vmx| places(vmx, &name, &names)).collect();
        let is_writable = disk.as_ref().is_ok_and(is_writable);
        let descriptor = disk.and_then(|disk| {
            disk.descriptor().cloned().ok_or_else(|| Error::new(Kind::Corrupt, "a VMDK without a descriptor"))
        });
        FoundVmdk { name, descriptor, is_writable, parents, broken_chain, attached }
    };
    let sealed = files.iter().filter(own).filter(|file| !file.is_disk && file.clear.is_none());
    let disk_like = sealed.filter_map(|file| Some((file.path.clone(), folder.disk_format(file)?))).collect();
    VmdkInventory { vmdks: disks.into_iter().map(found).collect(), unread_settings, disk_like }
}

fn ancestors(
    name: &str,
    own: &Descriptor,
    descriptors: &BTreeMap<OsString, Descriptor>,
    parents: &mut Vec<String>,
) -> Result<()> {
    let mut ancestry = Ancestry::new(name, own);
    while let Some(parent) = ancestry.parent() {
        let wanted = parent.base_name().map_err(vmdk_error)?;
        let missing = || Error::new(Kind::Corrupt, format!("parent {wanted} is not there, or cannot be read"));
        let name = meant(&wanted, descriptors.keys().cloned().collect()).map_err(|_| missing())?;
        ancestry.add(&name.to_string_lossy(), descriptors.get(&name).ok_or_else(missing)?).map_err(vmdk_error)?;
        parents.push(name.to_string_lossy().into_owned());
    }
    Ok(())
}

fn places(vmx: &Vmx, disk: &OsStr, names: &[OsString]) -> Vec<String> {
    let devices = vmx.devices().into_iter().filter(|device| device.kind == DeviceKind::Disk && device.present);
    let attached = |wanted: FileName| meant(&wanted, names.to_vec()).is_ok_and(|name| name == disk);
    let this = devices.filter(|device| device.file_name().ok().flatten().is_some_and(attached));
    this.map(|device| device.to_string()).collect()
}

/// A VM folder whose home is unlocked.
struct Folder<'a> {
    dir: &'a File,
    keys: &'a HomeKeys,
    keyring: &'a Keyring,
    owner: &'a Owner,
    names: &'a [OsString],
}

impl VmFiles for Folder<'_> {
    type File = OpenForm;

    fn open(&self, name: &OsStr) -> Result<Arc<OpenForm>> {
        let file = file_beneath(self.dir, Path::new(name)).context(|| format!("opening {}", name.shown()))?;
        Ok(Arc::new(if disk::is_disk(&file)? {
            let way = BackingIo::Buffered;
            let keys = (self.keyring, self.owner, &[Path::new(name)][..]);
            let (disk, _) = disk::open(FileStorage::new(file), Access::Read, keys, Engine::default(), way)?;
            OpenForm::Disk(disk)
        } else {
            self.owner.refuse_place(None, &[Path::new(name)])?;
            // Only read: a disk in the clear that nothing tells by its content looks like a hole, and stays what it is.
            let (names, shown) = (DiskNames::default(), || name.shown().to_string());
            OpenForm::Home(Box::new(home::open(FileStorage::new(file), Claim::Shared, self.keys, &names, shown)?))
        }))
    }

    fn names(&self) -> Result<Vec<OsString>> {
        Ok(self.names.to_vec())
    }
}

impl Folder<'_> {
    /// The format of a disk image that a home file holds.
    fn disk_format(&self, found: &FoundFile) -> Option<&'static str> {
        let file = ImageFile::new(self.open(found.path.as_os_str()).ok()?);
        let mut head = vec![0; usize::try_from(found.plain_len.min(512)).unwrap_or(512)];
        file.read_at(0, &mut head).ok()?;
        clear::disk_in(&head)
    }
}
