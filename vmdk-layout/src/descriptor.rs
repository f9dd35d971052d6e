//! The descriptor: the text that says what a virtual disk is made of (Virtual Disk Format 5.0, "The Descriptor File").
//!
//! A [`Descriptor`] keeps every line as it was written, byte by byte, so that printing an unmodified one gives back its
//! input; only lines that are [`set`](Descriptor::set) are rewritten. What it promises about its values was checked
//! when it was read. It knows nothing of what the extents contain.

mod create_type;
mod extent;
mod line;
mod new;

use std::fmt;

pub use create_type::CreateType;
pub use extent::{Access, Extent, ExtentType};
pub use new::{Adapter, NewDisk};

use crate::encoding::Encoding;
use crate::encryption::Encryption;
use crate::error::{Error, Kind, Result, shown};
use crate::limits::{MAX_DISK_SECTORS, MAX_EXTENTS, MAX_TEXT_LEN, SECTOR_LEN};
use crate::name::{FileName, last_component};
use line::{Content, Line};

/// Content id: 32 bits that VMware changes whenever a disk is written for the first time after being opened.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Cid(pub u32);

impl Cid {
    /// As `parentCID`: this disk has no parent.
    pub const NO_PARENT: Self = Self(0xffff_ffff);
    /// As `CID`: see `ddb.longContentID` instead.
    pub const LONG: Self = Self(0xffff_fffe);
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The disk that a snapshot or linked clone builds on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parent {
    /// What the parent's own `CID` must be.
    pub cid: Cid,
    /// `parentFileNameHint`: a path on the machine that wrote it, of either kind of host; hostile until checked.
    pub hint: Option<String>,
    /// The bytes of the last component of the hint, where they are not its UTF-8.
    pub written: Option<Vec<u8>>,
}

impl Parent {
    /// The hint as a file of the same VM folder.
    ///
    /// # Errors
    /// `Invalid` without a hint, `Denied` or `Invalid` as by [`FileName::new`] if it names a file elsewhere.
    pub fn in_folder(&self) -> Result<FileName> {
        let base = self.base_name()?;
        FileName::new(self.hint_text()?).map(|_| base)
    }

    /// Only the last component of the hint: what a parent is called that was copied beside its child.
    ///
    /// # Errors
    /// `Invalid` without a hint, or if its last component names no file.
    pub fn base_name(&self) -> Result<FileName> {
        let name = last_component(self.hint_text()?);
        self.written.as_ref().map_or_else(|| FileName::new(name), |written| FileName::read_from(name, written))
    }

    fn hint_text(&self) -> Result<&str> {
        self.hint.as_deref().ok_or_else(|| {
            Error::new(Kind::Invalid, format!("parentCID is {} but there is no parentFileNameHint", self.cid))
        })
    }
}

/// A disk descriptor, as text and as values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Descriptor {
    encoding: Encoding,
    lines: Vec<Line>,
    /// From the first NUL on: the padding of an embedded descriptor.
    padding: Vec<u8>,
    header: Header,
    extents: Vec<Extent>,
}

/// The settings that decide something, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Header {
    version: u32,
    cid: Cid,
    parent: Option<Parent>,
    create_type: CreateType,
    encryption: Option<Encryption>,
}

/// Settings that decide something. Of one that is repeated the first counts, as for QEMU.
const HEADER_KEYS: [&str; 8] =
    ["version", "encoding", "CID", "parentCID", "createType", "parentFileNameHint", "encryptionKeys", "keyID"];

