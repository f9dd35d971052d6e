//! The fast transport: requests and replies of FUSE in rings that the kernel shares (Linux 6.14).
//!
//! The kernel has a queue for each CPU, and puts a request into the queue of the caller's CPU. A thread on that CPU serves
//! reads and writes where they lie, without a system call for each, and operations on names and attributes while those are
//! quick, and forwards everything else to fuser. What the kernel does not send through rings (forgetting nodes, interrupts) still
//! comes through the device. Here the threads are started.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::error::{Context, Error, Kind, Result};
use crate::fuse::transport::Shared;
use crate::fuse::transport::ending;
use crate::fuse::transport::inbox::Inbox;
use crate::fuse::transport::policy::migration::Latest;
use crate::fuse::transport::policy::plan::{self, Share};
use crate::fuse::transport::ring_server::{Mounted, Server};
use crate::sys::fuse_ring::{FuseRing, Waker};

/// Threads with rings of their own, ready to be tied to a mount.
pub(super) struct Rings(Vec<Ready>);

struct Ready {
    inbox: Arc<Inbox>,
    start: Sender<Start>,
}

/// What a thread needs to start, and where it reports its end.
struct Start {
    mounted: Arc<Mounted>,
    ended: Sender<Result<()>>,
}

impl Rings {
    /// Makes the rings, before the kernel learns that they will be used: from then on there is no way back.
    ///
    /// # Errors
    /// `Unsupported` or `Io`, saying what is missing.
    pub(super) fn new(threads: usize) -> Result<Self> {
        const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
        match std::fs::read_to_string(SWITCH) {
            Ok(text) if text.trim() == "Y" => {}
            Ok(_) => return Err(Error::new(Kind::Unsupported, format!("it is switched off: {SWITCH} says N"))),
            Err(_) => return Err(Error::new(Kind::Unsupported, "this kernel has no FUSE over io_uring (Linux 6.14)")),
        }
        plan::shares(threads)?.into_iter().map(prepare).collect::<Result<_>>().map(Self)
    }

    /// Lets the threads serve the mount, and returns how many there are. Each reports its end.
    pub(super) fn start(self, shared: &Arc<Shared>, ended: &Sender<Result<()>>) -> usize {
        let mounted = Arc::new(Mounted {
            shared: Arc::clone(shared),
            inboxes: self.0.iter().map(|thread| Arc::clone(&thread.inbox)).collect(),
            latest: Latest::new(self.0.len()),
        });
        for thread in &self.0 {
            let start = Start { mounted: Arc::clone(&mounted), ended: ended.clone() };
            if thread.start.send(start).is_err() {
                let _ = ended.send(Err(Error::new(
                    Kind::Io,
                    "a thread of the transport is gone: this is a bug, please report it",
                )));
            }
        }
        self.0.len()
    }
}

/// Starts a thread, which serves once it is sent what it needs, and ends when that cannot come any more.
fn prepare(share: Share) -> Result<Ready> {
    let (start, to_start) = channel();
    let (made, on_made) = channel();
    let name = share.cpu.map_or("ring".into(), |cpu| format!("ring-{cpu}"));
    thread::Builder::new()
        .name(name)
        .spawn(move || run(&share, &made, &to_start))
        .context(|| "starting a thread of the transport".into())?;
    let lost = |_| Error::new(Kind::Io, "a thread of the transport ended: this is a bug, please report it");
    let inbox = on_made.recv().map_err(lost)??;
    Ok(Ready { inbox, start })
}

/// A ring belongs to the thread that makes it, so it is made here and reported; then the thread waits for the mount.
fn run(share: &Share, made: &Sender<Result<Arc<Inbox>>>, start: &Receiver<Start>) {
    if let Some(cpu) = share.cpu {
        plan::stay_on(cpu);
    }
    let waker = match Waker::new().context(|| "making an event counter".into()) {
        Ok(waker) => waker,
        Err(error) => return drop(made.send(Err(error))),
    };
    let inbox = Arc::new(Inbox::new(waker));
    let ring = match FuseRing::new(&inbox.waker).context(|| "making a ring".into()) {
        Ok(ring) => ring,
        Err(error) => return drop(made.send(Err(error))),
    };
    let _ = made.send(Ok(Arc::clone(&inbox)));
    let Ok(Start { mounted, ended }) = start.recv() else { return };
    ending::report(&ended, || Server::new(&mounted, share, ring, &inbox).serve());
}
