//! `unlock` and `lock`: a mount's components, while it is in use.

use std::path::PathBuf;

use clap::Args;

use crate::cli::status;
use crate::control::{self, ComponentStatus, Request};
use crate::error::{Error, Kind, Result};

/// What to unlock.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs unlock /run/vms\n  vmcryptfs unlock /run/vms web02/root.raw\n\n\
    Reads the providers' configuration anew. A mount also tries by itself, every ten seconds, what waits for its provider.")]
pub(super) struct UnlockArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// VM folder or disk, below the mount [default: everything]
    #[arg(value_name = "COMPONENT")]
    component: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to lock.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs lock /run/vms web02\n\n\
    Its keys are wiped from memory, and it stays locked until `vmcryptfs unlock`. Nothing of it may be open.")]
pub(super) struct LockArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// VM folder or disk, below the mount [default: everything]
    #[arg(value_name = "COMPONENT")]
    component: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn unlock(args: &UnlockArgs) -> Result<()> {
    let components = ask(args.json, &args.mountpoint, &Request::Unlock { path: args.component.clone() })?;
    match components.iter().filter(|component| !component.unlocked).count() {
        0 => Ok(()),
        locked => {
            Err(Error::new(Kind::KeyUnavailable, format!("{locked} of {} components stay locked", components.len())))
        }
    }
}

pub(super) fn lock(args: &LockArgs) -> Result<()> {
    ask(args.json, &args.mountpoint, &Request::Lock { path: args.component.clone() }).map(drop)
}

fn ask(json: bool, mountpoint: &std::path::Path, request: &Request) -> Result<Vec<ComponentStatus>> {
    let status = control::ask(mountpoint, request)?;
    status::print(json, &status)?;
    Ok(status.components)
}
