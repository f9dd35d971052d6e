//! The classic transport: requests are read from /dev/fuse, replies written to it.
//!
//! The kernel hands requests to waiting readers in turn, so with several of them each request wakes a cold thread on
//! another CPU. Therefore only one thread, the leader, waits, as long as it keeps up. When more requests are left after one, it
//! wakes followers, which take what there is and park again. A watcher notices when no thread reads for a while, because an
//! operation holds the leader up, and lets a follower take over.

use std::hint;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::fuse::opcode;
use crate::fuse::transport::Shared;
use crate::fuse::transport::data_requests::{self, Answer, Served, guarded};
use crate::fuse::transport::ending;
use crate::fuse::transport::name_requests::{self, MAX_BODY};
use crate::fuse::transport::policy::spin::SpinPolicy;
use crate::fuse::transport::relay::{MAX_LISTING, Origin};
use crate::fuse::transport::reply::write_reply;
use crate::fuse::transport::times;
use crate::fuse::transport::wire::{self, InHeader, Received};
use crate::store::buffer::request_buffer;
use crate::store::plain_file::HEADROOM;
use crate::sys::thread::may_fail;
use crate::sys::{AlignedBuffer, fuse_ring};

/// Where in its buffer a request's body begins. The arguments of a write come first, so that its data lies where it is encrypted,
/// at a page.
const BODY: usize = HEADROOM - wire::ARGUMENT_LEN;
/// Where a request begins.
const START: usize = BODY - wire::IN_HEADER_LEN;
/// Where the reply begins: its payload lies after its header.
const REPLY: usize = HEADROOM - wire::OUT_HEADER_LEN;
/// How long no thread may be reading before a follower takes over.
const STAND_IN_AFTER: Duration = Duration::from_millis(2);
/// How often a follower polls again before it parks.
const MAX_EMPTY_POLLS: usize = 4;

/// Serves a mount from its device until it is unmounted, with `threads` threads. A thread that ends for another reason reports it on
/// `ended`.
///
/// # Errors
/// `Io` when the connection to the kernel breaks.
pub(super) fn serve(shared: &Shared, threads: usize, ended: &Sender<Result<()>>) -> Result<()> {
    let device = &shared.device;
    let pool = WorkerPool::new(shared);
    let leader = Reader::new(Arc::clone(device));
    let followers: Result<Vec<Reader>> = (1..threads).map(|_| Reader::follower(device)).collect();
    let followers = followers?;
    thread::scope(|scope| {
        let pool = &pool;
        let mut started: std::io::Result<()> = Ok(());
        for (number, reader) in followers.into_iter().enumerate() {
            let thread = thread::Builder::new().name(format!("dev-fuse-{}", number + 1));
            let run = move || ending::report_failure(ended, || pool.follow(reader, device));
            started = started.and(thread.spawn_scoped(scope, run).map(drop));
        }
        if threads > 1 && started.is_ok() {
            let thread = thread::Builder::new().name("dev-fuse-watch".into());
            let run = || {
                ending::report_failure(ended, || {
                    pool.watch();
                    Ok(())
                });
            };
            started = thread.spawn_scoped(scope, run).map(drop);
        }
        // A failure is reported before the followers have ended: one may be held up by a medium.
        ending::report_failure(ended, || {
            started.context(|| "starting a thread of the transport".into()).and_then(|()| pool.lead(leader))
        });
        pool.end();
        Ok(())
    })
}

/// How one thread reads requests.
struct Reader {
    device: Arc<OwnedFd>,
    buffer: AlignedBuffer,
    spin: SpinPolicy,
    /// Whether more requests were waiting after the last one.
    saw_more: bool,
}

/// What a read of the device returned.
enum Polled {
    /// A request, and the length of what follows its header.
    Request(Received, usize),
    /// There is none at the moment.
    Nothing,
    OfflineVm,
}

