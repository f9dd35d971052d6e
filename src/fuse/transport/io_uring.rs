//! The fast transport: requests and replies of FUSE in rings that the kernel shares (Linux 6.14).
//!
//! The kernel has a queue for each CPU, and puts a request into the one of the CPU that asks. A thread on that CPU serves
//! reads and writes where they lie, without a system call for each, and hands everything else to fuser. What the kernel does
//! not send through rings (forgetting nodes, interrupts) still comes by the device.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::fs::FileSystem;
use crate::fuse::transport::dev_fuse::limit_listing;
use crate::fuse::transport::hot;
use crate::fuse::transport::plan::{self, Share};
use crate::fuse::transport::relay::{Origin, Relay};
use crate::fuse::transport::wire::{self, InHeader};
use crate::store::buffer::request_buffer;
use crate::store::plain_file::{HEADROOM, MAX_REQUEST};
use crate::sys::fuse_ring::{Event, FuseRing, Waker};

/// Replies with so much payload go to the kernel at once, while they are in the CPU's cache.
const LARGE: usize = 64 << 10;
/// Most entries of one queue with one thread.
const MAX_ENTRIES: usize = 512;
/// How rings end when the mount does.
const ENDS: [i32; 4] = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED, libc::ENODEV];

/// Threads with rings of their own, ready to be tied to a mount.
pub(super) struct Rings(Vec<Sender<Start>>);

/// What a thread needs to begin.
struct Start {
    fs: Arc<FileSystem>,
    relay: Arc<Relay>,
    device: Arc<OwnedFd>,
    ended: Sender<Result<()>>,
}

/// Replies for a ring's thread.
pub(super) struct Inbox {
    replies: Mutex<Vec<(usize, Vec<u8>)>>,
    waker: Waker,
}

impl Inbox {
    /// Leaves a reply for an entry and wakes the thread.
    pub(super) fn put(&self, entry: usize, reply: Vec<u8>) {
        self.replies.lock().push((entry, reply));
        self.waker.wake();
    }
}

impl Rings {
    /// Makes the rings, before the kernel is told that they will be used: from then on there is no way back.
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

    /// Lets the threads serve the mount. Each sends how it ended.
    pub(super) fn start(
        self,
        fs: &Arc<FileSystem>,
        relay: &Arc<Relay>,
        device: &Arc<OwnedFd>,
        ended: &Sender<Result<()>>,
    ) -> usize {
        for thread in &self.0 {
            let start = Start {
                fs: Arc::clone(fs),
                relay: Arc::clone(relay),
                device: Arc::clone(device),
                ended: ended.clone(),
            };
            if thread.send(start).is_err() {
                let _ = ended.send(Err(Error::new(Kind::Io, "a thread of the transport is gone: this is a defect")));
            }
        }
        self.0.len()
    }
}

/// Starts a thread, which begins to serve when it is sent what it needs, and ends when it cannot be any more.
fn prepare(share: Share) -> Result<Sender<Start>> {
    let (start, to_start) = channel();
    let (made, on_made) = channel();
    let name = share.cpu.map_or("ring".into(), |cpu| format!("ring-{cpu}"));
    thread::Builder::new()
        .name(name)
        .spawn(move || run(&share, &made, &to_start))
        .context(|| "starting a thread of the transport".into())?;
    let lost = |_| Error::new(Kind::Io, "a thread of the transport ended: this is a defect");
    on_made.recv().map_err(lost)??;
    Ok(start)
}

/// A ring belongs to the thread that makes it, so that is done here and reported; then the thread waits to be needed.
fn run(share: &Share, made: &Sender<Result<()>>, start: &Receiver<Start>) {
    if let Some(cpu) = share.cpu {
        plan::stay_on(cpu);
    }
    let waker = match Waker::new().context(|| "making an event counter".into()) {
        Ok(waker) => waker,
        Err(error) => return drop(made.send(Err(error))),
    };
    let inbox = Arc::new(Inbox { replies: Mutex::default(), waker });
    let ring = match FuseRing::new(&inbox.waker).context(|| "making a ring".into()) {
        Ok(ring) => ring,
        Err(error) => return drop(made.send(Err(error))),
    };
    let _ = made.send(Ok(()));
    let Ok(Start { fs, relay, device, ended }) = start.recv() else { return };
    let mut server = Server { ring, fs: &fs, relay: &relay, inbox: &inbox, held: Vec::new() };
    let served = server.attach(share, &device).and_then(|()| server.serve());
    let _ = ended.send(served);
}

