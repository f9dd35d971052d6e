//! The DEKs of a mount: which components are unlocked, and why the others are not.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{Header, Slot, UnverifiedHeader};
use crate::key::{Dek, Kek, KeyId};
use crate::provider::Providers;

/// Whether a component's DEK is in memory.
#[derive(Clone)]
pub enum LockState {
    /// It is.
    Unlocked(Arc<Dek>),
    /// It is not, and this is why.
    Locked {
        /// What could be done about it.
        kind: Kind,
        /// For people.
        reason: String,
        /// Whether someone asked for it: then it stays locked until someone asks for the opposite.
        by_command: bool,
    },
}

impl LockState {
    /// Whether the provider's return would unlock it.
    pub fn waits_for_provider(&self) -> bool {
        matches!(self, Self::Locked { kind: Kind::KeyUnavailable, by_command: false, .. })
    }
}

/// DEKs by component, and the providers to get more from.
pub struct Keyring {
    providers: RwLock<Arc<Providers>>,
    states: RwLock<HashMap<Uuid, LockState>>,
}

/// KEKs by name, or why one cannot be had.
pub type FetchedKeks = HashMap<KeyId, Result<Arc<dyn Kek>>>;

impl Keyring {
    /// An empty ring.
    pub fn new(providers: Providers) -> Self {
        Self { providers: RwLock::new(Arc::new(providers)), states: RwLock::default() }
    }

    /// Where the KEKs come from.
    pub fn providers(&self) -> Arc<Providers> {
        Arc::clone(&self.providers.read())
    }

    /// Reads the configuration of the providers anew.
    ///
    /// # Errors
    /// Those of [`Providers::load`]; the former ones stay then.
    pub fn reload_providers(&self) -> Result<()> {
        let reloaded = Providers::load(self.providers().config_path())?;
        *self.providers.write() = Arc::new(reloaded);
        Ok(())
    }

    /// Unlocks every component whose KEK can be had. Each KEK is fetched once, side by side; what stays locked keeps its
    /// reason.
    pub fn unlock_all<'h>(&self, headers: impl Iterator<Item = &'h UnverifiedHeader> + Clone) {
        let ids = headers.clone().flat_map(|header| header.claims().slots.iter().map(|slot| slot.key_id.clone()));
        let keks = self.providers().fetch_all(ids);
        for header in headers {
            let state = match unlock(header, &keks) {
                Ok(dek) => LockState::Unlocked(Arc::new(dek)),
                Err(error) => LockState::Locked { kind: error.kind(), reason: error.chain(), by_command: false },
            };
            self.states.write().insert(header.claims().uuid, state);
        }
    }

    /// The DEK that opens this header. Asks the providers only for components that were never seen, or whose key was
    /// changed by someone else.
    ///
    /// # Errors
    /// `KeyUnavailable` when the component is locked, with the reason; `KeyRejected` or `Corrupt` when its key or header are
    /// wrong.
    pub fn dek(&self, header: &UnverifiedHeader) -> Result<Arc<Dek>> {
        let uuid = header.claims().uuid;
        match self.state(uuid) {
            Some(LockState::Unlocked(dek)) if header.clone().verify(&dek).is_ok() => return Ok(dek),
            Some(LockState::Locked { kind, reason, .. }) => return Err(Error::new(kind, format!("locked: {reason}"))),
            Some(LockState::Unlocked(_)) | None => self.unlock_all(std::iter::once(header)),
        }
        match self.state(uuid) {
            Some(LockState::Unlocked(dek)) => Ok(dek),
            Some(LockState::Locked { kind, reason, .. }) => Err(Error::new(kind, format!("locked: {reason}"))),
            None => Err(Error::new(Kind::KeyUnavailable, "locked: its key was just removed")),
        }
    }

    /// Whether the component is unlocked, as far as known.
    pub fn state(&self, uuid: Uuid) -> Option<LockState> {
        self.states.read().get(&uuid).cloned()
    }

    /// Whether a component waits for its provider, rather than for a command or a repair.
    pub fn waits_for_provider(&self) -> bool {
        self.states.read().values().any(LockState::waits_for_provider)
    }

    /// Forgets a component's DEK.
    pub fn lock(&self, uuid: Uuid) {
        let reason = "by command: `vmcryptfs unlock` unlocks it".to_owned();
        let state = LockState::Locked { kind: Kind::KeyUnavailable, reason, by_command: true };
        self.states.write().insert(uuid, state);
    }

    /// Adds a component that was just made, with the key it was made with.
    pub fn insert(&self, uuid: Uuid, dek: Dek) {
        self.states.write().insert(uuid, LockState::Unlocked(Arc::new(dek)));
    }
}

/// Obtains the DEK of a header through any of its slots.
///
/// # Errors
/// `KeyUnavailable` when no slot's KEK can be had; `KeyRejected` when a provider gave a wrong KEK; `Corrupt` when a slot is
/// damaged or the header was changed. The message says it for every slot.
pub fn unlock(header: &UnverifiedHeader, keks: &FetchedKeks) -> Result<Dek> {
    let mut failures: Vec<Error> = Vec::new();
    for slot in &header.claims().slots {
        match unlock_slot(header, slot, keks) {
            Ok(dek) => return Ok(dek),
            Err(error) => failures.push(error),
        }
    }
    // The failure that says most about this component: being unable to ask says least.
    let kind = failures.iter().map(Error::kind).find(|&kind| kind != Kind::KeyUnavailable);
    let reasons: Vec<String> = failures.iter().map(Error::chain).collect();
    Err(Error::new(kind.unwrap_or(Kind::KeyUnavailable), reasons.join("; ")))
}

fn unlock_slot(header: &UnverifiedHeader, slot: &Slot, keks: &FetchedKeks) -> Result<Dek> {
    let kek = match keks.get(&slot.key_id) {
        Some(Ok(kek)) => kek,
        Some(Err(error)) => {
            return Err(Error::new(error.kind(), format!("key {} cannot be had: {}", slot.key_id, error.chain())));
        }
        None => return Err(Error::new(Kind::KeyUnavailable, format!("key {} was not fetched", slot.key_id))),
    };
    if kek.check()? != slot.check {
        return Err(Error::new(
            Kind::KeyRejected,
            format!("provider {:?} has another key under the id of {}", slot.key_id.provider().as_str(), slot.key_id),
        ));
    }
    let dek = kek.unwrap(&slot.wrapped).map_err(|error| {
        Error::with_source(
            Kind::Corrupt,
            format!("the key is right, but the slot of {} is damaged", slot.key_id),
            error,
        )
    })?;
    header.clone().verify(&dek)?;
    Ok(dek)
}

/// Wraps a new component's DEK by one KEK.
///
/// # Errors
/// `KeyUnavailable` when the KEK may not wrap any more.
pub fn slot_for(key_id: &KeyId, kek: &dyn Kek, dek: &Dek) -> Result<Slot> {
    Ok(Slot { key_id: key_id.clone(), check: kek.check()?, wrapped: kek.wrap(dek)? })
}

/// The KEK of a header's first slot, to wrap more keys of the same VM.
///
/// # Errors
/// As the provider's.
pub fn first_kek(header: &Header, providers: &Providers) -> Result<(KeyId, Arc<dyn Kek>)> {
    let slot = header.slots.first().ok_or_else(|| Error::new(Kind::Corrupt, "a header without key slots"))?;
    let kek = providers
        .provider(slot.key_id.provider())?
        .fetch_key(&slot.key_id)
        .context(|| format!("fetching key {}", slot.key_id))?;
    Ok((slot.key_id.clone(), kek))
}
