//! Which hosts of this host's cluster can open what: by what each of them says of the keys that it has.

use std::path::Path;

use uuid::Uuid;

use crate::cluster::Session;
use crate::cluster::host::HostFiles;
use crate::cluster::status::{ClusterStatus, HostState, HostStatus};
use crate::error::Result;
use crate::key::{KeyId, KeyName, ProviderName};
use crate::vm::in_use::{InUse, KeyHost, primary_of};

/// What hosts say that they have.
#[derive(Debug)]
pub struct KeyHosts {
    status: ClusterStatus,
    /// Primary keys that the cluster shares.
    shared: Vec<Uuid>,
    /// Providers whose KEKs keepers push.
    pushed: Vec<ProviderName>,
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
        let pushed = session.document().pushed.iter().map(|pushed| pushed.name.clone()).collect();
        Ok(Some(Self { status: ClusterStatus::of(&session)?, shared, pushed }))
    }

    /// The hosts that have a key which opens what these keys open; `None` where the cluster shares none of them.
    pub fn with_one_of<'k>(&self, keys: impl Iterator<Item = &'k KeyName>) -> Option<Vec<KeyHost>> {
        let ids: Vec<KeyId> = keys.filter_map(|key| key.to_key_id().ok()).collect();
        let primaries: Vec<Uuid> =
            ids.iter().filter_map(primary_of).filter(|primary| self.shared.contains(primary)).collect();
        let is_pushed = ids.iter().any(|id| self.pushed.contains(id.provider()));
        if primaries.is_empty() && !is_pushed {
            return None;
        }
        // One that wiped its keys has none; what is destroyed opens nothing.
        let hosts = self.status.hosts.iter().filter(|host| host.state != HostState::PresumedDestroyed);
        // Keepers give the keys of their key server to each member.
        let may_ask = |host: &HostStatus| is_pushed && matches!(host.state, HostState::Ready | HostState::Behind);
        let hosts = hosts.filter(|host| may_ask(host) || host.keys.iter().any(|key| primaries.contains(key)));
        let host = |host: &HostStatus| KeyHost { name: host.name.clone(), uuid: host.uuid, state: host.state.word() };
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