struct Server<'a> {
    ring: FuseRing<'a>,
    fs: &'a FileSystem,
    relay: &'a Relay,
    inbox: &'a Arc<Inbox>,
    held: Vec<Held>,
}

/// This thread's entries of one queue.
struct Held {
    queue: u16,
    /// In all, and how many had better be free of requests that fuser has.
    entries: usize,
    wanted: usize,
    with_fuser: usize,
}

impl Server<'_> {
    fn attach(&mut self, share: &Share, device: &OwnedFd) -> Result<()> {
        self.ring.attach(device.as_fd()).context(|| "tying a ring to the mount".into())?;
        for &(queue, wanted) in &share.queues {
            self.held.push(Held { queue, entries: 0, wanted, with_fuser: 0 });
            for _ in 0..wanted {
                self.add_entry(queue)?;
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, queue: u16) -> Result<()> {
        self.ring.register(queue, request_buffer(), HEADROOM, MAX_REQUEST).context(|| "adding to a ring".into())?;
        self.held.iter_mut().filter(|held| held.queue == queue).for_each(|held| held.entries += 1);
        Ok(())
    }

    /// Serves until the kernel has taken all entries back.
    fn serve(&mut self) -> Result<()> {
        let mut events = Vec::new();
        while self.ring.is_served() || self.held.iter().any(|held| held.with_fuser > 0) {
            self.ring.wait(&mut events).context(|| "waiting for requests".into())?;
            for event in events.drain(..) {
                match event {
                    Event::Request(entry) => self.handle(entry)?,
                    Event::Woken => self.return_replies()?,
                    Event::Ended(_, errno) if ENDS.contains(&errno) => {}
                    Event::Ended(_, errno) => {
                        let error = std::io::Error::from_raw_os_error(errno);
                        return Err(Error::io("the kernel refuses an entry of a ring", error));
                    }
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, entry: usize) -> Result<()> {
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let Some(header) = InHeader::decode(request.header) else { return Ok(()) };
        match hot::serve(self.fs, header, request.argument, request.buffer) {
            Some(answer) => {
                let large = request.payload_len.max(answer.payload_len) >= LARGE;
                let payload_len = wire::u32_of(answer.payload_len);
                self.ring.reply(entry, answer.header(header.unique), payload_len, large)
            }
            .context(|| "replying to the kernel".into()),
            None => self.hand_over(entry, header),
        }
    }

    /// Gives a request to fuser. Its entry stays with it, so another one takes its place if there are few left.
    fn hand_over(&mut self, entry: usize, header: InHeader) -> Result<()> {
        let queue = self.ring.queue(entry);
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let payload = &request.buffer[HEADROOM..][..request.payload_len.min(MAX_REQUEST)];
        let argument_len = header.len.saturating_sub(wire::IN_HEADER_LEN + payload.len());
        let mut argument = request.argument[..argument_len.min(request.argument.len())].to_vec();
        limit_listing(header, &mut argument);
        let origin = Origin::Ring(Arc::clone(self.inbox), entry);
        self.relay.forward(header.unique, &[request.header, &argument, payload], origin);
        let Some(held) = self.held.iter_mut().find(|held| held.queue == queue) else { return Ok(()) };
        held.with_fuser += 1;
        if held.entries - held.with_fuser < held.wanted && held.entries < MAX_ENTRIES {
            self.add_entry(queue)?;
        }
        Ok(())
    }

    fn return_replies(&mut self) -> Result<()> {
        let replies = std::mem::take(&mut *self.inbox.replies.lock());
        for (entry, reply) in replies {
            let queue = self.ring.queue(entry);
            if let Some(held) = self.held.iter_mut().find(|held| held.queue == queue) {
                held.with_fuser -= 1;
            }
            let Some(request) = self.ring.request(entry) else { continue };
            let Some((header, payload)) = reply.split_first_chunk() else { continue };
            request.buffer[HEADROOM..][..payload.len()].copy_from_slice(payload);
            self.ring
                .reply(entry, *header, wire::u32_of(payload.len()), false)
                .context(|| "replying to the kernel".into())?;
        }
        Ok(())
    }
}
