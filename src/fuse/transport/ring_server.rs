//! The work of a ring's thread: it serves requests until the mount is gone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Context, Error, Result};
use crate::fs::Pending;
use crate::fuse::transport::Shared;
use crate::fuse::transport::data_requests::{self, Answer, Outcome, Served, guarded};
use crate::fuse::transport::dev_fuse::adapt;
use crate::fuse::transport::inbox::{Inbox, Message};
use crate::fuse::transport::name_requests::{self, MAX_BODY};
use crate::fuse::transport::policy::latency::LatencyPolicy;
use crate::fuse::transport::policy::migration::{Latest, MigrationPolicy, Placement};
use crate::fuse::transport::policy::plan::{QueueShare, Share};
use crate::fuse::transport::relay::Origin;
use crate::fuse::transport::wire::{self, InHeader, Received};
use crate::store::buffer::request_buffer;
use crate::store::plain_file::{HEADROOM, MAX_REQUEST};
use crate::store::transfer::Direction;
use crate::sys::fuse_ring::{DetachedEntry, Event, FuseRing};
use crate::sys::thread::may_fail;

/// Replies with at least this much payload go to the kernel at once, while they are in the CPU's cache.
const LARGE: usize = 64 << 10;
/// A thread holds at most this many entries of one queue.
const MAX_ENTRIES: usize = 512;
/// The same for entries that are added because of I/O in flight: more of them bring a medium little, and each one costs memory.
const MAX_WITH_DISKS: usize = 64;
/// A thread hands over at most this many of its entries of one queue.
const MAX_HANDED_OVER: isize = 3;
/// Errors of entries when the mount is shut down.
const ENDS: [i32; 4] = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED, libc::ENODEV];

/// What all rings of a mount share.
pub(super) struct Mounted {
    pub(super) shared: Arc<Shared>,
    /// Of all threads, in their order.
    pub(super) inboxes: Vec<Arc<Inbox>>,
    pub(super) latest: Latest,
}

pub(super) struct Server<'a> {
    ring: FuseRing<'a>,
    mounted: &'a Mounted,
    share: &'a Share,
    inbox: &'a Arc<Inbox>,
    held: Vec<Held>,
    /// For each entry, its request's I/O that is in flight in the ring, and how many there are. They hold locks on ranges of files,
    /// which other threads may be waiting for: as long as there are any, this thread waits for nothing but the ring.
    pending: Vec<Option<Pending>>,
    in_flight: usize,
    /// Reads and writes that would wait for a lock, and what came after them, in order of arrival.
    deferred: VecDeque<usize>,
    migration: MigrationPolicy<'a>,
    latency: LatencyPolicy,
    /// When each entry got its request.
    received: Vec<Instant>,
    /// When the last wait ended.
    woken_at: Instant,
    /// Whether it ended with a single request.
    is_alone: bool,
}

/// This thread's entries of one queue.
struct Held {
    queue: u16,
    /// The thread on the queue's CPU.
    home: usize,
    /// How many more entries came from other threads than went to them, and the thread that the last one came from.
    balance: isize,
    last_from: usize,
    /// How many in all, and how many should be free for new requests.
    entries: usize,
    wanted: usize,
    /// Entries whose requests are with fuser, have I/O in flight, or wait for a lock.
    busy: usize,
}

impl Held {
    /// This many came from another thread or, if negative, went to one.
    fn count(&mut self, came: isize) {
        self.balance += came;
        self.entries = self.entries.saturating_add_signed(came);
    }
}

impl<'a> Server<'a> {
    /// For the thread that made `ring` and has this share; its `inbox` wakes the ring.
    pub(super) fn new(mounted: &'a Mounted, share: &'a Share, ring: FuseRing<'a>, inbox: &'a Arc<Inbox>) -> Self {
        Self {
            ring,
            mounted,
            share,
            inbox,
            held: Vec::new(),
            pending: Vec::new(),
            in_flight: 0,
            deferred: VecDeque::new(),
            migration: MigrationPolicy::new(&mounted.latest, share.number),
            latency: LatencyPolicy::default(),
            received: Vec::new(),
            woken_at: Instant::now(),
            is_alone: false,
        }
    }

