//! The users that operations are done for.

use std::os::fd::AsFd;

use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::gate::Object;
use crate::sys::process::effective_uid;

/// The user that an operation is done for, and the way on which it is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Principal {
    /// The user of this process, which does it on its own account: a verb, or a mount.
    Process,
    /// The user of a process at the other end of a socket.
    Peer(u32),
    /// The user of a program that uses a mount. The kernel has checked permissions of files.
    MountUser(u32),
}

impl Principal {
    /// The process at the other end of a socket.
    ///
    /// # Errors
    /// `Io`.
    pub fn of_peer(socket: impl AsFd) -> Result<Self> {
        let peer = rustix::net::sockopt::socket_peercred(socket);
        peer.context(|| "asking which user is at the other end of a socket".into())
            .map(|peer| Self::Peer(peer.uid.as_raw()))
    }

    /// The user's number.
    pub fn uid(self) -> u32 {
        match self {
            Self::Process => effective_uid(),
            Self::Peer(uid) | Self::MountUser(uid) => uid,
        }
    }

    /// Whether an operation may be done to an object for this principal. A process that asks another one must be of the same user, or
    /// root's.
    ///
    /// # Errors
    /// `Denied`.
    pub(super) fn may(self, name: EventName, object: &Object) -> Result<()> {
        #[cfg(test)]
        super::refusing::ask(name)?;
        match self {
            Self::Peer(uid) if uid != 0 && uid != effective_uid() => {
                let what = name.word();
                Err(Error::new(
                    Kind::Denied,
                    format!("user {uid} may not have another user's process do {what} to {object}"),
                ))
            }
            Self::Process | Self::Peer(_) | Self::MountUser(_) => Ok(()),
        }
    }
}
