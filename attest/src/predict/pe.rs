//! PE images: their sections, and the hash by which UEFI measures and verifies them (Authenticode).

use std::ops::Range;

use crate::error::{Error, Result};
use crate::event_log::{Fields, printable};
use crate::pcr::{Digest, HashAlgorithm};

/// Sections of an image. Windows allows as many.
const MAX_SECTIONS: u16 = 96;

/// The entry of the certificates in an image's table of data directories.
const CERTIFICATES: usize = 4;

/// A PE image, its headers checked against the bytes that there are.
#[derive(Clone, Debug)]
pub struct PeImage<'a> {
    bytes: &'a [u8],
    /// Place of the checksum, which is not hashed.
    checksum: usize,
    /// Place of the directory entry of the certificates, which is not hashed, if the image has one.
    certificates: Option<usize>,
    /// Bytes of the certificates, which end the file and are not hashed.
    certificates_len: usize,
    headers_len: usize,
    sections: Vec<Section>,
}

#[derive(Clone, Debug)]
struct Section {
    name: [u8; 8],
    /// Bytes in memory.
    memory_len: usize,
    /// Where it is in the file.
    data: Range<usize>,
}

impl<'a> PeImage<'a> {
    /// Reads the headers of an image.
    ///
    /// # Errors
    /// `Malformed` when they are not those of a PE image for UEFI, or lead out of the file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let pe = at(bytes, 0x3c)?.size("the place of the PE header")?;
        if !bytes.starts_with(b"MZ") || at(bytes, pe)?.array::<4>("a signature")? != *b"PE\0\0" {
            return Err(Error::malformed("it is not a PE image: expected MZ and PE headers"));
        }
        let mut coff = at(bytes, add(pe, 4)?)?;
        coff.take(2, "a machine")?;
        let sections = coff.u16("a number of sections")?;
        coff.take(12, "a table of symbols")?;
        let optional_len = usize::from(coff.u16("the length of a header")?);
        let optional = add(pe, 24)?;
        let mut image = Self {
            bytes,
            checksum: add(optional, 64)?,
            certificates: None,
            certificates_len: 0,
            headers_len: 0,
            sections: Vec::new(),
        };
        image.read_optional(optional, optional_len)?;
        image.read_sections(add(optional, optional_len)?, sections)?;
        Ok(image)
    }

    /// The optional header, which has the directories.
    fn read_optional(&mut self, optional: usize, len: usize) -> Result<()> {
        let directories = match at(self.bytes, optional)?.u16("the kind of a header")? {
            0x10b => add(optional, 96)?,
            0x20b => add(optional, 112)?,
            other => return Err(Error::malformed(format!("a PE header of kind {other:#x}: expected 0x10b or 0x20b"))),
        };
        self.headers_len = at(self.bytes, add(optional, 60)?)?.size("the length of all headers")?;
        let count = at(self.bytes, directories - 4)?.size("a number of directories")?;
        let entry = add(directories, 8 * CERTIFICATES)?;
        if count > CERTIFICATES {
            let mut fields = at(self.bytes, entry)?;
            let place = fields.size("the place of certificates")?;
            self.certificates_len = fields.size("the length of certificates")?;
            self.certificates = Some(entry);
            let end = add(place, self.certificates_len)?;
            if self.certificates_len > 0 && end != self.bytes.len() {
                return Err(Error::malformed(format!(
                    "its certificates end at {end}: expected the end of the file, {}",
                    self.bytes.len()
                )));
            }
        }
        let hashed_from = self.certificates.map_or(self.checksum + 4, |entry| entry + 8);
        if self.headers_len < hashed_from || self.headers_len > self.bytes.len() || len < hashed_from - optional {
            return Err(Error::malformed(format!(
                "PE headers of {} bytes, the optional one of {len}: expected headers that have their fields and are in the \
                 file of {} bytes",
                self.headers_len,
                self.bytes.len()
            )));
        }
        Ok(())
    }

    fn read_sections(&mut self, table: usize, count: u16) -> Result<()> {
        if count > MAX_SECTIONS {
            return Err(Error::malformed(format!("{count} sections: expected at most {MAX_SECTIONS}")));
        }
        let mut fields = at(self.bytes, table)?;
        for _ in 0..count {
            let name: [u8; 8] = fields.array("the name of a section")?;
            let memory_len = fields.size("the length of a section in memory")?;
            fields.take(4, "the place of a section in memory")?;
            let len = fields.size("the length of a section")?;
            let start = fields.size("the place of a section")?;
            fields.take(16, "what else there is to a section")?;
            let data = if len == 0 { 0..0 } else { start..add(start, len)? };
            if self.bytes.get(data.clone()).is_none() {
                return Err(Error::malformed(format!(
                    "section {:?} ends at {}, past the file of {} bytes",
                    printable(&name),
                    data.end,
                    self.bytes.len()
                )));
            }
            self.sections.push(Section { name, memory_len, data });
        }
        Ok(())
    }

    /// The hash that firmware measures when it loads the image, and that its signatures are of. It has the headers without
    /// checksum and certificates, the sections in the order of the file, and what follows them up to the certificates.
    ///
    /// # Errors
    /// `Malformed` when the sections and certificates are more than the file, as when they overlap.
    pub fn authenticode(&self, algorithm: HashAlgorithm) -> Result<Digest> {
        let mut parts = vec![&self.bytes[..self.checksum]];
        match self.certificates {
            Some(entry) => {
                parts.push(&self.bytes[self.checksum + 4..entry]);
                parts.push(&self.bytes[entry + 8..self.headers_len]);
            }
            None => parts.push(&self.bytes[self.checksum + 4..self.headers_len]),
        }
        let mut sections: Vec<&Section> = self.sections.iter().filter(|section| !section.data.is_empty()).collect();
        sections.sort_by_key(|section| section.data.start);
        let mut hashed = self.headers_len;
        for section in sections {
            parts.push(&self.bytes[section.data.clone()]);
            hashed = add(hashed, section.data.len())?;
        }
        let rest = self.bytes.len().checked_sub(self.certificates_len).and_then(|end| self.bytes.get(hashed..end));
        let rest = rest.ok_or_else(|| {
            Error::malformed(format!(
                "headers and sections of {hashed} bytes, certificates of {}: expected no more than the file of {}",
                self.certificates_len,
                self.bytes.len()
            ))
        })?;
        parts.push(rest);
        Ok(Digest::of(algorithm, &parts))
    }

    /// Names of all sections in the order of their table.
    pub(super) fn section_names(&self) -> impl Iterator<Item = &[u8]> {
        self.sections.iter().map(Section::trimmed_name)
    }

    /// The content of a section as it is in memory; `None` where there is no such section.
    ///
    /// # Errors
    /// `Unsupported` when it is longer in memory than in the file.
    pub(super) fn section(&self, name: &str) -> Result<Option<&'a [u8]>> {
        let Some(section) = self.sections.iter().find(|section| section.trimmed_name() == name.as_bytes()) else {
            return Ok(None);
        };
        let data = self.bytes.get(section.data.clone()).unwrap_or_default();
        data.get(..section.memory_len).map(Some).ok_or_else(|| {
            Error::unsupported(format!(
                "section {name} has {} bytes in memory: expected at most the {} that it has in the file",
                section.memory_len,
                data.len()
            ))
        })
    }
}

impl Section {
    fn trimmed_name(&self) -> &[u8] {
        let len = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        &self.name[..len]
    }
}

/// The fields from a place on.
fn at(bytes: &[u8], place: usize) -> Result<Fields<'_>> {
    let fields = bytes.get(place..).map(Fields::new);
    fields.ok_or_else(|| Error::malformed(format!("a header at {place}, past the file of {} bytes", bytes.len())))
}

fn add(one: usize, other: usize) -> Result<usize> {
    one.checked_add(other).ok_or_else(|| Error::malformed(format!("a place of {one} + {other}, past any file")))
}
