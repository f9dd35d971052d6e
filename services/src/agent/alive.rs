//! That the agent of this host runs: a record of the board under a lease, which ends by itself when the agent does.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use vmcryptfs::cluster::board::{Key, Lease};
use vmcryptfs::cluster::host::{HostFiles, Membership};
use vmcryptfs::error::{Context, Result};
use vmcryptfs::format::cluster::MemberState;
use vmcryptfs::sys::thread::caught;

use super::boards;

/// After this time without the agent its record ends; it keeps that alive three times as often.
const LEASE: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(5);

/// The record of this host.
pub(super) struct Alive {
    config: PathBuf,
    kept: Option<Kept>,
    /// What went wrong last, so that it is logged once.
    trouble: Option<String>,
}

/// A lease, and whose record is under it.
struct Kept {
    board: String,
    cluster: Uuid,
    host: Uuid,
    lease: Box<dyn Lease>,
}

impl Kept {
    fn is_of(&self, membership: &Membership, host: Uuid) -> bool {
        (self.board.as_str(), self.cluster, self.host) == (membership.board.as_str(), membership.cluster, host)
    }
}

impl Alive {
    pub(super) fn new(config: PathBuf) -> Self {
        Self { config, kept: None, trouble: None }
    }

    /// Keeps the record alive until `is_over` says so, on a thread of its own, and ends it then: looking at the board may take longer than
    /// the lease. What is returned is closed when the record has ended, which a board that hangs may keep from happening.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn begin(mut self, is_over: Receiver<()>) -> Result<Receiver<()>> {
        let (ending, ended) = channel();
        let work = move || {
            let _ending = ending;
            loop {
                if caught(|| self.renew_and_log()).is_none() {
                    tracing::error!("saying that this agent runs failed within it: this is a bug, please report it");
                }
                // Something is sent, or the sender is gone.
                if !matches!(is_over.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {
                    break;
                }
            }
            if let Some(kept) = self.kept.take() {
                kept.lease.end().ok(); // it ends by itself
            }
        };
        let spawned = thread::Builder::new().name("alive".into()).spawn(work);
        spawned.map(|_| ended).context(|| "starting the thread of the lease".into())
    }

    fn renew_and_log(&mut self) {
        let trouble = self.renew().err().map(|error| error.chain());
        if let Some(trouble) = trouble.as_ref().filter(|trouble| self.trouble.as_ref() != Some(trouble)) {
            tracing::warn!("saying that this agent runs: {trouble}");
        }
        self.trouble = trouble;
    }

    /// Only a member says so: what others write below the names of hosts means nothing.
    fn renew(&mut self) -> Result<()> {
        let files = HostFiles::of(&self.config);
        let Some(membership) = files.membership()? else { return self.end() };
        let host = files.identity()?.uuid;
        let document = files.document(&membership)?;
        let own = document.as_ref().and_then(|document| document.member(host));
        if own.is_none_or(|own| own.state != MemberState::Active) {
            return self.end();
        }
        if let Some(kept) = &mut self.kept
            && kept.is_of(&membership, host)
            && kept.lease.keep_alive()?
        {
            return Ok(());
        }
        self.kept = None;
        let mut lease = boards::reach(&self.config, &membership.board, membership.cluster)?.lease(LEASE)?;
        lease.write(&Key::alive(host), env!("CARGO_PKG_VERSION").as_bytes())?;
        self.kept = Some(Kept { board: membership.board, cluster: membership.cluster, host, lease });
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.kept.take().map_or(Ok(()), |kept| kept.lease.end())
    }
}
