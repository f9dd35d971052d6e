//! Pushed KEKs over a restart: in a file, sealed by this host's TPM, where the cluster's document allows that. Without it, or without a
//! TPM, they are in memory only.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::cluster::kept_keks::KeptKeksFile;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::format::cluster::{KeptKek, KeptKeks, MAX_KEPT};
use vmcryptfs::key::KeyId;
use vmcryptfs::provider::tpm_key::{AgentTpm, TpmKey};
use vmcryptfs::sys::SecretBytes;
use vmcryptfs::timestamp::Timestamp;

use super::super::moment::Moment;
use super::held::Held;
use super::{Pushed, State};

/// How often it is looked whether what is kept is still what is here.
const PERIOD: Duration = Duration::from_secs(1);
/// How often a TPM is asked for what is kept before there is a pause. It may not be there yet when a host begins.
const ATTEMPTS: u32 = 3;
/// The pause after a TPM that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What is kept, and by which key.
pub(super) struct Keeping {
    file: KeptKeksFile,
    /// Held while the file is changed. It is locked before the state.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    key: Option<TpmKey>,
    /// What is in the file, where that is known.
    stored: Option<Vec<Mark>>,
    attempts: u32,
    /// When the TPM last did not give back what is in the file, after some attempts.
    failed: Option<Instant>,
    /// When it last made no key.
    made_none: Option<Instant>,
    trouble: Option<String>,
}

impl Kept {
    fn is_early(&self) -> bool {
        self.failed.is_some_and(|failed| failed.elapsed() < AFTER_FAILURE)
    }

    fn made_none_lately(&self) -> bool {
        self.made_none.is_some_and(|failed| failed.elapsed() < AFTER_FAILURE)
    }
}

/// What tells one state of a kept KEK from another.
type Mark = (KeyId, u64, bool);

impl Keeping {
    pub(super) fn of(config: &Path) -> Self {
        Self { file: KeptKeksFile::of(config), kept: Mutex::default() }
    }

    /// What this host has kept, still sealed. What is damaged, or came to it before it joined again, is wiped.
    pub(super) fn load(&self, cluster: Uuid, host: Uuid) -> Result<Option<KeptKeks>> {
        let why = match self.file.load() {
            Ok(None) => return Ok(None),
            Ok(Some(kept)) if (kept.cluster, kept.host) == (cluster, host) => return Ok(Some(kept)),
            Ok(Some(_)) => "they came before this host left its cluster or joined again".into(),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported | Kind::Invalid) => error.chain(),
            Err(error) => return Err(error),
        };
        tracing::warn!("wiping pushed keys that were kept: {why}");
        self.file.wipe().map(|_| None)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.kept.lock().trouble.clone()
    }
}

impl Pushed {
    /// One turn of the thread that keeps KEKs.
    pub(super) fn keep(&self) {
        let restored = self.restore();
        let kept = self.make_key().and_then(|()| self.store(false));
        self.tell(kept.err().or(restored.err()));
        thread::sleep(PERIOD);
    }

    /// Trouble is told once, and is over when there is a key, or nothing to keep.
    fn tell(&self, error: Option<Error>) {
        let mut kept = self.keeping.kept.lock();
        let Some(error) = error else {
            let state = self.lock();
            if kept.key.is_some() || (state.pending.is_none() && state.to_keep().next().is_none()) {
                kept.trouble = None;
            }
            return;
        };
        let now = Some(format!("pushed keys are not kept over a restart: {}", error.chain()));
        if kept.trouble != now {
            now.iter().for_each(|why| tracing::warn!("{why}"));
            Event::of(EventName::Agent).failed(&error);
            kept.trouble = now;
        }
    }