    fn attach(&mut self) -> Result<()> {
        self.ring.attach(self.mounted.shared.device.as_fd()).context(|| "tying a ring to the mount".into())?;
        for &QueueShare { queue, entries: wanted, home } in &self.share.queues {
            self.held.push(Held { queue, home, entries: 0, balance: 0, last_from: home, wanted, busy: 0 });
            for _ in 0..wanted {
                self.add_entry(queue)?;
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, queue: u16) -> Result<()> {
        self.ring.register(queue, request_buffer(), HEADROOM, MAX_REQUEST).context(|| "adding to a ring".into())?;
        if let Some(held) = self.of_queue(queue) {
            held.entries += 1;
        }
        Ok(())
    }

    fn of_queue(&mut self, queue: u16) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.queue == queue)
    }

    /// Serves until the kernel has taken all entries back.
    ///
    /// # Errors
    /// `Io` when the kernel refuses the ring, or it breaks.
    pub(super) fn serve(&mut self) -> Result<()> {
        self.attach()?;
        let mut events = Vec::new();
        while self.ring.is_served() || self.held.iter().any(|held| held.busy > 0) {
            self.wait(&mut events).context(|| "waiting for requests".into())?;
            may_fail("ring");
            for event in events.drain(..) {
                match event {
                    Event::Request(entry) => {
                        self.received.resize(self.received.len().max(entry + 1), self.woken_at);
                        self.received[entry] = self.woken_at;
                        self.answered(entry, |server| server.handle(entry))?;
                    }
                    Event::Transferred(entry, moved) => {
                        self.answered(entry, |server| server.end_transfer(entry, moved))?;
                        self.resume_deferred()?;
                    }
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

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let start = Instant::now();
        let until = self.migration.begin_wait(start);
        let found = until.map(|until| self.ring.spin(until)).transpose()?;
        self.ring.wait(events)?;
        self.woken_at = Instant::now();
        self.migration.end_wait(self.woken_at - start, found);
        self.is_alone = events.len() == 1;
        if events.len() > 1 {
            self.migration.reset();
        }
        Ok(())
    }

    /// Does something for the request of an entry. It gets a reply, whatever happens here.
    fn answered(&mut self, entry: usize, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Some(request) = self.received(entry) else { return Ok(()) };
        match guarded(request.header, || work(self)) {
            Ok(done) => done,
            Err(failed) => self.reply(entry, failed),
        }
    }

    fn handle(&mut self, entry: usize) -> Result<()> {
        may_fail("request");
        let Some(received) = self.received(entry) else { return Ok(()) };
        let header = received.header;
        if self.mounted.shared.fs.defers_io() && data_requests::is_read_or_write(header) {
            self.migration.reset();
            return self.begin_or_defer(entry);
        }
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let served = data_requests::serve(&self.mounted.shared, header, request.argument, request.buffer);
        match served.or_else(|| self.serve_name(entry, header).map(Served::Answered)) {
            Some(Served::Answered(answer)) => match self.better_placed_thread(entry) {
                Some(thread) => self.hand_over(entry, answer, thread),
                None => self.reply(entry, answer),
            },
            Some(to_sync @ Served::ToSync { .. }) => self.finish(entry, received, to_sync),
            None => self.forward(entry, received),
        }
    }

    /// Serves a request for an operation on names or attributes, as long as those are quick: this thread has no stand-in. With I/O in
    /// flight it must not wait for a lock.
    fn serve_name(&mut self, entry: usize, header: InHeader) -> Option<Answer> {
        let Shared { fs, restrict_to_uid, .. } = &*self.mounted.shared;
        if fs.defers_io() || !name_requests::may_serve(header, *restrict_to_uid) || !self.latency.expects_quick() {
            return None;
        }
        let request = self.ring.request(entry)?;
        let len = header.len.checked_sub(wire::IN_HEADER_LEN)?;
        let (argument, names) = (len.checked_sub(request.payload_len)?, request.payload_len);
        let mut body = [0; MAX_BODY];
        let body = body.get_mut(..len)?;
        body[..argument].copy_from_slice(request.argument.get(..argument)?);
        body[argument..].copy_from_slice(&request.buffer[HEADROOM..][..names]);
        let start = Instant::now();
        let answer = name_requests::serve(fs, header, body, request.buffer)?;
        self.latency.took(start.elapsed());
        Some(answer)
    }

    /// The number of another thread that should own this entry: while requests come one at a time, the thread that serves their client
    /// best; otherwise, for an entry that came from another thread, that one.
    fn better_placed_thread(&mut self, entry: usize) -> Option<usize> {
        if !self.share.is_kept {
            return None;
        }
        let queue = self.ring.queue(entry)?;
        let held = self.held.iter().find(|held| held.queue == queue)?;
        let thread = match self.is_alone {
            false => Some(held.last_from).filter(|_| held.balance > 0),
            true => match self.migration.placement(held.home == self.share.number, self.woken_at) {
                Placement::Same => None,
                Placement::Other(thread) => Some(thread),
                Placement::OnItsCpu => Some(held.home),
            }
            .filter(|_| held.balance > -MAX_HANDED_OVER),
        };
        thread.filter(|&thread| thread != self.share.number)
    }

    /// Lets another thread reply. The kernel then sends the entry's next request there.
    fn hand_over(&mut self, entry: usize, answer: Answer, thread: usize) -> Result<()> {
        let (mounted, from) = (self.mounted, self.share.number);
        let Some(inbox) = mounted.inboxes.get(thread) else { return self.reply(entry, answer) };
        if let Some(request) = self.received(entry) {
            request.count(answer.errno, answer.payload_len);
        }
        let Some(detached) = self.ring.take(entry) else { return Ok(()) };
        let Some(held) = self.of_queue(detached.queue()) else { return Ok(()) };
        tracing::debug!("an entry of queue {} goes to thread {thread}", held.queue);
        held.count(-1);
        inbox.post(Message::Entry { detached, home: held.home, from, answer });
        Ok(())
    }

    fn accept(&mut self, detached: DetachedEntry, home: usize, from: usize, answer: Answer) -> Result<()> {
        let queue = detached.queue();
        if self.of_queue(queue).is_none() {
            self.held.push(Held { queue, home, entries: 0, balance: 0, last_from: from, wanted: 0, busy: 0 });
        }
        if let Some(held) = self.of_queue(queue) {
            held.count(1);
            held.last_from = from;
        }
        let entry = self.ring.put(detached);
        self.send(entry, answer)
    }

    /// The request of an entry, and when it came.
    fn received(&mut self, entry: usize) -> Option<Received> {
        let at = *self.received.get(entry)?;
        let header = InHeader::decode(self.ring.request(entry)?.header)?;
        Some(Received { header, at })
    }

    fn reply(&mut self, entry: usize, answer: Answer) -> Result<()> {
        if let Some(request) = self.received(entry) {
            request.count(answer.errno, answer.payload_len);
        }
        self.send(entry, answer)
    }

    fn send(&mut self, entry: usize, answer: Answer) -> Result<()> {
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let Some(header) = InHeader::decode(request.header) else { return Ok(()) };
        let large = request.payload_len.max(answer.payload_len) >= LARGE;
        self.ring
            .reply(entry, answer.header(header.unique), wire::u32_of(answer.payload_len), large)
            .context(|| "replying to the kernel".into())
    }

    /// Starts a read or a write, unless it or one before it has to wait.
    fn begin_or_defer(&mut self, entry: usize) -> Result<()> {
        if self.deferred.is_empty() && self.begin(entry)? {
            return Ok(());
        }
        self.deferred.push_back(entry);
        self.reserve(entry, MAX_WITH_DISKS)
    }

    /// `false`: it has to wait for a lock. This thread must not: the lock's holder may be waiting for this thread.
    fn begin(&mut self, entry: usize) -> Result<bool> {
        let Some(received) = self.received(entry) else { return Ok(true) };
        let header = received.header;
        let Some(request) = self.ring.request(entry) else { return Ok(true) };
        let served = match data_requests::begin(&self.mounted.shared, header, request.argument, request.buffer) {
            Outcome::Served(served) => served,
            Outcome::UnderWay(pending) => return self.transfer(entry, pending).map(|()| true),
            Outcome::MustWait if self.in_flight > 0 => return Ok(false),
            Outcome::MustWait => {
                match data_requests::serve(&self.mounted.shared, header, request.argument, request.buffer) {
                    Some(served) => served,
                    None => Served::Answered(Answer::failed(libc::ENOSYS)),
                }
            }
        };
        self.finish(entry, received, served).map(|()| true)
    }

    /// Replies, or has fuser make a write durable first; until then the entry is busy.
    fn finish(&mut self, entry: usize, request: Received, served: Served) -> Result<()> {
        match served {
            Served::Answered(answer) => self.reply(entry, answer),
            Served::ToSync { handle, written } => {
                let origin = Origin::Ring(Arc::clone(self.inbox), entry);
                self.mounted.shared.relay.sync_write(request, handle, written, origin);
                self.reserve(entry, MAX_ENTRIES)
            }
        }
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
        self.reserve(entry, MAX_WITH_DISKS)
    }

    fn end_transfer(&mut self, entry: usize, moved: i32) -> Result<()> {
        let Some(pending) = self.pending.get_mut(entry).and_then(Option::take) else { return Ok(()) };
        self.in_flight -= 1;
        self.release(entry);
        let moved = usize::try_from(moved).map_err(|_| io::Error::from_raw_os_error(-moved));
        if let Some(received) = self.received(entry)
            && let Some(request) = self.ring.request(entry)
        {
            let (shared, header) = (&self.mounted.shared, received.header);
            let served = data_requests::end(shared, header, request.argument, pending, moved, request.buffer);
            self.finish(entry, received, served)?;
        }
        Ok(())
    }

    /// Starts what had to wait and need not any more.
    fn resume_deferred(&mut self) -> Result<()> {
        while let Some(&next) = self.deferred.front() {
            if !self.begin(next)? {
                break;
            }
            self.deferred.pop_front();
            self.release(next);
        }
        Ok(())
    }

    /// Counts an entry as busy. Another one is added if few are free.
    fn reserve(&mut self, entry: usize, most: usize) -> Result<()> {
        let Some(queue) = self.ring.queue(entry) else { return Ok(()) };
        let Some(held) = self.of_queue(queue) else { return Ok(()) };
        held.busy += 1;
        if held.entries - held.busy < held.wanted && held.entries < most {
            self.add_entry(queue)?;
        }
        Ok(())
    }

    fn release(&mut self, entry: usize) {
        if let Some(held) = self.ring.queue(entry).and_then(|queue| self.of_queue(queue)) {
            held.busy -= 1;
        }
    }

    /// Forwards a request to fuser. Until the reply comes its entry is busy.
    fn forward(&mut self, entry: usize, received: Received) -> Result<()> {
        let header = received.header;
        let Some(request) = self.ring.request(entry) else { return Ok(()) };
        let payload = &request.buffer[HEADROOM..][..request.payload_len.min(MAX_REQUEST)];
        let argument_len = header.len.saturating_sub(wire::IN_HEADER_LEN + payload.len());
        let mut argument = request.argument[..argument_len.min(request.argument.len())].to_vec();
        adapt(header, &mut argument);
        let origin = Origin::Ring(Arc::clone(self.inbox), entry);
        self.mounted.shared.relay.forward(received, &[request.header, &argument, payload], origin);
        self.reserve(entry, MAX_ENTRIES)
    }

    fn return_replies(&mut self) -> Result<()> {
        for message in self.inbox.empty() {
            let (entry, reply) = match message {
                Message::Reply(entry, reply) => (entry, reply),
                Message::Entry { detached, home, from, answer } => {
                    self.accept(detached, home, from, answer)?;
                    continue;
                }
            };
            self.release(entry);
            let Some(request) = self.ring.request(entry) else { continue };
            let Some((header, payload)) = reply.split_first_chunk() else { continue };
            if wire::reply_unique(&reply) != InHeader::decode(request.header).map(|request| request.unique) {
                continue; // the entry's request failed in the meantime and was answered; it holds another one
            }
            request.buffer[HEADROOM..][..payload.len()].copy_from_slice(payload);
            self.ring
                .reply(entry, *header, wire::u32_of(payload.len()), false)
                .context(|| "replying to the kernel".into())?;
        }
        Ok(())
    }
}
