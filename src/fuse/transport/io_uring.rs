//! The fast transport: requests and replies of FUSE in rings that the kernel shares (Linux 6.14).
//!
//! The kernel has a queue for each CPU, and puts a request into the one of the CPU that asks. A thread on that CPU serves
//! reads and writes where they lie, without a system call for each, and hands everything else to fuser. What the kernel does
//! not send through rings (forgetting nodes, interrupts) still comes by the device.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::fs::{FileSystem, Pending};
use crate::fuse::transport::dev_fuse::limit_listing;
use crate::fuse::transport::hot::{self, Answer, Outcome};
use crate::fuse::transport::plan::{self, Share};
use crate::fuse::transport::relay::{Origin, Relay};
use crate::fuse::transport::wire::{self, InHeader};
use crate::store::buffer::request_buffer;
use crate::store::plain_file::{HEADROOM, MAX_REQUEST};
use crate::store::transfer::Direction;
use crate::sys::fuse_ring::{Event, FuseRing, Waker};

/// Replies with so much payload go to the kernel at once, while they are in the CPU's cache.
const LARGE: usize = 64 << 10;
/// Most entries of one queue with one thread.
const MAX_ENTRIES: usize = 512;
/// As many may be there for the sake of I/O that is under way: what a medium gains from more is little, and each is memory.
const MAX_WITH_DISKS: usize = 64;
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
    let mut server = Server {
        ring,
        fs: &fs,
        relay: &relay,
        inbox: &inbox,
        held: Vec::new(),
        pending: Vec::new(),
        in_flight: 0,
        deferred: VecDeque::new(),
    };
    let served = server.attach(share, &device).and_then(|()| server.serve());
    let _ = ended.send(served);
}

struct Server<'a> {
    ring: FuseRing<'a>,
    fs: &'a FileSystem,
    relay: &'a Relay,
    inbox: &'a Arc<Inbox>,
    held: Vec<Held>,
    /// Of each entry, the request whose I/O is under way in the ring, and how many there are. Ranges of files are locked for
    /// them, perhaps for other threads to wait for: as long as there are any, this thread waits for nothing but the ring.
    pending: Vec<Option<Pending>>,
    in_flight: usize,
    /// Reads and writes that would wait for a lock, and what came after them, in order of arrival.
    deferred: VecDeque<usize>,
}

/// This thread's entries of one queue.
struct Held {
    queue: u16,
    /// In all, and how many had better be free for new requests.
    entries: usize,
    wanted: usize,
    /// Entries whose requests fuser has, have I/O under way, or wait for a lock.
    lent: usize,
}

