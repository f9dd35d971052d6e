//! `provider retire`: keys that nothing needs any more are taken out of use, then destroyed.

use std::path::{Path, PathBuf};

use super::provider_name;
use crate::cli::place;
use crate::cli::progress::perform;
use crate::error::Result;
use crate::key::{KeyId, ProviderName};
use crate::operations::dump::refuse_host_keys;
use crate::operations::in_use::refuse_keys_in_use;
use crate::operations::provider::RetireKey;
use crate::provider::{self, Providers, Revocation};
use crate::text::Show;

/// Of `provider retire`.
#[derive(clap::Args, Debug)]
pub struct RetireArgs {
    /// Name of the provider
    #[arg(value_parser = provider_name)]
    name: ProviderName,
    /// Ids of the keys, as `vmcryptfs info` shows them
    #[arg(value_name = "KEY_ID", required = true)]
    keys: Vec<String>,
    /// Every datastore whose VMs the keys may be for, on the backing side; repeatable
    #[arg(long = "datastore", value_name = "FOLDER", required = true, value_parser = place::parser())]
    datastores: Vec<PathBuf>,
    /// Why: superseded, compromised, or ended (what it wrapped is gone)
    #[arg(long, default_value = "superseded", value_name = "REASON", value_parser = parse_reason, conflicts_with = "destroy")]
    reason: Revocation,
    /// Destroy keys that were retired before
    #[arg(long)]
    destroy: bool,
}

fn parse_reason(text: &str) -> std::result::Result<Revocation, String> {
    match text {
        "superseded" => Ok(Revocation::Superseded),
        "compromised" => Ok(Revocation::Compromised),
        "ended" => Ok(Revocation::Ended),
        _ => Err("expected superseded, compromised or ended".into()),
    }
}

impl RetireArgs {
    /// Checks all of it before anything is done: that a key is in use is to be known before another one is gone.
    pub(super) fn run(&self, config: &Path) -> Result<()> {
        let keys: Vec<KeyId> = self.keys.iter().map(|id| KeyId::new(self.name.clone(), id)).collect::<Result<_>>()?;
        let provider = Providers::load(config)?.chosen(&self.name)?;
        self.datastores.iter().try_for_each(|datastore| place::refuse_mounted(datastore))?;
        refuse_host_keys(&keys, config)?;
        let useless = |path: &Path, key_id: &KeyId| {
            eprintln!("{}: a saved header that names key {key_id}: it is useless without it", path.shown());
        };
        let looked_at = refuse_keys_in_use(&keys, &self.datastores, &useless)?;
        keys.iter().try_for_each(|key_id| provider::require_own_spelling(&*provider, key_id))?;
        for key_id in &keys {
            let retire = RetireKey { key_id, provider: &*provider, reason: self.reason, destroy: self.destroy };
            let done = perform(retire)?;
            println!("key {key_id}: {done}");
        }
        eprintln!(
            "Nothing names these keys in {}: looked at {}. Other datastores, copies of headers and backups are not known to \
             this host.",
            self.datastores.iter().map(|path| path.shown().to_string()).collect::<Vec<_>>().join(", "),
            looked_at.describe()
        );
        Ok(())
    }
}
