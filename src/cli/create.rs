//! `create` and `create-disk`: new VM folders and disks.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::size;
use crate::error::{Context, Error, Kind, Result};
use crate::event::{Event, Operation};
use crate::format::header::Header;
use crate::key::ProviderName;
use crate::provider::Providers;
use crate::sector::SectorSize;
use crate::store::home_file::HomeKeys;
use crate::text::Show;
use crate::vm::disk::{self, NewDisk};
use crate::vm::{folder, keyring, scan, vmdk};

/// A new VM folder.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs create web01\n\n\
    Makes the folder web01 with a home header in it. Its key comes from the default provider.")]
pub(super) struct CreateArgs {
    /// Folder of the VM, new or empty
    #[arg(value_name = "VM_FOLDER")]
    folder: PathBuf,
    /// Provider of the VM's key [default: the default provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
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
    #[arg(value_name = "VM_FOLDER/DISK")]
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

fn parse_size(text: &str) -> std::result::Result<u64, String> {
    size::parse(text).map_err(|error| error.to_string())
}

fn parse_sector_size(text: &str) -> std::result::Result<u32, String> {
    let number = text.parse().map_err(|_| "expected 512 or 4096".to_owned())?;
    SectorSize::new(number).map(SectorSize::to_u32).map_err(|error| error.to_string())
}

pub(super) fn vm_folder(args: &CreateArgs, config: &Path) -> Result<()> {
    let (name, uuid) = Event::of(Operation::Create).component(&args.folder).around(|event| {
        let providers = Providers::load(config)?;
        let (name, provider) = match &args.provider {
            Some(name) => {
                let name = ProviderName::new(name)?;
                (name.clone(), providers.provider(&name)?)
            }
            None => providers.default_provider()?,
        };
        event.provider(&name);
        let header = folder::create(&args.folder, &provider)?;
        header.slots.iter().for_each(|slot| _ = event.key(&slot.key_id));
        event.uuid(header.uuid);
        Ok((name, header.uuid))
    })?;
    println!("Created {} ({uuid}), key from provider {name}.", args.folder.shown());
    Ok(())
}

pub(super) fn disk(args: &CreateDiskArgs, config: &Path) -> Result<()> {
    let header = Event::of(Operation::CreateDisk).disk(&args.disk).around(|event| make_disk(args, config, event))?;
    println!("Created {}: {}, {}.", args.disk.shown(), size::show(args.size), header.uuid);
    Ok(())
}

fn make_disk(args: &CreateDiskArgs, config: &Path, event: &mut Event) -> Result<Header> {
    let name = args
        .disk
        .file_name()
        .filter(|name| !scan::is_reserved(name))
        .ok_or_else(|| Error::new(Kind::Invalid, format!("{} cannot be a disk's name", args.disk.shown())))?;
    let parent = args.disk.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = folder::open_dir(parent)?;
    let (_in_use, home) = folder::use_home(&dir)?.ok_or_else(|| {
        Error::new(
            Kind::Denied,
            format!(
                "{} is no encrypted VM folder, and a disk is encrypted only where its home is: `vmcryptfs create {}` first",
                parent.shown(),
                parent.shown()
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
