//! How a call to etcd fails, and what that means for a board.

use vmcryptfs::error::{Error, Kind};

/// Why a call has no answer that can be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// The member is not reached, or cannot answer: another one may. What was asked for may have been done.
    Unreachable(String),
    /// The member is not one that this host trusts, or the other way round. Another one may be.
    Untrusted(String),
    /// The member refuses, and every other one would.
    Refused(Status),
    /// What this host has, or what was answered, is wrong.
    Ours(Error),
}

/// How a call ended, by gRPC's numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) reason: String,
}

const OK: u32 = 0;
const INVALID: u32 = 3;
const TOO_LATE: u32 = 4;
pub(super) const NOT_FOUND: u32 = 5;
const DENIED: u32 = 7;
const EXHAUSTED: u32 = 8;
const ABORTED: u32 = 10;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

impl Status {
    pub(super) fn is_ok(&self) -> bool {
        self.code == OK
    }

    fn is_full(&self) -> bool {
        self.code == EXHAUSTED && self.reason.contains("database space exceeded")
    }

    /// Whether another member may do better, or is this one in some seconds.
    pub(super) fn failure(mut self) -> Failure {
        if self.reason.is_empty() {
            self.reason = format!("it fails with status {}, and does not say why", self.code);
        }
        let busy = self.code == EXHAUSTED && !self.is_full();
        match self.code {
            TOO_LATE | ABORTED | INTERNAL | UNAVAILABLE => Failure::Unreachable(self.reason),
            _ if busy => Failure::Unreachable(self.reason),
            _ => Failure::Refused(self),
        }
    }

    /// As an error of a board.
    pub(super) fn into_error(self) -> Error {
        let reason = &self.reason;
        match self.code {
            _ if self.is_full() => Error::new(
                Kind::Io,
                format!(
                    "the board is full: etcd says {reason:?}; compact and defragment it or raise its quota, then end the alarm \
                     with `etcdctl alarm disarm`"
                ),
            ),
            DENIED | UNAUTHENTICATED => Error::new(
                Kind::Denied,
                format!(
                    "etcd does not let this host's certificate do that: {reason:?}; its user needs a role for /vmcryptfs/"
                ),
            ),
            INVALID if reason.contains("user name is empty") => Error::new(
                Kind::Denied,
                format!(
                    "etcd knows no user by this host's certificate: {reason:?}; its common name must be that of a user"
                ),
            ),
            INVALID if reason.contains("too large") => {
                Error::new(Kind::Invalid, format!("the record is larger than etcd takes: {reason:?}"))
            }
            NOT_FOUND => Error::new(Kind::NotFound, format!("etcd does not have it: {reason:?}")),
            code => Error::new(Kind::Io, format!("etcd refuses with status {code}: {reason:?}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do_and_trouble_of_one_member_is_none() {
        let status = |code, reason: &str| Status { code, reason: reason.into() };
        for (refused, kind, words) in [
            (status(8, "etcdserver: mvcc: database space exceeded"), Kind::Io, "alarm disarm"),
            (status(7, "etcdserver: permission denied"), Kind::Denied, "role for /vmcryptfs/"),
            (status(16, "etcdserver: invalid auth token"), Kind::Denied, "certificate"),
            (status(3, "etcdserver: user name is empty"), Kind::Denied, "common name"),
            (status(3, "etcdserver: request is too large"), Kind::Invalid, "larger than etcd takes"),
            (status(5, "etcdserver: requested lease not found"), Kind::NotFound, "lease not found"),
            (status(12, "unknown service"), Kind::Io, "status 12"),
        ] {
            let Failure::Refused(refused) = refused.failure() else { panic!("{words}") };
            let error = refused.into_error();
            assert_eq!(error.kind(), kind, "{words}");
            assert!(error.chain().contains(words), "{}", error.chain());
        }
        for (code, reason) in
            [(14, "etcdserver: no leader"), (8, "etcdserver: too many requests"), (4, "late"), (13, "")]
        {
            let Failure::Unreachable(why) = status(code, reason).failure() else { panic!("{reason}") };
            assert!(!why.is_empty(), "a member that was tried has trouble to tell");
        }
    }
}
