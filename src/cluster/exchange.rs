//! What a host does with the newest document: it takes the keys that it lacks, seals those that it has to hosts that lack
//! them, wipes all of them when it was removed, and says what it has.

use uuid::Uuid;

use super::Session;
use super::board::Key;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Ack, Envelope, EnvelopeFor, MemberState, Name, SharedProvider};
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

    /// Does what the newest document asks of this host. Trouble with one provider does not stop the others.
    ///
    /// # Errors
    /// Those of the board when it cannot be written to.
    pub fn exchange(&self) -> Result<Exchanged> {
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
                Standing::Removed => self.wipe(shared, &mut done),
                Standing::Active | Standing::Pending => self.take_and_give(shared, &mut done),
            };
            match went {
                Ok(true) => holds.push(shared.primary),
                Ok(false) => {}
                Err(error) => done.failed.push((shared.name.clone(), error)),
            }
        }
        holds.sort();
        self.acknowledge(holds)?;
        Ok(done)
    }

    /// Returns whether this host has the key after it.
    fn take_and_give(&self, shared: &SharedProvider, done: &mut Exchanged) -> Result<bool> {
        let cluster = self.membership.cluster;
        let held = || SharedKey::held(&self.config, cluster, shared);
        let key = match held()? {
            Some(key) => key,
            None if self.receive(shared)? => {
                done.received.push((shared.name.clone(), shared.primary));
                held()?.ok_or_else(|| Error::new(Kind::Io, "the key that was received is gone again"))?
            }
            None => {
                done.awaited.push(shared.name.clone());
                return Ok(false);
            }
        };
        for other in self.document().active().filter(|other| other.host.uuid != self.identity.uuid) {
            let place = Key::envelope(&self.place(shared, other.host.uuid));
            if self.board.read(&place)?.is_none()
                && self.board.write_if_unchanged(&place, None, &key.seal(cluster, &other.host)?.encode())?
            {
                done.sent.push((shared.name.clone(), other.host.name.clone()));
            }
        }
        Ok(true)
    }

    fn receive(&self, shared: &SharedProvider) -> Result<bool> {
        let place = self.place(shared, self.identity.uuid);
        let key = Key::envelope(&place);
        let Some(bytes) = self.board.read(&key)? else { return Ok(false) };
        let received = Envelope::decode(&bytes).and_then(|envelope| {
            SharedKey::receive(&self.config, &place, shared, &envelope, &self.identity.seal).map(|_| true)
        });
        if let Err(error) = &received
            && matches!(error.kind(), Kind::Corrupt | Kind::KeyRejected)
        {
            self.board.remove(&key)?; // so that a host that has the key leaves a good one
        }
        received.context(|| format!("the envelope of provider {} for this host", shared.name))
    }

    /// Returns whether this host has the key after it.
    fn wipe(&self, shared: &SharedProvider, done: &mut Exchanged) -> Result<bool> {
        if let Some(key) = SharedKey::held(&self.config, self.membership.cluster, shared)? {
            key.wipe()?;
            done.wiped.push((shared.name.clone(), shared.primary));
        }
        Ok(false)
    }

    fn acknowledge(&self, holds: Vec<Uuid>) -> Result<()> {
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
