//! FUSE over io_uring (Linux 6.14): a ring that receives requests of a mount from the kernel and returns replies.
//!
//! The kernel's side is fs/fuse/dev_uring.c. Each entry is memory that belongs to the kernel while it waits for a request,
//! and to us from then until the reply: [`FuseRing`] keeps track, so that safe code cannot touch memory while it
//! belongs to the kernel.

#![allow(unsafe_code, reason = "rings and the memory of entries are shared with the kernel")]

use std::fs::File;
use std::hint;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::AlignedBuffer;

/// Submissions that fit the ring at once; more are submitted in between.
const RING_ENTRIES: u32 = 256;

/// Layout of the header block that the kernel shares (`struct fuse_uring_req_header`).
const HEADER_LEN: usize = 288;
const IN_HEADER_LEN: usize = 40;
const OUT_HEADER_LEN: usize = 16;
const ARGUMENT_AT: usize = 128;
const RING_HEADER_AT: usize = 256;
const COMMIT_ID_AT: usize = RING_HEADER_AT + 8;
const PAYLOAD_LEN_AT: usize = RING_HEADER_AT + 16;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// What marks the completion that the event counter brings, among those of entries.
const WOKEN: u64 = u64::MAX;
/// What marks the completion of a transfer, beside its entry's number.
const TRANSFERRED: u64 = 1 << 62;
/// Place of the device among the ring's registered files.
const DEVICE: types::Fixed = types::Fixed(0);

/// Wakes a ring's thread, which waits for it besides requests.
pub struct Waker(OwnedFd);

impl Waker {
    /// # Errors
    /// The system's, when descriptors or memory run out.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the ring's thread see [`Event::Woken`], now or when it next waits.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then the thread is woken already.
        let _ = rustix::io::write(&self.0, &1_u64.to_le_bytes());
    }
}

/// What a ring's thread waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// This entry holds a request.
    Request(usize),
    /// This entry gets no more requests; the errno says why.
    Ended(usize, i32),
    /// The [`FuseRing::transfer`] of this entry is done: a number of bytes, or an errno as a negative number.
    Transferred(usize, i32),
    /// [`Waker::wake`] was called.
    Woken,
}

/// A request in its entry.
pub struct Request<'a> {
    /// `struct fuse_in_header`.
    pub header: &'a [u8],
    /// The operation's own arguments, as far as they have a fixed form; after them, leftovers.
    pub argument: &'a [u8],
    /// Bytes of the payload: names, or data to write.
    pub payload_len: usize,
    /// The buffer that was registered; the payload begins where it was said to.
    pub buffer: &'a mut [u8],
}

/// A ring; it belongs to the thread that made it.
pub struct FuseRing<'w> {
    ring: Option<IoUring<squeue::Entry128, cqueue::Entry>>,
    /// By number; `None` for one that was taken out.
    entries: Vec<Option<Entry>>,
    waker: &'w Waker,
}

/// An entry that was taken out of its ring while it held a request. The reply comes from the ring that it is put into.
pub struct DetachedEntry {
    queue: u16,
    header: AlignedBuffer,
    buffer: AlignedBuffer,
}

impl DetachedEntry {
    /// The queue that it belongs to.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

struct Entry {
    queue: u16,
    header: AlignedBuffer,
    buffer: AlignedBuffer,
    /// Addresses of both, for the kernel when the entry is registered; `None` for one that was put in, which is registered already.
    parts: Option<Box<[libc::iovec; 2]>>,
    owner: Owner,
    /// What the buffer is read from or written to; open for as long as that takes.
    file: Option<Arc<File>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Owner {
    Kernel,
    Us,
    /// The kernel again, which reads a file into the buffer of our request or writes it to one.
    Transfer,
    /// The kernel gave it back for good.
    Nobody,
}

impl<'w> FuseRing<'w> {
    /// # Errors
    /// The system's: `EPERM` where io_uring is forbidden, `EINVAL` on kernels that lack what is needed, `ENOMEM`, `EMFILE`.
    pub fn new(waker: &'w Waker) -> io::Result<Self> {
        let ring = IoUring::<squeue::Entry128, cqueue::Entry>::builder()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(RING_ENTRIES)?;
        Ok(Self { ring: Some(ring), entries: Vec::new(), waker })
    }

    /// Ties the ring to a mount; to be called once.
    ///
    /// # Errors
    /// The system's.
    pub fn attach(&mut self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.ring().submitter().register_files(&[device.as_raw_fd()])?;
        self.watch_waker()
    }

