//! A KEK that was fetched. It unwraps on its own; before it wraps, its state is asked for, since only active keys wrap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cluster::Cluster;
use super::seen::KmipSeen;
use super::state_within;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Result};
use crate::key::{Dek, Kek, KeyCheck, KeyId, SharedMemory, WrappedDek};
use crate::provider::{Failure, KeyState, Trouble};

/// How long a key that was active keeps wrapping while no member of its server answers.
const HOLDS: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an answer about the state is good for the one wrapping that it was asked for.
const PERMISSION: Duration = Duration::from_secs(10);
/// How long the state of such a key is waited for.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server gives that makes no keys at random.
pub(super) const NO_RANDOM: &str = "a key of 32 equal bytes";

/// Whether a key is one that anyone can guess. What such a key wrapped still opens: refusing it would protect nothing.
pub(super) fn is_constant(key: &[u8]) -> bool {
    key.iter().all(|byte| *byte == key[0])
}

/// A KEK in memory, and what is known of its state.
pub(super) struct KmipKek {
    id: KeyId,
    key: LocalKek,
    /// Whether the server's key is one that anyone can guess.
    is_constant: bool,
    cluster: Arc<Cluster>,
    /// When the server last said that it is active.
    active_at: Mutex<Option<Instant>>,
    /// When it was allowed to wrap without another question, once each time.
    permissions: Mutex<Vec<Instant>>,
    seen: Arc<KmipSeen>,
}

impl KmipKek {
    /// `active` says whether the key is known to be active as of now, and may wrap once.
    pub(super) fn new(
        id: KeyId,
        key: LocalKek,
        is_constant: bool,
        cluster: Arc<Cluster>,
        active: bool,
        seen: Arc<KmipSeen>,
    ) -> Self {
        let now = active.then(Instant::now);
        let permissions = Mutex::new(now.into_iter().collect());
        Self { id, key, is_constant, cluster, active_at: Mutex::new(now), permissions, seen }
    }

    /// Takes the permission of an earlier [`prepare_wrap`](Kek::prepare_wrap), if there is one.
    fn take_permission(&self) -> bool {
        let mut permissions = self.permissions.lock();
        permissions.retain(|given| given.elapsed() < PERMISSION);
        permissions.pop().is_some()
    }

    fn ask_state(&self) -> Result<()> {
        let known_active = self.active_at.lock().is_some_and(|at| at.elapsed() < HOLDS);
        let limit = if known_active { STATE_TIMEOUT } else { Duration::MAX };
        let id = &self.id;
        match state_within(&self.cluster, id.id(), limit) {
            Ok(KeyState::Active) => {
                *self.active_at.lock() = Some(Instant::now());
                Ok(())
            }
            Ok(state) => {
                *self.active_at.lock() = None;
                self.cluster.notices().add(format!("key {id} is {state}: what it wraps should get another key"));
                Err(Failure::new(Trouble::State(state), format!("the key is {state} on its server"))
                    .into_error(format!("key {id} wraps nothing new: only active keys do")))
            }
            Err(failure) if known_active && failure.trouble().is_of_server() => {
                let notice = format!("key {id} still wraps: it was active, and its server cannot be asked: {failure}");
                self.cluster.notices().add(notice);
                Ok(())
            }
            Err(failure) => Err(self.state_unknown(failure)),
        }
    }

    fn state_unknown(&self, failure: Failure) -> Error {
        failure.into_error(format!("key {} wraps nothing while its state is unknown", self.id))
    }
}

impl Kek for KmipKek {
    fn wrap(&self, dek: &Dek) -> Result<WrappedDek> {
        if self.is_constant {
            let what = format!("key {} wraps nothing", self.id);
            return Err(Failure::no_kek(NO_RANDOM).into_error(what));
        }
        if !self.take_permission() {
            self.ask_state()?;
        }
        self.key.wrap(dek)
    }

    fn unwrap(&self, wrapped: &WrappedDek) -> Result<Dek> {
        self.key.unwrap(wrapped)
    }

    fn check(&self) -> Result<KeyCheck> {
        self.key.check()
    }

    fn shared_memory(&self) -> Option<Arc<dyn SharedMemory>> {
        Some(Arc::clone(&self.seen) as _)
    }

    fn refresh_state(&self) {
        self.ask_state().ok(); // wrapping reports it
    }

    fn wraps_at_once(&self) -> bool {
        self.permissions.lock().iter().any(|given| given.elapsed() < PERMISSION)
    }

    fn prepare_wrap(&self) -> Result<()> {
        self.ask_state()?;
        self.permissions.lock().push(Instant::now());
        Ok(())
    }
}
