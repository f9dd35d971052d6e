//! The managed provider: the host's agent has the primary key of a provider that the hosts of a cluster share, and makes and gives
//! KEKs by it; or it gets the KEKs of a key server from a keeper. Nothing of it is on this host's disks but what is sealed to the host.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Table;
use toml::de::ValueDeserializer;

use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::{Dek, Kek, KeyCheck, KeyId, KeyName, ProviderName, WrappedDek};
use crate::provider::agent::client::{AgentClient, AgentKek};
use crate::provider::agent::{AgentStatus, Answer, Purpose, Request};
use crate::provider::kind::{self, Arguments, Configured, ProviderKind, Tested, Usage};
use crate::provider::primary_key::primary_of;
use crate::provider::{Failure, KeyProvider, KeyState, NewKey, Trouble, round_trip};

/// Most keys of one request, so that it stays a short message.
const MAX_PREPARED: usize = 1024;

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
        let AgentKek { id, kek, wraps } = self.agent.kek(request)?;
        if *id.provider() != self.name {
            return Err(other_key(&format!("key {id}")));
        }
        let kek: Arc<dyn Kek> = match wraps {
            true => Arc::new(kek),
            false => Arc::new(UnwrapsOnly { id: id.clone(), kek }),
        };
        Ok((id, kek))
    }

    /// Proves that a keeper and its key server answer, by asking for a key that there is not: a new one would stay at the server.
    fn test_pushed(&self) -> Result<String> {
        let nowhere = KeyId::new(self.name.clone(), format!("vmcryptfs-test-{}", random::uuid()?))?;
        match self.fetch_key(&nowhere) {
            Err(error) if matches!(Trouble::of(&error), Some(Trouble::Missing | Trouble::Denied)) => Ok(format!(
                "{}: works. A keeper has asked its key server, and given the answer to this host\n",
                self.name
            )),
            Err(error) => Err(error),
            Ok(_) => Err(other_key(&format!("key {nowhere}"))),
        }
    }
}

/// A KEK that is not active at its key server.
struct UnwrapsOnly {
    id: KeyId,
    kek: LocalKek,
}

impl Kek for UnwrapsOnly {
    fn wrap(&self, _: &Dek) -> Result<WrappedDek> {
        let failure =
            Failure::new(Trouble::State(KeyState::Unknown), "its keeper says that it is not active at the key server");
        Err(failure.into_error(format!("key {} wraps nothing new: only active keys do", self.id)))
    }

    fn unwrap(&self, wrapped: &WrappedDek) -> Result<Dek> {
        self.kek.unwrap(wrapped)
    }

    fn check(&self) -> Result<KeyCheck> {
        self.kek.check()
    }
}

impl KeyProvider for ManagedProvider {
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        let NewKey { vm_name, vm_uuid } = purpose.clone();
        let purpose = Purpose { request: random::uuid()?, vm_name, vm_uuid };
        self.kek(&Request::CreateKey { provider: self.name.to_string(), purpose })
    }

    fn prepare(&self, key_ids: &[KeyId]) {
        for keys in key_ids.chunks(MAX_PREPARED) {
            // What cannot be prepared is said when it is fetched.
            let _ = self.agent.ask(&Request::Prepare { keys: keys.iter().map(KeyName::of).collect() });
        }
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
