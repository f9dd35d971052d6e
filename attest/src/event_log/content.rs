//! What the content of an event says, once its digest has proven it.

use std::fmt;

use super::event_type::EventType;
use super::fields::Fields;

/// The name of the variable that says whether Secure Boot is on, in [`Guid::GLOBAL_VARIABLE`].
pub const SECURE_BOOT: &str = "SecureBoot";

/// A GUID in the byte order of UEFI.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The namespace of the variables that UEFI itself defines: 8be4df61-93ca-11d2-aa0d-00e098032b8c.
    pub const GLOBAL_VARIABLE: Self =
        Self([0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f0, g, h, rest @ ..] = self.0;
        write!(f, "{d:02x}{c:02x}{b:02x}{a:02x}-{f0:02x}{e:02x}-{h:02x}{g:02x}-")?;
        for (place, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02x}", if place == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Content that its digest proves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content<'a> {
    /// A variable of UEFI. It is identified by its GUID together with its name.
    Variable {
        /// The namespace of the name.
        guid: Guid,
        /// The name.
        name: String,
        /// The value.
        value: &'a [u8],
    },
    /// The end of what the firmware measures into a register, without an error.
    Separator,
    /// A separator by which the firmware says that something failed.
    ErrorSeparator,
    /// Words, such as those of an action.
    Text(&'a str),
    /// Bytes whose hash is the digest, and which are none of these.
    Other(&'a [u8]),
}

impl<'a> Content<'a> {
    pub(super) fn read(event_type: EventType, data: &'a [u8]) -> Self {
        let text = || std::str::from_utf8(data).ok().map(Content::Text);
        let read = match event_type {
            EventType::SEPARATOR => Some(separator(data)),
            EventType::VARIABLE_DRIVER_CONFIG | EventType::VARIABLE_AUTHORITY => variable(data),
            EventType::EFI_ACTION => text(),
            _ => None,
        };
        read.unwrap_or(Content::Other(data))
    }

    /// Whether this is the variable that says whether Secure Boot is on.
    pub fn is_secure_boot(&self) -> bool {
        matches!(self, Content::Variable { guid, name, .. } if *guid == Guid::GLOBAL_VARIABLE && name == SECURE_BOOT)
    }
}

/// Contents of separators that say that nothing failed.
pub(crate) const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];

fn separator(data: &[u8]) -> Content<'_> {
    if SEPARATORS.iter().any(|content| content == data) { Content::Separator } else { Content::ErrorSeparator }
}

/// UEFI_VARIABLE_DATA: GUID, length of the name in characters, length of the value, name, value; and nothing more.
pub(super) fn variable(data: &[u8]) -> Option<Content<'_>> {
    let mut fields = Fields::new(data);
    let guid = Guid(fields.array("a GUID").ok()?);
    let characters = fields.u64("the length of a name").ok()?;
    let len = fields.u64("the length of a value").ok()?;
    let name = fields.take(usize::try_from(characters).ok()?.checked_mul(2)?, "a name").ok()?;
    let value = fields.take(usize::try_from(len).ok()?, "a value").ok()?;
    fields.is_empty().then_some(())?;
    Some(Content::Variable { guid, name: utf16(name)?, value })
}

/// Text in UTF-16LE.
pub(super) fn utf16(bytes: &[u8]) -> Option<String> {
    let (pairs, []) = bytes.as_chunks::<2>() else { return None };
    char::decode_utf16(pairs.iter().map(|pair| u16::from_le_bytes(*pair))).collect::<Result<_, _>>().ok()
}
