//! TTLV, the bytes of a KMIP message as a tree of items (KMIP 1.4 section 9.1; KMIP 2.1 section 10).
//!
//! Reads anything that is well-formed: unknown tags, types and enumerations stay what they are. Message, depth and number
//! of items are bounded, so no peer can exhaust memory or stack. What was decoded encodes to the same bytes. Values that
//! may be keys are wiped when dropped, and no value prints.

#![allow(clippy::big_endian_bytes, reason = "TTLV is big-endian")]

use std::fmt;

use zeroize::Zeroizing;

/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Deepest nesting; the message itself is the first level.
pub const MAX_DEPTH: usize = 16;
/// Items of a message.
pub const MAX_ITEMS: usize = 16 << 10;
/// Bytes before the value of an item: tag, type, length.
pub const HEADER_LEN: usize = 8;

/// Name of an item: 24 bits, of which KMIP gives meaning to some.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub struct Tag(pub u32);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of anything else, where a message is out of step, it may be a part of a key.
        match self.0 >> 16 {
            0x42 | 0x54 => write!(f, "{:06x}", self.0),
            _ => f.write_str("an unknown tag"),
        }
    }
}

/// One item of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Item {
    /// Its name.
    pub tag: Tag,
    /// Its value.
    pub value: Value,
}

/// A value of one of KMIP's types.
#[derive(Clone, Eq, PartialEq)]
pub enum Value {
    /// Further items.
    Structure(Vec<Item>),
    /// 32 bits, signed.
    Integer(i32),
    /// 64 bits, signed.
    LongInteger(i64),
    /// A number of any length, in steps of 8 bytes; may be a private key.
    BigInteger(Zeroizing<Vec<u8>>),
    /// One of a list that KMIP or a vendor numbers.
    Enumeration(u32),
    /// True or false.
    Boolean(bool),
    /// Text that should be, but on some servers is not, UTF-8.
    Text(Vec<u8>),
    /// Bytes; may be a key.
    Bytes(Zeroizing<Vec<u8>>),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
    /// Of a type that later versions of KMIP may define.
    Other(u8, Zeroizing<Vec<u8>>),
}

/// What is wrong with a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Result<T> = std::result::Result<T, Malformed>;

const STRUCTURE: u8 = 1;
const INTEGER: u8 = 2;
const LONG_INTEGER: u8 = 3;
const BIG_INTEGER: u8 = 4;
const ENUMERATION: u8 = 5;
const BOOLEAN: u8 = 6;
const TEXT: u8 = 7;
const BYTES: u8 = 8;
const DATE_TIME: u8 = 9;
const INTERVAL: u8 = 10;

/// Length of the whole message that begins with these bytes.
///
/// # Errors
/// When it is not a structure, or longer than [`MAX_MESSAGE`].
pub fn message_len(header: [u8; HEADER_LEN]) -> Result<usize> {
    let [_, _, _, kind, length @ ..] = header;
    if kind != STRUCTURE {
        return Err(Malformed(format!("a message of type {kind}, expected {STRUCTURE} (structure)")));
    }
    match usize::try_from(u32::from_be_bytes(length)).ok().and_then(|len| len.checked_add(HEADER_LEN)) {
        Some(len) if len <= MAX_MESSAGE => Ok(len),
        _ => Err(Malformed(format!("a message of {} bytes, at most {MAX_MESSAGE}", u32::from_be_bytes(length)))),
    }
}

/// Reads one message and nothing after it.
///
/// # Errors
/// What is wrong with it.
pub fn decode(message: &[u8]) -> Result<Item> {
    if message.len() > MAX_MESSAGE {
        return Err(Malformed(format!("a message of {} bytes, at most {MAX_MESSAGE}", message.len())));
    }
    let mut reader = Reader { rest: message, items_left: MAX_ITEMS };
    let item = reader.item(1)?;
    match reader.rest.len() {
        0 => Ok(item),
        surplus => Err(Malformed(format!("{surplus} bytes after the message"))),
    }
}

struct Reader<'m> {
    rest: &'m [u8],
    items_left: usize,
}

