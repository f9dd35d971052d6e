//! Forwards requests to fuser, and returns fuser's replies to where the requests came from.
//!
//! Between the two is a socket pair that preserves message boundaries. It carries the classic wire format: to fuser it is its
//! device. Forwarding never waits, so slow operations on names, attributes or keys hold up no read and no write. How many of
//! them run at the same time is fuser's number of threads.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendmsg, socketpair, sockopt};

use crate::error::{Context, Error, Kind, Result};
use crate::fuse::opcode;
use crate::fuse::transport::inbox::{Inbox, Message};
use crate::fuse::transport::reply::write_reply;
use crate::fuse::transport::wire::{self, InHeader, Received};
use crate::sys::thread::may_fail;

/// Longest message in either direction: the value of an extended attribute, or a part of a directory, with headers and names.
const MAX_MESSAGE: usize = 72 << 10;
/// At most this many bytes of a directory are requested at once, so that the reply fits a message.
pub(super) const MAX_LISTING: u32 = 64 << 10;

/// Requests on their way to fuser and back.
pub(super) struct Relay {
    socket: OwnedFd,
    /// The requests that fuser has, by their unique numbers.
    origins: Mutex<HashMap<u64, Forwarded>>,
    backlog: Mutex<Backlog>,
    more: Condvar,
}

/// A request that fuser has.
struct Forwarded {
    request: Received,
    origin: Origin,
    /// For a sync in place of a write: how many bytes were written.
    written: Option<u32>,
}

/// Where a reply belongs.
pub(super) enum Origin {
    /// The descriptor that the request was read from.
    Device(Arc<OwnedFd>),
    /// An entry of a ring.
    Ring(Arc<Inbox>, usize),
}

/// Messages that the socket had no room for.
#[derive(Default)]
struct Backlog {
    messages: VecDeque<Vec<u8>>,
    closed: bool,
}

