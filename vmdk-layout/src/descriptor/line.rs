//! Lines of a descriptor: bytes as they were, and what they say.

use super::{Extent, HEADER_KEYS};
use crate::encoding::Encoding;
use crate::error::{Error, Kind, Result, shown};
use crate::limits::MAX_LINES;
use crate::name::written_component;

/// One line with its line ending.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Line {
    pub(super) raw: Vec<u8>,
    pub(super) content: Content,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// Blank, a comment, or something that this crate does not know.
    Other,
    /// `key=value` or `ddb.key = "value"`; if malformed in the encoding, the value shows what can be shown.
    Setting { key: String, value: String, malformed: bool },
    /// The next of the descriptor's extents.
    Extent,
}

/// The encoding that the text declares, or that its bytes suggest. The declaration is ASCII in all encodings.
pub(super) fn declared_encoding(text: &[u8]) -> Encoding {
    let mut of_ddb = None;
    for (index, raw) in raw_lines(text).enumerate() {
        let line = without_mark(raw, index);
        let Some((key, value)) = setting(&String::from_utf8_lossy(line)) else { continue };
        if key.eq_ignore_ascii_case("encoding") {
            return Encoding::of_label(&value);
        }
        if key.eq_ignore_ascii_case("ddb.encoding") && of_ddb.is_none() {
            of_ddb = Some(Encoding::of_label(&value));
        }
    }
    of_ddb.unwrap_or_else(|| Encoding::guess(text))
}

/// Splits a text into its lines and the extents that some of them are.
pub(super) fn split(text: &[u8], encoding: &Encoding) -> Result<(Vec<Line>, Vec<Extent>)> {
    let mut lines = Vec::new();
    let mut extents = Vec::new();
    for (index, raw) in raw_lines(text).enumerate() {
        let number = index + 1;
        if number > MAX_LINES {
            let message = format!("the descriptor has more than {MAX_LINES} lines");
            return Err(Error::new(Kind::Invalid, message).at_line(number));
        }
        let bytes = without_mark(raw, index);
        let strict = encoding.decode(bytes);
        let malformed = strict.is_none();
        let decoded = strict.unwrap_or_else(|| encoding.decode_lossy(bytes));
        let content = if Extent::begins(&decoded) {
            match Extent::parse(&decoded, number)? {
                Some(extent) => {
                    let written = extent.file.as_deref().and_then(|name| written_name(bytes, name, encoding));
                    extents.push(Extent { written, ..extent });
                    Content::Extent
                }
                // An extent of no sectors is a part of no disk.
                None => Content::Other,
            }
        } else if let Some((key, value)) = setting(&decoded) {
            Content::Setting { key, value, malformed }
        } else {
            Content::Other
        };
        lines.push(Line { raw: raw.to_vec(), content });
    }
    Ok((lines, extents))
}

/// Replaces the value of the first setting `key`, or adds the setting.
pub(super) fn set(lines: &mut Vec<Line>, encoding: &Encoding, key: &str, value: &str) -> Result<()> {
    let unfit = |what: &str, text: &str| {
        Error::new(Kind::Invalid, format!("{} cannot be the {what} of a descriptor setting", shown(text)))
    };
    if value.contains(|c: char| c == '"' || c.is_control()) || value.trim() != value {
        return Err(unfit("value", value));
    }
    let is_key =
        |known: &Line| matches!(&known.content, Content::Setting { key: known, .. } if known.eq_ignore_ascii_case(key));
    let place = lines.iter().position(is_key);
    let key = canonical(key);
    let ending = lines.first().filter(|line| line.raw.ends_with(b"\r\n")).map_or("\n", |_| "\r\n");
    let text = format!("{}{ending}", printed(key, value));
    // What is written must read back as the same setting: this refuses keys that would make it something else.
    if setting(&text) != Some((key.to_owned(), value.to_owned())) || Extent::begins(&text) {
        return Err(unfit("key", key));
    }
    let raw = encoding.encode(&text).ok_or_else(|| unfit(&format!("value in {}", encoding.name()), value))?;
    let content = Content::Setting { key: key.to_owned(), value: value.to_owned(), malformed: false };
    let line = Line { raw, content };
    match place {
        Some(0) if lines.first().is_some_and(|first| first.raw.starts_with(MARK)) => {
            let raw = [MARK, &line.raw].concat();
            lines.splice(..1, [Line { raw, ..line }]);
        }
        Some(place) => drop(lines.splice(place..=place, [line])),
        None => {
            if let Some(last) = lines.last_mut().filter(|last| !last.raw.ends_with(b"\n")) {
                last.raw.extend_from_slice(ending.as_bytes());
            }
            let after_type = lines.iter().position(|known| {
                matches!(&known.content, Content::Setting { key, .. } if key.eq_ignore_ascii_case("createType"))
            });
            let place = after_type.filter(|_| !is_ddb(key)).map_or(lines.len(), |place| place + 1);
            lines.insert(place, line);
        }
    }
    Ok(())
}

