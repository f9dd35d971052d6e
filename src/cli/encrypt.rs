//! `encrypt` and `decrypt`: VM folders that come in from plaintext and go out to it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::progress::{perform, perform_shown};
use crate::cli::{place, plan};
use crate::control::local;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::key::ProviderName;
use crate::operations::convert::{Conversion, ConvertVm, Decrypting};
use crate::text::{Show, quoted};
use crate::work::convert::{Believed, DecryptScope, Options, Plan};

/// Arguments of `encrypt`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs encrypt web01 --dry-run\n  vmcryptfs encrypt web01\n  \
    vmcryptfs encrypt web01 --disk data.vmdk\n\n\
    The VM must be off. The home comes first, then disk by disk; with --disk the other disks remain in the clear. Each file is \
    replaced only when its encrypted form was written, synced, read back and compared, so that an interruption at any \
    moment loses nothing: the same command resumes. A VMDK descriptor stands for its extents.")]
pub(super) struct EncryptArgs {
    /// VM folder, in the clear or with clear disks
    #[arg(value_name = "VM_FOLDER", value_parser = place::parser_to_change())]
    pub(super) folder: PathBuf,
    /// Encrypt only this disk, and the home if it is not yet encrypted; takes in what came to an encrypted home; repeatable
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<PathBuf>,
    /// Provider of the keys [default: the default provider; for disks of an encrypted home, the home's key]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave names of disk images and links that lead into the folder by its absolute path, and so to ciphertext
    #[arg(long)]
    keep_references: bool,
    /// Treat it as one VM's folder, though it looks like several VMs'
    #[arg(long)]
    one_vm: bool,
    /// Resume what an older version began, of which only the name of the header tells
    #[arg(long)]
    resume_by_name: bool,
    /// Overwrite each original with random bytes before it is removed
    #[arg(long)]
    overwrite: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `decrypt`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs decrypt web01 --disk data.raw\n  vmcryptfs decrypt web01 --all\n\n\
    Disks come first, the home last: a home remains encrypted while one of its disks is. Both keys are needed. An \
    interruption at any moment loses nothing: the same command resumes.")]
pub(super) struct DecryptArgs {
    /// An encrypted VM folder
    #[arg(value_name = "VM_FOLDER", value_parser = place::parser_to_change())]
    pub(super) folder: PathBuf,
    #[command(flatten)]
    what: DecryptWhat,
    /// With the home: this disk is in the clear, although nothing in it shows that, and stays as it is; repeatable
    #[arg(long = "clear-disk", value_name = "NAME", conflicts_with = "disks")]
    clear_disks: Vec<PathBuf>,
    /// Resume what an older version began, of which only the name of the header tells
    #[arg(long)]
    resume_by_name: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct DecryptWhat {
    /// Decrypt this disk; repeatable
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<PathBuf>,
    /// Decrypt the home, whose disks are in the clear
    #[arg(long)]
    home: bool,
    /// Decrypt all disks, then the home
    #[arg(long)]
    all: bool,
}

const REMAINS: &str = "The medium may still hold plaintext: in freed blocks, in the file system's journal, in snapshots and \
    backups, in an SSD's spare cells. `fstrim` or overwriting free space helps against some of it; only replacing the medium \
    helps against all.";
const REMAINS_OVERWRITTEN: &str = "The originals' blocks were overwritten. Plaintext may still be where that does not reach: in \
    the journal, in names' and links' old blocks, in snapshots, backups and copy-on-write file systems, in an SSD's spare cells.";

pub(super) fn encrypt(args: &EncryptArgs, config: &Path) -> Result<()> {
    refuse_other_places(&args.folder, false)?;
    let to = Options {
        disks: args.disks.iter().map(|disk| place::below(&args.folder, disk)).collect(),
        provider: args.provider.as_deref().map(ProviderName::new).transpose()?,
        keep_references: args.keep_references,
        one_vm: args.one_vm,
        resume_by_name: args.resume_by_name,
        overwrite: args.overwrite,
        engine: Engine::default(),
    };
    // Also where nothing is left to do: what an interruption left is removed.
    let encrypt = ConvertVm { folder: &args.folder, to, dry_run: args.dry_run, config };
    let Some(plan) = convert(args.json, "encrypt", encrypt)? else { return Ok(()) };
    let remains = if args.overwrite { REMAINS_OVERWRITTEN } else { REMAINS };
    let remains = plan.converted().next().map(|_| remains);
    plan::print_done(args.json, "encrypt", &args.folder, &plan, remains)
}

pub(super) fn decrypt(args: &DecryptArgs, config: &Path) -> Result<()> {
    let what = match &args.what {
        DecryptWhat { all: true, .. } => DecryptScope::All,
        DecryptWhat { home: true, .. } => DecryptScope::Home,
        DecryptWhat { disks, .. } => {
            DecryptScope::Disks(disks.iter().map(|disk| place::below(&args.folder, disk)).collect())
        }
    };
    refuse_other_places(&args.folder, !matches!(what, DecryptScope::Disks(_)))?;
    let clear_disks = args.clear_disks.iter().map(|disk| place::below(&args.folder, disk)).collect();
    let believed = Believed { resume_by_name: args.resume_by_name, clear_disks };
    let to = Decrypting { what, believed };
    let decrypt = ConvertVm { folder: &args.folder, to, dry_run: args.dry_run, config };
    match convert(args.json, "decrypt", decrypt)? {
        Some(plan) => plan::print_done(args.json, "decrypt", &args.folder, &plan, None),
        None => Ok(()),
    }
}

/// Converts, or prints what would be done.
fn convert<C: Conversion>(json: bool, verb: &'static str, vm: ConvertVm<'_, C>) -> Result<Option<Plan>> {
    let folder = vm.folder;
    if !vm.dry_run {
        return perform_shown(vm).map(Some);
    }
    let plan = perform(vm)?;
    plan::print(json, verb, folder, &plan)?;
    plan.check().map(|()| None)
}

/// A disk is not a VM folder. What a mount shows can be encrypted in the backing folder, unless the home goes.
fn refuse_other_places(folder: &Path, home_goes: bool) -> Result<()> {
    place::refuse_read_only(folder)?;
    let path = std::fs::canonicalize(folder).context(|| format!("opening folder {}", folder.shown()))?;
    if path.is_file() {
        let (parent, name) = (folder.parent().unwrap_or(Path::new("")), folder.file_name().unwrap_or_default());
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        return Err(Error::new(
            Kind::Denied,
            format!(
                "a disk goes with its VM folder, whose home comes first and goes last: `vmcryptfs encrypt {} --disk {}`, or decrypt",
                quoted(parent),
                quoted(Path::new(name))
            ),
        ));
    }
    place::refuse_mounted(folder)?;
    if home_goes {
        local::refuse_if_served(folder, "decrypting its home")
    } else {
        local::refuse_if_served_read_only(folder)
    }
}