impl Reader {
    fn new(device: Arc<OwnedFd>) -> Self {
        Self { device, buffer: request_buffer(), spin: SpinPolicy::new(), saw_more: false }
    }

    /// A reader that does not wait.
    fn follower(device: &OwnedFd) -> Result<Self> {
        let clone = fuse_ring::clone_device(device.as_fd()).context(|| "cloning the device of the mount".into())?;
        let flags = rustix::fs::fcntl_getfl(&clone).context(|| "the device's flags".into())?;
        rustix::fs::fcntl_setfl(&clone, flags | OFlags::NONBLOCK).context(|| "the device's flags".into())?;
        Ok(Self::new(Arc::new(clone)))
    }

    fn read(&mut self) -> Result<Polled> {
        loop {
            match rustix::io::read(&self.device, &mut self.buffer[START..]) {
                Ok(len) => match InHeader::decode(&self.buffer[START..][..len]) {
                    Some(header) => {
                        let request = Received { header, at: Instant::now() };
                        return Ok(Polled::Request(request, len - wire::IN_HEADER_LEN));
                    }
                    None => tracing::error!("a request of {len} bytes from the kernel, shorter than its header"),
                },
                Err(Errno::AGAIN) => return Ok(Polled::Nothing),
                Err(Errno::NODEV) => return Ok(Polled::OfflineVm),
                // A signal, or a request that was interrupted before it was read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(error) => return Err(Error::errno("reading requests from the kernel", error)),
            }
        }
    }

    fn finds_more(&self) -> bool {
        let mut asked = [PollFd::new(&self.device, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0) && asked[0].revents().contains(PollFlags::IN)
    }

    /// What follows the header of a request.
    fn body(&self, len: usize) -> &[u8] {
        &self.buffer[BODY..][..len]
    }

    fn reply(&mut self, request: Received, answer: Answer) {
        request.count(answer.errno, answer.payload_len);
        self.buffer[REPLY..HEADROOM].copy_from_slice(&answer.header(request.header.unique));
        write_reply(&self.device, &self.buffer[REPLY..][..wire::OUT_HEADER_LEN + answer.payload_len]);
    }
}

/// What a follower is to do.
const REST: u8 = 0;
/// Take what there is.
const DRAIN: u8 = 1;
/// Read in place of the leader.
const STAND_IN: u8 = 2;

/// Whether a follower is woken when more requests wait after one.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Sharing {
    WithFollowers,
    No,
}

struct WorkerPool<'a> {
    shared: &'a Shared,
    /// Threads that wait for a request.
    waiting: AtomicUsize,
    /// Requests that such threads have read.
    read: AtomicU64,
    /// Followers that are parked.
    parked: Mutex<Vec<Follower>>,
    parked_count: AtomicUsize,
    /// Whether the watcher sleeps until a thread stops waiting.
    watcher_sleeps: AtomicBool,
    watcher: OnceLock<Thread>,
    ended: AtomicBool,
}

#[derive(Clone)]
struct Follower {
    thread: Thread,
    order: Arc<AtomicU8>,
}

