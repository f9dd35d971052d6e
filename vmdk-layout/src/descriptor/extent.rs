//! Extent lines: `<access> <sectors> <TYPE> ["file" [offset [partition-uuid [device-id]]]]`.

use std::fmt;

use crate::error::{Error, Kind, Result, shown};
use crate::limits::MAX_DISK_SECTORS;
use crate::name::FileName;

/// What the guest may do with an extent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// `RW`
    ReadWrite,
    /// `RDONLY`
    ReadOnly,
    /// `NOACCESS`: it takes its place on the disk, but is neither read nor written.
    None,
}

impl Access {
    /// The word of the descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "RW",
            Self::ReadOnly => "RDONLY",
            Self::None => "NOACCESS",
        }
    }

    const ALL: [Self; 3] = [Self::ReadWrite, Self::ReadOnly, Self::None];
}

/// How an extent's data is stored.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ExtentType {
    /// Byte for byte in a file or device, from an offset on.
    Flat,
    /// In grains, in a hosted sparse file (`KDMV`) or a COWD file.
    Sparse,
    /// Nowhere: reads as zeros.
    Zero,
    /// Byte for byte in a file on VMFS.
    Vmfs,
    /// In grains, in a COWD file on VMFS.
    VmfsSparse,
    /// On a device that the file maps.
    VmfsRdm,
    /// On a device.
    VmfsRaw,
    /// In grains of 4 KiB, in a seSparse file.
    SeSparse,
}

impl ExtentType {
    /// The word of the descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::VmfsRdm => "VMFSRDM",
            Self::VmfsRaw => "VMFSRAW",
            Self::SeSparse => "SESPARSE",
        }
    }

    /// Whether the file's bytes are the disk's bytes, in order.
    pub fn is_flat(self) -> bool {
        match self {
            Self::Flat | Self::Vmfs | Self::VmfsRdm | Self::VmfsRaw => true,
            Self::Sparse | Self::Zero | Self::VmfsSparse | Self::SeSparse => false,
        }
    }

    /// Whether the extent lies on a device, directly or through a mapping file.
    pub fn is_device(self) -> bool {
        matches!(self, Self::VmfsRdm | Self::VmfsRaw)
    }

    const ALL: [Self; 8] = [
        Self::Flat,
        Self::Sparse,
        Self::Zero,
        Self::Vmfs,
        Self::VmfsSparse,
        Self::VmfsRdm,
        Self::VmfsRaw,
        Self::SeSparse,
    ];
}

/// One extent line, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extent {
    /// What the guest may do with it.
    pub access: Access,
    /// Its length in disk sectors of 512 bytes; never zero.
    pub sectors: u64,
    /// How it is stored.
    pub extent_type: ExtentType,
    /// The file or device as named: hostile until checked by [`file_name`](Self::file_name). Every type but ZERO has
    /// one. What its encoding cannot be read as is U+FFFD.
    pub file: Option<String>,
    /// The bytes of that name, where they are not its UTF-8.
    pub written: Option<Vec<u8>>,
    /// Disk sectors of the file before the extent's first; only for flat types other than zero.
    pub offset: u64,
    /// What follows the offset: partition UUID and device id of device extents, as they were.
    pub device: Option<String>,
    /// The line of the descriptor, counted from 1.
    pub line: usize,
}

impl Extent {
    /// The file of the VM folder that holds the extent; `None` for a ZERO extent.
    ///
    /// # Errors
    /// `Denied` or `Invalid` as by [`FileName::new`], with the line.
    pub fn file_name(&self) -> Result<Option<FileName>> {
        let name = self.file.as_deref().map(|name| match &self.written {
            Some(written) => FileName::read_from(name, written),
            None => FileName::new(name),
        });
        name.transpose().map_err(|error| error.at_line(self.line))
    }

    /// Whether a line's first word makes it an extent line.
    pub(super) fn begins(line: &str) -> bool {
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        // A setting called RW would have a `=` before any space or right after it.
        let rest = line.trim_start().get(word.len()..).unwrap_or_default().trim_start();
        Access::ALL.iter().any(|access| access.name().eq_ignore_ascii_case(word)) && !rest.starts_with('=')
    }

    /// Reads a line; `None` for an extent of no sectors, as QEMU takes it.
    pub(super) fn parse(text: &str, line: usize) -> Result<Option<Self>> {
        Self::parse_fields(text, line).map_err(|error| error.at_line(line))
    }

    fn parse_fields(text: &str, line: usize) -> Result<Option<Self>> {
        let mut rest = text.trim();
        let access = next_word(&mut rest);
        let access = Access::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(access))
            .ok_or_else(|| invalid(format!("access is {}, expected RW, RDONLY or NOACCESS", shown(access))))?;
        let sectors = number("size in sectors", next_word(&mut rest))?;
        if sectors == 0 {
            return Ok(None);
        }
        let type_name = next_word(&mut rest);
        let extent_type = ExtentType::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(type_name))
            .ok_or_else(|| {
                let known = ExtentType::ALL.map(ExtentType::name).join(", ");
                Error::new(Kind::Unsupported, format!("extent type {} is none of {known}", shown(type_name)))
            })?;
        let file = quoted(&mut rest)?;
        skip_comment(&mut rest);
        match (extent_type, &file) {
            (ExtentType::Zero, Some(name)) if !name.is_empty() => {
                return Err(invalid(format!("a ZERO extent has no file, found {}", shown(name))));
            }
            (ExtentType::Zero, _) | (_, Some(_)) => {}
            (_, None) => {
                let found = if rest.is_empty() { "the end of the line".to_owned() } else { shown(rest) };
                return Err(invalid(format!("expected the extent's file name in double quotes, found {found}")));
            }
        }
        let offset = if rest.is_empty() { 0 } else { number("offset in sectors", next_word(&mut rest))? };
        if offset != 0 && !extent_type.is_flat() {
            let message = format!("offset {offset}: only flat extents have one, this is {}", extent_type.name());
            return Err(invalid(message));
        }
        let file = file.filter(|_| extent_type != ExtentType::Zero);
        skip_comment(&mut rest);
        let device = (!rest.is_empty()).then(|| rest.to_owned());
        Ok(Some(Self { access, sectors, extent_type, file, written: None, offset, device, line }))
    }
}

