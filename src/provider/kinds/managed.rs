//! The managed provider: the host's agent has the primary key of a provider that the hosts of a cluster share, and makes and gives
//! KEKs by it; or it gets the KEKs of a key server from a keeper. Nothing of it is on this host's disks but what is sealed to the host.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Table;
use toml::de::ValueDeserializer;

use crate::crypto::random;
use crate::error::Result;
use crate::key::{Kek, KeyId, ProviderName};
use crate::provider::agent::client::AgentClient;
use crate::provider::agent::keys::{AgentKeys, other_key};
use crate::provider::agent::{AgentStatus, Answer, Request};
use crate::provider::kind::{self, Arguments, Configured, ProviderKind, Tested, Usage};
use crate::provider::primary_key::primary_of;
use crate::provider::{KeyProvider, NewKey, Trouble, round_trip};

/// The kind.
#[derive(Debug)]
pub struct Managed;

const USAGE: Usage = Usage {
    about: "Add a provider whose primary key is in the memory of this host's agent",
    details: "Add a provider that the hosts of this host's cluster share, under the name that it has there. Its primary key is in the \
              memory of vmcryptfs-agent, which must run; no file of this host has it. The agent adds it by itself when it has \
              received the key of a provider that this host does not have.",
    example: "vmcryptfs provider add managed shared",
    arguments: &[],
};

/// Its section of the configuration file says no more than the kind.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl ProviderKind for Managed {
    fn name(&self) -> &'static str {
        "managed"
    }

    fn usage(&self) -> &'static Usage {
        &USAGE
    }

    fn parse(&self, section: ValueDeserializer<'_>) -> std::result::Result<Table, toml::de::Error> {
        kind::parse::<Settings>(section)
    }

    fn settings(&self, _: &ProviderName, _: &Arguments) -> Result<Table> {
        kind::table(&Settings {})
    }

    fn open(&self, provider: &Configured<'_>) -> Result<Arc<dyn KeyProvider>> {
        Ok(Arc::new(ManagedProvider::new(provider)?))
    }

    fn test(&self, provider: &Configured<'_>) -> Result<Tested> {
        let name = provider.name;
        let provider = ManagedProvider::new(provider)?;
        let (report, notices, is_pushed) = match provider.health() {
            Ok((report, status)) => (report, status.trouble, status.pushed.contains_key(name.as_str())),
            Err(error) => {
                return Ok(Tested { report: String::new(), notices: Vec::new(), outcome: Err(error) });
            }
        };
        let works = match is_pushed {
            true => provider.test_pushed(),
            false => round_trip(&provider)
                .map(|_| format!("{name}: works. A key was made, fetched again, and unwrapped what it had wrapped\n")),
        };
        let report = report + works.as_deref().unwrap_or_default();
        Ok(Tested { report, notices, outcome: works.map(drop) })
    }

    fn has_keys_from_agent(&self) -> bool {
        true
    }

    /// What the agent calls it: the name, which is the same on all hosts.
    fn key_places(&self, provider: &Configured<'_>) -> Vec<String> {
        vec![provider.name.to_string()]
    }
}

/// Asks the agent for KEKs.
struct ManagedProvider {
    keys: AgentKeys,
}

impl ManagedProvider {
    fn new(provider: &Configured<'_>) -> Result<Self> {
        let (name, agent) = (provider.name.clone(), AgentClient::of(provider.config)?);
        Ok(Self { keys: AgentKeys { name, agent } })
    }

    /// What the agent says of itself, in words and as it is.
    fn health(&self) -> Result<(String, AgentStatus)> {
        let hello = self.keys.agent.hello()?;
        let Answer::Status(status) = self.keys.agent.ask(&Request::Status)? else { return Err(other_key("no status")) };
        let mut report =
            format!("{}: the agent of {} answers, version {}\n", self.keys.name, hello.host, hello.version);
        if let (Some(cluster), Some(board)) = (&status.cluster, &status.board) {
            let epoch = status.epoch.map_or_else(|| "no document yet".into(), |epoch| format!("document {epoch}"));
            report += &format!("{}: it is in the cluster {cluster}, {epoch}, on {board}\n", self.keys.name);
        }
        Ok((report, status))
    }

    /// Proves that a keeper and its key server answer, by asking for a key that there is not: a new one would stay at the server.
    fn test_pushed(&self) -> Result<String> {
        let nowhere = KeyId::new(self.keys.name.clone(), format!("vmcryptfs-test-{}", random::uuid()?))?;
        match self.fetch_key(&nowhere) {
            Err(error) if matches!(Trouble::of(&error), Some(Trouble::Missing | Trouble::Denied)) => Ok(format!(
                "{}: works. A keeper has asked its key server, and given the answer to this host\n",
                self.keys.name
            )),
            Err(error) => Err(error),
            Ok(_) => Err(other_key(&format!("key {nowhere}"))),
        }
    }
}

impl KeyProvider for ManagedProvider {
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.keys.create(purpose)
    }

    fn prepare(&self, key_ids: &[KeyId]) {
        self.keys.prepare(key_ids);
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        self.keys.fetch(key_id)
    }

    fn is_superseded(&self, key_id: &KeyId) -> Result<bool> {
        let (_, status) = self.health()?;
        let current = status.holds.get(self.keys.name.as_str());
        Ok(current.is_some_and(|current| primary_of(key_id).is_ok_and(|primary| primary != *current)))
    }
}
