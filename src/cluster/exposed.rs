//! Data keys that a compromised host could read, after the keys that wrap them were replaced: what a host remembers of that, until
//! a deep rekey gives the components other data keys. No header says who could read it once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Session;
use super::host::folder;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{Document, MemberState};
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

/// What is to be remembered now: of each data key all hosts that could read it, and its last place.
pub fn merged(before: BTreeSet<Exposed>, new: &BTreeSet<Exposed>) -> BTreeSet<Exposed> {
    let is_same = |one: &Exposed, other: &Exposed| (one.uuid, &one.provider) == (other.uuid, &other.provider);
    let (former, mut all): (BTreeSet<Exposed>, BTreeSet<Exposed>) =
        before.into_iter().partition(|old| new.iter().any(|new| is_same(old, new)));
    for one in new {
        let of_key = former.iter().filter(|old| is_same(old, one) && old.generation == one.generation);
        let hosts = of_key.flat_map(|old| &old.hosts).chain(&one.hosts).copied().collect();
        all.insert(Exposed { hosts, ..one.clone() });
    }
    all
}

/// The shared provider of a primary key, whatever name headers have for it, and the compromised hosts that could have the key: it was in
/// use before they were removed. `None` if there are no such hosts.
pub fn compromised_with(document: &Document, primary: Uuid) -> Option<(&ProviderName, BTreeSet<Uuid>)> {
    let (provider, since) = document.providers.iter().find_map(|shared| {
        let generation = shared.generations.iter().find(|generation| generation.primary == primary)?;
        Some((&shared.name, generation.since))
    })?;
    let removed = document.members.iter().filter(|member| member.state == MemberState::Removed);
    let hosts = removed.filter(|member| member.removal.compromised && since < member.since);
    let hosts: BTreeSet<Uuid> = hosts.map(|member| member.host.uuid).collect();
    (!hosts.is_empty()).then_some((provider, hosts))
}

/// The names of hosts, with commas between them.
pub fn names_of(document: &Document, hosts: &BTreeSet<Uuid>) -> String {
    let members = document.members.iter().filter(|member| hosts.contains(&member.host.uuid));
    members.map(|member| member.host.name.to_string()).collect::<Vec<_>>().join(", ")
}

impl Session {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hosts_that_could_read_one_data_key_are_remembered() {
        let exposed = |generation, place: &str, host| Exposed {
            vm: place.into(),
            path: place.into(),
            uuid: Uuid::nil(),
            generation,
            provider: "shared".into(),
            hosts: [Uuid::from_u128(host)].into(),
        };
        let after =
            |before: Exposed, new: Exposed| merged([before].into(), &[new].into()).into_iter().collect::<Vec<_>>();
        let both = Exposed { hosts: [1, 2].map(Uuid::from_u128).into(), ..exposed(0, "/b", 2) };
        assert_eq!(after(exposed(0, "/a", 1), exposed(0, "/b", 2)), [both]);
        assert_eq!(after(exposed(0, "/a", 1), exposed(1, "/a", 2)), [exposed(1, "/a", 2)], "it is another data key");
        let other = Exposed { uuid: Uuid::max(), ..exposed(0, "/c", 1) };
        assert_eq!(after(other.clone(), exposed(0, "/a", 2)), [exposed(0, "/a", 2), other]);
    }
}
