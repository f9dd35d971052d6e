//! Unlocking what a mount holds: when it begins, and again whenever a provider is back. What happens to keys is recorded.

use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Kind, Result};
use crate::event::{Event, EventName, limit};
use crate::format::header::ComponentKind;
use crate::fs::FileSystem;
use crate::seen;
use crate::serve::{ManifestNews, ServedFolder};
use crate::sys::thread::{caught, may_fail};
use crate::text::{self, Show};
use crate::vm::keyring::{Change, NoticeSubject};

/// How long a mount waits for keys before it shows what it has: the rest remains locked until its keys come.
const FIRST_ROUND_TIMEOUT: Duration = Duration::from_secs(3);
/// How often what waits for its provider is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(10);
/// How soon after a bug, while the mount waits for the first round.
const SECOND_TRY: Duration = Duration::from_millis(500);
/// Of the failures of one minute, this many keys and this many disks of a folder have events of their own.
const MAX_NAMED: u64 = 16;
/// As many homes of a datastore.
const MAX_NAMED_HOMES: u64 = 256;
/// Every how many such rounds the state of the keys in use is asked for: once an hour.
const CONFIRM_ROUNDS: u64 = 360;

/// Unlocks what can be, on a thread of its own that lives as long as the mount, and returns when all keys were asked for,
/// or after three seconds: partial availability is a state.
///
/// # Errors
/// `Io` when the thread cannot be started.
pub(super) fn keep_unlocking(fs: &Arc<FileSystem>) -> Result<()> {
    let watched = Arc::downgrade(fs);
    fs.served().keyring().watch(move |change| {
        if let Some(fs) = watched.upgrade() {
            record(&fs, change);
        }
    });
    let (tried, first_round) = mpsc::channel::<()>();
    let fs = Arc::downgrade(fs);
    let work = move || {
        let (mut first, mut told, mut manifests) = (Some(tried), None, Manifests::default());
        for round in 0_u64.. {
            let done = caught(|| {
                may_fail("unlock");
                let is_mounted = retry(&fs, &mut told);
                drop(first.take());
                if let Some(fs) = fs.upgrade() {
                    manifests.look_after(fs.served(), round > 0);
                }
                if let Some(fs) = fs.upgrade().filter(|_| round % CONFIRM_ROUNDS == 0) {
                    fs.served().keyring().confirm_keys();
                }
                is_mounted
            });
            match done {
                Some(true) => {}
                Some(false) => break,
                None => {
                    tracing::error!("an attempt to unlock failed within the program: this is a bug, please report it")
                }
            }
            thread::sleep(if first.is_some() { SECOND_TRY } else { RETRY_PERIOD });
        }
    };
    thread::Builder::new().name("unlock".into()).spawn(work).context(|| "starting the unlock thread".into())?;
    if first_round.recv_timeout(FIRST_ROUND_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
        tracing::warn!("a key provider does not answer: components that need it remain locked until it does");
    }
    Ok(())
}

/// Tries what is locked, and keeps what was seen; `false` when the mount has ended. `told` is what was said of the memory last.
fn retry(fs: &Weak<FileSystem>, told: &mut Option<String>) -> bool {
    let Some(fs) = fs.upgrade() else { return false };
    limit::report(limit::PERIOD);
    // What was met since the last round: by now its header is durable, also if another process wrote it.
    fs.served().keyring().memory().keep();
    if let Err(error) = fs.served().settle_names() {
        tracing::warn!("names of disks: {}", error.chain());
    }
    match fs.served().retry_locked() {
        Ok(0) => {}
        Ok(unlocked) => tracing::info!("{} unlocked", text::count(unlocked, "component", "components")),
        Err(error) => tracing::warn!("unlocking components: {}", error.chain()),
    }
    for notice in fs.served().keyring().new_notices() {
        tracing::warn!("key provider {}: {}", notice.provider, notice.text);
        Event::of(EventName::ProviderNotice).provider(&notice.provider).reason(notice.text).done();
    }
    if let Some(trouble) = seen::trouble()
        && told.replace(trouble.clone()).as_ref() != Some(&trouble)
    {
        tracing::warn!("{trouble}");
        Event::of(EventName::Memory).failed(&Error::new(Kind::Io, trouble));
    }
    true
}

/// What the manifests of a mount's homes are due.
#[derive(Default)]
struct Manifests {
    /// Whether all that are there were compared.
    are_compared: bool,
    /// When they were last renewed.
    renewed: Option<Instant>,
}

impl Manifests {
    /// Those of homes that nobody uses yet are compared once the mount is there, which must not wait for that.
    fn look_after(&mut self, served: &ServedFolder, is_there: bool) {
        if is_there && !self.are_compared {
            self.are_compared = served.compare_manifests();
        }
        let renewed = *self.renewed.get_or_insert_with(Instant::now);
        if served.options().manifest.is_some_and(|period| renewed.elapsed() >= period) {
            served.renew_manifests();
            self.renewed = Some(Instant::now());
        }
        tell_of_manifests(served);
    }
}

/// Reports what was found of homes by their manifests.
pub(super) fn tell_of_manifests(served: &ServedFolder) {
    for ManifestNews { folder, uuid, proof } in served.manifest_news() {
        let (mut event, mut group) = (Event::of(EventName::Manifest), Event::of(EventName::Manifest));
        event.component(&folder).uuid(uuid);
        group.component(served.path());
        if let Some(found) = proof.describe() {
            let error = Error::new(Kind::Corrupt, found);
            if event.failed_as_one_of(group, MAX_NAMED_HOMES, &error) {
                tracing::warn!("{}: {}", folder.shown(), error.chain());
            }
        } else if let Some(unproven) = proof.describe_unproven() {
            tracing::warn!("{}: {unproven}", folder.shown());
            event.reason(unproven).done();
        }
    }
}

/// Puts what happened to keys into the event log. Of failures, which forged headers can cause in any number, the first ones.
fn record(fs: &FileSystem, change: &Change<'_>) {
    let name = match change.what {
        NoticeSubject::Unlock => EventName::Unlock,
        NoticeSubject::Lock => EventName::Lock,
        NoticeSubject::FetchKey => EventName::FetchKey,
        NoticeSubject::GoneBack => EventName::Rollback,
    };
    let (mut event, mut group, mut most) = (Event::of(name), Event::of(name), MAX_NAMED);
    change.key_id.map(|key_id| event.key(key_id));
    let path = change.header.and_then(|header| fs.served().component_path(header));
    if let Some(header) = change.header {
        event.uuid(header.claims().uuid);
        if let Some((path, folder)) = path.as_deref().and_then(|path| Some((path, path.parent()?))) {
            match header.claims().shape.kind() {
                ComponentKind::Disk => {
                    event.disk(path);
                    group.disk(folder);
                }
                ComponentKind::Home => {
                    event.component(path);
                    group.component(folder);
                    most = MAX_NAMED_HOMES;
                }
            }
        }
    }
    let Some(error) = change.error else { return event.done() };
    if event.failed_as_one_of(group, most, error) {
        match change.what {
            NoticeSubject::FetchKey => tracing::warn!("{}", error.chain()),
            NoticeSubject::GoneBack => tracing::warn!("{}: {}", path.unwrap_or_default().shown(), error.chain()),
            NoticeSubject::Unlock | NoticeSubject::Lock => {}
        }
    }
}
