//! Keys for hosts that have attested: made and unwrapped by the top-level key, logged, and sealed to the host.

use std::sync::Arc;

use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::hpke;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::agent::Fault;
use vmcryptfs::provider::{ExportedKek, KeyProvider, NewKey};

use super::entry::{What, key_digest};
use super::log::Log;
use super::record_refusal;
use super::token::{Admitted, Standing, Tokens};
use crate::trust_wire::{
    Blob, KeyPurpose, MAX_KEYS, NewKeys, Refusal, ReleasedKey, ReleasedKeys, SEALED_KEK, UnwrapKeys, sealed_to,
};

/// The top-level key.
pub struct TopKey {
    name: ProviderName,
    provider: Arc<dyn KeyProvider>,
}

impl TopKey {
    /// The keys of this provider.
    pub fn new(name: ProviderName, provider: Arc<dyn KeyProvider>) -> Self {
        Self { name, provider }
    }

    fn make(&self, request: Uuid, purpose: &KeyPurpose) -> Result<(KeyId, LocalKek)> {
        let new = NewKey { vm_name: purpose.vm_name.clone(), vm_uuid: purpose.vm_uuid };
        self.provider.create_exported(request, &new)
    }

    fn find(&self, key_id: &str) -> Result<(KeyId, LocalKek)> {
        let id = KeyId::new(self.name.clone(), key_id)?;
        let ExportedKek { kek, .. } = self.provider.export_key(&id)?;
        Ok((id, kek))
    }

    /// Makes a key, and finds it again.
    ///
    /// # Errors
    /// Those of the provider.
    pub fn try_out(&self) -> Result<()> {
        let vm_name = "vmcryptfs-authority health".into();
        let (id, made) = self
            .make(Uuid::nil(), &KeyPurpose { vm_name, vm_uuid: Uuid::nil() })
            .context(|| format!("provider {} makes no key", self.name))?;
        let (_, found) = self.find(id.id()).context(|| format!("provider {} does not find a key", self.name))?;
        match made.bytes() == found.bytes() {
            true => Ok(()),
            false => Err(Error::new(Kind::Corrupt, format!("provider {} gives another key than it made", self.name))),
        }
    }
}

/// A key that a host wants: the id that it asked for, if it had one, and the KEK with its id.
type Wanted = (Option<String>, Result<(KeyId, LocalKek)>);

/// What releases keys.
pub struct Release<'a> {
    /// The authority.
    pub authority: Uuid,
    /// Its top-level key.
    pub top: &'a TopKey,
    /// Whose tokens are taken.
    pub tokens: &'a Tokens,
    /// What tokens are good by.
    pub standing: Standing<'a>,
    /// Where each key is logged.
    pub log: &'a Log,
}

