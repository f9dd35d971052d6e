//! What a provider has to be asked before an operation can continue.

use std::error::Error as StdError;
use std::{fmt, iter};

use crate::error::{Error, Kind};
use crate::format::header::{Header, UnverifiedHeader};

/// A request to a provider that may not answer at once. An operation that cannot continue without its answer fails with the
/// request as its error's cause; asked by [`Keyring::ask`](super::Keyring::ask), it can be tried again.
#[derive(Debug)]
pub enum PendingFetch {
    /// The KEK of a component that was never seen.
    Unlock(Box<UnverifiedHeader>),
    /// Whether the KEK of this home may wrap something new.
    Wrap(Box<Header>),
}

impl PendingFetch {
    /// The request that an operation ended with.
    pub fn of(error: &Error) -> Option<&Self> {
        let mut causes = iter::successors(error.source(), |&cause| cause.source());
        causes.find_map(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for PendingFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlock(_) => "the component was not there when the mount began",
            Self::Wrap(_) => "whether the key may still wrap is not known",
        })
    }
}

impl StdError for PendingFetch {}

impl From<PendingFetch> for Error {
    fn from(fetch: PendingFetch) -> Self {
        Self::with_source(Kind::KeyUnavailable, "its key provider has to be asked first", fetch)
    }
}
