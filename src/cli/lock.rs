//! `unlock` and `lock`: a mount's components, while it is in use.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{place, status};
use crate::control::{self, ComponentState, ComponentStatus, Request};
use crate::error::{Context, Error, Kind, Result};
use crate::text::{self, Show};

/// Arguments of `unlock`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs unlock /run/vms\n  vmcryptfs unlock /run/vms web02/root.raw\n\n\
    Rereads the providers' configuration. A mount also retries by itself, every ten seconds, what waits for its provider.")]
pub(super) struct UnlockArgs {
    #[command(flatten)]
    what: What,
}

/// Arguments of `lock`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs lock /run/vms web02\n\n\
    Its keys are wiped from memory, and it remains locked until `vmcryptfs unlock`. None of it may be open.")]
pub(super) struct LockArgs {
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
struct What {
    /// A mountpoint, or a datastore, VM folder or disk by its path in a mount or in the backing folder
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// VM folder or disk below that [default: everything]
    #[arg(value_name = "COMPONENT")]
    component: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn unlock(args: &UnlockArgs) -> Result<()> {
    let components = ask(&args.what, |path| Request::Unlock { path })?;
    let is_locked = |component: &&ComponentStatus| component.state() == ComponentState::Locked;
    let locked = components.iter().filter(is_locked).count();
    let lost = components.iter().filter(|component| !component.unlocked).count() - locked;
    let all = text::count(components.len(), "component", "components");
    let message = match (locked, lost) {
        (0, 0) => return Ok(()),
        (0, lost) => format!("{lost} of {all} cannot be unlocked: see the reasons above"),
        (1, 0) => format!("1 of {all} remains locked"),
        (locked, 0) => format!("{locked} of {all} remain locked"),
        (locked, lost) => format!("{locked} of {all} remain locked, and {lost} cannot be unlocked"),
    };
    Err(Error::new(Kind::KeyUnavailable, message))
}

pub(super) fn lock(args: &LockArgs) -> Result<()> {
    ask(&args.what, |path| Request::Lock { path }).map(drop)
}

fn ask(what: &What, request: impl FnOnce(Option<PathBuf>) -> Request) -> Result<Vec<ComponentStatus>> {
    let (mountpoint, mut below) = place::mount_of(&what.path)?;
    below.extend(&what.component);
    let below = Some(below).filter(|below| !below.as_os_str().is_empty());
    let status = control::ask(&mountpoint, &request(below)).context(|| what.path.shown().to_string())?;
    status::print(what.json, &mountpoint, &status)?;
    Ok(status.components)
}
