//! `create` and `create-disk`: new VM folders and disks.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::progress::perform;
use crate::cli::{place, size};
use crate::control::local;
use crate::error::Result;
use crate::operations::create::{CreateDisk, CreateVm, CreatedVm};
use crate::sector::SectorSize;
use crate::text::Show;
use crate::vm::disk::NewDisk;

/// Arguments of `create`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs create web01\n\n\
    Makes the folder web01 with a home header in it. Its key comes from the default provider. `vmcryptfs disk-names` shows \
    and changes which new files become disks; --disk-names '*' makes one of each.")]
pub(super) struct CreateArgs {
    /// VM folder, new or empty
    #[arg(value_name = "VM_FOLDER", value_parser = place::parser_to_change())]
    pub(super) folder: PathBuf,
    /// Provider of the VM's key [default: the default provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Which new files become disks, in place of the usual names; repeatable [default: those of the configuration]
    #[arg(long, value_name = "PATTERN")]
    disk_names: Vec<String>,
}

/// Arguments of `create-disk`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs create-disk web01/root.raw --size 20G\n  vmcryptfs create-disk web01/root.vmdk --size 20G\n\n\
    A .vmdk is a descriptor, root.vmdk, and the disk itself, root-flat.vmdk: QEMU opens it as format=vmdk. \
    The disk is thin: it takes space as the guest writes. Its data key is its own, wrapped by the VM's key."
)]
pub(super) struct CreateDiskArgs {
    /// The disk's file in its VM folder
    #[arg(value_name = "VM_FOLDER/DISK", value_parser = place::parser_to_change())]
    pub(super) disk: PathBuf,
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

/// A disk's size. A small number without a unit is a mistake: a disk of 20 bytes is never intended.
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
    place::refuse_read_only(&args.folder)?;
    let create =
        CreateVm { folder: &args.folder, provider: args.provider.as_deref(), disk_names: &args.disk_names, config };
    let CreatedVm { uuid, provider } = perform(create)?;
    println!("Created {} ({uuid}), key from provider {provider}.", args.folder.shown());
    Ok(())
}

pub(super) fn disk(args: &CreateDiskArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.disk)?;
    let folder = args.disk.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        local::refuse_if_served_read_only(folder)?; // what is wrong with another one is said where the disk is made
    }
    let new = NewDisk {
        owner: None, // its folder tells
        sector_size: SectorSize::new(args.sector_size)?,
        plain_len: args.size,
        label: args.label.clone(),
        mode: 0o600,
        durable: true,
    };
    let create = CreateDisk { disk: &args.disk, new, config };
    let header = perform(create)?;
    println!("Created {}: {}, {}.", args.disk.shown(), size::show(args.size), header.uuid);
    Ok(())
}
