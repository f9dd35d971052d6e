//! New VM folders and disks, made by verbs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::header::{Header, is_reserved};
use crate::format::names::DiskNames;
use crate::gate::{Object, Operation, Trail};
use crate::key::ProviderName;
use crate::operations::made::remember_by;
use crate::operations::manifest::{Meaning, keeping_manifest};
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::seen::{Memory, Point};
use crate::storage::claims::FileLocks;
use crate::store::home_file::HomeKeys;
use crate::text::{Show, quoted};
use crate::vm::disk::{self, NewDisk};
use crate::vm::owner::{Announce, Owner};
use crate::vm::{folder, keyring, outer, scan, vmdk};

/// Makes an encrypted VM folder.
pub struct CreateVm<'a> {
    /// New or empty.
    pub folder: &'a Path,
    /// Where its key comes from, if not from the default provider.
    pub provider: Option<&'a str>,
    /// Which new files become disks; without patterns those that are configured.
    pub disk_names: &'a [String],
    /// Configuration file.
    pub config: &'a Path,
}

/// A VM folder that was made.
pub struct CreatedVm {
    /// The home's UUID.
    pub uuid: Uuid,
    /// Where its key came from.
    pub provider: ProviderName,
}

impl Operation for CreateVm<'_> {
    const NAME: EventName = EventName::Create;
    type Outcome = CreatedVm;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<CreatedVm> {
        let providers = Providers::load(self.config)?;
        let (name, provider) = providers.chosen_or_default(self.provider)?;
        trail.event().provider(&name);
        let disk_names = match self.disk_names {
            [] => providers.disk_names().clone(),
            patterns => DiskNames::new(patterns.to_vec())?,
        };
        scan::refuse_lost_home(self.folder)?;
        let (header, dek) = folder::create(self.folder, &provider, &disk_names)?;
        Memory::of(&providers).meet(Point::written(&header, &dek)?);
        header.slots.key_ids().for_each(|key| _ = trail.event().key(key));
        trail.event().uuid(header.uuid);
        Ok(CreatedVm { uuid: header.uuid, provider: name })
    }
}

/// Makes an empty disk in a VM folder.
pub struct CreateDisk<'a> {
    /// Its file.
    pub disk: &'a Path,
    /// What it is like.
    pub new: NewDisk,
    /// Configuration file.
    pub config: &'a Path,
}

/// Why there cannot be a disk in this folder.
fn no_home(folder: &Path) -> Error {
    if let Err(lost) = scan::refuse_lost_home(folder) {
        return lost;
    }
    let shown = folder.shown();
    if let Ok(Some((vm, _))) = outer::of(folder) {
        let vm = vm.shown();
        let message = format!(
            "{shown} is a folder within the VM folder {vm}: create-disk makes a disk in {vm} itself. In a mount, a new file of {shown} with \
             the name of a disk becomes one"
        );
        return Error::new(Kind::Denied, message);
    }
    let message = match scan::vm_folders(folder) {
        Some(vms) => format!("{shown} is a datastore: a disk lies in a VM folder, of which it has {vms}"),
        None => format!(
            "{shown} is not an encrypted VM folder, and a disk is encrypted only where its home is: `vmcryptfs create {}` first",
            quoted(folder)
        ),
    };
    Error::new(Kind::Denied, message)
}

impl Operation for CreateDisk<'_> {
    const NAME: EventName = EventName::CreateDisk;
    type Outcome = Header;

    fn object(&self) -> Object {
        Object::Disk(self.disk.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Header> {
        let name = name_of(self.disk)?;
        refuse_container(name)?;
        let parent = self.disk.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        folder::refuse_unfinished(parent)?;
        let dir = folder::open_dir(parent)?;
        let (in_use, home) = folder::use_home(&dir, &FileLocks)?.ok_or_else(|| no_home(parent))?;
        let providers = Providers::load(self.config)?;
        let dek = keyring::unlock_by(&home.header, &providers)
            .context(|| format!("unlocking the home of {}", parent.shown()))?;
        let home = home.header.verify(&dek)?;
        let owner = Owner::of(&dir, (&home, &dek), &FileLocks, &Memory::of(&providers))?;
        let (key_id, kek) = keyring::first_kek(&home, &providers)?;
        trail.event().key(&key_id);
        let home_keys = HomeKeys::new(&dek)?;
        let new = NewDisk { owner: Some(home.uuid), ..self.new };
        let make = |_: OnProgress<'_>| {
            let _in_use = in_use; // no longer than that: the manifest is closed by a process that is alone
            if vmdk::is_new_vmdk(name) {
                return Ok(vmdk::create(&dir, name, &new, (&key_id, kek.as_ref()), (&home_keys, &owner))?.1);
            }
            let make = |announce: &mut Announce<'_>| disk::create(&dir, name, &new, (&key_id, kek.as_ref()), announce);
            Ok(owner.with_new_disk(Path::new(name), make)?.1)
        };
        let header = keeping_manifest(parent, &providers, Meaning::SameHome, on_progress, make)?;
        trail.event().uuid(header.uuid);
        remember_by(parent, &providers, |_| [(key_id, Ok(kek))].into());
        Ok(header)
    }
}

/// A disk is made without a format within it, and programs go by the name.
fn refuse_container(name: &OsStr) -> Result<()> {
    const FORMATS: [&str; 5] = ["qcow2", "vdi", "vhdx", "vhd", "qed"];
    let ending = Path::new(name).extension().unwrap_or_default();
    let Some(format) = FORMATS.iter().find(|format| ending.eq_ignore_ascii_case(format)) else { return Ok(()) };
    Err(Error::new(
        Kind::Invalid,
        format!(
            "{}: create-disk makes raw disks, and QEMU would take this name for a {format} image: use NAME.raw or NAME.vmdk, \
             or `qemu-img create -f {format}` in the mounted folder",
            name.shown()
        ),
    ))
}

/// A disk's name; one of a file that vmcryptfs keeps for itself, or looks as if, is none.
fn name_of(disk: &Path) -> Result<&OsStr> {
    let path = disk.shown();
    if disk.as_os_str().as_bytes().ends_with(b"/") || disk.is_dir() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{path} is a folder: the disk's name is missing, as in {}", quoted(&disk.join("disk.raw"))),
        ));
    }
    let is_own = |name: &OsStr| is_reserved(name) || name.as_bytes().starts_with(b".vmcryptfs");
    match disk.file_name() {
        Some(name) if !is_own(name) => Ok(name),
        Some(name) => Err(Error::new(
            Kind::Invalid,
            format!("{} is not a valid disk name: it is reserved for vmcryptfs", name.shown()),
        )),
        None => Err(Error::new(Kind::Invalid, format!("{path} is not a valid disk name"))),
    }
}