    /// Adds an entry to a queue of the mount. The payload of its requests and replies begins at `payload_at` of `buffer` and
    /// has room for `payload_len` bytes.
    ///
    /// # Errors
    /// The system's. A refusal by FUSE comes later, as [`Event::Ended`].
    ///
    /// # Panics
    /// When the payload does not fit the buffer.
    pub fn register(
        &mut self,
        queue: u16,
        mut buffer: AlignedBuffer,
        payload_at: usize,
        payload_len: usize,
    ) -> io::Result<()> {
        let mut header = AlignedBuffer::zeroed(HEADER_LEN);
        let part = |memory: &mut [u8]| libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        let parts = Box::new([part(&mut header), part(&mut buffer[payload_at..payload_at + payload_len])]);
        let address = parts.as_ptr() as u64;
        self.entries.push(Some(Entry { queue, header, buffer, parts: Some(parts), owner: Owner::Kernel, file: None }));
        self.push(self.entries.len() - 1, queue, REGISTER, address, 0)
    }

    /// Takes an entry out that holds a request; `None` for one that holds none.
    pub fn take(&mut self, entry: usize) -> Option<DetachedEntry> {
        self.held(entry)?;
        self.entries[entry].take().map(|Entry { queue, header, buffer, .. }| DetachedEntry { queue, header, buffer })
    }

    /// Puts an entry in, with the request that it holds, and returns its number here: the kernel takes a reply from any ring of
    /// the mount, and then sends the entry's next request there.
    pub fn put(&mut self, detached: DetachedEntry) -> usize {
        let DetachedEntry { queue, header, buffer } = detached;
        let entry = Some(Entry { queue, header, buffer, parts: None, owner: Owner::Us, file: None });
        match self.entries.iter().position(Option::is_none) {
            Some(vacant) => {
                self.entries[vacant] = entry;
                vacant
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        }
    }

    /// Submits what is to be submitted, and spins until there is something to do, or until this time. Returns whether there is.
    ///
    /// # Errors
    /// The system's.
    pub fn spin(&mut self, until: Instant) -> io::Result<bool> {
        let ring = self.ring();
        excuse(ring.submit())?;
        while !ring.submission().taskrun() && ring.completion().is_empty() {
            if Instant::now() >= until {
                return Ok(false);
            }
            hint::spin_loop();
        }
        Ok(true)
    }

    /// Submits what is to be submitted and waits until there is something to do.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        excuse(self.ring().submit_and_wait(1))?;
        let mut woken = false;
        let Some(ring) = self.ring.as_mut() else { return Ok(()) };
        for completion in ring.completion() {
            let (data, result) = (completion.user_data(), completion.result());
            let number = usize::try_from(data & !TRANSFERRED).unwrap_or(usize::MAX);
            let Some(entry) = self.entries.get_mut(number).and_then(Option::as_mut).filter(|_| data != WOKEN) else {
                woken = true;
                continue;
            };
            events.push(if data & TRANSFERRED != 0 {
                (entry.owner, entry.file) = (Owner::Us, None);
                Event::Transferred(number, result)
            } else if result == 0 {
                entry.owner = Owner::Us;
                Event::Request(number)
            } else {
                entry.owner = Owner::Nobody;
                Event::Ended(number, -result)
            });
        }
        if woken {
            let _ = rustix::io::read(&self.waker.0, &mut [0; 8]);
            self.watch_waker()?;
            events.push(Event::Woken);
        }
        Ok(())
    }

    /// The request of an entry; `None` for an entry that holds none.
    pub fn request(&mut self, entry: usize) -> Option<Request<'_>> {
        let entry = self.held(entry)?;
        let len = u32::from_le_bytes(*entry.header[PAYLOAD_LEN_AT..].first_chunk()?);
        Some(Request {
            header: &entry.header[..IN_HEADER_LEN],
            argument: &entry.header[ARGUMENT_AT..RING_HEADER_AT],
            payload_len: usize::try_from(len).ok()?,
            buffer: &mut entry.buffer,
        })
    }

    /// Replies, with the payload in the entry's buffer, and makes the entry ready for its next request. With `at_once` the kernel gets
    /// the reply now, otherwise with the next [`wait`](Self::wait).
    ///
    /// # Errors
    /// The system's. `Ok` for an entry that holds no request: nothing is left to do.
    pub fn reply(
        &mut self,
        entry: usize,
        header: [u8; OUT_HEADER_LEN],
        payload_len: u32,
        at_once: bool,
    ) -> io::Result<()> {
        let Some(replied) = self.held(entry) else { return Ok(()) };
        replied.header[..OUT_HEADER_LEN].copy_from_slice(&header);
        replied.header[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + 4].copy_from_slice(&payload_len.to_le_bytes());
        let id = replied.header[COMMIT_ID_AT..].first_chunk().map_or(0, |id| u64::from_le_bytes(*id));
        replied.owner = Owner::Kernel;
        let queue = replied.queue;
        self.push(entry, queue, COMMIT_AND_FETCH, 0, id)?;
        if at_once {
            self.ring().submit()?;
        }
        Ok(())
    }