    /// Takes back what was kept. The TPM may take seconds, in which nobody waits for it. One that is not there yet is asked again.
    fn restore(&self) -> Result<()> {
        let Some(pending) = self.pending() else { return Ok(()) };
        if self.keeping.kept.lock().is_early() {
            return Ok(());
        }
        let opened = AgentTpm::of(&self.config)
            .and_then(|tpm| tpm.open(&pending.sealed_key))
            .and_then(|key| pending.open(key.secret()).map(|keks| (keks, key)));
        let mut kept = self.keeping.kept.lock();
        let mut state = self.lock();
        if opened.is_err() {
            kept.attempts += 1;
            kept.failed = (kept.attempts >= ATTEMPTS).then(Instant::now);
        }
        let (keks, key) = opened.context(|| "what an earlier agent kept".into())?;
        if state.pending.take().is_none() {
            return Ok(()); // it was forgotten in the meantime
        }
        let count = keks.into_iter().filter_map(|kept| state.restore(kept)).count();
        (kept.key, kept.failed) = (Some(key), None);
        tracing::info!("{count} pushed keys were kept over the restart");
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// What an earlier agent kept. Where the document lets hosts keep nothing any longer it is dropped, and the file goes.
    fn pending(&self) -> Option<KeptKeks> {
        let mut state = self.lock();
        if !state.providers.values().any(|(provider, _)| provider.persists) {
            state.pending = None;
        }
        state.pending.clone()
    }

    /// Has the TPM make a key, if there is something to keep and none to keep it by. A TPM that makes one, and does not give back what is in
    /// the file, is another one, or its PCRs have changed: the file is lost then.
    fn make_key(&self) -> Result<()> {
        {
            let kept = self.keeping.kept.lock();
            let state = self.lock();
            let may_come_back = state.pending.is_some() && kept.attempts < ATTEMPTS;
            if kept.key.is_some() || kept.made_none_lately() || may_come_back || state.to_keep().next().is_none() {
                return Ok(());
            }
        }
        let made = AgentTpm::of(&self.config).and_then(|tpm| tpm.make());
        let mut kept = self.keeping.kept.lock();
        kept.made_none = made.is_err().then(Instant::now);
        kept.key = Some(made?);
        if self.lock().pending.take().is_some() {
            tracing::warn!("pushed keys that an earlier agent kept are lost: the TPM does not give them back");
        }
        Ok(())
    }

    /// Makes the file say what is here. One that was not read yet stays, unless something was wiped: then what is wiped must not be in it,
    /// and all of it goes until it is written again.
    pub(super) fn store(&self, has_wiped: bool) -> Result<()> {
        let mut kept = self.keeping.kept.lock();
        let mut keks = {
            let state = self.lock();
            if state.pending.is_some() && !has_wiped {
                return Ok(());
            }
            state
                .to_keep()
                .take(MAX_KEPT)
                .map(|(id, held, provider)| kept_of(id, held, provider))
                .collect::<Result<Vec<_>>>()?
        };
        keks.sort_by(|a, b| a.id.cmp(&b.id));
        let marks: Vec<Mark> = keks.iter().map(mark_of).collect();
        if kept.stored.as_ref() == Some(&marks) {
            return Ok(());
        }
        kept.stored = None; // until it is known
        let owner = self.owner()?;
        match (&kept.key, owner) {
            (Some(key), Some(owner)) if !keks.is_empty() => {
                let sealed = KeptKeks::seal(owner, key.sealed(), key.secret(), &mut keks)?;
                self.keeping.file.store(&sealed)?;
            }
            (None, Some(_)) if !keks.is_empty() => return self.keeping.file.wipe().map(drop),
            _ => _ = self.keeping.file.wipe()?,
        }
        kept.stored = Some(marks);
        Ok(())
    }

    /// Cluster and host that KEKs come to now.
    fn owner(&self) -> Result<Option<(Uuid, Uuid)>> {
        let files = HostFiles::of(&self.config);
        let Some(membership) = files.membership()? else { return Ok(None) };
        Ok(Some((membership.cluster, files.identity()?.uuid)))
    }

    /// Whether KEKs of an earlier agent may be in the file.
    pub(in super::super) fn may_have_kept(&self) -> bool {
        self.lock().pending.is_some()
    }

    /// Wipes all that is kept: this host has to be without it.
    ///
    /// # Errors
    /// `Io`.
    pub(in super::super) fn wipe_kept(&self) -> Result<()> {
        let mut kept = self.keeping.kept.lock();
        self.lock().pending = None;
        (kept.key, kept.stored) = (None, None);
        self.keeping.file.wipe().context(|| "wiping the pushed keys that were kept".into()).map(drop)
    }
}

impl State {
    /// The KEKs that may be kept, and UUIDs of their providers.
    fn to_keep(&self) -> impl Iterator<Item = (&KeyId, &Held, Uuid)> {
        self.keks.iter().filter_map(|(id, held)| {
            let (provider, _) = self.providers.get(id.provider()).filter(|(provider, _)| provider.persists)?;
            Some((id, held, provider.uuid))
        })
    }

    /// Takes back a KEK that was kept, if it may still be used. That its server did not answer in the meantime says nothing of it.
    pub(super) fn restore(&mut self, kept: KeptKek) -> Option<()> {
        let (provider, _) = self.providers.get(kept.id.provider())?;
        let held = Held::new(LocalKek::new(kept.kek).ok()?, kept.wraps, Moment::at(kept.begun));
        let may_be = provider.persists && provider.uuid == kept.provider && held.is_alive(provider.life);
        if !may_be || !self.may_come_unasked(&kept.id) {
            return None;
        }
        self.keks.insert(kept.id, held);
        Some(())
    }
}

fn kept_of(id: &KeyId, held: &Held, provider: Uuid) -> Result<KeptKek> {
    let mut kek = SecretBytes::zeroed(held.kek.bytes().len());
    kek.copy_from_slice(held.kek.bytes());
    let begun = Timestamp::from_secs(held.begun().since_1970().as_secs());
    Ok(KeptKek { provider, id: id.clone(), wraps: held.wraps, begun, kek })
}

fn mark_of(kept: &KeptKek) -> Mark {
    (kept.id.clone(), kept.begun.since_1970().as_secs(), kept.wraps)
}
