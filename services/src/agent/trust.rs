//! Trust authorities, as this host asks them: it enrols with its TPM, attests when it needs keys, and has KEKs made and unwrapped.
//!
//! A token is kept until it ends, the TPM begins again, or the authority refuses it. What was proved is in memory only.

mod client;
mod enrolled;
mod enrolment;
mod log;
mod machine;
mod pinned;
mod propose;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::crypto::random;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::agent::Purpose;
use vmcryptfs::provider::agent::trust::{TrustAnswer, TrustCall, TrustStatus};
use vmcryptfs::provider::config::Config;
use vmcryptfs::provider::kind::ProviderKind;
use vmcryptfs::provider::kinds::trusted::{Pin, Settings, Trusted};
use vmcryptfs::provider::{Failure, Trouble};

use client::{Asked, Failed, Members};
use enrolled::{Enrolled, EnrolledFiles};
use machine::Machine;
use session::Proved;

use crate::trust_wire::{KeyPurpose, MAX_KEYS, NewKeys, Refusal, ReleasedKeys, UnwrapKeys};

/// How long the members of an authority are asked for keys.
const KEYS_LIMIT: Duration = Duration::from_secs(10);
/// How long they are asked for one call of an enrolment, or of an attestation that an administrator wants.
const VERB_LIMIT: Duration = Duration::from_secs(30);
/// How long a key waits here that was got together with others.
const PREPARED_LIFE: Duration = Duration::from_secs(30);
/// For this long after no member answered they are not asked again.
const REPEATED: Duration = Duration::from_millis(500);
/// Keys that wait at once.
const MAX_PREPARED: usize = 4096;
/// Refusals of one minute that have events of their own.
const MAX_NAMED: u64 = 16;

/// The authorities of this host.
pub(super) struct Trust {
    config: PathBuf,
    machine: Machine,
    /// What was proved to each, by its key.
    sessions: Mutex<BTreeMap<Pin, Arc<Mutex<Session>>>>,
    prepared: Arc<Mutex<HashMap<KeyId, (LocalKek, Instant)>>>,
}

#[derive(Default)]
struct Session {
    proved: Option<Arc<Proved>>,
    /// Why the last attempt failed.
    trouble: Option<String>,
    /// When it failed, and how.
    failed: Option<(Instant, String, Failure)>,
}

