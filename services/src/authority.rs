//! The trust authority: attests hosts by their TPMs, and releases keys to them only.

mod admin;
mod attestation;
pub mod clock;
pub mod enrolment;
pub mod entry;
mod evidence;
pub mod hosts;
mod keys_of_host;
pub mod log;
pub mod options;
pub mod own;
mod policies;
mod proposals;
mod propose;
pub mod release;
mod routes;
pub mod server;
pub mod token;
mod verbs;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmcryptfs::error::{Context, Error, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::key::ProviderName;
use vmcryptfs::provider::Providers;
use vmcryptfs::sys::{memory, process};

use attestation::Attestation;
use clock::Clock;
use enrolment::EnrolmentTokens;
use evidence::EvidenceStore;
use hosts::Hosts;
use log::Log;
use own::Own;
use policies::Policies;
use proposals::Proposals;
use release::{Release, TopKey};
use server::Limits;
use token::{Standing, Tokens};

use crate::notify;
use crate::trust_wire::Health;

/// Refusals of one minute that have events of their own.
const MAX_NAMED: u64 = 16;
/// For how long a trial of the top-level key is good: anyone may ask for the health.
const TRIAL_LIFE: Duration = Duration::from_secs(5);

/// What is known of the top-level key before its first trial has ended.
const NOT_YET: &str = "its key provider has not answered yet";

/// The authority of this machine.
pub struct Authority {
    own: Own,
    hosts: Hosts,
    enrolment: EnrolmentTokens,
    tokens: Tokens,
    attestation: Attestation,
    policies: Policies,
    evidence: EvidenceStore,
    proposals: Proposals,
    clock: Clock,
    log: Log,
    top: TopKey,
    /// When the top-level key was last tried out, and what did not work.
    trial: Mutex<Option<(Instant, Option<String>)>>,
    /// Held during a trial: a key server may be slow, and other callers do not wait for it.
    examining: Mutex<()>,
}

impl Authority {
    /// Opens the authority of a machine with this configuration.
    ///
    /// # Errors
    /// Those of [`Own::open`], of its provider, and of its records and log.
    pub fn open(config: &Path) -> Result<Self> {
        let own = Own::open(&own::folder(config))?;
        let name = ProviderName::new(own.settings.provider.clone())?;
        let provider = Providers::load(config)?.provider(&name);
        let provider = provider.context(|| format!("opening provider {name}, which has the top-level key"))?;
        Self::with(own, TopKey::new(name, provider))
    }

    fn with(own: Own, top: TopKey) -> Result<Self> {
        let clock = Clock::begin();
        Ok(Self {
            hosts: Hosts::load(&own.path("hosts"))?,
            enrolment: EnrolmentTokens::open(&own.path("tokens"), clock)?,
            tokens: Tokens::new(own.settings.uuid, clock)?,
            attestation: Attestation::new(own.attestation_key()?)?,
            policies: Policies::load(own.path("policy.toml"))?,
            evidence: EvidenceStore::load(own.path("evidence"))?,
            proposals: Proposals::load(own.path("proposals"))?,
            clock,
            log: Log::open(&own.path("log"), own.settings.uuid, &own.log_key)?,
            top,
            trial: Mutex::default(),
            examining: Mutex::default(),
            own,
        })
    }

    fn release(&self) -> Release<'_> {
        let Self { own, top, tokens, log, .. } = self;
        Release { authority: own.settings.uuid, top, tokens, standing: self.standing(), log }
    }

    /// What tokens are good by.
    fn standing(&self) -> Standing<'_> {
        Standing { hosts: &self.hosts, generation: self.policies.generation() }
    }

    /// What does not work with the top-level key. A key is made and found, unless that was done a moment ago, or is being done: then it
    /// is what was found last.
    fn trouble_with_top_key(&self) -> Option<String> {
        let known = self.trial.lock().clone();
        if let Some((when, trouble)) = &known
            && when.elapsed() < TRIAL_LIFE
        {
            return trouble.clone();
        }
        let Some(_examining) = self.examining.try_lock() else {
            let unknown = || Some(NOT_YET.to_owned());
            return known.map_or_else(unknown, |(_, trouble)| trouble);
        };
        let trouble = self.top.try_out().err().map(|error| error.chain());
        self.trial.lock().insert((Instant::now(), trouble)).1.clone()
    }

    /// Whether hosts get keys, for all who ask. Where the top-level key is, and why there is none, is not for them.
    fn health(&self) -> Health {
        let words = |trouble: String| match trouble == NOT_YET {
            true => trouble,
            false => "the top-level key cannot be used: `vmcryptfs-authority status` says why".to_owned(),
        };
        let lacks = self.lacks(self.trouble_with_top_key().map(words)).collect();
        Health { authority: self.own.settings.uuid, version: env!("CARGO_PKG_VERSION").to_owned(), lacks }
    }

    fn lacks(&self, top_key: Option<String>) -> impl Iterator<Item = String> {
        let without_policy = self.policies.current().err().map(|error| error.chain());
        [top_key, without_policy, self.log.trouble()].into_iter().flatten()
    }

    /// What an administrator has to do: what its health lacks, and what keeps new hosts out.
    fn to_do(&self) -> Vec<String> {
        self.lacks(self.trouble_with_top_key()).chain(self.own.trouble_with_endorsement()).collect()
    }
}

/// Records a refusal that strangers can cause any number of times: the first ones of a minute by themselves, the others as a number.
fn record_refusal(event: &Event, error: &Error) {
    event.failed_as_one_of(event.clone(), MAX_NAMED, error);
}

/// Is the authority of the machine with this configuration until a signal ends it.
///
/// # Errors
/// Those of [`Authority::open`]; `Io` when it cannot listen on its port, or make its socket.
fn run(config: &Path) -> Result<()> {
    memory::keep_little();
    // Each connection is an open file: those of strangers must not be in the way of the authority's own.
    let files = process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    tracing::debug!("at most {files} open files");
    process::ignore_signals(&[signal_hook::consts::SIGHUP, signal_hook::consts::SIGPIPE]);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context(|| "catching signals".into())?;
    let authority = Arc::new(Authority::open(config)?);
    let listen = authority.own.settings.listen;
    let listener = TcpListener::bind(listen).context(|| format!("listening on {listen}"))?;
    let address = listener.local_addr().context(|| "asking for its own address".into())?;
    let socket = admin::begin(config, Arc::clone(&authority), address)?;
    server::begin(Arc::clone(&authority), listener, Limits::default())?;
    if memory::lock_was_refused() {
        tracing::warn!("memory for keys cannot be locked, so keys may reach swap: raise the limit on locked memory");
    }
    for lack in authority.to_do() {
        tracing::warn!("{lack}");
    }
    tracing::info!("listening on {address}");
    Event::of(EventName::Authority).reason(format!("version {} began", env!("CARGO_PKG_VERSION"))).done();
    notify::ready();
    let signal = signals.forever().next();
    notify::stopping();
    drop(socket); // an administrator who asks now finds no authority, rather than one that ends
    authority.log.checkpoint(&authority.own.log_key)?;
    Event::of(EventName::Authority).reason(format!("ended by signal {}", signal.unwrap_or_default())).done();
    Ok(())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod rig;
