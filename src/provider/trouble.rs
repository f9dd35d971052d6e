//! Why a KEK is unavailable: what is wrong with its server, or with the key.

use std::error::Error as StdError;
use std::{fmt, iter};

use super::KeyState;
use crate::error::{Error, Kind};

/// Why a KEK is unavailable, in more detail than a [`Kind`](crate::error::Kind).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// The server does not answer in time.
    Silent,
    /// The server cannot be reached, or is known to be down.
    Unreachable,
    /// The server or this host does not accept the other's certificate.
    Untrusted,
    /// The server failed.
    Faulty,
    /// The server's answer does not fit the request.
    Garbled,
    /// The server cannot do what it was asked for.
    Unsupported,
    /// No member of the server has the key.
    Missing,
    /// This host may not have the key.
    Denied,
    /// The key was destroyed.
    Destroyed,
    /// The key's state does not allow it.
    State(KeyState),
    /// What came under the key's id is not a KEK.
    NotAKek,
    /// No member of the trust authority answers, or none whose log can be trusted.
    AuthorityDown,
    /// The trust authority gives this host no keys, or this host cannot attest.
    Unattested,
}

impl Trouble {
    /// Why the provider of an error's cause gave no KEK, if it said so.
    pub fn of(error: &Error) -> Option<Self> {
        let mut causes = iter::successors(error.source(), |&cause| cause.source());
        causes.find_map(|cause| cause.downcast_ref::<Failure>()).map(Failure::trouble)
    }

    /// Whether it is the server's trouble, rather than that of the key.
    pub fn is_of_server(self) -> bool {
        matches!(
            self,
            Self::Silent | Self::Unreachable | Self::Untrusted | Self::Faulty | Self::Garbled | Self::AuthorityDown
        )
    }

    /// Whether asking again may help.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Self::Silent | Self::Unreachable | Self::Faulty | Self::Garbled)
    }

    /// Of what several members say, the trouble of least rank says most. `Missing` says least: another may have the key.
    pub(super) fn rank(self) -> usize {
        match self {
            Self::State(_) => 0,
            Self::Destroyed => 1,
            Self::NotAKek => 2,
            Self::Denied => 3,
            Self::Unsupported => 4,
            Self::Untrusted => 5,
            Self::Garbled => 6,
            Self::Faulty => 7,
            Self::Silent => 8,
            Self::Unreachable => 9,
            Self::Missing => 10,
            // Not of a key server.
            Self::AuthorityDown => 11,
            Self::Unattested => 12,
        }
    }
}

/// What a provider has to say of a call that did not succeed: the cause of its error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    trouble: Trouble,
    message: String,
}

impl Failure {
    /// A failure of this meaning, in words for people.
    pub fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        Self { trouble, message: message.into() }
    }

    /// What it means.
    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// Says more, if there is more to say.
    pub(super) fn with_note(mut self, note: Option<String>) -> Self {
        if let Some(note) = note {
            self.message += &format!("; {note}");
        }
        self
    }

    /// The error of a call that was doing this.
    pub(super) fn into_error(self, doing: impl Into<String>) -> Error {
        let kind = if self.trouble == Trouble::NotAKek { Kind::KeyRejected } else { Kind::KeyUnavailable };
        Error::with_source(kind, doing, self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// An error that says `text`, of the same kind as `error` and of the same [`Trouble`].
pub fn reword(error: &Error, text: String) -> Error {
    match Trouble::of(error) {
        None => Error::new(error.kind(), text),
        Some(trouble) => {
            // The chain prints what an error says and what its cause says: one sentence of it each.
            let (first, rest) = text.split_once(": ").unwrap_or((&text, "no details"));
            Error::with_source(error.kind(), first, Failure::new(trouble, rest))
        }
    }
}