impl<'a> WorkerPool<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            waiting: AtomicUsize::new(0),
            read: AtomicU64::new(0),
            parked: Mutex::default(),
            parked_count: AtomicUsize::new(0),
            watcher_sleeps: AtomicBool::new(false),
            watcher: OnceLock::new(),
            ended: AtomicBool::new(false),
        }
    }

    fn lead(&self, mut reader: Reader) -> Result<()> {
        loop {
            match self.wait(&mut reader)? {
                Polled::Request(request, len) => self.handle(&mut reader, request, len, Sharing::WithFollowers),
                Polled::Nothing => {}
                Polled::OfflineVm => return Ok(()),
            }
        }
    }

    /// Waits for a request; the watcher sees that this thread does.
    fn wait(&self, reader: &mut Reader) -> Result<Polled> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let start = Instant::now();
        if let Some(until) = reader.spin.until(start).filter(|_| !reader.saw_more) {
            while !reader.finds_more() && Instant::now() < until {
                hint::spin_loop();
            }
        }
        let found = reader.read();
        may_fail("reader");
        reader.spin.ended(start);
        self.read.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.watcher_sleeps.load(Ordering::SeqCst) {
            self.wake_watcher();
        }
        found
    }

    fn wake_watcher(&self) {
        self.watcher_sleeps.store(false, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    fn follow(&self, mut reader: Reader, device: &Arc<OwnedFd>) -> Result<()> {
        let own = Follower { thread: thread::current(), order: Arc::new(AtomicU8::new(REST)) };
        while !self.ended.load(Ordering::Acquire) {
            self.parked.lock().push(own.clone());
            self.parked_count.fetch_add(1, Ordering::Release);
            let order = loop {
                match own.order.swap(REST, Ordering::Acquire) {
                    REST if self.ended.load(Ordering::Acquire) => return Ok(()),
                    REST => thread::park(),
                    order => break order,
                }
            };
            may_fail("follower");
            if order == DRAIN { self.drain(&mut reader) } else { self.stand_in(&mut reader, device) }?;
        }
        Ok(())
    }

    /// Serves requests until there are no more.
    fn drain(&self, reader: &mut Reader) -> Result<()> {
        let mut looks = 0;
        while looks < MAX_EMPTY_POLLS {
            match reader.read()? {
                Polled::Request(request, len) => {
                    looks = 0;
                    self.handle(reader, request, len, Sharing::WithFollowers);
                }
                Polled::Nothing => {
                    looks += 1;
                    thread::yield_now();
                }
                Polled::OfflineVm => break,
            }
        }
        Ok(())
    }

    /// Waits for requests until another thread does again.
    fn stand_in(&self, reader: &mut Reader, device: &Arc<OwnedFd>) -> Result<()> {
        let own = std::mem::replace(&mut reader.device, Arc::clone(device));
        let mut stood_in = Ok(());
        while stood_in.is_ok() && self.waiting.load(Ordering::SeqCst) == 0 {
            match self.wait(reader) {
                Ok(Polled::Request(request, len)) => self.handle(reader, request, len, Sharing::No),
                Ok(Polled::Nothing) => {}
                Ok(Polled::OfflineVm) => break,
                Err(error) => stood_in = Err(error),
            }
        }
        reader.device = own;
        stood_in
    }

    /// Wakes a follower if one is parked and more requests wait, but not after a request that takes less time than waking a thread.
    fn share(&self, reader: &mut Reader, request: InHeader) {
        let is_quick = [opcode::RELEASE, opcode::FORGET].contains(&request.opcode);
        // When all followers are busy more requests are likely; the next read shows it.
        let all_busy = self.parked_count.load(Ordering::Relaxed) == 0;
        reader.saw_more = all_busy || (!is_quick && reader.finds_more());
        if reader.saw_more && !all_busy {
            self.send_follower(DRAIN);
        }
    }

    fn send_follower(&self, order: u8) {
        let Some(follower) = self.parked.lock().pop() else { return };
        self.parked_count.fetch_sub(1, Ordering::Relaxed);
        follower.order.store(order, Ordering::Release);
        follower.thread.unpark();
    }

    /// Checks every few milliseconds whether a thread reads, as long as there is something to read.
    fn watch(&self) {
        self.watcher.get_or_init(thread::current);
        let mut seen = (0, 1);
        while !self.ended.load(Ordering::Acquire) {
            may_fail("watcher");
            let now = (self.read.load(Ordering::Relaxed), self.waiting.load(Ordering::SeqCst));
            if now.0 == seen.0 && now.1 == 0 && seen.1 == 0 {
                self.send_follower(STAND_IN);
            }
            let quiet = now.0 == seen.0 && now.1 > 0;
            seen = now;
            if quiet {
                self.watcher_sleeps.store(true, Ordering::SeqCst);
                // A thread that stops waiting from here on sees that the watcher sleeps.
                while self.watcher_sleeps.load(Ordering::SeqCst)
                    && self.waiting.load(Ordering::SeqCst) > 0
                    && !self.ended.load(Ordering::Acquire)
                {
                    thread::park();
                }
                self.watcher_sleeps.store(false, Ordering::SeqCst);
            }
            thread::park_timeout(STAND_IN_AFTER);
        }
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        for follower in self.parked.lock().drain(..) {
            follower.thread.unpark();
        }
        self.wake_watcher();
    }

    /// Serves a request, or forwards it to fuser. It gets a reply, whatever happens here.
    fn handle(&self, reader: &mut Reader, request: Received, len: usize, sharing: Sharing) {
        let handled = guarded(request.header, || {
            if sharing == Sharing::WithFollowers {
                self.share(reader, request.header);
            }
            if let Some(answer) = self.serve(reader, request, len) {
                reader.reply(request, answer);
            }
        });
        if let Err(failed) = handled {
            reader.reply(request, failed);
        }
    }

    /// `None`: it was forwarded, or expects no reply.
    fn serve(&self, reader: &mut Reader, request: Received, len: usize) -> Option<Answer> {
        let header = request.header;
        may_fail("request");
        let mut argument = [0; wire::ARGUMENT_LEN];
        let argument = &mut argument[..len.min(wire::ARGUMENT_LEN)];
        argument.copy_from_slice(reader.body(argument.len()));
        match data_requests::serve(self.shared, header, argument, &mut reader.buffer) {
            Some(Served::Answered(answer)) => return Some(answer),
            Some(Served::ToSync { handle, written }) => {
                let origin = Origin::Device(Arc::clone(&reader.device));
                self.shared.relay.sync_write(request, handle, written, origin);
                return None;
            }
            None => {}
        }
        if let Some(answer) = self.serve_name(reader, header, len) {
            return Some(answer);
        }
        match header.opcode {
            opcode::FORGET | opcode::BATCH_FORGET => {
                self.forget(header, reader.body(len));
                request.count(0, 0);
            }
            // Requests end by themselves; after this reply the kernel interrupts none any more.
            opcode::INTERRUPT => return Some(Answer::failed(libc::ENOSYS)),
            _ => {
                adapt(header, &mut reader.buffer[BODY..][..len]);
                let message = &reader.buffer[START..][..wire::IN_HEADER_LEN + len];
                self.shared.relay.forward(request, &[message], Origin::Device(Arc::clone(&reader.device)));
            }
        }
        None
    }

    /// Serves a request for an operation on names or attributes. If it takes long, the watcher notices.
    fn serve_name(&self, reader: &mut Reader, request: InHeader, len: usize) -> Option<Answer> {
        if !name_requests::may_serve(request, self.shared.restrict_to_uid) {
            return None;
        }
        let mut body = [0; MAX_BODY];
        let body = body.get_mut(..len)?;
        body.copy_from_slice(reader.body(len));
        name_requests::serve(&self.shared.fs, request, body, &mut reader.buffer)
    }

    /// No reply is expected.
    fn forget(&self, request: InHeader, body: &[u8]) {
        if request.opcode == opcode::FORGET {
            return self.shared.fs.forget(request.node, wire::forget_count(body).unwrap_or(0));
        }
        for (node, count) in wire::forgets(body) {
            self.shared.fs.forget(node, count);
        }
    }
}

/// Adapts a request for fuser; `argument` is what follows the header. A reply to a listing must be short enough for the relay, and times
/// are counted from another moment.
pub(super) fn adapt(request: InHeader, argument: &mut [u8]) {
    match request.opcode {
        opcode::READDIR | opcode::READDIRPLUS => wire::limit_size(argument, MAX_LISTING),
        opcode::SETATTR => times::give_head_start(argument),
        _ => {}
    }
}