/// A setting as VMware writes it: numbers and CIDs bare, other values quoted, `ddb.` entries with spaces.
pub(super) fn printed(key: &str, value: &str) -> String {
    if is_ddb(key) {
        return format!("{key} = \"{value}\"");
    }
    let bare = ["version", "CID", "parentCID"].iter().any(|known| known.eq_ignore_ascii_case(key));
    if bare { format!("{key}={value}") } else { format!("{key}=\"{value}\"") }
}

/// UTF-8 byte order mark, which some editors put before the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

fn raw_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

fn without_mark(raw: &[u8], index: usize) -> &[u8] {
    raw.strip_prefix(MARK).filter(|_| index == 0).unwrap_or(raw)
}

/// Key and value of `key = value` or `key = "value"`, if the line is one.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let (key, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
        return None;
    }
    Some((canonical(key).to_owned(), without_comment(value).to_owned()))
}

/// What is in quotes, or all up to a comment. Quotes within a value were not escaped by the program that wrote it.
fn without_comment(value: &str) -> &str {
    let Some(inside) = value.strip_prefix('"') else {
        let comment = value.match_indices('#').map(|(at, _)| at).find(|at| {
            value.get(..*at).is_some_and(|before| before.ends_with(|c: char| c.is_whitespace()) || before.is_empty())
        });
        return comment.and_then(|at| value.get(..at)).map_or(value, str::trim_end);
    };
    let ends_here = |after: &str| after.trim_start().is_empty() || after.trim_start().starts_with('#');
    match inside.split_once('"') {
        Some((text, after)) if ends_here(after) => text,
        Some(_) => inside.strip_suffix('"').unwrap_or(value),
        None => value,
    }
}

/// The bytes between a line's first quotes, where they are not the UTF-8 of `name`, as which they were read.
fn written_name(line: &[u8], name: &str, encoding: &Encoding) -> Option<Vec<u8>> {
    let written = line.split(|byte| *byte == b'"').nth(1)?;
    // With the quote after it, as in the line: where a character is cut off, what follows decides how much of it is malformed.
    let quoted = [written, b"\""].concat();
    let is_name = encoding.decode_lossy(&quoted).strip_suffix('"') == Some(name);
    (written != name.as_bytes() && is_name).then(|| written.to_vec())
}

/// The bytes of the last component of the path that a setting's value is, where they are not the UTF-8 of `name`.
pub(super) fn written_base(line: &[u8], name: &str, encoding: &Encoding) -> Option<Vec<u8>> {
    let value = line.get(line.iter().position(|byte| *byte == b'=')? + 1..)?.trim_ascii();
    let value = match value.strip_prefix(b"\"") {
        Some(inside) => inside.split(|byte| *byte == b'"').next()?,
        None => value,
    };
    let written = written_component(value, name, |bytes| encoding.decode_lossy(bytes).into_owned())?;
    (written != name.as_bytes()).then(|| written.to_vec())
}

/// Header keys in their own spelling, others as they are.
fn canonical(key: &str) -> &str {
    HEADER_KEYS.iter().find(|known| known.eq_ignore_ascii_case(key)).copied().unwrap_or(key)
}

fn is_ddb(key: &str) -> bool {
    key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("ddb."))
}
