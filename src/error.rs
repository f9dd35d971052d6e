//! The one error type: what a caller can do about it, what a person should read, and the cause.
//!
//! Errno and exit code follow only from [`Kind`]; each is mapped in one place (`fuse::errno`, `cli::exit`).

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::text;
use crate::text::advice::Places;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an [`Error`]. Its names in JSON are part of the control socket's protocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Another writer, process or host holds what was asked for.
    Busy,
    /// Stored bytes are damaged or were tampered with.
    Corrupt,
    /// Forbidden by permissions or by one of our own rules.
    Denied,
    /// What should be created is there already.
    Exists,
    /// The request itself makes no sense; asking again will not help.
    Invalid,
    /// The operating system refused; [`Error::os_error`] says how.
    Io,
    /// A KEK was obtained, but it does not open this component.
    KeyRejected,
    /// The KEK or its provider is unavailable now.
    KeyUnavailable,
    /// What was asked for does not exist.
    NotFound,
    /// Something may be read but not changed.
    ReadOnly,
    /// Long work was stopped at a safe point on request; running it again resumes it.
    Stopped,
    /// Well-formed, but not what this version or this machine can do.
    Unsupported,
}

impl Kind {
    /// As JSON and metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Exists => "exists",
            Self::Invalid => "invalid",
            Self::Io => "io",
            Self::KeyRejected => "key-rejected",
            Self::KeyUnavailable => "key-unavailable",
            Self::NotFound => "not-found",
            Self::ReadOnly => "read-only",
            Self::Stopped => "stopped",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A kind, a sentence that says what was found and what was expected, and the underlying error.
///
/// Displays only its sentence; output for people prints the chain of [`source`](StdError::source)s.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that has no other error as its cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// A failed system call: what was being done, and the cause.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self { kind: io_kind(&source), message: doing.into(), source: Some(Box::new(source)) }
    }

    /// A failure that the system would report by this number: what was being done, and the number.
    pub fn errno(doing: impl Into<String>, number: Errno) -> Self {
        Self::io(doing, number.into())
    }

    /// A failure that the system would report by this number, and that was prevented: nothing was begun.
    pub fn foreseen(why: impl Into<String>, number: Errno) -> Self {
        let source = Foreseen(number);
        Self { kind: io_kind(&number.into()), message: why.into(), source: Some(Box::new(source)) }
    }

    /// An error of `kind` with another error as its cause.
    pub fn with_source(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `errno` value at the bottom of the chain, if a system call is to blame, or would have been.
    pub fn os_error(&self) -> Option<i32> {
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error();
            }
            if let Some(Foreseen(number)) = error.downcast_ref::<Foreseen>() {
                return Some(number.raw_os_error());
            }
            cause = error.source();
        }
        None
    }

    /// The same error, and causes of our own, with these paths in their advice.
    #[must_use]
    pub fn with_places(self, places: &Places<'_>) -> Self {
        let source = self.source.map(|source| match source.downcast::<Self>() {
            Ok(ours) => Box::new(ours.with_places(places)),
            Err(other) => other,
        });
        Self { kind: self.kind, message: places.put_into(&self.message), source }
    }

    /// This error and all its causes as one line, outermost first, for terminals and logs.
    pub fn chain(&self) -> String {
        let mut parts = vec![self.message.clone()];
        let mut cause = self.source();
        while let Some(error) = cause {
            let part = without_numbers(error.to_string());
            // Two layers that each name the same file say it once.
            if parts.last().is_some_and(|last| *last != part) {
                parts.push(part);
            }
            cause = error.source();
        }
        text::one_line(&parts.join(": ")).into_owned()
    }
}

/// What would have failed with this number.
#[derive(Debug)]
struct Foreseen(Errno);

impl fmt::Display for Foreseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing was begun")
    }
}

impl StdError for Foreseen {}

/// An error of the system without ` (os error 2)`, which std appends to the meaning.
fn without_numbers(mut text: String) -> String {
    const BEFORE: &str = " (os error ";
    while let Some(start) = text.find(BEFORE) {
        let digits = text[start + BEFORE.len()..].bytes().take_while(u8::is_ascii_digit).count();
        let end = start + BEFORE.len() + digits;
        if digits == 0 || !text[end..].starts_with(')') {
            break;
        }
        text.replace_range(start..=end, "");
    }
    text
}

/// The cause of an error of opening what is not a regular file, where one was expected: what it is instead.
#[derive(Debug)]
pub struct NotAFile(pub &'static str);

impl fmt::Display for NotAFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lies there, expected a regular file", self.0)
    }
}

impl StdError for NotAFile {}

/// Only what our own kinds say better than an errno; the rest is `Io` and keeps its errno.
fn io_kind(error: &io::Error) -> Kind {
    if error.get_ref().is_some_and(|cause| cause.is::<NotAFile>()) {
        Kind::Corrupt
    } else if error.kind() == io::ErrorKind::NotFound {
        Kind::NotFound
    } else if error.kind() == io::ErrorKind::AlreadyExists {
        Kind::Exists
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        Kind::Denied
    } else if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        Kind::ReadOnly
    } else {
        Kind::Io
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Adds what was being done, and to what, to an error on its way up.
pub trait Context<T> {
    /// Wraps the error in a sentence; the kind is unchanged.
    ///
    /// # Errors
    /// The same error, one level deeper.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error { kind: error.kind, message: message(), source: Some(Box::new(error)) })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(message(), error))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|number| Error::errno(message(), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_kinds_are_those_of_json() {
        for kind in [Kind::Busy, Kind::KeyRejected, Kind::KeyUnavailable, Kind::NotFound, Kind::ReadOnly, Kind::Io] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn context_keeps_kind_and_errno() {
        let full: io::Result<()> = Err(io::Error::from_raw_os_error(28));
        let error = full.context(|| "writing 512 bytes".into()).context(|| "disk root.raw".into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert_eq!(error.os_error(), Some(28));
        assert!(error.chain().starts_with("disk root.raw: writing 512 bytes: "), "{}", error.chain());
    }

    #[test]
    fn a_chain_is_one_line_that_says_nothing_twice() {
        let missing: io::Result<()> = Err(io::Error::from_raw_os_error(2));
        let error = missing.context(|| "/nope\x1b".into()).context(|| "/nope\x1b".into()).unwrap_err();
        assert_eq!(error.chain(), "/nope\\x1b: No such file or directory");
        let within = io::Error::other("connecting: Connection refused (os error 111); kms2 (os error x)");
        assert_eq!(Error::io("a", within).chain(), "a: connecting: Connection refused; kms2 (os error x)");
    }

    #[test]
    fn what_was_prevented_has_the_number_and_not_the_words_of_a_call_that_failed() {
        let error = Error::foreseen("7 bytes are needed, 3 available", Errno::NOSPC);
        assert_eq!((error.kind(), error.os_error()), (Kind::Io, Some(28)));
        assert_eq!(error.chain(), "7 bytes are needed, 3 available: nothing was begun");
    }

    #[test]
    fn an_error_of_ours_has_no_errno() {
        assert_eq!(Error::new(Kind::Corrupt, "no").os_error(), None);
    }
}
