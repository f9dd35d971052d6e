//! What a host does with the newest document: it takes the keys that it lacks, seals those that it has to hosts that lack
//! them, wipes all of them when it was removed, and says what it has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Session;
use super::board::Key;
use super::host::Said;
use super::kept::KeptEnvelopes;
use super::kept_keks::KeptKeksFile;
use super::push::PushRole;
use crate::crypto::derive::sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{
    Ack, Document, Envelope, EnvelopeFor, Generation, Member, MemberState, Name, PushedProvider, SharedProvider,
};
use crate::key::ProviderName;
use crate::provider::shared_key::{self, SharedKey};
use crate::timestamp::Timestamp;

/// Most envelopes of a generation that are listed: more than a document has members.
const MAX_LISTED: usize = 8192;

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
    /// Keys by which this host makes new ones from now on.
    pub made_current: Vec<(ProviderName, Uuid)>,
    /// Keys that it has wiped.
    pub wiped: Vec<(ProviderName, Uuid)>,
    /// Whether the guests of this host have to end as well.
    pub evicted: bool,
    /// Providers with which something went wrong.
    pub failed: Vec<(ProviderName, Error)>,
    /// Why the host could not say on the board what it has now. What was done is done nevertheless.
    pub unsaid: Option<Error>,
}

/// Where a host keeps the primary keys that its cluster shares.
pub trait SharedKeys {
    /// Work for the host of this UUID begins. Keys that came to it under another UUID, before it joined again, are forgotten.
    fn begin(&self, _host: Uuid) {}

    /// The key of a generation of a shared provider, if the host has it.
    ///
    /// # Errors
    /// Those of reading it; `Exists` when the host has another one under that name.
    fn held(&self, cluster: Uuid, shared: &SharedProvider, generation: &Generation) -> Result<Option<Arc<SharedKey>>>;

    /// Keeps a key that came in this envelope: as the current one where there is none, else as one that only opens.
    ///
    /// # Errors
    /// Those of writing it.
    fn keep(&self, place: &EnvelopeFor<'_>, shared: &SharedProvider, key: SharedKey, envelope: &[u8]) -> Result<()>;

    /// Makes and keeps the key of the next generation. One that was made by an attempt which did not end in a document is taken.
    ///
    /// # Errors
    /// Those of writing it.
    fn next(&self, shared: &SharedProvider) -> Result<Arc<SharedKey>>;

    /// Makes new keys by this generation, which is here, unless that is done already by a newer one. Returns whether that is a change.
    ///
    /// # Errors
    /// Those of writing it.
    fn make_current(&self, shared: &SharedProvider, generation: &Generation) -> Result<bool>;

    /// The primary key by which new keys are made, if it is here.
    ///
    /// # Errors
    /// Those of reading it.
    fn current(&self, shared: &SharedProvider) -> Result<Option<Uuid>>;

    /// Destroys the key of a generation of a shared provider. Returns whether there was one.
    ///
    /// # Errors
    /// `Io`.
    fn wipe(&self, cluster: Uuid, shared: &SharedProvider, generation: &Generation) -> Result<bool>;

    /// Acts on a pushed provider as a host of this role has to. Returns whether the host is a keeper that is ready to seal its KEKs.
    ///
    /// # Errors
    /// What keeps a keeper from being ready, or a removed host from wiping its KEKs.
    fn act_on_pushed(&self, document: &Document, pushed: &PushedProvider, role: PushRole) -> Result<bool>;

    /// Wipes what came from the cluster and is not in its document any longer. Files of a host's own are not touched: they may be the last
    /// ones. Returns the providers with which that failed.
    fn forget_others(&self, _document: &Document) -> Vec<(ProviderName, Error)> {
        Vec::new()
    }
}

/// The files of native providers.
#[derive(Clone, Copy, Debug)]
pub struct KeyFiles<'a> {
    /// Configuration file.
    pub config: &'a Path,
}

