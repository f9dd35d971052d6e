//! The managed provider: the host's agent has the primary key of a provider that the hosts of a cluster share, and makes and gives
//! KEKs by it. Nothing of it is on this host's disks but what is sealed to the host.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Table;
use toml::de::ValueDeserializer;

use crate::error::{Error, Kind, Result};
use crate::key::{Kek, KeyId, KeyName, ProviderName};
use crate::provider::agent::client::AgentClient;
use crate::provider::agent::{AgentStatus, Answer, Request};
use crate::provider::kind::{self, Arguments, Configured, ProviderKind, Tested, Usage};
use crate::provider::primary_key::primary_of;
use crate::provider::{Failure, KeyProvider, NewKey, Trouble, round_trip};

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
        Ok(Arc::new(ManagedProvider { name: provider.name.clone(), agent: AgentClient::of(provider.config)? }))
    }

    fn test(&self, provider: &Configured<'_>) -> Result<Tested> {
        let name = provider.name;
        let provider = ManagedProvider { name: name.clone(), agent: AgentClient::of(provider.config)? };
        let (report, notices) = match provider.health() {
            Ok((report, status)) => (report, status.trouble),
            Err(error) => {
                return Ok(Tested { report: String::new(), notices: Vec::new(), outcome: Err(error) });
            }
        };
        let outcome = round_trip(&provider).map(drop);
        let works = match outcome {
            Ok(()) => format!("{name}: works. A key was made, fetched again, and unwrapped what it had wrapped\n"),
            Err(_) => String::new(),
        };
        Ok(Tested { report: report + &works, notices, outcome })
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
    name: ProviderName,
    agent: AgentClient,
}

impl ManagedProvider {
    /// What the agent says of itself, in words and as it is.
    fn health(&self) -> Result<(String, AgentStatus)> {
        let hello = self.agent.hello()?;
        let Answer::Status(status) = self.agent.ask(&Request::Status)? else { return Err(other_key("no status")) };
        let mut report = format!("{}: the agent of {} answers, version {}\n", self.name, hello.host, hello.version);
        if let (Some(cluster), Some(board)) = (&status.cluster, &status.board) {
            let epoch = status.epoch.map_or_else(|| "no document yet".into(), |epoch| format!("document {epoch}"));
            report += &format!("{}: it is in the cluster {cluster}, {epoch}, on {board}\n", self.name);
        }
        Ok((report, status))
    }

    fn kek(&self, request: &Request) -> Result<(KeyId, Arc<dyn Kek>)> {
        let (id, kek) = self.agent.kek(request)?;
        match *id.provider() == self.name {
            true => Ok((id, Arc::new(kek))),
            false => Err(other_key(&format!("key {id}"))),
        }
    }
}

impl KeyProvider for ManagedProvider {
    fn create_key(&self, _purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.kek(&Request::CreateKey { provider: self.name.to_string() })
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        let (found, kek) = self.kek(&Request::FetchKey { key: KeyName::of(key_id) })?;
        match found == *key_id {
            true => Ok(kek),
            false => Err(other_key(&format!("key {found}"))),
        }
    }

    fn is_superseded(&self, key_id: &KeyId) -> Result<bool> {
        let (_, status) = self.health()?;
        let current = status.holds.get(self.name.as_str());
        Ok(current.is_some_and(|current| primary_of(key_id).is_ok_and(|primary| primary != *current)))
    }
}

fn other_key(found: &str) -> Error {
    let failure = Failure::new(Trouble::Garbled, format!("{found}, which was not asked for"));
    Error::with_source(Kind::KeyUnavailable, "the agent of this host answered with something else", failure)
}
