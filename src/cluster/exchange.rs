//! What a host does with the newest document: it takes the keys that it lacks, seals those that it has to hosts that lack
//! them, wipes all of them when it was removed, and says what it has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Session;
use super::board::Key;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Ack, Envelope, EnvelopeFor, Member, MemberState, Name, SharedProvider};
use crate::key::ProviderName;
use crate::provider::shared_key::SharedKey;
use crate::timestamp::Timestamp;

/// What an exchange has done.
#[derive(Debug)]
pub struct Exchanged {
    /// What this host is in the cluster.
    pub standing: Standing,
    /// The document that it has acted on.
    pub epoch: u64,
    /// Keys that it took from the board.
    pub received: Vec<(ProviderName, Uuid)>,
    /// Keys that it left on the board, and for which hosts.
    pub sent: Vec<(ProviderName, Name)>,
    /// Providers whose keys no host has left for it yet.
    pub awaited: Vec<ProviderName>,
    /// Keys that it has wiped.
    pub wiped: Vec<(ProviderName, Uuid)>,
    /// Providers with which something went wrong.
    pub failed: Vec<(ProviderName, Error)>,
}

/// Where a host keeps the primary keys that its cluster shares.
pub trait SharedKeys {
    /// The key of a shared provider, if the host has it.
    ///
    /// # Errors
    /// Those of reading it; `Exists` when the host has another one under that name.
    fn held(&self, cluster: Uuid, shared: &SharedProvider) -> Result<Option<Arc<SharedKey>>>;

    /// Keeps a key that came in this envelope.
    ///
    /// # Errors
    /// Those of writing it.
    fn keep(&self, place: &EnvelopeFor<'_>, shared: &SharedProvider, key: SharedKey, envelope: &[u8]) -> Result<()>;

    /// Destroys the key of a shared provider. Returns whether there was one.
    ///
    /// # Errors
    /// `Io`.
    fn wipe(&self, cluster: Uuid, shared: &SharedProvider) -> Result<bool>;
}

/// The files of native providers.
#[derive(Clone, Copy, Debug)]
pub struct KeyFiles<'a> {
    /// Configuration file.
    pub config: &'a Path,
}

impl SharedKeys for KeyFiles<'_> {
    fn held(&self, cluster: Uuid, shared: &SharedProvider) -> Result<Option<Arc<SharedKey>>> {
        Ok(SharedKey::held(self.config, cluster, shared)?.map(Arc::new))
    }

    fn keep(&self, _: &EnvelopeFor<'_>, _: &SharedProvider, key: SharedKey, _: &[u8]) -> Result<()> {
        key.install(self.config).map(drop)
    }

    fn wipe(&self, cluster: Uuid, shared: &SharedProvider) -> Result<bool> {
        let Some(key) = SharedKey::held(self.config, cluster, shared)? else { return Ok(false) };
        key.wipe().map(|()| true)
    }
}

/// What a host is in its cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It has asked to join, and no admin has approved it yet.
    Pending,
    /// A member.
    Active,
    /// It was removed.
    Removed,
}

impl Session {
    /// What this host is in its cluster.
    pub fn standing(&self) -> Standing {
        match self.own().map(|own| own.state) {
            None => Standing::Pending,
            Some(MemberState::Active) => Standing::Active,
            Some(MemberState::Removed) => Standing::Removed,
        }
    }

    /// Does what the newest document asks of this host, whose keys are in the files of native providers.
    ///
    /// # Errors
    /// Those of [`exchange_with`](Self::exchange_with).
    pub fn exchange(&self) -> Result<Exchanged> {
        self.exchange_with(&KeyFiles { config: &self.config }, Duration::ZERO)
    }

    /// Does what the newest document asks of this host. Trouble with one provider does not stop the others. What the host has
    /// acknowledged is written again if something of it has changed, or it is older than `renew`.
    ///
    /// # Errors
    /// Those of the board when it cannot be written to.
    pub fn exchange_with(&self, keys: &dyn SharedKeys, renew: Duration) -> Result<Exchanged> {
        let (standing, epoch) = (self.standing(), self.document().epoch);
        let mut done = Exchanged {
            standing,
            epoch,
            received: Vec::new(),
            sent: Vec::new(),
            awaited: Vec::new(),
            wiped: Vec::new(),
            failed: Vec::new(),
        };
        if standing == Standing::Pending {
            return Ok(done);
        }
        let mut holds = Vec::new();
        for shared in &self.document().providers {
            let went = match standing {
                Standing::Removed => self.wipe(keys, shared, &mut done),
                Standing::Active | Standing::Pending => self.take_and_give(keys, shared, &mut done),
            };
            match went {
                Ok(true) => holds.push(shared.primary),
                Ok(false) => {}
                Err(error) => done.failed.push((shared.name.clone(), error)),
            }
        }
        holds.sort();
        self.acknowledge(holds, renew)?;
        Ok(done)
    }

