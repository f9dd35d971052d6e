//! How requests come from the kernel and replies go back. The layers above do not know which transport it is.
//!
//! Either transport serves reads and writes itself, and operations on names and attributes while they are quick. Everything else it
//! forwards, in the wire format, to fuser, which is the only code that knows the rest of the protocol.

mod data_requests;
mod dev_fuse;
mod ending;
mod inbox;
mod io_uring;
mod name_requests;
pub(super) mod policy;
mod relay;
mod reply;
mod ring_server;
pub(super) mod times;
mod wire;

use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use fuser::{Config, SessionACL};

use crate::error::{Context, Error, Kind, Result};
use crate::fs::FileSystem;
use crate::fuse::Adapter;
use crate::fuse::guarded::Guard;
use crate::fuse::kernel::Kernel;
use crate::storage::BackingIo;
use crate::sys::process;
use io_uring::Rings;
use policy::latency::SyncLatency;
use relay::Relay;

/// Threads of fuser: this many slow operations on names, attributes and keys may be in progress, and the next one has to wait.
const DISPATCHERS: usize = 8;
/// Threads that read from the device and wait for a medium: as many requests as a guest commonly has in flight.
const WAITING_READERS: usize = 32;
/// Length of the buffer for the kernel's first request; the kernel refuses a smaller one.
const FIRST_REQUEST: usize = 8192;

/// How requests and replies are transported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// Rings where the kernel offers them, else the device.
    #[default]
    Auto,
    /// The device, which any kernel has.
    DevFuse,
    /// Rings, or no mount.
    IoUring,
}

impl Transport {
    const ALL: [Self; 3] = [Self::Auto, Self::DevFuse, Self::IoUring];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::DevFuse => "dev-fuse",
            Self::IoUring => "io-uring",
        }
    }

    /// Makes rings if they are wanted and possible. Without `threads` the number of threads depends on the backing I/O.
    ///
    /// # Errors
    /// Those of [`Rings::new`], unless the device may be used instead.
    pub(super) fn prepare(self, threads: Option<usize>, backing_io: BackingIo) -> Result<Prepared> {
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let readers = match backing_io {
            BackingIo::Buffered => 2 * cpus,
            BackingIo::Direct => WAITING_READERS.max(2 * cpus),
        };
        let rings = || Rings::new(threads.unwrap_or(usize::MAX));
        let rings = match self {
            Self::DevFuse => None,
            Self::IoUring => Some(rings().context(|| "transport io-uring".into())?),
            Self::Auto => {
                rings().inspect_err(|error| tracing::info!("transport dev-fuse, not io-uring: {}", error.chain())).ok()
            }
        };
        Ok(Prepared { transport: self, rings, readers: threads.unwrap_or(readers) })
    }
}

impl FromStr for Transport {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("transport {name:?}, expected auto, dev-fuse or io-uring"))
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A transport before there is a mount.
pub(super) struct Prepared {
    transport: Transport,
    rings: Option<Rings>,
    readers: usize,
}

/// What all threads of a mount share.
struct Shared {
    fs: Arc<FileSystem>,
    sync_latency: Arc<SyncLatency>,
    device: Arc<OwnedFd>,
    relay: Relay,
    /// The user whose requests, beside those of root, need not be refused; the kernel lets in others, too.
    restrict_to_uid: Option<u32>,
}

/// A transport that has agreed with the kernel on the protocol.
pub(super) struct Connection {
    shared: Arc<Shared>,
    dispatcher: JoinHandle<std::io::Result<()>>,
    rings: Option<Rings>,
    /// Threads that read from the device.
    readers: usize,
    ended: Sender<Result<()>>,
    on_ended: Receiver<Result<()>>,
}

