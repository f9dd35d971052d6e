//! What people are shown of an event.

use std::fmt;

use super::content::{Content, utf16};
use super::event_type::EventType;
use super::fields::Fields;
use super::{Event, content};
use crate::pcr::HashAlgorithm;

/// Characters of a log's own words that are shown at most.
const MAX_WORDS: usize = 120;

/// Nodes of a device path that are looked at.
const MAX_NODES: usize = 64;

/// A description of an event, and whether the event's digest proves it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    text: String,
    proven: bool,
}

impl Description {
    pub(crate) fn proven(text: impl Into<String>) -> Self {
        Self { text: text.into(), proven: true }
    }

    pub(crate) fn claimed(text: impl Into<String>) -> Self {
        Self { text: text.into(), proven: false }
    }

    /// The description, without control characters. It may have characters that change the direction of text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the digest proves it. Otherwise it is only what the log says.
    pub fn is_proven(&self) -> bool {
        self.proven
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.proven { f.write_str(&self.text) } else { write!(f, "{}, as the log says", self.text) }
    }
}

pub(super) fn describe(event: &Event<'_>, bank: HashAlgorithm) -> Description {
    match event.content(bank) {
        Some(Content::Variable { name, value, .. }) => Description::proven(variable(&name, value)),
        Some(Content::Separator) => Description::proven("the separator"),
        Some(Content::ErrorSeparator) => Description::proven("a separator that says that the firmware failed"),
        Some(Content::Text(text)) => Description::proven(format!("\"{}\"", printable(text.as_bytes()))),
        Some(Content::Other(_)) | None => Description::claimed(claim(event)),
    }
}

fn variable(name: &str, value: &[u8]) -> String {
    let name = printable(name.as_bytes());
    match value {
        [byte] => format!("the variable {name} = {byte}"),
        _ => format!("the variable {name} of {} bytes", value.len()),
    }
}

/// What the log says of an event that its digest does not prove.
fn claim(event: &Event<'_>) -> String {
    let data = event.data();
    let words = match event.event_type() {
        EventType::IPL => words(data),
        EventType::EVENT_TAG => data.get(8..).and_then(words),
        EventType::BOOT_SERVICES_APPLICATION | EventType::BOOT_SERVICES_DRIVER | EventType::RUNTIME_SERVICES_DRIVER => {
            file_path(data)
        }
        _ => match content::variable(data) {
            Some(Content::Variable { name, .. }) => Some(printable(name.as_bytes())),
            _ => None,
        },
    };
    match words {
        Some(words) => format!("{} \"{words}\"", event.event_type()),
        None => event.event_type().to_string(),
    }
}

/// UTF-16, which loaders use, or else ASCII; `None` where it is neither.
fn words(data: &[u8]) -> Option<String> {
    let looks_wide = data.len() >= 2 && data.len().is_multiple_of(2) && data[1] == 0;
    let text = if looks_wide { utf16(data)? } else { std::str::from_utf8(data).ok()?.to_owned() };
    let text = text.trim_end_matches('\0');
    (!text.is_empty()).then(|| printable(text.as_bytes()))
}

/// The file in the device path of an image that was loaded (UEFI_IMAGE_LOAD_EVENT).
fn file_path(data: &[u8]) -> Option<String> {
    const MEDIA: u8 = 4;
    const FILE: u8 = 4;
    let mut fields = Fields::new(data);
    fields.take(32, "place and length of the device path").ok()?;
    for _ in 0..MAX_NODES {
        let kind = fields.u8("a type").ok()?;
        let sub_type = fields.u8("a sub-type").ok()?;
        let len = usize::from(fields.u16("a length").ok()?);
        let node = fields.take(len.checked_sub(4)?, "a node").ok()?;
        if (kind, sub_type) == (MEDIA, FILE) {
            return Some(printable(utf16(node)?.trim_end_matches('\0').as_bytes()));
        }
    }
    None
}

/// Text of others on one line of bounded length: no control characters. Characters that change the direction of text stay, and a
/// program that prints them to a terminal escapes them.
pub(crate) fn printable(bytes: &[u8]) -> String {
    // A character has at most four bytes.
    let bytes = &bytes[..bytes.len().min(4 * (MAX_WORDS + 1))];
    let text = String::from_utf8_lossy(bytes);
    let shown = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    let mut printed: String = text.trim_end_matches('\0').chars().take(MAX_WORDS).map(shown).collect();
    if text.chars().nth(MAX_WORDS).is_some() {
        printed.push('…');
    }
    printed
}