impl Server<'_> {
    fn attach(&mut self, share: &Share, device: &OwnedFd) -> Result<()> {
        self.ring.attach(device.as_fd()).context(|| "tying a ring to the mount".into())?;
        for &(queue, wanted) in &share.queues {
            self.held.push(Held { queue, entries: 0, wanted, lent: 0 });
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
        while self.ring.is_served() || self.held.iter().any(|held| held.lent > 0) {
            self.ring.wait(&mut events).context(|| "waiting for requests".into())?;
            for event in events.drain(..) {
                match event {
                    Event::Request(entry) => self.handle(entry)?,
                    Event::Transferred(entry, moved) => self.end_transfer(entry, moved)?,
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
        if self.fs.leaves_io_to_others() && hot::is_read_or_write(header) {
            return self.begin_or_defer(entry);
        }
        match hot::serve(self.fs, header, request.argument, request.buffer) {
            Some(answer) => self.reply(entry, answer),
            None => self.hand_over(entry, header),
        }
    }

    fn reply(&mut self, entry: usize, answer: Answer) -> Result<()> {
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let Some(header) = InHeader::decode(request.header) else { return Ok(()) };
        let large = request.payload_len.max(answer.payload_len) >= LARGE;
        self.ring
            .reply(entry, answer.header(header.unique), wire::u32_of(answer.payload_len), large)
            .context(|| "replying to the kernel".into())
    }

    /// Begins a read or a write, unless one before it has to wait, or it has to itself.
    fn begin_or_defer(&mut self, entry: usize) -> Result<()> {
        if self.deferred.is_empty() && self.begin(entry)? {
            return Ok(());
        }
        self.deferred.push_back(entry);
        self.lend(entry, MAX_WITH_DISKS)
    }

    /// `false`: it has to wait for a lock, which this thread may not, since who has that lock may wait for this thread.
    fn begin(&mut self, entry: usize) -> Result<bool> {
        let Some(request) = self.ring.request(entry) else { return Ok(true) };
        let Some(header) = InHeader::decode(request.header) else { return Ok(true) };
        let answer = match hot::begin(self.fs, header, request.argument, request.buffer) {
            Outcome::Answered(answer) => answer,
            Outcome::UnderWay(pending) => return self.transfer(entry, pending).map(|()| true),
            Outcome::MustWait if self.in_flight > 0 => return Ok(false),
            Outcome::MustWait => match hot::serve(self.fs, header, request.argument, request.buffer) {
                Some(answer) => answer,
                None => Answer::failed(libc::ENOSYS),
            },
        };
        self.reply(entry, answer).map(|()| true)
    }

    /// Lets the ring carry out a request's I/O.
    fn transfer(&mut self, entry: usize, pending: Pending) -> Result<()> {
        let Some(transfer) = pending.transfer() else { return Ok(()) };
        let to_file = transfer.direction() == Direction::Write;
        self.ring
            .transfer(entry, to_file, transfer.file(), transfer.offset(), transfer.memory())
            .context(|| "submitting I/O".into())?;
        self.pending.resize_with(self.pending.len().max(entry + 1), || None);
        self.pending[entry] = Some(pending);
        self.in_flight += 1;
        self.lend(entry, MAX_WITH_DISKS)
    }

    fn end_transfer(&mut self, entry: usize, moved: i32) -> Result<()> {
        let Some(pending) = self.pending.get_mut(entry).and_then(Option::take) else { return Ok(()) };
        self.in_flight -= 1;
        self.take_back(entry);
        let moved = usize::try_from(moved).map_err(|_| io::Error::from_raw_os_error(-moved));
        if let Some(request) = self.ring.request(entry)
            && let Some(header) = InHeader::decode(request.header)
        {
            let answer = hot::end(self.fs, header, pending, moved, request.buffer);
            self.reply(entry, answer)?;
        }
        while let Some(&next) = self.deferred.front() {
            if !self.begin(next)? {
                break;
            }
            self.deferred.pop_front();
            self.take_back(next);
        }
        Ok(())
    }

    /// Counts an entry that stays away for a while. Another one takes its place if there are few left.
    fn lend(&mut self, entry: usize, most: usize) -> Result<()> {
        let queue = self.ring.queue(entry);
        let Some(held) = self.held.iter_mut().find(|held| held.queue == queue) else { return Ok(()) };
        held.lent += 1;
        if held.entries - held.lent < held.wanted && held.entries < most {
            self.add_entry(queue)?;
        }
        Ok(())
    }

    fn take_back(&mut self, entry: usize) {
        let queue = self.ring.queue(entry);
        self.held.iter_mut().filter(|held| held.queue == queue).for_each(|held| held.lent -= 1);
    }

    /// Gives a request to fuser. Its entry stays with it.
    fn hand_over(&mut self, entry: usize, header: InHeader) -> Result<()> {
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let payload = &request.buffer[HEADROOM..][..request.payload_len.min(MAX_REQUEST)];
        let argument_len = header.len.saturating_sub(wire::IN_HEADER_LEN + payload.len());
        let mut argument = request.argument[..argument_len.min(request.argument.len())].to_vec();
        limit_listing(header, &mut argument);
        let origin = Origin::Ring(Arc::clone(self.inbox), entry);
        self.relay.forward(header.unique, &[request.header, &argument, payload], origin);
        self.lend(entry, MAX_ENTRIES)
    }

    fn return_replies(&mut self) -> Result<()> {
        let replies = std::mem::take(&mut *self.inbox.replies.lock());
        for (entry, reply) in replies {
            self.take_back(entry);
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