    /// Returns whether this host has the key after it.
    fn take_and_give(&self, keys: &dyn SharedKeys, shared: &SharedProvider, done: &mut Exchanged) -> Result<bool> {
        let cluster = self.membership.cluster;
        let key = match keys.held(cluster, shared)? {
            Some(key) => key,
            None if self.receive(keys, shared)? => {
                done.received.push((shared.name.clone(), shared.primary));
                keys.held(cluster, shared)?
                    .ok_or_else(|| Error::new(Kind::Io, "the key that was received is gone again"))?
            }
            None => {
                done.awaited.push(shared.name.clone());
                return Ok(false);
            }
        };
        for other in self.document().active().filter(|other| other.host.uuid != self.identity.uuid) {
            let place = Key::envelope(&self.place(shared, other.host.uuid));
            if self.board.read(&place)?.is_none()
                && !self.says_to_have(other, shared.primary)
                && self.board.write_if_unchanged(&place, None, &key.seal(cluster, &other.host)?.encode())?
            {
                done.sent.push((shared.name.clone(), other.host.name.clone()));
            }
        }
        Ok(true)
    }

    /// What a host did not sign counts for nothing: then it gets the key once more.
    fn says_to_have(&self, member: &Member, primary: Uuid) -> bool {
        self.ack_of(member).is_ok_and(|ack| ack.is_some_and(|ack| ack.holds.contains(&primary)))
    }

    fn receive(&self, keys: &dyn SharedKeys, shared: &SharedProvider) -> Result<bool> {
        let place = self.place(shared, self.identity.uuid);
        let key = Key::envelope(&place);
        let Some(bytes) = self.board.read(&key)? else { return Ok(false) };
        let received = Envelope::decode(&bytes)
            .and_then(|envelope| SharedKey::open(&place, &shared.check, &envelope, &self.identity.seal));
        if let Err(error) = &received
            && matches!(error.kind(), Kind::Corrupt | Kind::KeyRejected)
        {
            self.board.remove(&key)?; // so that a host that has the key leaves a good one
        }
        let key = received.context(|| format!("the envelope of provider {} for this host", shared.name))?;
        keys.keep(&place, shared, key, &bytes).map(|()| true)
    }

    /// Returns whether this host has the key after it.
    fn wipe(&self, keys: &dyn SharedKeys, shared: &SharedProvider, done: &mut Exchanged) -> Result<bool> {
        if keys.wipe(self.membership.cluster, shared)? {
            done.wiped.push((shared.name.clone(), shared.primary));
        }
        Ok(false)
    }

    fn acknowledge(&self, holds: Vec<Uuid>, renew: Duration) -> Result<()> {
        let ack = Ack {
            cluster: self.membership.cluster,
            host: self.identity.uuid,
            epoch: self.document().epoch,
            document: self.view.hash,
            time: Timestamp::now(),
            holds,
        };
        let key = Key::ack(self.identity.uuid);
        let before = self.board.read(&key)?;
        let own = || Ack::decode(before.as_deref()?, ack.cluster, &self.own()?.host).ok();
        let is_fresh = |said: Ack| {
            let age = ack.time.since_1970().checked_sub(said.time.since_1970());
            age.is_some_and(|age| age < renew) && Ack { time: ack.time, ..said } == ack
        };
        if own().is_some_and(is_fresh) {
            return Ok(());
        }
        match self.board.write_if_unchanged(&key, before.as_deref(), &ack.encode(&self.identity.sign)?)? {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Busy,
                format!("another host writes {} at the same time: was this host cloned?", key.as_str()),
            )),
        }
    }

    fn place<'a>(&self, shared: &'a SharedProvider, host: Uuid) -> EnvelopeFor<'a> {
        EnvelopeFor { cluster: self.membership.cluster, provider: &shared.name, primary: shared.primary, host }
    }
}
