//! `cluster rotate` and `cluster retire`: generations of a shared primary key.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{AdminArgs, exchange, sync};
use crate::cli::place;
use crate::cli::progress::perform;
use crate::cli::provider::passphrase::Purpose;
use crate::cli::provider::provider_name;
use crate::error::Result;
use crate::key::ProviderName;
use crate::operations::cluster::{RetireGenerations, RotateProvider};
use crate::text::Show;

/// Arguments of `cluster rotate`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs cluster rotate shared --admin-key /media/usb/prod.admin\n  \
    vmcryptfs rekey --old-generations /vms\n  \
    vmcryptfs cluster retire shared --datastore /vms --admin-key /media/usb/prod.admin\n\n\
    The new primary key is sealed to all hosts; as soon as all of them have confirmed it, new keys are made by it. Former primary \
    keys stay until they are retired, so nothing is closed by a rotation.")]
pub(in crate::cli) struct RotateArgs {
    /// Name of the provider
    #[arg(value_parser = provider_name)]
    provider: ProviderName,
    /// Although a host did not confirm the newest primary key yet
    #[arg(long)]
    at_once: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `cluster retire`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs cluster retire shared --datastore /vms --datastore /vms2 --admin-key /media/usb/prod.admin\n\n\
    All primary keys of the provider but the newest one are retired: each host destroys its copy when it next runs `cluster sync`. \
    That is refused while a header in one of the datastores names one of them. Other datastores, copies of headers and backups \
    are not known to this host: what needs a retired key there cannot be opened again without its backup."
)]
pub(in crate::cli) struct RetireArgs {
    /// Name of the provider
    #[arg(value_parser = provider_name)]
    provider: ProviderName,
    /// Every datastore whose VMs the keys may be for, on the backing side; repeatable
    #[arg(long = "datastore", value_name = "FOLDER", required = true, value_parser = place::parser())]
    datastores: Vec<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn rotate(args: &RotateArgs, config: &Path) -> Result<()> {
    let (provider, at_once) = (&args.provider, args.at_once);
    let rotated =
        args.admin.with_keys(Purpose::Enter, |admin| perform(RotateProvider { provider, at_once, admin, config }))?;
    println!("generation {} of provider {provider} is primary key {}", rotated.number, rotated.primary);
    match exchange(config)?.contains(provider) {
        true => eprintln!("For each datastore:"),
        false => eprintln!(
            "New keys are made by it once all hosts have confirmed it (`vmcryptfs cluster status`). Then, for each datastore:"
        ),
    }
    eprintln!("  vmcryptfs rekey --old-generations DATASTORE");
    eprintln!("It is not backed up yet:\n  vmcryptfs provider backup {provider} FILE");
    Ok(())
}

pub(super) fn retire(args: &RetireArgs, config: &Path) -> Result<()> {
    args.datastores.iter().try_for_each(|datastore| place::refuse_mounted(datastore))?;
    let (provider, datastores) = (&args.provider, args.datastores.as_slice());
    let on_saved_header =
        |path: &Path| eprintln!("{}: a saved header that is useless without a key that is retired", path.shown());
    let (retired, looked_at) = args.admin.with_keys(Purpose::Enter, |admin| {
        perform(RetireGenerations { provider, datastores, on_saved_header: &on_saved_header, admin, config })
    })?;
    for old in retired {
        println!("generation {} of provider {provider}, primary key {}, is retired", old.number, old.primary);
    }
    let names: Vec<String> = datastores.iter().map(|path| path.shown().to_string()).collect();
    eprintln!(
        "Nothing names them in {}: looked at {}. Other datastores, copies of headers and backups are not known to this host.",
        names.join(", "),
        looked_at.describe()
    );
    sync(config)
}