impl fmt::Display for Extent {
    /// The line as VMware and QEMU write it: with an offset for FLAT extents, and where it is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.access.name(), self.sectors, self.extent_type.name())?;
        let Some(file) = &self.file else { return Ok(()) };
        write!(f, " \"{file}\"")?;
        if self.extent_type == ExtentType::Flat || self.offset != 0 || self.device.is_some() {
            write!(f, " {}", self.offset)?;
        }
        self.device.as_ref().map_or(Ok(()), |device| write!(f, " {device}"))
    }
}

fn next_word<'a>(rest: &mut &'a str) -> &'a str {
    let (word, after) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    *rest = after.trim_start();
    word
}

/// Comments may follow where the line could end.
fn skip_comment(rest: &mut &str) {
    if rest.starts_with('#') {
        *rest = "";
    }
}

fn quoted(rest: &mut &str) -> Result<Option<String>> {
    let Some(inside) = rest.strip_prefix('"') else { return Ok(None) };
    let (name, after) = inside
        .split_once('"')
        .ok_or_else(|| invalid(format!("the file name {} has no closing quote", shown(inside))))?;
    if !after.is_empty() && !after.starts_with(|c: char| c.is_ascii_whitespace()) {
        return Err(invalid(format!("expected a space after the file name, found {}", shown(after))));
    }
    *rest = after.trim_start();
    Ok(Some(name.to_owned()))
}

fn number(what: &str, word: &str) -> Result<u64> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse()
        .ok()
        .filter(|number| digits && *number <= MAX_DISK_SECTORS)
        .ok_or_else(|| invalid(format!("{what} is {}, expected a number up to {MAX_DISK_SECTORS}", shown(word))))
}

fn invalid(message: String) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Extent {
        Extent::parse(text, 1).unwrap().unwrap()
    }

    #[test]
    fn every_type_and_access_prints_as_it_was_read() {
        for line in [
            "RW 4192256 SPARSE \"Windows 11 x64-s001.vmdk\"",
            "RDONLY 20480 FLAT \"a-f001.vmdk\" 0",
            "NOACCESS 63 ZERO",
            "RW 16 VMFS \"a-flat.vmdk\"",
            "RW 16 VMFS \"a-flat.vmdk\" 128",
            "RW 16 VMFSSPARSE \"a-delta.vmdk\"",
            "RW 16 VMFSRDM \"a-rdm.vmdk\"",
            "RW 16 VMFSRAW \"vml.01\"",
            "RW 16 SESPARSE \"a-sesparse.vmdk\"",
            "RW 16 FLAT \"\\\\.\\PhysicalDrive0\" 63 partitionUUID 1234 dev",
        ] {
            assert!(Extent::begins(line));
            assert_eq!(parsed(line).to_string(), line);
        }
    }

    #[test]
    fn words_are_read_in_any_case_with_any_spaces() {
        assert_eq!(parsed("  rw\t8  flat   \"a b.vmdk\"  7 ").to_string(), "RW 8 FLAT \"a b.vmdk\" 7");
        assert_eq!(parsed("RW 8 FLAT \"a\"").offset, 0);
        for line in ["RW 8 FLAT \"a\" # note", "RW 8 FLAT \"a\" 0 #note", "RW 8 FLAT \"a\" 0\t# a \"b\" 1"] {
            assert_eq!(parsed(line).to_string(), "RW 8 FLAT \"a\" 0", "{line}");
        }
        assert_eq!(parsed("RW 8 ZERO # nothing").to_string(), "RW 8 ZERO");
        assert!(!Extent::begins("rw = \"x\"") && !Extent::begins("RWX 1") && !Extent::begins(""));
    }

    #[test]
    fn an_extent_of_no_sectors_is_none() {
        for line in ["RW 0 FLAT \"a\" 0", "RW 0 ZERO", "NOACCESS 0 SPARSE"] {
            assert_eq!(Extent::parse(line, 1).unwrap(), None, "{line}");
        }
    }

    #[test]
    fn a_wrong_line_says_what_was_found_and_what_was_expected() {
        for (line, found) in [
            ("RW", "\"\""),
            ("RW -1 FLAT \"a\" 0", "\"-1\""),
            ("RW 99999999999999999999 FLAT \"a\" 0", "\"99999999999999999999\""),
            ("RW 1 ROUND \"a\"", "\"ROUND\""),
            ("RW 1 FLAT a 0", "\"a 0\""),
            ("RW 1 FLAT", "end of the line"),
            ("RW 1 FLAT \"a 0", "closing quote"),
            ("RW 1 FLAT \"a\"0", "\"0\""),
            ("RW 1 SPARSE \"a\" 5", "offset 5"),
            ("RW 1 ZERO \"a\"", "\"a\""),
        ] {
            let error = Extent::parse(line, 7).unwrap_err();
            assert!(error.message().contains(found), "{line}: {error}");
            assert!(error.to_string().starts_with("line 7: "), "{error}");
        }
    }
}
