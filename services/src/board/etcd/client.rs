//! Calls to an etcd of several members, whichever of them answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use vmcryptfs::cluster::board::address::Endpoint;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::tls_files::TlsFiles;

use super::connection::{Connection, within};
use super::failure::Failure;

/// How long a member may take to be connected to, and to answer.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(2);
pub(super) const CALL_TIME: Duration = Duration::from_secs(3);
/// How long all members are tried in turn.
const TOTAL_TIME: Duration = Duration::from_secs(7);
/// Between two rounds of all members.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// A client. Its calls are made by threads that may wait; they must not be made on a thread of another runtime.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    files: TlsFiles,
    runtime: Runtime,
    /// The member that answered last.
    preferred: AtomicUsize,
    connected: Mutex<Option<(usize, Arc<Connection>)>>,
}

/// An answer, and whether the request was sent more than once: an earlier one may have been carried out.
pub(super) struct Answer {
    pub(super) bytes: Bytes,
    pub(super) was_repeated: bool,
}

impl Client {
    pub(super) fn new(endpoints: Vec<Endpoint>, files: TlsFiles) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_io()
            .enable_time()
            .build()
            .context(|| "starting a thread for the board".into())?;
        Ok(Self { endpoints, files, runtime, preferred: AtomicUsize::new(0), connected: Mutex::new(None) })
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Makes a call to one member after the other until one answers.
    pub(super) fn call(&self, path: &str, message: &[u8]) -> Result<Answer> {
        self.runtime.block_on(self.call_in_turn(path, message))
    }

    async fn call_in_turn(&self, path: &str, message: &[u8]) -> Result<Answer> {
        let begun = Instant::now();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut troubles = vec![String::new(); self.endpoints.len()];
        let (mut was_repeated, mut is_hopeless) = (false, true);
        for attempt in first.. {
            let member = attempt % self.endpoints.len();
            let left = TOTAL_TIME.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let Ok(asked) = tokio::time::timeout(left, self.call_one(member, path, message)).await else {
                self.forget(member);
                // What a member said before tells more than that the time is over.
                if troubles[member].is_empty() {
                    troubles[member] = format!("no answer within the last {} ms", left.as_millis());
                }
                break;
            };
            match asked {
                Ok(bytes) => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok(Answer { bytes, was_repeated });
                }
                Err(Failure::Unreachable(trouble)) => {
                    self.forget(member);
                    troubles[member] = trouble;
                    (was_repeated, is_hopeless) = (true, false);
                }
                Err(Failure::Untrusted(trouble)) => troubles[member] = trouble,
                Err(Failure::Refused(status)) => return Err(status.into_error()),
                Err(Failure::Ours(error)) => {
                    self.forget(member);
                    return Err(error).context(|| format!("member {} of the board's etcd", self.endpoints[member]));
                }
            }
            if (attempt - first + 1).is_multiple_of(self.endpoints.len()) {
                if is_hopeless {
                    break;
                }
                tokio::time::sleep(ROUND_PAUSE).await;
            }
        }
        Err(self.unreachable(&troubles))
    }

    async fn call_one(&self, member: usize, path: &str, message: &[u8]) -> std::result::Result<Bytes, Failure> {
        let known = self.connected.lock().as_ref().filter(|(at, _)| *at == member).map(|(_, known)| Arc::clone(known));
        let connection = match known {
            Some(connection) => connection,
            None => {
                let fresh = Arc::new(self.connect(member).await?);
                *self.connected.lock() = Some((member, Arc::clone(&fresh)));
                fresh
            }
        };
        within(CALL_TIME, "asking", connection.call(path, message)).await
    }

    /// A connection of its own.
    pub(super) async fn connect(&self, member: usize) -> std::result::Result<Connection, Failure> {
        within(CONNECT_TIME, "connecting", Connection::open(&self.endpoints[member], &self.files)).await
    }

    fn forget(&self, member: usize) {
        let mut connected = self.connected.lock();
        if connected.as_ref().is_some_and(|(at, _)| *at == member) {
            *connected = None;
        }
    }

    /// That no member has answered, and why.
    pub(super) fn unreachable(&self, troubles: &[String]) -> Error {
        let members = self.endpoints.iter().zip(troubles).filter(|(_, trouble)| !trouble.is_empty());
        let members: Vec<String> = members.map(|(endpoint, trouble)| format!("{endpoint}: {trouble}")).collect();
        let message = format!("no member of the board's etcd answers: {}", members.join("; "));
        Error::new(Kind::Io, message)
    }
}
