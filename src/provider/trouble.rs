//! Why a KEK cannot be had: what is wrong with its server, or with the key.

use std::error::Error as StdError;
use std::{fmt, iter};

use super::{KeyState, kmip};
use crate::error::Error;

/// Why a KEK cannot be had, in more detail than a [`Kind`](crate::error::Kind).
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
    /// What the server says is no answer to what it was asked.
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
    /// What came under the key's id is no KEK.
    NotAKek,
}

impl Trouble {
    /// Why the provider of an error's cause gave no KEK, if it said so.
    pub fn of(error: &Error) -> Option<Self> {
        let causes = iter::successors(error.source(), |&cause| cause.source());
        let trouble_of = |cause: &(dyn StdError + 'static)| {
            let failure = cause.downcast_ref::<kmip::Failure>().map(kmip::Failure::trouble);
            failure.or_else(|| cause.downcast_ref::<Told>().map(|told| told.trouble))
        };
        causes.filter_map(trouble_of).next()
    }

    /// Whether it is the server's trouble, rather than that of the key.
    pub fn is_of_server(self) -> bool {
        matches!(self, Self::Silent | Self::Unreachable | Self::Untrusted | Self::Faulty | Self::Garbled)
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
        }
    }
}

/// What a provider's error said, kept when the error itself cannot be.
#[derive(Debug)]
struct Told {
    text: String,
    trouble: Trouble,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Told {}

/// An error that says `text`, of the same kind as `error` and of the same [`Trouble`].
pub fn retold(error: &Error, text: String) -> Error {
    match Trouble::of(error) {
        None => Error::new(error.kind(), text),
        Some(trouble) => {
            // The chain prints what an error says and what its cause says: one sentence of it each.
            let (first, rest) = text.split_once(": ").unwrap_or((&text, "no more is known"));
            Error::with_source(error.kind(), first, Told { text: rest.to_owned(), trouble })
        }
    }
}