impl<'m> Reader<'m> {
    fn item(&mut self, depth: usize) -> Result<Item> {
        if depth > MAX_DEPTH {
            return Err(Malformed(format!("items nested deeper than {MAX_DEPTH}")));
        }
        self.items_left =
            self.items_left.checked_sub(1).ok_or_else(|| Malformed(format!("more than {MAX_ITEMS} items")))?;
        let [tag_0, tag_1, tag_2, kind, length @ ..] = self.array::<HEADER_LEN>()?;
        let tag = Tag(u32::from_be_bytes([0, tag_0, tag_1, tag_2]));
        let len = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let value = self.take(len)?;
        if kind == STRUCTURE {
            return Ok(Item { tag, value: Value::Structure(self.children(value, depth)?) });
        }
        let padding = self.take(len.wrapping_neg() % 8)?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(Malformed(format!("padding of {tag:?} is not zero")));
        }
        Ok(Item { tag, value: scalar(tag, kind, value)? })
    }

    fn children(&mut self, structure: &'m [u8], depth: usize) -> Result<Vec<Item>> {
        let mut inside = Reader { rest: structure, items_left: self.items_left };
        let mut items = Vec::new();
        while !inside.rest.is_empty() {
            items.push(inside.item(depth + 1)?);
        }
        self.items_left = inside.items_left;
        Ok(items)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.too_short(N))?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, len: usize) -> Result<&'m [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.too_short(len))?;
        self.rest = rest;
        Ok(taken)
    }

    fn too_short(&self, expected: usize) -> Malformed {
        Malformed(format!("{} bytes left, expected {expected}", self.rest.len()))
    }
}

fn scalar(tag: Tag, kind: u8, value: &[u8]) -> Result<Value> {
    let four = || fixed::<4>(tag, value);
    let eight = || fixed::<8>(tag, value);
    Ok(match kind {
        INTEGER => Value::Integer(i32::from_be_bytes(four()?)),
        LONG_INTEGER => Value::LongInteger(i64::from_be_bytes(eight()?)),
        BIG_INTEGER => Value::BigInteger(Zeroizing::new(value.to_vec())),
        ENUMERATION => Value::Enumeration(u32::from_be_bytes(four()?)),
        BOOLEAN => match u64::from_be_bytes(eight()?) {
            0 => Value::Boolean(false),
            1 => Value::Boolean(true),
            _ => return Err(Malformed(format!("a boolean {tag:?}, expected 0 or 1"))),
        },
        TEXT => Value::Text(value.to_vec()),
        BYTES => Value::Bytes(Zeroizing::new(value.to_vec())),
        DATE_TIME => Value::DateTime(i64::from_be_bytes(eight()?)),
        INTERVAL => Value::Interval(u32::from_be_bytes(four()?)),
        other => Value::Other(other, Zeroizing::new(value.to_vec())),
    })
}

fn fixed<const N: usize>(tag: Tag, value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|_| Malformed(format!("{tag:?} of {} bytes, expected {N}", value.len())))
}

impl Item {
    /// An item of this name and value.
    pub fn new(tag: Tag, value: Value) -> Self {
        Self { tag, value }
    }

    /// A structure of these items.
    pub fn structure(tag: Tag, items: impl Into<Vec<Self>>) -> Self {
        Self::new(tag, Value::Structure(items.into()))
    }

    /// A text.
    pub fn text(tag: Tag, text: &str) -> Self {
        Self::new(tag, Value::Text(text.as_bytes().to_vec()))
    }

    /// The items of a structure; none if it is something else.
    pub fn items(&self) -> &[Self] {
        if let Value::Structure(items) = &self.value { items } else { &[] }
    }

    /// The first item of this name in a structure.
    pub fn find(&self, tag: Tag) -> Option<&Self> {
        self.items().iter().find(|item| item.tag == tag)
    }

    /// All items of this name in a structure.
    pub fn all(&self, tag: Tag) -> impl Iterator<Item = &Self> {
        self.items().iter().filter(move |item| item.tag == tag)
    }

