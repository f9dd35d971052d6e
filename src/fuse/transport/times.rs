//! Times on their way through fuser. It lets the nanoseconds of a time before 1970 count backwards, and the earliest second of all ends
//! its thread. So the times that a request sets are passed to it as counted from a moment before all of them, and are corrected when
//! they come out.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long before 1970 that moment is, in seconds: 70 thousand million years. Times further away are clamped.
const HEAD_START: i64 = 1 << 61;
/// Offsets of atime, mtime and ctime in `struct fuse_setattr_in`, in seconds.
const SECONDS: [usize; 3] = [32, 40, 48];

/// Moves the times that a `FUSE_SETATTR` sets, before fuser reads it; `argument` is what follows the header.
pub(super) fn give_head_start(argument: &mut [u8]) {
    for at in SECONDS {
        if let Some(field) = argument.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            let seconds = i64::from_ne_bytes(*field).clamp(-HEAD_START, HEAD_START);
            *field = (seconds + HEAD_START).to_ne_bytes();
        }
    }
}

/// The time that fuser read after [`give_head_start`].
pub(in crate::fuse) fn without_head_start(time: SystemTime) -> SystemTime {
    time.checked_sub(Duration::from_secs(HEAD_START.unsigned_abs())).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    use fuser::{
        BsdFileFlags, Config, Errno, FileHandle, Filesystem, INodeNo, ReplyAttr, Request, Session, SessionACL,
        TimeOrNow,
    };

    use crate::fuse::opcode;
    use crate::fuse::transport::relay::Relay;
    use crate::fuse::transport::wire::{IN_HEADER_LEN, InHeader};

    /// Passes on the time of last access that it is to set.
    struct Recorder(mpsc::Sender<SystemTime>);

    impl Filesystem for Recorder {
        fn setattr(
            &self,
            _request: &Request,
            _number: INodeNo,
            _mode: Option<u32>,
            _uid: Option<u32>,
            _gid: Option<u32>,
            _size: Option<u64>,
            accessed: Option<TimeOrNow>,
            _modified: Option<TimeOrNow>,
            _changed: Option<SystemTime>,
            _handle: Option<FileHandle>,
            _created: Option<SystemTime>,
            _checked: Option<SystemTime>,
            _backed_up: Option<SystemTime>,
            _flags: Option<BsdFileFlags>,
            reply: ReplyAttr,
        ) {
            if let Some(TimeOrNow::SpecificTime(time)) = accessed {
                self.0.send(time).unwrap();
            }
            reply.error(Errno::EPERM);
        }
    }

    fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let len = IN_HEADER_LEN + body.len();
        [&InHeader { len, opcode, unique, node: 1, uid: 0, gid: 0, pid: 0 }.encode()[..], body].concat()
    }

    #[test]
    fn any_time_survives_fuser() {
        const INIT: u32 = 26;
        let (relay, theirs) = Relay::new().unwrap();
        let (sender, seen) = mpsc::channel();
        let mut config = Config::default();
        config.n_threads = Some(1);
        let session =
            thread::spawn(|| Session::from_fd(Recorder(sender), theirs, SessionACL::All, config).unwrap().run());
        let mut init = [0; 64];
        init[..8].copy_from_slice(&[7_u32, 40].map(u32::to_ne_bytes).concat());
        relay.ask(&request(INIT, 1, &init)).unwrap();
        let moments = [(0, 0), (-1, 0), (-1, 500_000_000), (-1, 999_999_999), (-77, 1), (1 << 33, 3), (-(1 << 40), 4)];
        for (unique, (seconds, nanos)) in (2..).zip(moments) {
            let mut body = [0; 88];
            body[..4].copy_from_slice(&(1_u32 << 4).to_ne_bytes());
            body[32..40].copy_from_slice(&i64::to_ne_bytes(seconds));
            body[56..60].copy_from_slice(&u32::to_ne_bytes(nanos));
            give_head_start(&mut body);
            relay.ask(&request(opcode::SETATTR, unique, &body)).unwrap();
            let start = without_head_start(seen.recv().unwrap());
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let expected = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
            assert_eq!(start, expected + Duration::from_nanos(nanos.into()), "{seconds} s and {nanos} ns");
        }
        relay.close(1);
        relay.drain_backlog();
        session.join().unwrap().unwrap();
    }

    #[test]
    fn first_and_last_second_are_clamped() {
        let mut body = [0xff; 88];
        body[32..40].copy_from_slice(&i64::MIN.to_ne_bytes());
        body[40..48].copy_from_slice(&i64::MAX.to_ne_bytes());
        give_head_start(&mut body);
        let seconds = |at: usize| i64::from_ne_bytes(*body[at..].first_chunk().unwrap());
        assert_eq!((seconds(32), seconds(40), seconds(48)), (0, 2 * HEAD_START, HEAD_START - 1));
        give_head_start(&mut [0; 50]);
    }
}
