//! What went wrong, where, and what the caller can do about it.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The bytes contradict themselves or the file they are in: the image is damaged or was made to deceive.
    Corrupt,
    /// A name leads out of the VM folder.
    Denied,
    /// VMware encrypted the disk or the VM; it must be decrypted there first.
    Encrypted,
    /// The text does not follow its grammar, or an argument makes no sense.
    Invalid,
    /// The caller's own [`Source`](crate::Source) failed; its error is the source of this one.
    Io,
    /// Well formed, but of a version or variant that this crate does not read.
    Unsupported,
}

/// Where in its input an [`Error`] was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Position {
    /// Line of a text, counted from 1.
    Line(usize),
    /// Bytes from the start of a file, or of the text given.
    Offset(u64),
}

/// A message, its [`Kind`], and where known the file and the [`Position`] in it.
///
/// Displays as `file: line n: message`; the cause, if there is one, is its `source`.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    file: Option<String>,
    position: Option<Position>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Only the sentence, without file and position.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The file in which it was found, if the code that found it knew.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Where it was found.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Names the file in which it was found, unless it is named already.
    #[must_use]
    pub fn in_file(mut self, name: &str) -> Self {
        self.file.get_or_insert_with(|| name.to_owned());
        self
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), file: None, position: None, source: None }
    }

    pub(crate) fn io(offset: u64, source: std::io::Error) -> Self {
        let error = Self::new(Kind::Io, "cannot read the file").at_offset(offset);
        Self { source: Some(Box::new(source)), ..error }
    }

    pub(crate) fn at_line(mut self, line: usize) -> Self {
        self.position.get_or_insert(Position::Line(line));
        self
    }

    pub(crate) fn at_offset(mut self, offset: u64) -> Self {
        self.position.get_or_insert(Position::Offset(offset));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        match self.position {
            Some(Position::Line(line)) => write!(f, "line {line}: ")?,
            Some(Position::Offset(offset)) => write!(f, "byte {offset}: ")?,
            None => {}
        }
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Puts text from outside into a message: quoted, escaped and short, so that it can neither forge lines nor flood a
/// log.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut quoted: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        quoted.push_str("...");
    }
    format!("\"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_file_and_place_once() {
        let error = Error::new(Kind::Invalid, "no CID").at_line(3).at_line(9).in_file("a.vmdk").in_file("b.vmdk");
        assert_eq!(error.to_string(), "a.vmdk: line 3: no CID");
        assert_eq!(Error::new(Kind::Corrupt, "bad").at_offset(512).to_string(), "byte 512: bad");
    }

    #[test]
    fn text_from_outside_cannot_forge_or_flood_a_message() {
        assert_eq!(shown("a\nb\"c\u{1b}"), "\"a\\nb\\\"c\\u{1b}\"");
        assert!(shown(&"x".repeat(1 << 20)).len() < 100);
    }
}
