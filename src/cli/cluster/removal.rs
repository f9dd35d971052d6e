//! `cluster remove`: a host goes, and what that means is said.

use std::ffi::OsStr;
use std::path::Path;

use clap::Args;

use super::{AdminArgs, host_name, sync};
use crate::cli::confirm;
use crate::cli::progress::perform;
use crate::cli::provider::passphrase::Purpose;
use crate::cluster::RemovedHost;
use crate::error::Result;
use crate::format::cluster::{Name, Removal};
use crate::key::ProviderName;
use crate::operations::cluster::RemoveHost;

/// Arguments of `cluster remove`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs cluster remove kvm2 --admin-key /media/usb/prod.admin\n  \
    vmcryptfs cluster remove kvm2 --compromised --evict --admin-key /media/usb/prod.admin\n  \
    vmcryptfs cluster remove kvm2 --presume-destroyed --admin-key /media/usb/prod.admin\n\n\
    The host gets no more keys, and wipes those that it has when it next runs `cluster sync`. Guests that run there go on. Until it \
    has said that it wiped them, `cluster status` says so. What the host could read stays readable to anyone who copied its keys: \
    with --compromised all shared providers get new keys, and the output says what to rekey. The options can also be given for a \
    host that was removed before.")]
pub(in crate::cli) struct RemoveArgs {
    /// Name or UUID of the host
    #[arg(value_parser = host_name)]
    host: Name,
    /// Others may have its keys: make new ones
    #[arg(long)]
    compromised: bool,
    /// Its guests have to end as well
    #[arg(long)]
    evict: bool,
    /// Its media are destroyed: it will never say that it wiped its keys
    #[arg(long)]
    presume_destroyed: bool,
    /// Do not ask for confirmation where the host is this one
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn remove(args: &RemoveArgs, config: &Path) -> Result<()> {
    let host = &args.host;
    let removal =
        Removal { compromised: args.compromised, evicted: args.evict, presumed_destroyed: args.presume_destroyed };
    let confirm_own: &dyn Fn(&Name, &Name) -> Result<()> = if args.yes { &|_, _| Ok(()) } else { &confirm_own };
    let removed = args
        .admin
        .with_keys(Purpose::Enter, |admin| perform(RemoveHost { host, removal, confirm_own, admin, config }))?;
    let (name, uuid) = (&removed.host.name, removed.host.uuid);
    match removed.was_active {
        true => println!("host {name} ({uuid}) is removed from the cluster"),
        false => println!(
            "host {name} ({uuid}) was removed before; the cluster knows now that it is {}",
            marks(removed.removal)
        ),
    }
    for (provider, rotated) in &removed.rotated {
        println!("generation {} of provider {provider} is primary key {}", rotated.number, rotated.primary);
    }
    for (provider, error) in &removed.not_rotated {
        eprintln!(
            "PROVIDER {provider} HAS NO NEW KEY: {}. On a host that has its key in a file, run:\n  \
             vmcryptfs cluster rotate {provider} --admin-key FILE",
            error.chain()
        );
    }
    explain(&removed);
    sync(config)
}

/// Asks before this host itself goes.
fn confirm_own(name: &Name, cluster: &Name) -> Result<()> {
    let what = format!(
        "This removes {name}, which is this host, from the cluster {cluster}. It wipes its keys, and VMs of the shared providers do not \
         open here any longer."
    );
    confirm::by_name(OsStr::new(name.as_str()), &format!("remove {name}, which is this host,"), &what)
}

/// What an admin has said of a removed host.
fn marks(removal: Removal) -> String {
    let Removal { compromised, evicted, presumed_destroyed } = removal;
    let all = [(compromised, "compromised"), (evicted, "evicted"), (presumed_destroyed, "presumed destroyed")];
    all.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect::<Vec<_>>().join(", ")
}

fn explain(removed: &RemovedHost) {
    if !removed.removal.presumed_destroyed {
        eprintln!(
            "It wipes its keys when it next runs `vmcryptfs cluster sync`; `vmcryptfs cluster status` says when it has."
        );
    }
    if removed.removal.evicted {
        eprintln!("Its guests have to end: its agent, or the next `vmcryptfs cluster sync` there, says so.");
    }
    explain_pushed(removed);
    let names = joined(&removed.providers);
    if names.is_empty() {
        return;
    }
    if removed.was_active {
        eprintln!(
            "It could read all VMs of {names} from document {} on, and those of backups and copies.",
            removed.since
        );
    }
    match removed.removal.compromised {
        true => eprintln!(
            "Its keys still open all VMs of {names}. Run `vmcryptfs cluster sync` on all hosts, then:\n  \
             vmcryptfs rekey --old-generations --deep DATASTORE # each datastore\n  \
             vmcryptfs cluster retire PROVIDER --datastore DATASTORE --admin-key FILE # each of {names}"
        ),
        false => eprintln!(
            "If its keys may have been copied, say so, and all of these get new ones:\n  \
             vmcryptfs cluster remove {} --compromised --admin-key FILE",
            removed.host.uuid
        ),
    }
}

/// What keepers gave it. No document gives VMs other keys: each is rekeyed.
fn explain_pushed(removed: &RemovedHost) {
    let names = joined(&removed.pushed);
    if !removed.kept.is_empty() {
        eprintln!(
            "It was a keeper of {}, with credentials of the key server: revoke them there.",
            joined(&removed.kept)
        );
    }
    if !names.is_empty() {
        let whether =
            if removed.removal.compromised { "Its keys open" } else { "If its keys may have been copied, they open" };
        eprintln!(
            "It could ask keepers for the key of each VM of {names}. {whether} those VMs, until each has another one:\n  \
             vmcryptfs rekey --deep VM_FOLDER # each VM of {names}"
        );
    }
}

fn joined(names: &[ProviderName]) -> String {
    names.iter().map(ProviderName::as_str).collect::<Vec<_>>().join(", ")
}
