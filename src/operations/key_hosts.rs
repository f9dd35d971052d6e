//! Which hosts of this host's cluster can open what: by what each of them says of the keys that it has.

use std::path::Path;

use uuid::Uuid;

use crate::cluster::Session;
use crate::cluster::host::HostFiles;
use crate::cluster::status::{ClusterStatus, HostState};
use crate::error::Result;
use crate::key::KeyName;
use crate::vm::in_use::{InUse, KeyHost, primary_of};

/// What hosts say that they have.
#[derive(Debug)]
pub struct KeyHosts {
    status: ClusterStatus,
    /// Primary keys that the cluster shares.
    shared: Vec<Uuid>,
}

impl KeyHosts {
    /// Looks at the cluster of this host, if it is in one.
    ///
    /// # Errors
    /// Those of the board.
    pub fn of(config: &Path) -> Result<Option<Self>> {
        if HostFiles::of(config).membership()?.is_none() {
            return Ok(None);
        }
        let session = Session::open(config)?;
        let generations = session.document().providers.iter().flat_map(|shared| &shared.generations);
        let shared = generations.map(|generation| generation.primary).collect();
        Ok(Some(Self { status: ClusterStatus::of(&session)?, shared }))
    }

    /// The hosts that have a key which opens what these keys open; `None` where the cluster shares none of them.
    pub fn with_one_of<'k>(&self, keys: impl Iterator<Item = &'k KeyName>) -> Option<Vec<KeyHost>> {
        let ids = keys.filter_map(|key| key.to_key_id().ok());
        let primaries: Vec<Uuid> =
            ids.filter_map(|id| primary_of(&id)).filter(|primary| self.shared.contains(primary)).collect();
        if primaries.is_empty() {
            return None;
        }
        // One that wiped its keys has none; what is destroyed opens nothing.
        let hosts = self.status.hosts.iter().filter(|host| host.state != HostState::PresumedDestroyed);
        let hosts = hosts.filter(|host| host.keys.iter().any(|key| primaries.contains(key)));
        let host = |host: &crate::cluster::status::HostStatus| KeyHost {
            name: host.name.clone(),
            uuid: host.uuid,
            state: host.state.word(),
        };
        Some(hosts.map(host).collect())
    }

    /// Says of each component which hosts can open it.
    pub fn add_to(&self, found: &mut InUse) {
        for user in &mut found.components {
            user.hosts = self.with_one_of(user.keys.iter().chain(&user.other_keys));
        }
    }
}

/// Names of hosts in one line; those that are not ready with what they are.
pub fn describe(hosts: &[KeyHost]) -> String {
    let shown = |host: &KeyHost| match host.state {
        "ready" => host.name.clone(),
        state => format!("{} ({state})", host.name),
    };
    match hosts {
        [] => "no host".to_owned(),
        hosts => hosts.iter().map(shown).collect::<Vec<_>>().join(", "),
    }
}
