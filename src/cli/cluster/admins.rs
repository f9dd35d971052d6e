//! `cluster admin` and `cluster accept-board`: who may change the cluster.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use serde::Serialize;

use super::AdminArgs;
use crate::cli::out;
use crate::cli::progress::perform;
use crate::cli::provider::passphrase::{PassphraseSource, Purpose};
use crate::cluster::{AdminChange, Session, public_key};
use crate::error::Result;
use crate::operations::cluster::{AcceptBoard, ChangeAdmins, NewAdminKey};
use crate::text::{self, Show};

/// Verbs of `cluster admin`.
#[derive(Subcommand)]
pub(in crate::cli) enum AdminCommand {
    /// Make an admin key, and show its public key
    New(NewArgs),
    /// Let one more admin change the cluster
    Add(ChangeArgs),
    /// Let an admin change the cluster no more
    Remove(ChangeArgs),
    /// Say how many admins have to sign each change
    Threshold(ThresholdArgs),
    /// List the admins, by their public keys
    List(ListArgs),
}

/// Arguments of `cluster admin new`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster admin new /media/usb2/prod.admin\n\n\
    The key has no say until an admin adds it: give the public key that is printed to `cluster admin add`.")]
pub(in crate::cli) struct NewArgs {
    /// File of the admin key, which is made
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

/// Arguments of `cluster admin add` and `remove`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster admin add 5b..c0 --admin-key /media/usb/prod.admin\n\n\
    As many admins sign as were needed before it, and as many of those after it as are needed then. Keep at least two admin keys in \
    different places: with one lost, the other removes it. Without any, the cluster stays as it is for ever.")]
pub(in crate::cli) struct ChangeArgs {
    /// The admin's public key, as `cluster admin new` and `list` show it
    public_key: String,
    /// How many admins have to sign from now on
    #[arg(long, value_name = "NUMBER")]
    threshold: Option<u8>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `cluster admin threshold`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs cluster admin threshold 2 --admin-key /media/usb/a.admin --admin-key /media/usb/b.admin\n\n\
    Each change then needs that many --admin-key. More admins than that should exist: with fewer keys left than the threshold \
    says, the cluster stays as it is for ever."
)]
pub(in crate::cli) struct ThresholdArgs {
    /// How many admins have to sign from now on
    threshold: u8,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `cluster admin list`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster admin list")]
pub(in crate::cli) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `cluster accept-board`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster accept-board --admin-key /media/usb/prod.admin\n\n\
    A board that was restored from an older state is refused by each host that has seen more. Run this on the host that has seen most, \
    where the restoration is meant: the admins sign that the cluster goes on from what that host has seen, so no host that was \
    removed comes back. Also for a board whose content is gone.")]
pub(in crate::cli) struct AcceptBoardArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(command: &AdminCommand, config: &Path) -> Result<()> {
    match command {
        AdminCommand::New(args) => new(args),
        AdminCommand::Add(args) => {
            change(AdminChange::Add(public_key(&args.public_key)?), args.threshold, &args.admin, config)
        }
        AdminCommand::Remove(args) => {
            change(AdminChange::Remove(public_key(&args.public_key)?), args.threshold, &args.admin, config)
        }
        AdminCommand::Threshold(args) => change(AdminChange::None, Some(args.threshold), &args.admin, config),
        AdminCommand::List(args) => list(args, config),
    }
}

fn new(args: &NewArgs) -> Result<()> {
    let passphrase = || args.passphrase.read(Purpose::Choose);
    let public = perform(NewAdminKey { file: &args.file, passphrase: &passphrase })?;
    let public = HEXLOWER.encode(&public);
    println!("{public}");
    let file = args.file.shown();
    eprintln!(
        "Keep {file} on a medium of its own. An admin adds it by the public key above:\n  \
         vmcryptfs cluster admin add {public} --admin-key FILE"
    );
    Ok(())
}

fn change(change: AdminChange, threshold: Option<u8>, admin: &AdminArgs, config: &Path) -> Result<()> {
    let (all, needed) =
        admin.with_keys(Purpose::Enter, |admin| perform(ChangeAdmins { change, threshold, admin, config }))?;
    println!("{needed} of {} to sign each change", text::count(all, "admin has", "admins have"));
    if all == usize::from(needed) {
        eprintln!("If one of these keys is lost, the cluster stays as it is for ever: add another admin.");
    }
    Ok(())
}

/// Who may change the cluster. Names of fields are part of the command's interface.
#[derive(Serialize)]
struct Admins {
    /// How many have to sign.
    threshold: u8,
    /// Public keys.
    admins: Vec<String>,
    /// Number of the document since which that is so; 0: from the beginning.
    since: u64,
}

fn list(args: &ListArgs, config: &Path) -> Result<()> {
    let session = Session::open(config)?;
    let document = session.document();
    let admins: Vec<String> = document.admins.iter().map(|admin| HEXLOWER.encode(admin)).collect();
    if args.json {
        return out::json(&Admins { threshold: document.threshold, admins, since: document.admins_since });
    }
    admins.iter().for_each(|admin| println!("{admin}"));
    println!("{} of {} to sign each change", document.threshold, text::count(admins.len(), "admin has", "admins have"));
    Ok(())
}

pub(super) fn accept_board(args: &AcceptBoardArgs, config: &Path) -> Result<()> {
    let epoch = args.admin.with_keys(Purpose::Enter, |admin| perform(AcceptBoard { admin, config }))?;
    println!("document {epoch} accepts the board, with all that this host has seen");
    super::sync(config)
}