    /// Reads from a file at `offset` into a part of the buffer of an entry that holds a request, or writes that part to it.
    /// Until [`Event::Transferred`] reports the end, the entry cannot be touched.
    ///
    /// # Errors
    /// The system's, also for an entry that holds no request, or has no such part.
    pub fn transfer(
        &mut self,
        entry: usize,
        to_file: bool,
        file: &Arc<File>,
        offset: u64,
        part: Range<usize>,
    ) -> io::Result<()> {
        let data = entry as u64 | TRANSFERRED;
        let part = self.held(entry).and_then(|entry| {
            let memory = entry.buffer.get_mut(part)?;
            let part = (memory.as_mut_ptr(), u32::try_from(memory.len()).ok()?);
            (entry.owner, entry.file) = (Owner::Transfer, Some(Arc::clone(file)));
            Some(part)
        });
        let (memory, len) = part.ok_or(io::ErrorKind::InvalidInput)?;
        let file = types::Fd(file.as_raw_fd());
        let submission = match to_file {
            false => opcode::Read::new(file, memory, len).offset(offset).build(),
            true => opcode::Write::new(file, memory, len).offset(offset).build(),
        };
        self.submit(&submission.user_data(data).into())
    }

    /// The queue that an entry belongs to; `None` for an entry that was taken out.
    pub fn queue(&self, entry: usize) -> Option<u16> {
        self.entries.get(entry)?.as_ref().map(|entry| entry.queue)
    }

    /// Whether the kernel has any entry.
    pub fn is_served(&self) -> bool {
        self.entries.iter().flatten().any(|entry| entry.owner == Owner::Kernel)
    }

    /// An entry that holds a request.
    fn held(&mut self, entry: usize) -> Option<&mut Entry> {
        self.entries.get_mut(entry)?.as_mut().filter(|entry| entry.owner == Owner::Us)
    }

    fn ring(&mut self) -> &mut IoUring<squeue::Entry128, cqueue::Entry> {
        self.ring.as_mut().expect("it is there until this value is dropped")
    }

    fn push(&mut self, entry: usize, queue: u16, command: u32, address: u64, commit_id: u64) -> io::Result<()> {
        let mut area = [0; 80]; // struct fuse_uring_cmd_req: flags, commit id, queue
        area[8..16].copy_from_slice(&commit_id.to_le_bytes());
        area[16..18].copy_from_slice(&queue.to_le_bytes());
        let command = opcode::UringCmd80::new(DEVICE, command).cmd(area);
        let command = if address == 0 { command } else { command.addr(Some(address)) };
        let mut submission = command.build().user_data(entry as u64);
        if address != 0 {
            set_len(&mut submission, 2);
        }
        self.submit(&submission)
    }

    fn watch_waker(&mut self) -> io::Result<()> {
        let flags = u32::from(libc::POLLIN.cast_unsigned());
        let poll = opcode::PollAdd::new(types::Fd(self.waker.0.as_fd().as_raw_fd()), flags).build().user_data(WOKEN);
        self.submit(&poll.into())
    }

    fn submit(&mut self, submission: &squeue::Entry128) -> io::Result<()> {
        // SAFETY: what the submission points to are the entry's header and buffer and the table of both, which stay
        // where they are and are not touched while the kernel owns the entry, be it for a request or a transfer, whose file
        // the entry keeps open; see `Drop` for the end.
        while unsafe { self.ring().submission().push(submission) }.is_err() {
            excuse(self.ring().submit())?;
        }
        Ok(())
    }
}

/// Neither a signal is a failure, nor completions that must be taken before more is submitted.
fn excuse(submitted: io::Result<usize>) -> io::Result<()> {
    match submitted {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Err(error),
        _ => Ok(()),
    }
}

impl Drop for FuseRing<'_> {
    fn drop(&mut self) {
        self.ring = None;
        for entry in self.entries.drain(..).flatten() {
            if matches!(entry.owner, Owner::Kernel | Owner::Transfer) {
                // The kernel releases it some time after the ring is closed, and does not say when: better to leak it than to
                // have it written to under its next owner.
                std::mem::forget(entry);
            } else {
                drop(entry.parts);
            }
        }
    }
}

/// `sqe.len`, which the crate has no way to set for this operation: how many parts `sqe.addr` points to.
fn set_len(submission: &mut squeue::Entry128, len: u32) {
    const LEN_AT: usize = 24;
    let start: *mut u8 = std::ptr::from_mut(submission).cast();
    // SAFETY: an `Entry128` is the kernel's 128-byte `struct io_uring_sqe`, plain data, with `len` at byte 24, aligned.
    unsafe { start.add(LEN_AT).cast::<u32>().write(len) };
}

/// Turns a second descriptor into one of the same mount: it can read requests and reply to those that it read.
///
/// # Errors
/// The system's.
pub fn clone_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500; // _IOR(229, 0, __u32)
    let clone: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/fuse")?.into();
    let source = u32::try_from(device.as_raw_fd()).map_err(|_| Errno::BADF)?;
    // SAFETY: both descriptors are open for the whole call, and `source` outlives it; the kernel only reads it.
    super::check(unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const source) })?;
    Ok(clone)
}
