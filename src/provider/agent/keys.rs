//! KEKs of a provider that the agent of this host gives.

use std::sync::Arc;

use super::client::{AgentClient, AgentKek};
use super::{Purpose, Request};
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::{Dek, Kek, KeyCheck, KeyId, KeyName, ProviderName, WrappedDek};
use crate::provider::{Failure, KeyState, NewKey, Trouble};

/// Most keys of one request, so that it stays a short message.
const MAX_PREPARED: usize = 1024;

/// Asks the agent for KEKs of a provider.
pub struct AgentKeys {
    /// The provider.
    pub name: ProviderName,
    /// The agent.
    pub agent: AgentClient,
}

impl AgentKeys {
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

    /// As [`KeyProvider::create_key`](crate::provider::KeyProvider::create_key).
    ///
    /// # Errors
    /// `KeyUnavailable` when the agent does not answer, and what it answers.
    pub fn create(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        let NewKey { vm_name, vm_uuid } = purpose.clone();
        let purpose = Purpose { request: random::uuid()?, vm_name, vm_uuid };
        self.kek(&Request::CreateKey { provider: self.name.to_string(), purpose })
    }

    /// Lets the agent get these keys together.
    pub fn prepare(&self, key_ids: &[KeyId]) {
        for keys in key_ids.chunks(MAX_PREPARED) {
            // What cannot be prepared is said when it is fetched.
            let _ = self.agent.ask(&Request::Prepare { keys: keys.iter().map(KeyName::of).collect() });
        }
    }

    /// As [`KeyProvider::fetch_key`](crate::provider::KeyProvider::fetch_key).
    ///
    /// # Errors
    /// `KeyUnavailable` when the agent does not answer, and what it answers.
    pub fn fetch(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        let (found, kek) = self.kek(&Request::FetchKey { key: KeyName::of(key_id) })?;
        match found == *key_id {
            true => Ok(kek),
            false => Err(other_key(&format!("key {found}"))),
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

/// The error of an answer that is of something else.
pub fn other_key(found: &str) -> Error {
    let failure = Failure::new(Trouble::Garbled, format!("{found}, which was not asked for"));
    Error::with_source(Kind::KeyUnavailable, "the agent of this host answered with something else", failure)
}