impl Release<'_> {
    /// Makes KEKs for a host.
    ///
    /// # Errors
    /// `Denied` for a token that is not good, `Invalid` for too many keys, `Io` when they cannot be logged.
    pub fn new_keys(&self, call: &NewKeys) -> Result<ReleasedKeys> {
        let host = self.admit(&call.token, call.keys.len())?;
        // A key server that keeps keys gives the same one to the same request: each key of a call is another one.
        let make = |(number, purpose): (usize, &KeyPurpose)| {
            let request = self.request_of(&host, call.request, number);
            (None, self.top.make(request, purpose))
        };
        let made: Vec<_> = call.keys.iter().enumerate().map(make).collect();
        let entry = |number: usize, key: String| {
            let vm = call.keys.get(number).map_or(Uuid::nil(), |purpose| purpose.vm_uuid);
            What::KeyMade { host: host.host(), key, vm, token: host.token() }
        };
        self.give(&host, call.request, made, entry)
    }

    /// Releases KEKs that were made before.
    ///
    /// # Errors
    /// `Denied` for a token that is not good, `Invalid` for too many keys, `Io` when they cannot be logged.
    pub fn unwrap_keys(&self, call: &UnwrapKeys) -> Result<ReleasedKeys> {
        let host = self.admit(&call.token, call.key_ids.len())?;
        let found: Vec<_> = call.key_ids.iter().map(|id| (Some(id.clone()), self.top.find(id))).collect();
        let entry = |_, key: String| What::KeyReleased { host: host.host(), key, token: host.token() };
        self.give(&host, call.request, found, entry)
    }

    fn admit(&self, token: &str, keys: usize) -> Result<Admitted> {
        let host = self.tokens.admit(token, self.standing);
        let host = host.inspect_err(|error| record_refusal(&Event::of(EventName::AuthorityRelease), error))?;
        match keys <= MAX_KEYS {
            true => Ok(host),
            false => Err(Error::new(Kind::Invalid, format!("{keys} keys in one call, expected at most {MAX_KEYS}"))),
        }
    }

    /// What a key server knows a request for one key by: another host cannot ask for the same.
    fn request_of(&self, host: &Admitted, request: Uuid, number: usize) -> Uuid {
        let number = u64::try_from(number).unwrap_or(u64::MAX).to_le_bytes();
        let name = [self.authority.as_bytes(), host.host().as_bytes(), request.as_bytes(), number.as_slice()].concat();
        let digest = sha256(&name);
        uuid::Builder::from_random_bytes(*digest.first_chunk().expect("a digest has over 16 bytes")).into_uuid()
    }

    /// Logs what is there, and seals it. What cannot be logged is not given.
    fn give(
        &self,
        host: &Admitted,
        request: Uuid,
        keys: Vec<Wanted>,
        entry: impl Fn(usize, String) -> What,
    ) -> Result<ReleasedKeys> {
        let there = keys.iter().enumerate().filter_map(|(number, (_, key))| Some((number, key.as_ref().ok()?)));
        let entries = there.map(|(number, (id, _))| entry(number, key_digest(id.id())).now());
        self.log.append(&entries.collect::<Result<Vec<_>>>()?)?;
        host.check(self.standing)?; // an administrator may have removed it since
        let seal = |(key_id, key): Wanted| {
            let sealed = key.and_then(|(id, kek)| self.seal(host, request, &id, &kek));
            record(host, &sealed);
            sealed.unwrap_or_else(|error| ReleasedKey::Refused { key_id, error: Refusal::of(&error, words(&error)) })
        };
        Ok(ReleasedKeys { keys: keys.into_iter().map(seal).collect() })
    }

    fn seal(&self, host: &Admitted, request: Uuid, id: &KeyId, kek: &LocalKek) -> Result<ReleasedKey> {
        let aad = sealed_to(self.authority, host.host(), request, id.id());
        let sealed = hpke::seal(host.public(), SEALED_KEK, &aad, kek.bytes())?;
        let (enc, ciphertext) = (Blob(sealed.enc.to_vec()), Blob(sealed.ciphertext));
        Ok(ReleasedKey::Key { key_id: id.id().to_owned(), enc, ciphertext })
    }
}

/// What a host is told of a key that it does not get. Where the key servers are, and what each of them said, is for the authority's own events.
fn words(error: &Error) -> String {
    let why = match (Fault::of(error), error.kind()) {
        (Some(Fault::Missing), _) => "the authority's key server does not have it",
        (Some(Fault::Denied), _) => "the authority's key server does not give it out",
        (Some(Fault::Destroyed), _) => "it was destroyed at the authority's key server",
        (Some(Fault::Server | Fault::Authority | Fault::Unattested), _) => {
            "the authority's key server gives no answer that helps"
        }
        (None, Kind::Io | Kind::ReadOnly) => return "the authority failed at this, and its events say why".to_owned(),
        (None, _) => return error.chain(),
    };
    vmcryptfs::text::one_line(&format!("{error}: {why}")).into_owned()
}

fn record(host: &Admitted, key: &Result<ReleasedKey>) {
    let mut event = Event::of(EventName::AuthorityRelease);
    event.uuid(host.host());
    match key {
        Ok(ReleasedKey::Key { key_id, .. }) => {
            event.reason(format!("host {}, key {}", host.name(), key_digest(key_id))).done();
        }
        Ok(ReleasedKey::Refused { .. }) => {} // what is sealed is a key
        Err(error) => record_refusal(&event, error),
    }
}

#[cfg(test)]
mod tests;