    /// The text of this name in a structure; what is not UTF-8 is shown by replacement characters.
    pub fn text_of(&self, tag: Tag) -> Option<String> {
        self.find(tag).and_then(Self::as_text)
    }

    /// The number of this name in a structure.
    pub fn integer_of(&self, tag: Tag) -> Option<i32> {
        if let Value::Integer(number) = self.find(tag)?.value { Some(number) } else { None }
    }

    /// The enumeration of this name in a structure.
    pub fn enumeration_of(&self, tag: Tag) -> Option<u32> {
        self.find(tag).and_then(Self::as_enumeration)
    }

    /// The bytes of this name in a structure.
    pub fn bytes_of(&self, tag: Tag) -> Option<&[u8]> {
        if let Value::Bytes(bytes) = &self.find(tag)?.value { Some(bytes) } else { None }
    }

    /// The text, if it is one; what is not UTF-8 is shown by replacement characters.
    pub fn as_text(&self) -> Option<String> {
        if let Value::Text(text) = &self.value { Some(String::from_utf8_lossy(text).into_owned()) } else { None }
    }

    /// The enumeration, if it is one.
    pub fn as_enumeration(&self) -> Option<u32> {
        if let Value::Enumeration(number) = self.value { Some(number) } else { None }
    }

    /// The bytes of the item.
    ///
    /// # Panics
    /// When a value has 4 GiB or more.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Never grows: growing would leave a copy of a key in memory.
        let mut out = Zeroizing::new(Vec::with_capacity(self.encoded_len()));
        self.append_to(&mut out);
        out
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        let len = u32::try_from(self.value.len()).expect("a value of 4 GiB is never made");
        out.extend_from_slice(&self.tag.0.to_be_bytes()[1..]);
        out.push(self.value.kind());
        out.extend_from_slice(&len.to_be_bytes());
        let start = out.len();
        match &self.value {
            Value::Structure(items) => items.iter().for_each(|item| item.append_to(out)),
            Value::Integer(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::LongInteger(number) | Value::DateTime(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Enumeration(number) | Value::Interval(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Boolean(truth) => out.extend_from_slice(&u64::from(*truth).to_be_bytes()),
            Value::Text(text) => out.extend_from_slice(text),
            Value::BigInteger(bytes) | Value::Bytes(bytes) | Value::Other(_, bytes) => out.extend_from_slice(bytes),
        }
        let padded = start + (out.len() - start).next_multiple_of(8);
        out.resize(padded, 0);
    }

    fn encoded_len(&self) -> usize {
        HEADER_LEN + self.value.len().next_multiple_of(8)
    }
}

impl Value {
    fn kind(&self) -> u8 {
        match self {
            Self::Structure(_) => STRUCTURE,
            Self::Integer(_) => INTEGER,
            Self::LongInteger(_) => LONG_INTEGER,
            Self::BigInteger(_) => BIG_INTEGER,
            Self::Enumeration(_) => ENUMERATION,
            Self::Boolean(_) => BOOLEAN,
            Self::Text(_) => TEXT,
            Self::Bytes(_) => BYTES,
            Self::DateTime(_) => DATE_TIME,
            Self::Interval(_) => INTERVAL,
            Self::Other(kind, _) => *kind,
        }
    }

    /// Length as the header of an item has it: without padding.
    fn len(&self) -> usize {
        match self {
            Self::Structure(items) => items.iter().map(Item::encoded_len).sum(),
            Self::Integer(_) | Self::Enumeration(_) | Self::Interval(_) => 4,
            Self::LongInteger(_) | Self::DateTime(_) | Self::Boolean(_) => 8,
            Self::Text(text) => text.len(),
            Self::BigInteger(bytes) | Self::Bytes(bytes) | Self::Other(_, bytes) => bytes.len(),
        }
    }
}

/// Only type and length: a value may be a key.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Structure(items) = self {
            return f.debug_list().entries(items).finish();
        }
        write!(f, "type {} of {} bytes", self.kind(), self.len())
    }
}

#[cfg(test)]
mod tests;
