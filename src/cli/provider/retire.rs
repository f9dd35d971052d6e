//! `provider retire`: keys that nothing needs any more are taken out of use, then destroyed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::provider_name;
use crate::cli::key::in_use::inventory_with_keys;
use crate::cli::place;
use crate::cli::progress::perform;
use crate::error::{Error, Kind, Result};
use crate::key::{KeyId, KeyName, ProviderName};
use crate::operations::provider::RetireKey;
use crate::provider::{self, Providers, Revocation};
use crate::text::Show;
use crate::vm::in_use::{KeyUse, LookedAt, Wanted};
use crate::vm::inventory::Inventory;

/// At most this many components are named in a refusal.
const MAX_NAMED: usize = 5;

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
        let provider = Providers::load(config)?.provider(&self.name)?;
        let looked_at = self.refuse_keys_in_use(&keys)?;
        keys.iter().try_for_each(|key_id| provider::require_own_spelling(&*provider, key_id))?;
        for key_id in &keys {
            let retire = RetireKey { key_id, provider: &*provider, reason: self.reason, destroy: self.destroy };
            let done = perform(retire)?;
            println!("key {key_id}: {done}");
        }
        eprintln!(
            "Nothing names these keys in {}: looked at {}. Other datastores, copies of headers and backups are not known to \
             this host.",
            list(self.datastores.iter().map(|path| path.shown().to_string())),
            looked_at.describe()
        );
        Ok(())
    }

    /// Says what was looked at.
    fn refuse_keys_in_use(&self, keys: &[KeyId]) -> Result<LookedAt> {
        let mut users: BTreeMap<&KeyId, Vec<String>> = BTreeMap::new();
        let mut looked_at = LookedAt::default();
        for datastore in &self.datastores {
            let inventory = inventory(datastore)?;
            for key_id in keys {
                let in_use = Wanted::of(key_id).search(&inventory);
                if let Some(unreadable) = in_use.unreadable.first() {
                    let path = place::shown(datastore, &unreadable.path);
                    return Err(Error::new(
                        unreadable.kind,
                        format!("{path} may need the key, but cannot be read: {}", unreadable.reason),
                    ));
                }
                for saved in &in_use.saved_headers {
                    let path = place::shown(datastore, &saved.path);
                    eprintln!("{path}: a saved header that names key {key_id}: it is useless without it");
                }
                let paths = in_use.components.iter().map(|user| shown(datastore, user, key_id));
                if !in_use.components.is_empty() {
                    users.entry(key_id).or_default().extend(paths);
                }
            }
            looked_at.add(LookedAt::of(&inventory));
        }
        match users.first_key_value() {
            None => Ok(looked_at),
            Some((key_id, paths)) => {
                let more = paths.len().saturating_sub(MAX_NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                Err(Error::new(
                    Kind::Denied,
                    format!(
                        "key {key_id} is needed by {}{more}: `vmcryptfs rekey` gives them another one",
                        list(paths.iter().take(MAX_NAMED).cloned())
                    ),
                ))
            }
        }
    }
}

/// All that lies below a datastore or VM folder.
///
/// # Errors
/// `Invalid` for a folder in which no component can be seen: a wrong one would seem to need no key.
fn inventory(datastore: &Path) -> Result<Inventory> {
    place::refuse_mounted(datastore)?;
    inventory_with_keys(datastore)
}

/// A component, and the name that it has for the key if that is another one.
fn shown(datastore: &Path, user: &KeyUse, key_id: &KeyId) -> String {
    let path = place::shown(datastore, &user.path);
    let wanted = KeyName::of(key_id).to_string();
    let names: Vec<String> = user.keys.iter().map(KeyName::to_string).collect();
    match names.contains(&wanted) {
        true => path,
        false => format!("{path} (which names it {}: that may be the same key)", names.join(", ")),
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