impl Prepared {
    /// Agrees with the kernel, at the other end of `device`, on the protocol: fuser answers its first request.
    ///
    /// # Errors
    /// `Io` when either refuses, `Unsupported` when the kernel does not offer what is asked for.
    pub(super) fn connect(self, device: Arc<OwnedFd>, fs: &Arc<FileSystem>, acl: SessionACL) -> Result<Connection> {
        let (relay, theirs) = Relay::new()?;
        let (ended, on_ended) = channel();
        let sync_latency = Arc::new(SyncLatency::default());
        let adapter = Adapter {
            fs: Arc::clone(fs),
            kernel: Kernel::of(&device),
            guard: Guard(ended.clone()),
            sync_latency: Arc::clone(&sync_latency),
        };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(DISPATCHERS);
        let dispatcher = thread::Builder::new()
            .name("fuser".into())
            .spawn(move || fuser::Session::from_fd(adapter, theirs, acl, config)?.run())
            .context(|| "starting the dispatcher".into())?;
        let doing = || "agreeing with the kernel on the protocol".into();
        let mut request = vec![0; FIRST_REQUEST];
        let len = rustix::io::read(&device, &mut request[..]).context(doing)?;
        request.truncate(len);
        let mut reply = relay.ask(&request)?;
        let mut rings = self.rings;
        if rings.is_some() && !(wire::offers_ring(&request) && wire::accept_ring(&mut reply)) {
            let missing = Error::new(Kind::Unsupported, "the kernel does not offer FUSE over io_uring to this mount");
            if self.transport == Transport::IoUring {
                return Err(missing);
            }
            tracing::info!("transport dev-fuse, not io-uring: {missing}");
            rings = None;
        }
        rustix::io::write(&device, &reply).context(doing)?;
        // With rings little comes through the device, and one thread is enough for it.
        let readers = if rings.is_some() { 1 } else { self.readers };
        let restrict_to_uid = (acl == SessionACL::RootAndOwner).then(process::effective_uid);
        let shared = Arc::new(Shared { fs: Arc::clone(fs), sync_latency, device, relay, restrict_to_uid });
        Ok(Connection { shared, dispatcher, rings, readers, ended, on_ended })
    }
}

impl Connection {
    /// Which transport it is.
    pub(super) fn transport(&self) -> Transport {
        if self.rings.is_some() { Transport::IoUring } else { Transport::DevFuse }
    }

    /// Serves until the mount is gone.
    ///
    /// # Errors
    /// `Io` when the connection to the kernel breaks, or a thread ends that requests need; then no thread is waited for, and the
    /// process should end.
    pub(super) fn serve(self) -> Result<()> {
        let Self { shared, dispatcher, rings, readers, ended, on_ended } = self;
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.into()).spawn(work).context(|| "starting a thread of the transport".into())
        };
        let (own, own_ended) = (Arc::clone(&shared), ended.clone());
        let backlog =
            start("relay-out", Box::new(move || ending::report_any(&own_ended, || own.relay.drain_backlog())))?;
        let (own, own_ended) = (Arc::clone(&shared), ended.clone());
        let replies =
            start("relay-in", Box::new(move || ending::report_any(&own_ended, || own.relay.return_replies())))?;
        let mut running = 1 + rings.map_or(0, |rings| rings.start(&shared, &ended));
        let own = Arc::clone(&shared);
        start(
            "dev-fuse-0",
            Box::new(move || {
                ending::report(&ended, || dev_fuse::serve(&own, readers, &ended));
            }),
        )?;
        while running > 0 {
            let lost = |_| Error::new(Kind::Io, "a thread of the transport failed: this is a bug, please report it");
            on_ended.recv().map_err(lost)??;
            running -= 1;
        }
        shared.relay.close(DISPATCHERS);
        let failed = || Error::new(Kind::Io, "the dispatcher failed: this is a bug, please report it");
        dispatcher.join().map_err(|_| failed())?.context(|| "dispatching requests".into())?;
        [backlog, replies].into_iter().try_for_each(|thread| thread.join().map_err(|_| failed()))
    }
}
