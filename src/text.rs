//! Names and other foreign texts, as people and programs are shown them.
//!
//! A file's name is any bytes without `/` and NUL. On a terminal or in a log line it must neither move the cursor nor begin
//! a line of its own: [`Show`] for names, [`one_line`] and [`lines`] for whole texts. In JSON it must arrive as it was:
//! [`path`]. In a command line that is shown it must be one word: [`quoted`]; [`advice`]
//! puts it there.

pub mod advice;
pub mod path;
mod shell;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use shell::quoted;

/// A name or path that is shown on one line: characters that control a terminal are escaped, bytes that are not UTF-8 are
/// `\xNN`. A backslash that would be read as the beginning of such an escape is `\x5c`.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(&'a [u8]);

/// What has a name to be shown.
pub trait Show {
    /// Displays it on one line.
    fn shown(&self) -> Shown<'_>;
}

impl Show for Path {
    fn shown(&self) -> Shown<'_> {
        Shown(self.as_os_str().as_bytes())
    }
}

impl Show for OsStr {
    fn shown(&self) -> Shown<'_> {
        Shown(self.as_bytes())
    }
}

impl Show for str {
    fn shown(&self) -> Shown<'_> {
        Shown(self.as_bytes())
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some(c) = rest.chars().next() {
                if is_dangerous(c) || begins_escape(rest) {
                    write_escape(f, c)?;
                } else {
                    f.write_char(c)?;
                }
                rest = &rest[c.len_utf8()..];
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// A number of things, for people: `1 disk is`, `2 disks are`.
pub fn count(number: impl Display, one: &str, others: &str) -> String {
    let number = number.to_string();
    let words = if number == "1" { one } else { others };
    format!("{number} {words}")
}

/// The beginning of a text, of at most `max` bytes.
pub fn beginning(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text that was put together, as one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_dangerous)
}

/// A text that was put together, whose newlines are meant.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_dangerous(c))
}

/// JSON without the characters that control a terminal and that JSON permits in strings; its values are the same.
pub fn json(text: &str) -> Cow<'_, str> {
    let unsafe_here = |c: char| c != '\n' && is_dangerous(c);
    match text.contains(unsafe_here) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
            // All of them are in the basic plane, so one escape is one character.
            let _ = if unsafe_here(c) { write!(out, "\\u{:04x}", u32::from(c)) } else { out.write_char(c) };
            out
        })),
    }
}

fn escaped(text: &str, unsafe_here: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    match text.contains(unsafe_here) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
            let _ = if unsafe_here(c) { write_escape(&mut out, c) } else { out.write_char(c) };
            out
        })),
    }
}

fn write_escape(out: &mut impl fmt::Write, c: char) -> fmt::Result {
    match u32::from(c) {
        byte @ ..0x80 => write!(out, "\\x{byte:02x}"),
        code => write!(out, "\\u{{{code:x}}}"),
    }
}

/// Whether a character controls a terminal, ends a line, or changes the direction of what stands around it.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a text begins as an escape of ours does: `\xNN` or `\u{`.
fn begins_escape(text: &str) -> bool {
    path::escaped_byte(text.as_bytes()).is_some() || text.starts_with("\\u{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_ends_between_two_characters() {
        for (max, expected) in [(0, ""), (1, "a"), (2, "a"), (3, "a\u{e9}"), (4, "a\u{e9}b"), (5, "a\u{e9}b")] {
            assert_eq!(beginning("a\u{e9}b", max), expected, "{max}");
        }
    }

    #[test]
    fn names_neither_control_a_terminal_nor_begin_a_line() {
        for (name, shown) in [
            (&b"web01/root.raw"[..], "web01/root.raw"),
            ("\u{e9}t\u{e9} \u{1f4be}".as_bytes(), "\u{e9}t\u{e9} \u{1f4be}"),
            (b"a\x1b[2Jb\nc\r\x7f", "a\\x1b[2Jb\\x0ac\\x0d\\x7f"),
            ("\u{9b}31m\u{85}".as_bytes(), "\\u{9b}31m\\u{85}"),
            ("\u{202e}gpj\u{2066}\u{2029}\u{200f}".as_bytes(), "\\u{202e}gpj\\u{2066}\\u{2029}\\u{200f}"),
            (b"caf\xe9.raw", "caf\\xe9.raw"),
            (br"a\b \xe9 \u{85}", r"a\b \x5cxe9 \x5cu{85}"),
        ] {
            assert_eq!(OsStr::from_bytes(name).shown().to_string(), shown);
        }
    }

    #[test]
    fn texts_are_escaped_once() {
        let name = OsStr::from_bytes(b"a\n\xe9\\x41").shown().to_string();
        assert_eq!(one_line(&name), name);
        assert_eq!(one_line("one\ntwo\x1b[0m"), "one\\x0atwo\\x1b[0m");
        assert_eq!(lines("one\ntwo\x1b[0m"), "one\ntwo\\x1b[0m");
        assert!(matches!(lines("plain \u{e9}\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_values() {
        let value = "\u{202e}\u{7f}\u{9b}\n\u{1f4be}";
        let text = serde_json::to_string(value).unwrap();
        let safe = json(&text);
        assert!(!safe.contains(is_dangerous), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), value);
    }
}