impl SharedKeys for KeyFiles<'_> {
    fn held(&self, cluster: Uuid, shared: &SharedProvider, generation: &Generation) -> Result<Option<Arc<SharedKey>>> {
        Ok(SharedKey::held(self.config, cluster, shared, generation)?.map(Arc::new))
    }

    fn keep(&self, _: &EnvelopeFor<'_>, shared: &SharedProvider, key: SharedKey, _: &[u8]) -> Result<()> {
        key.keep(self.config, shared)
    }

    fn next(&self, shared: &SharedProvider) -> Result<Arc<SharedKey>> {
        SharedKey::next(self.config, shared).map(Arc::new)
    }

    fn make_current(&self, shared: &SharedProvider, generation: &Generation) -> Result<bool> {
        shared_key::make_current(self.config, shared, generation)
    }

    fn current(&self, shared: &SharedProvider) -> Result<Option<Uuid>> {
        shared_key::current(self.config, shared)
    }

    fn wipe(&self, _: Uuid, shared: &SharedProvider, generation: &Generation) -> Result<bool> {
        // The envelope by which an agent would have it again when it begins.
        let was_kept = KeptEnvelopes::of(self.config).forget(&shared.name, generation.primary)?;
        Ok(shared_key::wipe(self.config, shared, generation)? || was_kept)
    }

    /// Without an agent a host seals no KEKs, and gets none. It wipes those that an agent kept.
    fn act_on_pushed(&self, _: &Document, _: &PushedProvider, role: PushRole) -> Result<bool> {
        if role == PushRole::Removed {
            KeptKeksFile::of(self.config).wipe()?;
        }
        Ok(false)
    }
}

