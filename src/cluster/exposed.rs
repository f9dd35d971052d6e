//! Data keys that a compromised host could read, after the keys that wrap them were replaced: what a host remembers of that, until
//! a deep rekey gives the components other data keys. No header says who could read it once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Session;
use super::host::folder;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{Member, MemberState};
use crate::key::ProviderName;
use crate::provider::private_file;
use crate::text::Show;

/// Longest file in bytes: some ten thousand components.
const MAX_LEN: u64 = 8 << 20;

/// A component with a data key that a compromised host could read.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Exposed {
    /// Where its VM folder is, or, without one, the disk.
    #[serde(with = "crate::text::path")]
    pub vm: PathBuf,
    /// Where it is.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// Its UUID.
    pub uuid: Uuid,
    /// Of the data key.
    pub generation: u32,
    /// The provider of the key that wrapped it.
    pub provider: String,
    /// The hosts that could read it.
    pub hosts: BTreeSet<Uuid>,
}

/// The file of a host with this configuration.
pub struct ExposedFile {
    path: PathBuf,
}

impl ExposedFile {
    /// That of a host with this configuration.
    pub fn of(config: &Path) -> Self {
        Self { path: folder(config).join("exposed.json") }
    }

    /// What is remembered.
    ///
    /// # Errors
    /// `Denied` when others can change the file, `Corrupt`, `Io`.
    pub fn load(&self) -> Result<BTreeSet<Exposed>> {
        let Some(bytes) = private_file::read_if_there(MAX_LEN, &self.path)? else { return Ok(BTreeSet::new()) };
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", self.path.shown()), error))
    }

    /// Remembers these, and no others. Two callers at once must hold the lock of a [`Session`].
    ///
    /// # Errors
    /// `Io`.
    pub fn store(&self, exposed: &BTreeSet<Exposed>) -> Result<()> {
        let bytes = serde_json::to_vec(exposed)
            .map_err(|error| Error::with_source(Kind::Invalid, "components that have no JSON form", error))?;
        private_file::replace(&self.path, &[&bytes])
    }
}

impl Session {
    /// The compromised hosts that could have a primary key of a shared provider: it was in use before they were removed.
    pub fn compromised_with(&self, primary: Uuid) -> Vec<&Member> {
        let generations = self.document().providers.iter().flat_map(|shared| &shared.generations);
        let Some(generation) = generations.into_iter().find(|generation| generation.primary == primary) else {
            return Vec::new();
        };
        let removed = self.document().members.iter().filter(|member| member.state == MemberState::Removed);
        removed.filter(|member| member.removal.compromised && generation.since < member.since).collect()
    }

    /// Components of a provider, or of all, with data keys that compromised hosts could read, unless an admin has said on this host
    /// that it was seen to.
    ///
    /// # Errors
    /// Those of [`ExposedFile::load`].
    pub fn exposed(&self, provider: Option<&ProviderName>) -> Result<BTreeSet<Exposed>> {
        let mut exposed = ExposedFile::of(&self.config).load()?;
        // What cannot be read says nothing against it.
        let seen_to = self.files.seen_to().unwrap_or_default();
        exposed.retain(|one| {
            provider.is_none_or(|provider| one.provider == provider.as_str()) && !one.hosts.is_subset(&seen_to)
        });
        Ok(exposed)
    }

    /// The names of hosts, with commas between them.
    pub fn names_of(&self, hosts: &BTreeSet<Uuid>) -> String {
        let members = self.document().members.iter().filter(|member| hosts.contains(&member.host.uuid));
        members.map(|member| member.host.name.to_string()).collect::<Vec<_>>().join(", ")
    }
}
