//! The native provider: a primary key on this host wraps a fresh KEK for each VM (docs/FORMAT.md, section 5).
//!
//! The wrapped KEK is the key id, so there is no database, and a host with the primary key needs nothing else. Without the
//! primary key, all that its KEKs protect is lost: see [`backup`](crate::provider::backup).

use std::path::PathBuf;
use std::sync::Arc;

use toml::Table;
use toml::de::ValueDeserializer;
use uuid::Uuid;

use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::{Kek, KeyId, ProviderName};
use crate::provider::generations::{Generations, Standing};
use crate::provider::kek_share::{KekShare, kek_of};
use crate::provider::kind::{self, Arguments, Configured, KEK_SHARE, ProviderKind, Settings, Usage};
use crate::provider::primary_key::{self, PrimaryKey};
use crate::provider::{ExportedKek, KeyProvider, NewKey};
use crate::text::Show;

/// The kind.
#[derive(Debug)]
pub struct Native;

const USAGE: Usage = Usage {
    about: "Add a provider that needs no key server: its primary key is a file of this host",
    details: "Add a provider that needs no key server. A primary key is made and kept in a file that only this user can read \
              (vSphere: native key provider). Back it up at once: without it, nothing that is encrypted under it can be read \
              again.",
    example: "vmcryptfs provider add native local\n\
              vmcryptfs provider backup local /media/usb/local.vmcryptfs-backup",
    arguments: &[KEK_SHARE],
};

impl ProviderKind for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn usage(&self) -> &'static Usage {
        &USAGE
    }

    fn parse(&self, section: ValueDeserializer<'_>) -> std::result::Result<Table, toml::de::Error> {
        kind::parse::<primary_key::Settings>(section)
    }

    fn settings(&self, name: &ProviderName, arguments: &Arguments) -> Result<Table> {
        let kek_share = arguments.kek_share()?;
        kind::table(&primary_key::Settings { kek_share, ..primary_key::Settings::of(name) })
    }

    fn open(&self, provider: &Configured<'_>) -> Result<Arc<dyn KeyProvider>> {
        let generations = Generations::of(file(provider)?);
        let primary = generations.current()?;
        Ok(Arc::new(NativeProvider {
            share: provider.kek_share()?,
            generations: Some(generations),
            ..NativeProvider::new(provider.name.clone(), primary)
        }))
    }

    fn keeps_primary_key(&self) -> bool {
        true
    }

    /// The primary key's UUID, or its file where that cannot be read.
    fn key_places(&self, provider: &Configured<'_>) -> Vec<String> {
        let place = |file: PathBuf| match PrimaryKey::load(&file) {
            Ok(primary) => primary.uuid().to_string(),
            Err(_) => file.shown().to_string(),
        };
        file(provider).map(place).into_iter().collect()
    }

    /// Its keys need nothing that is not in memory, but for what a TPM has to give first.
    fn may_wait(&self, settings: &Settings) -> bool {
        settings.uses_tpm()
    }
}

/// The file of the primary key.
fn file(provider: &Configured<'_>) -> Result<PathBuf> {
    Ok(provider.settings.read::<primary_key::Settings>()?.primary_key_of(provider.config))
}

/// Makes and fetches KEKs by a primary key.
pub struct NativeProvider {
    name: ProviderName,
    primary: PrimaryKey,
    /// Where its primary keys are; `None`: it has no other one, and none will come.
    generations: Option<Generations>,
    share: Option<KekShare>,
}

impl NativeProvider {
    /// The provider of this name: KEKs are named after it.
    pub fn new(name: ProviderName, primary: PrimaryKey) -> Self {
        Self { name, primary, generations: None, share: None }
    }

    /// Makes a KEK. The primary key may be another one than when this was opened: its cluster has rotated it, or has wiped it.
    fn make(&self) -> Result<(KeyId, LocalKek)> {
        let now = self.generations.as_ref().map(Generations::current).transpose()?;
        let primary = now.as_ref().unwrap_or(&self.primary);
        let (id, kek) = primary.make_kek()?;
        Ok((KeyId::new(self.name.clone(), id)?, kek_of(kek, self.share.as_ref())?))
    }

    fn find(&self, key_id: &KeyId) -> Result<LocalKek> {
        if *key_id.provider() != self.name {
            return Err(Error::new(
                Kind::Invalid,
                format!("key {key_id} is not of provider {}: keys are named after their provider", self.name),
            ));
        }
        let (owner, wrapped) = primary_key::parse_id(key_id.id())?;
        let other = if owner == self.primary.uuid() { None } else { Some(self.other(owner)?) };
        let primary = other.as_ref().unwrap_or(&self.primary);
        kek_of(primary.unwrap_kek(&wrapped)?, self.share.as_ref())
    }

    /// A KEK that leaves this host is whole: the share would protect nothing.
    fn require_no_share(&self) -> Result<()> {
        match self.share {
            None => Ok(()),
            Some(_) => Err(Error::new(
                Kind::Unsupported,
                format!("provider {} has a kek-share, so its keys do not leave this host", self.name),
            )),
        }
    }

    /// The primary key of a generation that is not in memory.
    fn other(&self, owner: Uuid) -> Result<PrimaryKey> {
        let found = self.generations.as_ref().map(|generations| generations.find(owner)).transpose()?;
        found.flatten().map(|(_, primary)| primary).ok_or_else(|| {
            Error::new(
                Kind::KeyUnavailable,
                format!(
                    "this key id belongs to primary key {owner}; provider {} of this host has {}: restore the backup \
                     of {owner}",
                    self.name,
                    self.primary.uuid()
                ),
            )
        })
    }
}

impl KeyProvider for NativeProvider {
    fn create_key(&self, _purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.make().map(|(id, kek)| (id, Arc::new(kek) as Arc<dyn Kek>))
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        self.find(key_id).map(|kek| Arc::new(kek) as Arc<dyn Kek>)
    }

    fn export_key(&self, key_id: &KeyId) -> Result<ExportedKek> {
        self.require_no_share()?;
        self.find(key_id).map(|kek| ExportedKek { kek, wraps: true })
    }

    /// Nothing is kept of a KEK, so one that is made twice does no harm.
    fn create_exported(&self, _request: Uuid, _purpose: &NewKey) -> Result<(KeyId, LocalKek)> {
        self.require_no_share()?;
        self.make()
    }

    fn is_superseded(&self, key_id: &KeyId) -> Result<bool> {
        let (Ok((owner, _)), Some(generations)) = (primary_key::parse_id(key_id.id()), &self.generations) else {
            return Ok(false);
        };
        Ok(generations.find(owner)?.is_some_and(|(standing, _)| standing == Standing::Former))
    }
}

#[cfg(test)]
mod tests;
