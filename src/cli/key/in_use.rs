//! `key in-use`: what a key opens, and what would be lost without it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{out, place, table};
use crate::error::{Error, Kind, Result};
use crate::key::{KeyName, ProviderName};
use crate::operations::in_use::search;
use crate::operations::key_hosts::{KeyHosts, describe};
use crate::provider::Providers;
use crate::text::{self, Show};
use crate::vm::in_use::{InUse, KeyUse, Wanted};
use crate::vm::inventory::NO_SIGN;

/// Arguments of `key in-use`.
#[derive(Args)]
#[command(
    override_usage = "vmcryptfs key in-use [OPTIONS] <--key <KEY_ID>|--provider <NAME>> <DATASTORE>...",
    after_help = "Examples:\n  vmcryptfs key in-use --provider kms1 /vms /vms2\n  \
    vmcryptfs key in-use --key kms1/3f0c52a9-7d4b-4e5b-9a53-0c1f6f1d2b7e /vms\n\n\
    Looks at all folders below DATASTORE, at any depth, and at both copies of each header. LOST lists what could no longer be \
    opened without the key. Needs no key.\n\n\
    Exit code 8: no header names such a key. An unreadable header may need it: then the exit code is not 0 either. \
    KEY_ID may also stand before DATASTORE, without --key."
)]
pub(in crate::cli) struct InUseArgs {
    /// Datastores or VM folders
    #[arg(value_name = "DATASTORE", required = true)]
    names: Vec<PathBuf>,
    /// Id of a key, as `vmcryptfs key list` shows it, or PROVIDER/KEY_ID, as in messages
    #[arg(long, value_name = "KEY_ID")]
    key: Option<String>,
    /// Only keys of this provider; without --key, all of them
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl InUseArgs {
    pub(super) fn run(&self, config: &Path) -> Result<()> {
        let (key_id, datastores) = self.split()?;
        let datastores: Vec<PathBuf> = datastores.iter().cloned().map(place::backing).collect();
        // A configuration that cannot be read says nothing against a name.
        let configured = Providers::load(config).ok();
        let same = |name: &ProviderName| {
            configured.as_ref().map_or_else(|| [name.clone()].into(), |providers| providers.names_of_same(name))
        };
        let provider = self.provider.as_deref().map(ProviderName::new).transpose()?;
        let wanted = Wanted { providers: provider.as_ref().map(same), key_id, ..Wanted::default() };
        let mut found = Found(search(&wanted, &datastores)?);
        match KeyHosts::of(config) {
            Ok(hosts) => hosts.iter().for_each(|hosts| hosts.add_to(&mut found.0)),
            Err(error) => eprintln!("Which hosts of the cluster have these keys is not known: {}", error.chain()),
        }
        let unknown = provider.filter(|name| !is_configured(name, configured.as_ref()));
        let is_refused = found.is_nothing() && (wanted.key_id.is_some() || unknown.is_some());
        match self.json {
            true => out::json(&found.0)?,
            false if is_refused => {} // the verdict says it
            false => found.print(&datastores),
        }
        if unknown.is_none() {
            found.tell_of_other_names();
        }
        found.verdict(&wanted, unknown)
    }

    /// The key id, and the datastores: the former way had the one before the other.
    fn split(&self) -> Result<(Option<String>, &[PathBuf])> {
        let [first, rest @ ..] = self.names.as_slice() else { return Ok((self.key.clone(), &[])) };
        if self.key.is_some() || rest.is_empty() || first.is_dir() {
            return match self.key.is_some() || self.provider.is_some() {
                true => Ok((self.key.clone(), &self.names)),
                false => Err(Error::new(
                    Kind::Invalid,
                    "missing key: pass --key KEY_ID, or --provider NAME for all of its keys",
                )),
            };
        }
        if first.is_absolute() || first.starts_with(".") || first.starts_with("..") {
            return Err(Error::new(
                Kind::NotFound,
                format!("{} is not a folder, and does not look like a key id", first.shown()),
            ));
        }
        Ok((Some(first.to_string_lossy().into_owned()), rest))
    }
}

/// What was found, for people.
struct Found(InUse);

impl Found {
    fn is_nothing(&self) -> bool {
        self.0.components.is_empty() && self.0.saved_headers.is_empty() && self.0.unreadable.is_empty()
    }

    fn print(&self, datastores: &[PathBuf]) {
        let names = |keys: &[KeyName]| keys.iter().map(KeyName::to_string).collect::<Vec<_>>().join(", ");
        let shown = |path: &Path| match datastores {
            [datastore] => place::shown(datastore, path),
            _ => path.shown().to_string(),
        };
        let row = |user: &KeyUse| {
            let without = match (user.lost, user.only_in_other_copy) {
                (true, _) => "LOST",
                (false, false) => "another key opens it",
                (false, true) => "another key opens it; named by an older header copy",
            };
            [
                shown(&user.path),
                user.kind.to_owned(),
                without.to_owned(),
                names(&user.keys),
                if user.lost { "-".to_owned() } else { names(&user.other_keys) },
            ]
        };
        let rows: Vec<_> = self.0.components.iter().map(row).collect();
        if !rows.is_empty() {
            table::print(["COMPONENT", "KIND", "WITHOUT IT", "KEY", "OTHER KEYS"], &rows);
            println!();
        }
        for user in &self.0.components {
            if let Some(hosts) = &user.hosts {
                println!("{}: opens on {}", shown(&user.path), describe(hosts));
            }
        }
        for saved in &self.0.saved_headers {
            println!("{}: a saved header of {}, opened by {}", shown(&saved.path), saved.uuid, names(&saved.keys));
        }
        for unreadable in &self.0.unreadable {
            println!("{}: unknown: {}", shown(&unreadable.path), unreadable.reason);
        }
        for path in &self.0.no_sign {
            println!("{}: not looked at: {NO_SIGN}", shown(path));
        }
        let lost = self.0.components.iter().filter(|user| user.lost).count();
        let opens = text::count(self.0.components.len(), "component", "components");
        println!("It opens {opens}, {lost} of them by no other key.");
        println!("Looked at {}.", self.0.looked_at.describe());
    }

    /// Two names may be of one key server, also by another of its addresses, and the configurations of other hosts are not known.
    fn tell_of_other_names(&self) {
        if !self.0.other_providers.is_empty() {
            let others = self.0.other_providers.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            eprintln!(
                "Not counted: keys of {others}. If that is the same key server under another name, ask for it too."
            );
        }
    }

    /// `unknown` is the provider that was asked for, if none is configured by that name.
    fn verdict(&self, wanted: &Wanted, unknown: Option<ProviderName>) -> Result<()> {
        if let Some(first) = self.0.unreadable.first() {
            let objects = text::count(self.0.unreadable.len(), "object", "objects");
            return Err(Error::new(first.kind, format!("{objects} cannot be read, and may need the key")));
        }
        if !self.is_nothing() {
            return Ok(());
        }
        let looked_at = self.0.looked_at.describe();
        match (&wanted.key_id, unknown) {
            (Some(id), _) => Err(Error::new(
                Kind::NotFound,
                format!("no header names key {}; looked at {looked_at}", id.as_str().shown()),
            )),
            (None, Some(name)) => {
                Err(Error::new(Kind::NotFound, format!("no provider {name} is configured, and no header names one")))
            }
            (None, None) => Ok(()),
        }
    }
}

fn is_configured(name: &ProviderName, providers: Option<&Providers>) -> bool {
    providers.is_none_or(|providers| providers.names().any(|known| known == name))
}