impl Descriptor {
    /// Reads a descriptor. Text ends at the first NUL byte, if there is one.
    ///
    /// # Errors
    /// `Invalid` with the line that breaks the grammar or lacks a setting; `Unsupported` for a `createType` or extent
    /// type that is not of the format; `Corrupt` if the extents add up to more than a disk can hold.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text_len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let (text, padding) = bytes.split_at(text_len);
        if text.len() > MAX_TEXT_LEN {
            let message = format!("the descriptor is {} bytes long, expected at most {MAX_TEXT_LEN}", text.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let encoding = line::declared_encoding(text);
        let (lines, extents) = line::split(text, &encoding)?;
        let header = Header::of(&lines, &encoding)?;
        let descriptor = Self { encoding, lines, padding: padding.to_vec(), header, extents };
        descriptor.check_extents()?;
        Ok(descriptor)
    }

    /// Whether `head`, the first bytes of a file, begins a descriptor: `# Disk DescriptorFile`, or comments and blank
    /// lines and then `version=`.
    pub fn is_recognised(head: &[u8]) -> bool {
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        let mark = b"# Disk DescriptorFile";
        if text.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark)) {
            return true;
        }
        text.split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .find(|line| !line.is_empty() && !line.starts_with(b"#"))
            .and_then(|line| line.split_at_checked(b"version".len()))
            .is_some_and(|(key, rest)| key.eq_ignore_ascii_case(b"version") && rest.trim_ascii().starts_with(b"="))
    }

    /// The text, byte for byte as it was read but for the lines that were set since.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.lines.iter().for_each(|line| bytes.extend_from_slice(&line.raw));
        bytes.extend_from_slice(&self.padding);
        bytes
    }

    /// The encoding of the text: as declared, else UTF-8 if it is valid, else windows-1252.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// `version`: 1, or 3 where changed blocks are tracked.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// `CID`, which a child's [`Parent::cid`] must equal.
    pub fn cid(&self) -> Cid {
        self.header.cid
    }

    /// `ddb.longContentID`, the content id when [`cid`](Self::cid) is [`Cid::LONG`].
    pub fn long_content_id(&self) -> Option<&str> {
        self.value("ddb.longContentID")
    }

    /// The disk below this one, unless `parentCID` says that there is none.
    pub fn parent(&self) -> Option<&Parent> {
        self.header.parent.as_ref()
    }

    /// `createType`.
    pub fn create_type(&self) -> CreateType {
        self.header.create_type
    }

    /// The extents in the order in which they make up the disk, of every type and access.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Bytes of the virtual disk: all extents count, whatever their type and access.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.sectors).sum::<u64>() * SECTOR_LEN // both checked by parse
    }

    /// Whether the disk has no extents at all.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// How VMware encrypted the disk, if it did. Such a disk's extents cannot be read here.
    pub fn encryption(&self) -> Option<&Encryption> {
        self.header.encryption.as_ref()
    }

    /// The value of a setting or of a `ddb.` entry, without quotes. Keys are of any case; of repeated ones the
    /// first counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.settings().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    /// All settings and `ddb.` entries in their order, values without quotes.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| match &line.content {
            Content::Setting { key, value, .. } => Some((key.as_str(), value.as_str())),
            Content::Extent | Content::Other => None,
        })
    }

    /// Changes the value of a setting, or adds it: a `ddb.` entry at the end, others after `createType`. All other
    /// lines stay as they are.
    ///
    /// # Errors
    /// `Invalid` if key or value do not fit on a line, cannot be written in this encoding, or if the descriptor would
    /// no longer make sense; it is then unchanged. `encoding` cannot be set, since every other line depends on it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if key.eq_ignore_ascii_case("encoding") || key.eq_ignore_ascii_case("ddb.encoding") {
            return Err(Error::new(Kind::Invalid, "the encoding of a descriptor cannot be changed"));
        }
        let mut lines = self.lines.clone();
        line::set(&mut lines, &self.encoding, key, value)?;
        self.header = Header::of(&lines, &self.encoding)?;
        self.lines = lines;
        let numbered = (1..).zip(&self.lines).filter(|(_, line)| line.content == Content::Extent);
        for (extent, (number, _)) in self.extents.iter_mut().zip(numbered) {
            extent.line = number; // an added line moves those after it
        }
        Ok(())
    }

    /// Sets `CID`, as must be done once a disk's contents differ from what its snapshots saw.
    ///
    /// # Errors
    /// `Invalid` for [`Cid::NO_PARENT`], which no disk may have.
    pub fn set_cid(&mut self, cid: Cid) -> Result<()> {
        if cid == Cid::NO_PARENT {
            return Err(Error::new(Kind::Invalid, format!("a disk's own CID cannot be {cid}, which means no parent")));
        }
        self.set("CID", &cid.to_string())
    }

    fn check_extents(&self) -> Result<()> {
        if self.extents.len() > MAX_EXTENTS {
            let message = format!("{} extents, expected at most {MAX_EXTENTS}", self.extents.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let mut total = 0_u64;
        for extent in &self.extents {
            total = total.checked_add(extent.sectors).filter(|total| *total <= MAX_DISK_SECTORS).ok_or_else(|| {
                let message = format!("the extents up to here exceed {MAX_DISK_SECTORS} sectors, the largest disk");
                Error::new(Kind::Corrupt, message).at_line(extent.line)
            })?;
        }
        Ok(())
    }
}

impl Header {
    fn of(lines: &[Line], encoding: &Encoding) -> Result<Self> {
        let find = |key| first(lines, key);
        let required = |key| find(key)?.ok_or_else(|| Error::new(Kind::Invalid, format!("there is no {key} line")));
        let (version, at) = required("version")?;
        let version = version.parse().map_err(|_| {
            Error::new(Kind::Invalid, format!("version is {}, expected a number", shown(version))).at_line(at)
        })?;
        let (create_type, at) = required("createType")?;
        let create_type = CreateType::from_name(create_type).map_err(|error| error.at_line(at))?;
        let (cid, at) = required("CID")?;
        let cid = cid_of("CID", cid, at)?;
        let parent_cid = find("parentCID")?.map_or(Ok(Cid::NO_PARENT), |(text, at)| cid_of("parentCID", text, at))?;
        let parent = (parent_cid != Cid::NO_PARENT).then(|| Parent::of(parent_cid, lines, encoding));
        let encryption = match (find("encryptionKeys")?, find("keyID")?) {
            (Some((keys, at)), key_id) => {
                Some(Encryption::new(keys, key_id.map(|(id, _)| id)).map_err(|error| error.at_line(at))?)
            }
            (None, Some((key_id, _))) => Some(Encryption::by_key_id(key_id)),
            (None, None) => None,
        };
        Ok(Self { version, cid, parent, create_type, encryption })
    }
}

impl Parent {
    fn of(cid: Cid, lines: &[Line], encoding: &Encoding) -> Self {
        let hint = settings_of(lines, "parentFileNameHint").next();
        let written = hint.and_then(|(line, value, ..)| line::written_base(line, last_component(value), encoding));
        Self { cid, hint: hint.map(|(_, value, ..)| value.to_owned()), written }
    }
}

/// The lines of a header setting: bytes, value, number, whether it is malformed in the descriptor's encoding.
fn settings_of<'a>(lines: &'a [Line], key: &str) -> impl Iterator<Item = (&'a [u8], &'a str, usize, bool)> {
    debug_assert!(HEADER_KEYS.contains(&key));
    (1..).zip(lines).filter_map(move |(number, line)| match &line.content {
        Content::Setting { key: known, value, malformed } if known.eq_ignore_ascii_case(key) => {
            Some((line.raw.as_slice(), value.as_str(), number, *malformed))
        }
        Content::Setting { .. } | Content::Extent | Content::Other => None,
    })
}

/// The value of a header setting and its line.
fn first<'a>(lines: &'a [Line], key: &str) -> Result<Option<(&'a str, usize)>> {
    match settings_of(lines, key).next() {
        Some((_, _, number, true)) => {
            let message = format!("the value of {key} is malformed in the descriptor's encoding");
            Err(Error::new(Kind::Invalid, message).at_line(number))
        }
        found => Ok(found.map(|(_, value, number, _)| (value, number))),
    }
}

fn cid_of(key: &str, text: &str, line: usize) -> Result<Cid> {
    let hexadecimal = text.strip_prefix("0x").unwrap_or(text);
    let digits = hexadecimal.len() <= 8 && !hexadecimal.starts_with('+');
    u32::from_str_radix(hexadecimal, 16).ok().filter(|_| digits).map(Cid).ok_or_else(|| {
        let message = format!("{key} is {}, expected up to 8 hexadecimal digits", shown(text));
        Error::new(Kind::Invalid, message).at_line(line)
    })
}

#[cfg(test)]
mod tests;
