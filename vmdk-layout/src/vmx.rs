//! The `.vmx` file: a VM's settings, one `key = "value"` a line.
//!
//! A [`Vmx`] keeps every line as it was written, so that printing an unmodified one gives back its input. Within
//! values, `|` and two hexadecimal digits stand for a byte that cannot be written as it is.

mod disk;

pub use disk::{AttachedDevice, Bus, DeviceKind};

use crate::encoding::Encoding;
use crate::encryption::Encryption;
use crate::error::{Error, Kind, Result, shown};
use crate::limits::{MAX_LINES, MAX_TEXT_LEN};

/// The settings of a VM, as text and as values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vmx {
    encoding: Encoding,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Line {
    raw: Vec<u8>,
    setting: Option<Setting>,
}

/// A setting, its value unescaped.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Setting {
    key: String,
    /// U+FFFD stands for what is malformed in the encoding.
    value: String,
    /// The bytes of the value, where they are not its UTF-8.
    written: Option<Vec<u8>>,
}

impl Vmx {
    /// Reads a `.vmx` file (or `.vmtx`, `.vmsd`, `.vmxf` of the same grammar). Lines that are no settings are kept.
    ///
    /// # Errors
    /// `Invalid` for texts too long. Values that are malformed in their encoding, such as an annotation that was edited
    /// by hand, have U+FFFD for what cannot be read.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_TEXT_LEN {
            let message = format!("the file is {} bytes long, expected at most {MAX_TEXT_LEN}", bytes.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let encoding = declared_encoding(bytes);
        let mut lines = Vec::new();
        for (index, raw) in raw_lines(bytes).enumerate() {
            if index >= MAX_LINES {
                let message = format!("more than {MAX_LINES} lines");
                return Err(Error::new(Kind::Invalid, message).at_line(index + 1));
            }
            let setting = split(raw).map(|(key, value)| Setting::new(key, unescaped(value), &encoding));
            lines.push(Line { raw: raw.to_vec(), setting });
        }
        Ok(Self { encoding, lines })
    }

    /// The text, byte for byte as it was read but for the lines that were set since.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.iter().copied()).collect()
    }

    /// The encoding of the values: as `.encoding` says, else UTF-8 if it is valid, else windows-1252.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// A setting's value, unescaped; U+FFFD stands for what is malformed in the encoding. Keys are of any case; of a repeated key the last one counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.settings().filter(|(known, _)| known.eq_ignore_ascii_case(key)).last().map(|(_, value)| value)
    }

    /// A setting that is `TRUE` or `FALSE`; `None` if it is absent or something else.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let is = |word: &str| value.eq_ignore_ascii_case(word);
        if is("TRUE") || is("1") { Some(true) } else { (is("FALSE") || is("0")).then_some(false) }
    }

    /// All settings in their order.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all().map(|setting| (setting.key.as_str(), setting.value.as_str()))
    }

    fn all(&self) -> impl Iterator<Item = &Setting> {
        self.lines.iter().filter_map(|line| line.setting.as_ref())
    }

    /// Changes the value of a setting, or adds it at the end. All other lines stay as they are.
    ///
    /// # Errors
    /// `Invalid` if the key is not one or the value cannot be written in this encoding; `.encoding` cannot be set,
    /// since every other line depends on it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let encoded = self.encoding.encode(value).filter(|bytes| !bytes.contains(&0)).ok_or_else(|| {
            let message = format!("{} cannot be written in {}", shown(value), self.encoding.name());
            Error::new(Kind::Invalid, message)
        })?;
        let ending: &[u8] =
            if self.lines.first().is_some_and(|line| line.raw.ends_with(b"\r\n")) { b"\r\n" } else { b"\n" };
        let raw = [key.as_bytes(), b" = \"", &escaped(&encoded), b"\"", ending].concat();
        let readable = split(&raw).is_some_and(|(known, text)| known == key && unescaped(text) == encoded);
        if !readable || key.eq_ignore_ascii_case(".encoding") {
            return Err(Error::new(Kind::Invalid, format!("{} cannot be set in a .vmx file", shown(key))));
        }
        let line = Line { raw, setting: Some(Setting::new(key, encoded, &self.encoding)) };
        let is_key = |known: &Line| known.setting.as_ref().is_some_and(|known| known.key.eq_ignore_ascii_case(key));
        match self.lines.iter().rposition(is_key) {
            Some(place) => drop(self.lines.splice(place..=place, [line])),
            None => {
                if let Some(last) = self.lines.last_mut().filter(|last| !last.raw.ends_with(b"\n")) {
                    last.raw.extend_from_slice(ending);
                }
                self.lines.push(line);
            }
        }
        Ok(())
    }

    /// How VMware encrypted the VM, if it did: the keys of `encryption.keySafe` (Workstation) or `encryption.bundle`
    /// (vSphere). All other settings but a few are then missing.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` if the key locator is not one.
    pub fn encryption(&self) -> Result<Option<Encryption>> {
        let keys = self.value("encryption.keySafe").or_else(|| self.value("encryption.bundle"));
        keys.map(|keys| Encryption::new(keys, None)).transpose()
    }
}

impl Setting {
    fn new(key: &str, value: Vec<u8>, encoding: &Encoding) -> Self {
        let text = encoding.decode_lossy(&value).into_owned();
        let written = (text.as_bytes() != value).then_some(value);
        Self { key: key.to_owned(), value: text, written }
    }
}

/// The encoding that the text declares, or that its bytes suggest.
fn declared_encoding(bytes: &[u8]) -> Encoding {
    let declared = raw_lines(bytes).filter_map(split).find(|(key, _)| key.eq_ignore_ascii_case(".encoding"));
    match declared {
        Some((_, value)) => Encoding::of_label(&String::from_utf8_lossy(value)),
        None => Encoding::guess(bytes),
    }
}

fn raw_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n')
}

/// Key and value of a line, the value escaped as it was. Keys are ASCII, as all that VMware defines are.
fn split(raw: &[u8]) -> Option<(&str, &[u8])> {
    let line = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw).trim_ascii();
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = line.split_at_checked(equals)?;
    let key = std::str::from_utf8(key.trim_ascii()).ok()?;
    let sound = |byte: u8| byte.is_ascii_graphic() && byte != b'"';
    if key.is_empty() || key.starts_with('#') || !key.bytes().all(sound) {
        return None;
    }
    let value = value.get(1..)?.trim_ascii();
    let value = match value.strip_prefix(b"\"") {
        // A quote within a value is escaped, so the next one ends it; a comment may follow.
        Some(inside) => inside.get(..inside.iter().position(|byte| *byte == b'"')?)?,
        None => value,
    };
    Some((key, value))
}

/// `value` with every `|xx` replaced by its byte; other uses of `|` stay as they are.
fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| *first == b'|' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            plain.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

/// Escapes quotes, bars, `#` and control characters. In the East Asian encodings a `|` can be the second byte of a
/// character; it is escaped as well, since readers unescape bytes.
fn escaped(value: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'"' | b'|' | b'#' | 0..0x20 | 0x7f => text.extend_from_slice(format!("|{byte:02X}").as_bytes()),
            other => text.push(*other),
        }
    }
    text
}

#[cfg(test)]
mod tests;