/// What a host is in its cluster.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
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

    /// Whether this host was removed, and its guests have to end as well.
    pub fn is_evicted(&self) -> bool {
        self.own().is_some_and(|own| own.removal.evicted)
    }

    /// Does what the newest document asks of this host, whose keys are in the files of native providers.
    pub fn exchange(&self) -> Exchanged {
        self.exchange_with(&KeyFiles { config: &self.config }, &|_| Ok(()), Duration::ZERO)
    }

    /// Does what the newest document asks of this host. Trouble with one provider does not stop the others. What the host has
    /// acknowledged is written again if something of it has changed, or it is older than `renew`.
    ///
    /// A member keeps a retired key that `refuse_needed` refuses, and goes on saying that it has it. A host that was removed wipes all.
    pub fn exchange_with(
        &self,
        keys: &dyn SharedKeys,
        refuse_needed: &dyn Fn(Uuid) -> Result<()>,
        renew: Duration,
    ) -> Exchanged {
        let (standing, epoch) = (self.standing(), self.document().epoch);
        let mut done = Exchanged {
            standing,
            epoch,
            received: Vec::new(),
            sent: Vec::new(),
            awaited: Vec::new(),
            made_current: Vec::new(),
            wiped: Vec::new(),
            evicted: self.is_evicted(),
            failed: Vec::new(),
            unsaid: None,
        };
        keys.begin(self.identity.uuid);
        if standing == Standing::Pending {
            return done;
        }
        self.remember_wiped();
        done.failed.extend(keys.forget_others(self.document()));
        let mut holds = Vec::new();
        for shared in &self.document().providers {
            if let Err(error) = self.act_on(keys, refuse_needed, shared, &mut done, &mut holds) {
                done.failed.push((shared.name.clone(), error));
            }
        }
        self.act_on_all_pushed(keys, &mut done, &mut holds);
        if standing == Standing::Active && self.said().is_none_or(|said| said.epoch < epoch) {
            self.tidy();
        }
        holds.sort();
        let mut makes = Vec::new();
        if self.document().version() > 1 {
            // One that is damaged is told above, and makes nothing.
            let current = |shared| keys.current(shared).ok().flatten();
            makes
                .extend(self.document().providers.iter().filter_map(current).filter(|primary| holds.contains(primary)));
        }
        makes.sort();
        done.unsaid = self.acknowledge(holds, makes, renew).err();
        done
    }

    /// Adds to `holds` the pushed providers whose KEKs this host is ready to seal, or could not wipe.
    fn act_on_all_pushed(&self, keys: &dyn SharedKeys, done: &mut Exchanged, holds: &mut Vec<Uuid>) {
        let document = self.document();
        for pushed in &document.pushed {
            let Some(role) = PushRole::of(document, pushed, self.identity.uuid) else { continue };
            let acted = keys.act_on_pushed(document, pushed, role);
            if acted.as_ref().map_or(role == PushRole::Removed, |is_ready| *is_ready) {
                holds.push(pushed.uuid);
            }
            if let Err(error) = acted {
                done.failed.push((pushed.name.clone(), error));
            }
        }
    }

    /// Adds to `holds` the keys of a provider that this host has after it, or may have, as they could not be wiped or are still needed. Trouble with one
    /// of them does not stop the others.
    fn act_on(
        &self,
        keys: &dyn SharedKeys,
        refuse_needed: &dyn Fn(Uuid) -> Result<()>,
        shared: &SharedProvider,
        done: &mut Exchanged,
        holds: &mut Vec<Uuid>,
    ) -> Result<()> {
        let mut trouble = None;
        let is_member = done.standing == Standing::Active;
        let mut held = Vec::new();
        for generation in shared.in_use().filter(|_| is_member) {
            match self.take_and_give(keys, shared, generation, done) {
                Ok(true) => held.push(generation),
                Ok(false) => {}
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        let newest = held.last().map(|generation| generation.primary);
        let is_made_by_newest = newest.is_some() && keys.current(shared).is_ok_and(|current| current == newest);
        if !is_made_by_newest && let Some(wanted) = self.newest_that_may_be_used(shared, &held) {
            match keys.make_current(shared, wanted) {
                Ok(true) => done.made_current.push((shared.name.clone(), wanted.primary)),
                Ok(false) => {}
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        for generation in shared.generations.iter().filter(|generation| !is_member || generation.retired.is_some()) {
            let may_have = is_member && !self.said_to_have_no_more(generation);
            let allowed = if may_have { refuse_needed(generation.primary) } else { Ok(()) };
            match allowed.and_then(|()| keys.wipe(self.membership.cluster, shared, generation)) {
                Ok(true) => done.wiped.push((shared.name.clone(), generation.primary)),
                Ok(false) => {}
                Err(error) => {
                    holds.push(generation.primary);
                    trouble = trouble.or(Some(error));
                }
            }
        }
        holds.extend(held.iter().map(|generation| generation.primary));
        trouble.map_or(Ok(()), Err)
    }

    /// A key is used for new VMs once all hosts say that they have it; the oldest one always is.
    fn newest_that_may_be_used<'g>(&self, shared: &SharedProvider, held: &[&'g Generation]) -> Option<&'g Generation> {
        let oldest = shared.in_use().next()?.primary;
        let others = || self.document().active().filter(|other| other.host.uuid != self.identity.uuid);
        let all_have = |primary: Uuid| others().all(|other| self.says_to_have(other, primary));
        held.iter().rev().find(|generation| generation.primary == oldest || all_have(generation.primary)).copied()
    }

    /// Returns whether this host has the key after it.
    fn take_and_give(
        &self,
        keys: &dyn SharedKeys,
        shared: &SharedProvider,
        generation: &Generation,
        done: &mut Exchanged,
    ) -> Result<bool> {
        let cluster = self.membership.cluster;
        let held = || keys.held(cluster, shared, generation);
        let key = match held()? {
            Some(key) => key,
            None if self.receive(keys, shared, generation)? => {
                done.received.push((shared.name.clone(), generation.primary));
                held()?.ok_or_else(|| Error::new(Kind::Io, "the key that was received is gone again"))?
            }
            None => {
                done.awaited.push(shared.name.clone());
                return Ok(false);
            }
        };
        // One look at all names, not one at each: most envelopes are there.
        let under = format!("envelope/{}/{}", shared.name, generation.primary);
        let listed = self.board.list(&under, MAX_LISTED).ok().filter(|names| names.len() < MAX_LISTED);
        let is_there = |place: &Key| match &listed {
            Some(names) => Ok(names.binary_search(place).is_ok()),
            None => self.board.read(place).map(|record| record.is_some()),
        };
        for other in self.document().active().filter(|other| other.host.uuid != self.identity.uuid) {
            let place = Key::envelope(&self.place(shared, generation, other.host.uuid));
            if is_there(&place)? || self.says_to_have(other, generation.primary) {
                continue;
            }
            if !self.board.write_if_unchanged(&place, None, &key.seal(cluster, &other.host)?.encode())? {
                break; // another host is doing the same, and was faster: what it leaves out is left for the next time
            }
            done.sent.push((shared.name.clone(), other.host.name.clone()));
        }
        Ok(true)
    }

    /// Whether a primary key lies on the board, sealed to a host.
    pub(super) fn is_sealed_to(&self, shared: &SharedProvider, generation: &Generation, host: Uuid) -> bool {
        let place = Key::envelope(&self.place(shared, generation, host));
        self.board.read(&place).is_ok_and(|envelope| envelope.is_some())
    }

    /// What this host has acknowledged, if that is on the board.
    pub(super) fn said(&self) -> Option<Ack> {
        self.own().and_then(|own| self.ack_of(own).ok().flatten())
    }

    /// Whether this host has said, since a generation was retired, that it does not have its key.
    fn said_to_have_no_more(&self, generation: &Generation) -> bool {
        let since = |said: &Ack| generation.retired.is_some_and(|retired| said.epoch >= retired);
        self.said().is_some_and(|said| since(&said) && !said.holds.contains(&generation.primary))
    }

    /// What a host did not sign counts for nothing: then it gets the key once more.
    pub(super) fn says_to_have(&self, member: &Member, primary: Uuid) -> bool {
        self.ack_of(member).is_ok_and(|ack| ack.is_some_and(|ack| ack.holds.contains(&primary)))
    }

    /// The same of one by which it makes new keys.
    pub(super) fn says_to_make(&self, member: &Member, primary: Uuid) -> bool {
        self.ack_of(member).is_ok_and(|ack| ack.is_some_and(|ack| ack.makes.contains(&primary)))
    }

    fn receive(&self, keys: &dyn SharedKeys, shared: &SharedProvider, generation: &Generation) -> Result<bool> {
        let place = self.place(shared, generation, self.identity.uuid);
        let key = Key::envelope(&place);
        let Some(bytes) = self.board.read(&key)? else { return Ok(false) };
        let received = Envelope::decode(&bytes)
            .and_then(|envelope| SharedKey::open(&place, &generation.check, &envelope, &self.identity.seal));
        if let Err(error) = &received
            && matches!(error.kind(), Kind::Corrupt | Kind::KeyRejected)
        {
            self.board.remove(&key)?; // so that a host that has the key leaves a good one
        }
        let key = received.context(|| format!("the envelope of provider {} for this host", shared.name))?;
        keys.keep(&place, shared, key, &bytes).map(|()| true)
    }

    fn acknowledge(&self, holds: Vec<Uuid>, makes: Vec<Uuid>, renew: Duration) -> Result<()> {
        let ack = Ack {
            cluster: self.membership.cluster,
            host: self.identity.uuid,
            epoch: self.document().epoch,
            document: self.view.hash,
            time: Timestamp::now(),
            holds,
            makes,
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
        let bytes = ack.encode(&self.identity.sign)?;
        let record = HEXLOWER.encode(&sha256(&bytes));
        let last = self.files.said()?;
        let by_another = last.as_ref().is_some_and(|last| self.is_by_another(last, before.as_deref()));
        let former = last.map_or_else(|| record.clone(), |last| last.records[0].clone());
        let time = ack.time.since_1970().as_secs();
        self.files.keep_said(&Said { epoch: ack.epoch, time, records: [record, former] })?;
        let written = self.board.write_if_unchanged(&key, before.as_deref(), &bytes)?;
        match written && !by_another {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Busy,
                format!(
                    "another host acknowledges as this one, {}: a disk was cloned after it had joined, or this host was put back to an \
                     older state. If this goes on, remove the host, and let each of the two join under a name of its own",
                    self.membership.host_name
                ),
            )),
        }
    }

    /// Whether this record was signed with this host's key, and not by this host: it is none of those that it wrote last, and not older.
    fn is_by_another(&self, last: &Said, record: Option<&[u8]>) -> bool {
        let Some((record, own)) = record.zip(self.own()) else { return false };
        let is_later = |ack: Ack| (ack.epoch, ack.time.since_1970().as_secs()) >= (last.epoch, last.time);
        !last.records.contains(&HEXLOWER.encode(&sha256(record)))
            && Ack::decode(record, self.membership.cluster, &own.host).is_ok_and(is_later)
    }

    fn place<'a>(&self, shared: &'a SharedProvider, generation: &Generation, host: Uuid) -> EnvelopeFor<'a> {
        let cluster = self.membership.cluster;
        EnvelopeFor { cluster, provider: &shared.name, primary: generation.primary, host }
    }
}