impl Relay {
    /// A relay, and the descriptor for fuser.
    ///
    /// # Errors
    /// `Io` without descriptors, `Unsupported` where sockets may hold too little.
    pub(super) fn new() -> Result<(Self, OwnedFd)> {
        let doing = || "making the socket pair to the dispatcher".into();
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).context(doing)?;
        for socket in [&ours, &theirs] {
            if sockopt::socket_send_buffer_size(socket).context(doing)? < 2 * MAX_MESSAGE {
                sockopt::set_socket_send_buffer_size(socket, 2 * MAX_MESSAGE).context(doing)?;
            }
            let size = sockopt::socket_send_buffer_size(socket).context(doing)?;
            if size < MAX_MESSAGE + 64 {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("sockets hold {size} bytes, {MAX_MESSAGE} are needed: raise net.core.wmem_max"),
                ));
            }
        }
        let relay =
            Self { socket: ours, origins: Mutex::default(), backlog: Mutex::default(), more: Condvar::default() };
        Ok((relay, theirs))
    }

    /// Passes the kernel's first request to fuser and returns the reply.
    ///
    /// # Errors
    /// `Io` when fuser refuses.
    pub(super) fn ask(&self, request: &[u8]) -> Result<Vec<u8>> {
        let doing = || "agreeing with the kernel on the protocol".into();
        self.send(&[IoSlice::new(request)], SendFlags::NOSIGNAL).context(doing)?;
        let mut reply = vec![0; MAX_MESSAGE];
        let (len, _) = recv(&self.socket, &mut reply[..], RecvFlags::empty()).context(doing)?;
        reply.truncate(len);
        if len < wire::OUT_HEADER_LEN {
            return Err(Error::errno(doing(), Errno::PROTO));
        }
        Ok(reply)
    }

    /// Forwards a request to fuser. Its reply goes to `origin`, whatever happens.
    pub(super) fn forward(&self, request: Received, parts: &[&[u8]], origin: Origin) {
        self.hand_over(parts, Forwarded { request, origin, written: None });
    }

    /// Has fuser make a finished write durable, and then replies to it.
    pub(super) fn sync_write(&self, write: Received, handle: u64, written: u32, origin: Origin) {
        let sync = wire::sync_request(write.header, handle);
        self.hand_over(&[&sync], Forwarded { request: write, origin, written: Some(written) });
    }

    fn hand_over(&self, parts: &[&[u8]], forwarded: Forwarded) {
        let unique = forwarded.request.header.unique;
        self.origins.lock().insert(unique, forwarded);
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut backlog = self.backlog.lock();
        let sent = if backlog.messages.is_empty() {
            self.send(&slices, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        } else {
            Err(Errno::AGAIN)
        };
        match sent {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                backlog.messages.push_back(parts.concat());
                self.more.notify_one();
            }
            Err(error) => {
                drop(backlog);
                tracing::error!("{}", Error::errno("handing a request to the dispatcher", error).chain());
                self.deliver(&wire::out_header(unique, libc::EIO, 0));
            }
        }
    }

    /// Sends what the socket had no room for, until [`close`](Self::close).
    pub(super) fn drain_backlog(&self) {
        may_fail("relay-out");
        loop {
            let mut backlog = self.backlog.lock();
            let message = loop {
                match backlog.messages.pop_front() {
                    Some(message) => break message,
                    None if backlog.closed => return,
                    None => self.more.wait(&mut backlog),
                }
            };
            drop(backlog);
            if let Err(error) = self.send(&[IoSlice::new(&message)], SendFlags::NOSIGNAL) {
                tracing::debug!("{}", Error::errno("handing a request to the dispatcher", error).chain());
                if let Some(request) = InHeader::decode(&message) {
                    self.deliver(&wire::out_header(request.unique, libc::EIO, 0));
                }
            }
        }
    }

    /// Returns replies until fuser has ended. Requests that it left unanswered fail.
    pub(super) fn return_replies(&self) {
        let mut reply = vec![0; MAX_MESSAGE];
        loop {
            match recv(&self.socket, &mut reply[..], RecvFlags::empty()) {
                Ok((0, _)) => break,
                Ok((len, _)) => {
                    may_fail("relay-in");
                    self.deliver(&reply[..len]);
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!("{}", Error::errno("taking a reply from the dispatcher", error).chain());
                    break;
                }
            }
        }
        let left: Vec<u64> = self.origins.lock().keys().copied().collect();
        for unique in left {
            self.deliver(&wire::out_header(unique, libc::EIO, 0));
        }
    }

    /// Ends fuser's threads, each with a request of its own, after they have served the requests before it.
    pub(super) fn close(&self, threads: usize) {
        let (len, opcode) = (wire::IN_HEADER_LEN, opcode::DESTROY);
        let end = InHeader { len, opcode, unique: 0, node: 0, uid: 0, gid: 0, pid: 0 };
        let mut backlog = self.backlog.lock();
        backlog.messages.extend(std::iter::repeat_n(end.encode().to_vec(), threads));
        backlog.closed = true;
        self.more.notify_one();
    }

    fn deliver(&self, reply: &[u8]) {
        // A reply that belongs to no request is one to `close`.
        let Some(unique) = wire::reply_unique(reply) else { return };
        let Some(Forwarded { request, origin, written }) = self.origins.lock().remove(&unique) else { return };
        request.count(wire::reply_errno(reply).unwrap_or(libc::EIO), reply.len() - wire::OUT_HEADER_LEN);
        let of_write;
        let reply = match written.filter(|_| wire::reply_errno(reply) == Some(0)) {
            Some(written) => {
                let payload = wire::written(written);
                of_write = [&wire::out_header(unique, 0, payload.len())[..], &payload].concat();
                &of_write
            }
            None => reply,
        };
        match origin {
            Origin::Device(device) => write_reply(&device, reply),
            Origin::Ring(inbox, entry) => inbox.post(Message::Reply(entry, reply.to_vec())),
        }
    }

    fn send(&self, parts: &[IoSlice<'_>], flags: SendFlags) -> rustix::io::Result<()> {
        loop {
            match sendmsg(&self.socket, parts, &mut Default::default(), flags) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }
}