impl Session {
    /// The error of an attempt that has failed since `begun`, or of a moment ago when no member answered: of many keys that are wanted
    /// together, one waits for the TPM and the members.
    fn may_try(&self, begun: Instant) -> Result<()> {
        let is_fresh = |when: Instant, failure: &Failure| {
            when >= begun || failure.trouble() == Trouble::AuthorityDown && when.elapsed() < REPEATED
        };
        match &self.failed {
            Some((when, text, failure)) if is_fresh(*when, failure) => {
                Err(Error::with_source(Kind::KeyUnavailable, text.clone(), failure.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Remembers what concerns others too.
    fn learn<T>(&mut self, asked: &Result<T>, concerns_others: fn(Trouble) -> bool) {
        let Err(error) = asked else {
            self.failed = None;
            return;
        };
        let failure = error.source().and_then(|cause| cause.downcast_ref::<Failure>());
        if let Some(failure) = failure.filter(|failure| concerns_others(failure.trouble())) {
            self.failed = Some((Instant::now(), error.to_string(), failure.clone()));
        }
    }
}

impl Trust {
    pub(super) fn of(config: &Path) -> Self {
        let (sessions, prepared) = (Mutex::default(), Arc::default());
        Self { config: config.to_path_buf(), machine: Machine::of(config), sessions, prepared }
    }

    /// The settings of a provider, if it is one of an authority.
    pub(super) fn settings(&self, name: &ProviderName) -> Result<Option<Settings>> {
        let config = Config::load(&self.config)?;
        let settings = config.providers().get(name).filter(|settings| settings.kind().name() == Trusted.name());
        settings.map(|settings| settings.read()).transpose()
    }

    /// Does what an administrator wants.
    pub(super) fn answer(&self, call: TrustCall) -> Result<TrustAnswer> {
        let authorities = match call {
            TrustCall::Enrol { token, name, ek_certificate } => {
                vec![self.enrol(&token, &name, ek_certificate.as_deref())?]
            }
            TrustCall::Attest => self.attest_at_all()?,
            TrustCall::Status => self.known()?.iter().map(|known| self.status_of(known)).collect(),
            TrustCall::Predict { running, next, set } => {
                return enrolment::predict(&self.machine, &running, &next, &set).map(TrustAnswer::Predicted);
            }
            TrustCall::Propose { set } => {
                return self.propose(&set).map(|proposed| TrustAnswer::Proposed { proposed });
            }
        };
        Ok(TrustAnswer::Authorities { authorities })
    }

    /// Makes a KEK of a provider.
    pub(super) fn make(&self, name: &ProviderName, settings: &Settings, purpose: Purpose) -> Result<(KeyId, LocalKek)> {
        let Purpose { request, vm_name, vm_uuid } = purpose;
        let keys = vec![KeyPurpose { vm_name, vm_uuid }];
        let made = self.ask(settings, &mut |members, known, proved| {
            let call = NewKeys { token: proved.token.clone(), request, keys: keys.clone() };
            let answer: ReleasedKeys = members.post("/v1/keys/new", &call)?;
            Ok(open_all(answer, known, proved, request, None))
        })?;
        let (id, kek) = only(made)?;
        Ok((KeyId::new(name.clone(), id)?, kek))
    }

    /// The KEK of this id.
    pub(super) fn find(&self, settings: &Settings, key_id: &KeyId) -> Result<LocalKek> {
        let prepared = self.prepared.lock().remove(key_id);
        if let Some((kek, _)) = prepared.filter(|(_, since)| since.elapsed() < PREPARED_LIFE) {
            return Ok(kek);
        }
        only(self.unwrap(settings, &[key_id.id().to_owned()])?).map(|(_, kek)| kek)
    }

    /// Gets keys that will be fetched, many with one call. What does not come is said when it is fetched.
    pub(super) fn prepare(&self, key_ids: &[KeyId]) -> Result<()> {
        let mut of_providers = BTreeMap::<&ProviderName, Vec<&KeyId>>::new();
        for key_id in key_ids {
            of_providers.entry(key_id.provider()).or_default().push(key_id);
        }
        for (name, ids) in of_providers {
            let Some(settings) = self.settings(name)?.filter(|_| ids.len() > 1) else { continue };
            for ids in ids.chunks(MAX_KEYS) {
                let texts: Vec<String> = ids.iter().map(|id| id.id().to_owned()).collect();
                let Ok(found) = self.unwrap(&settings, &texts) else { break };
                self.keep(ids, found)?;
            }
        }
        Ok(())
    }

    fn keep(&self, ids: &[&KeyId], found: Vec<Result<(String, LocalKek)>>) -> Result<()> {
        let now = Instant::now();
        let mut prepared = self.prepared.lock();
        for (id, found) in ids.iter().zip(found) {
            if let Ok((_, kek)) = found
                && prepared.len() < MAX_PREPARED
            {
                prepared.insert((*id).clone(), (kek, now));
            }
        }
        drop(prepared);
        let prepared = Arc::clone(&self.prepared);
        client::later(PREPARED_LIFE, move || {
            prepared.lock().retain(|_, (_, since)| since.elapsed() < PREPARED_LIFE);
        })
    }

    fn unwrap(&self, settings: &Settings, key_ids: &[String]) -> Result<Vec<Result<(String, LocalKek)>>> {
        let request = random::uuid()?;
        self.ask(settings, &mut |members, known, proved| {
            let call = UnwrapKeys { token: proved.token.clone(), request, key_ids: key_ids.to_vec() };
            let answer: ReleasedKeys = members.post("/v1/keys/unwrap", &call)?;
            Ok(open_all(answer, known, proved, request, Some(key_ids)))
        })
    }

    /// Makes a call with what was proved, or is proved now.
    fn ask<T>(&self, settings: &Settings, call: &mut dyn FnMut(&Members, &Enrolled, &Proved) -> Asked<T>) -> Result<T> {
        let (session, begun) = (self.session(settings.pin), Instant::now());
        session.lock().may_try(begun)?;
        let asked = self.ask_now(settings, begun, call);
        // What else is wrong with this call need not be with another one.
        session.lock().learn(&asked, |trouble| trouble == Trouble::AuthorityDown);
        asked
    }

    /// A token that is refused is not used any more.
    fn ask_now<T>(
        &self,
        settings: &Settings,
        begun: Instant,
        call: &mut dyn FnMut(&Members, &Enrolled, &Proved) -> Asked<T>,
    ) -> Result<T> {
        let members = Members::new(&settings.authority, settings.pin, KEYS_LIMIT)?;
        for is_last in [false, true] {
            let (known, proved, is_new) = self.proved(&members, settings.pin, begun)?;
            match call(&members, &known, &proved) {
                Err(Failed::Refused(Refusal { kind: Kind::Denied, .. })) if !is_new && !is_last => {
                    self.forget(known.pin, &proved)
                }
                done => return done.map_err(refused_host),
            }
        }
        Err(Error::new(Kind::Io, "an authority was asked twice without an answer"))
    }

    /// Another thread may have proved something else since.
    fn forget(&self, pin: Pin, refused: &Arc<Proved>) {
        let session = self.session(pin);
        let mut session = session.lock();
        session.proved = session.proved.take().filter(|proved| !Arc::ptr_eq(proved, refused));
    }

    fn session(&self, pin: Pin) -> Arc<Mutex<Session>> {
        Arc::clone(self.sessions.lock().entry(pin).or_default())
    }

    /// What was proved and is good; else this host attests. Threads wait for one that does, and have its error if it cannot.
    fn proved(&self, members: &Members, pin: Pin, begun: Instant) -> Result<(Enrolled, Arc<Proved>, bool)> {
        let session = self.session(pin);
        let mut session = session.lock();
        session.may_try(begun)?;
        let proved = self.proved_now(members, pin, &mut session);
        session.learn(&proved, |_| true); // before others have the lock
        proved
    }

    fn proved_now(&self, members: &Members, pin: Pin, session: &mut Session) -> Result<(Enrolled, Arc<Proved>, bool)> {
        // What is wrong with files may be mended at any time: a key that waits is asked for again.
        let known = self.known().map_err(|error| session::unattested(&error))?;
        let known = known.into_iter().find(|known| known.pin == pin).ok_or_else(|| {
            let text = "it has not enrolled at this provider's authority: `vmcryptfs trust enrol`";
            session::unattested(&Error::new(Kind::NotFound, text))
        })?;
        if let Some(proved) = &session.proved
            && proved.is_good(&self.machine).map_err(|error| session::unattested(&error))?
        {
            return Ok((known, Arc::clone(proved), false));
        }
        session.proved = None;
        let mut event = Event::of(EventName::TrustAttest);
        event.uuid(known.host);
        match self.attest(members, &known) {
            Ok(proved) => {
                let proved = Arc::new(proved);
                session.trouble = None;
                if let Some(now) = proved.now() {
                    event
                        .reason(format!("level {}, policy {}, authority {}", now.level, now.policy, known.authority))
                        .done();
                }
                session.proved = Some(Arc::clone(&proved));
                Ok((known, proved, true))
            }
            Err(error) => {
                event.failed_as_one_of(event.clone(), MAX_NAMED, &error);
                session.trouble = Some(error.chain());
                Err(error)
            }
        }
    }

    /// Attests, and sees that the authority's log goes on from where this host has seen it.
    fn attest(&self, members: &Members, known: &Enrolled) -> Result<Proved> {
        let proved = session::attest(members, known, &self.machine).map_err(refused_host)?;
        let files = EnrolledFiles::of(&self.config);
        let checkpoint = Some(log::newest(members, known)?);
        if checkpoint != known.checkpoint {
            let mut newer = known.clone();
            newer.checkpoint = checkpoint;
            files.store(&newer).map_err(|error| session::unattested(&error))?;
        }
        Ok(proved)
    }

    fn attest_at_all(&self) -> Result<Vec<TrustStatus>> {
        let all = self.known_anywhere()?;
        // One that does not answer keeps this host from none of the others.
        let mut outcome = Ok(());
        for known in &all {
            *self.session(known.pin).lock() = Session::default();
            let members = Members::new(&known.urls, known.pin, VERB_LIMIT)?;
            let attested = self.proved(&members, known.pin, Instant::now()).map(drop);
            outcome = outcome.and(attested.context(|| format!("authority {}", known.authority)));
        }
        outcome?;
        Ok(self.known()?.iter().map(|known| self.status_of(known)).collect())
    }

    /// Where this host has enrolled: at one authority at least.
    fn known_anywhere(&self) -> Result<Vec<Enrolled>> {
        let all = self.known()?;
        if all.is_empty() {
            let text = "this host has not enrolled at an authority: `vmcryptfs trust enrol`";
            return Err(Error::new(Kind::NotFound, text));
        }
        Ok(all)
    }

    fn known(&self) -> Result<Vec<Enrolled>> {
        EnrolledFiles::of(&self.config).load()
    }

    fn status_of(&self, known: &Enrolled) -> TrustStatus {
        let session = self.session(known.pin);
        let session = session.lock();
        let checkpoint = known.checkpoint.as_deref().and_then(|text| log::verified(known, text).ok());
        TrustStatus {
            authority: known.authority,
            urls: known.urls.clone(),
            pin: known.pin.to_string(),
            host: known.host,
            name: known.name.clone(),
            enrolled: known.state.word().to_owned(),
            endorsement_key: known.endorsement_key.clone(),
            log_entries: checkpoint.map(|checkpoint| checkpoint.size),
            attested: session.proved.as_ref().and_then(|proved| proved.now()),
            trouble: session.trouble.clone(),
        }
    }
}

/// The error of a call that an authority did not grant this host.
fn refused_host(failed: Failed) -> Error {
    match failed {
        Failed::Down(error) => error,
        Failed::Refused(Refusal { message, .. }) => {
            let failure = Failure::new(Trouble::Unattested, message);
            Error::with_source(Kind::KeyUnavailable, "the trust authority gives this host no keys", failure)
        }
    }
}

/// The KEKs of an answer, in the order of the key ids that were asked for.
fn open_all(
    answer: ReleasedKeys,
    known: &Enrolled,
    proved: &Proved,
    request: Uuid,
    asked: Option<&[String]>,
) -> Vec<Result<(String, LocalKek)>> {
    let open = |(number, key)| {
        let (key_id, enc, ciphertext) = session::released(key)?;
        if asked.is_some_and(|asked| asked.get(number) != Some(&key_id)) {
            return Err(Error::new(Kind::Corrupt, "the authority answered with another key than it was asked for"));
        }
        let kek = proved.open(known, request, (&key_id, &enc, ciphertext))?;
        Ok((key_id, kek))
    };
    answer.keys.into_iter().enumerate().map(open).collect()
}

fn only(keys: Vec<Result<(String, LocalKek)>>) -> Result<(String, LocalKek)> {
    let count = keys.len();
    match <[_; 1]>::try_from(keys) {
        Ok([key]) => key,
        Err(_) => Err(Error::new(Kind::Corrupt, format!("the authority answered with {count} keys, expected 1"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
