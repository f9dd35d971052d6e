//! `create` and `create-disk`: new VM folders and disks.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{place, size};
use crate::error::{Context, Error, Kind, Result};
use crate::event::{Event, EventName};
use crate::format::header::Header;
use crate::format::names::DiskNames;
use crate::key::ProviderName;
use crate::provider::Providers;
use crate::sector::SectorSize;
use crate::store::home_file::HomeKeys;
use crate::text::{Show, quoted};
use crate::vm::disk::{self, NewDisk};
use crate::vm::{folder, keyring, scan, vmdk};

/// A new VM folder.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs create web01\n\n\
    Makes the folder web01 with a home header in it. Its key comes from the default provider. `vmcryptfs disk-names` shows\n\
    and changes which new files become disks; --disk-names '*' makes one of each.")]
pub(super) struct CreateArgs {
    /// Folder of the VM, new or empty
    #[arg(value_name = "VM_FOLDER", value_parser = place::parser())]
    folder: PathBuf,
    /// Provider of the VM's key [default: the default provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Which new files become disks, in place of the usual names; repeatable [default: those of the configuration]
    #[arg(long, value_name = "PATTERN")]
    disk_names: Vec<String>,
}

/// A new disk.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs create-disk web01/root.raw --size 20G\n  vmcryptfs create-disk web01/root.vmdk --size 20G\n\n\
    A .vmdk is a descriptor, root.vmdk, and the disk itself, root-flat.vmdk: QEMU opens it as format=vmdk.\n\
    The disk is thin: it takes space as the guest writes. Its data key is its own, wrapped by the VM's key."
)]
pub(super) struct CreateDiskArgs {
    /// The disk's file in its VM folder
    #[arg(value_name = "VM_FOLDER/DISK", value_parser = place::parser())]
    disk: PathBuf,
    /// Size, such as 20G (GiB) or 1.5T (TiB)
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// Bytes that are encrypted at a time
    #[arg(long, default_value_t = 4096, value_name = "512|4096", value_parser = parse_sector_size)]
    sector_size: u32,
    /// A note for people, kept in the header in the clear
    #[arg(long, default_value = "")]
    label: String,
}

/// A disk's size. A bare small number is a slip: nobody means a disk of 20 bytes.
fn parse_size(text: &str) -> std::result::Result<u64, String> {
    const MIN_BARE: u64 = 64 << 10;
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    let bare = text.trim().bytes().all(|byte| byte.is_ascii_digit());
    match bytes {
        0 => Err("a disk of 0 bytes holds nothing, expected a size such as 20G".to_owned()),
        1..MIN_BARE if bare => {
            Err(format!("{bytes} bytes? Expected a size with a unit: {bytes}G, or {bytes}B if that is meant"))
        }
        _ => Ok(bytes),
    }
}

fn parse_sector_size(text: &str) -> std::result::Result<u32, String> {
    let number = text.parse().map_err(|_| "expected 512 or 4096".to_owned())?;
    SectorSize::new(number).map(SectorSize::to_u32).map_err(|error| error.to_string())
}

pub(super) fn vm_folder(args: &CreateArgs, config: &Path) -> Result<()> {
    let (name, uuid) = Event::of(EventName::Create).component(&args.folder).around(|event| {
        let providers = Providers::load(config)?;
        let (name, provider) = match &args.provider {
            Some(name) => {
                let name = ProviderName::new(name)?;
                (name.clone(), providers.provider(&name)?)
            }
            None => providers.default_provider()?,
        };
        event.provider(&name);
        let disk_names = match args.disk_names.as_slice() {
            [] => providers.disk_names().clone(),
            patterns => DiskNames::new(patterns.to_vec())?,
        };
        let header = folder::create(&args.folder, &provider, &disk_names)?;
        header.slots.iter().for_each(|slot| _ = event.key(&slot.key_id));
        event.uuid(header.uuid);
        Ok((name, header.uuid))
    })?;
    println!("Created {} ({uuid}), key from provider {name}.", args.folder.shown());
    Ok(())
}

pub(super) fn disk(args: &CreateDiskArgs, config: &Path) -> Result<()> {
    let header = Event::of(EventName::CreateDisk).disk(&args.disk).around(|event| make_disk(args, config, event))?;
    println!("Created {}: {}, {}.", args.disk.shown(), size::show(args.size), header.uuid);
    Ok(())
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
    let is_own = |name: &OsStr| scan::is_reserved(name) || name.as_bytes().starts_with(b".vmcryptfs");
    match disk.file_name() {
        Some(name) if !is_own(name) => Ok(name),
        Some(name) => {
            Err(Error::new(Kind::Invalid, format!("{} cannot be a disk's name: it is vmcryptfs's own", name.shown())))
        }
        None => Err(Error::new(Kind::Invalid, format!("{path} cannot be a disk's name"))),
    }
}

fn make_disk(args: &CreateDiskArgs, config: &Path, event: &mut Event) -> Result<Header> {
    let name = name_of(&args.disk)?;
    refuse_container(name)?;
    let parent = args.disk.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder::refuse_unfinished(parent)?;
    let dir = folder::open_dir(parent)?;
    let (_in_use, home) = folder::use_home(&dir)?.ok_or_else(|| {
        Error::new(
            Kind::Denied,
            format!(
                "{} is no encrypted VM folder, and a disk is encrypted only where its home is: `vmcryptfs create {}` first",
                parent.shown(),
                quoted(parent)
            ),
        )
    })?;
    let providers = Providers::load(config)?;
    let keks = providers.fetch_all(home.header.claims().slots.iter().map(|slot| slot.key_id.clone()));
    let dek = keyring::unlock(&home.header, &keks).context(|| format!("unlocking the home of {}", parent.shown()))?;
    let home = home.header.verify(&dek)?;
    let (key_id, kek) = keyring::first_kek(&home, &providers)?;
    event.key(&key_id);
    let home_keys = HomeKeys::new(&dek)?;
    let new = NewDisk {
        sector_size: SectorSize::new(args.sector_size)?,
        plain_len: args.size,
        label: args.label.clone(),
        mode: 0o600,
        durable: true,
    };
    let header = if vmdk::is_new_vmdk(name) {
        vmdk::create(&dir, name, &new, (&key_id, kek.as_ref()), &home_keys)?.1
    } else {
        disk::create(&dir, name, &new, &key_id, kek.as_ref())?.1
    };
    event.uuid(header.uuid);
    Ok(header)
}
