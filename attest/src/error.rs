//! What went wrong, and what the caller can do about it.

use std::fmt;

/// A result whose error is this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The bytes do not follow their format: a sender is broken, or tries something.
    Malformed,
    /// Well formed, but of an algorithm, version or variant that is not accepted here.
    Unsupported,
    /// Well formed, and it does not prove what was asked for. The host is not to be trusted by it.
    Refused,
    /// An argument of the caller makes no sense, such as a nonce that is too short.
    Invalid,
    /// The cryptographic library failed where it does not on valid input, such as the random generator.
    Failed,
}

/// A sentence that names what was found and what was expected, and its [`Kind`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    /// An error of this kind. The message is a sentence without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error, after what was being done or read.
    #[must_use]
    pub fn within(self, context: impl fmt::Display) -> Self {
        Self { message: format!("{context}: {}", self.message), ..self }
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
