//! Parents of differencing VHDs (Virtual Hard Disk Image Format Specification 1.0) and VHDXs ([MS-VHDX]).
//!
//! Their own names are of Windows; what leads anywhere here are the file URLs that other hypervisors add, and relative names.

use vmdk_layout::Source;

use super::{Reference, Role, damaged, field, path_of, read, read_up_to};
use crate::error::Result;

/// Longer names are no paths.
const MAX_NAME_LEN: u32 = 8192;

/// Parents of a VHD with its footer's copy in front, as all but those of fixed size have.
pub(super) fn vhd<S: Source + ?Sized>(image: &S) -> Result<Vec<Reference>> {
    let header_at = field(&read(image, 16, 8)?, 0).map(u64::from_be_bytes)?;
    let header = read_up_to(image, header_at, 1024)?;
    if !header.starts_with(b"cxsparse") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for locator in header.get(576..768).unwrap_or_default().as_chunks::<24>().0 {
        let len = field(locator, 8).map(u32::from_be_bytes)?;
        let at = field(locator, 16).map(u64::from_be_bytes)?;
        if len == 0 || len > MAX_NAME_LEN {
            continue;
        }
        let name = match &locator[..4] {
            b"MacX" => read(image, at, u64::from(len))?,
            b"W2ru" => relative(&utf16(&read(image, at, u64::from(len))?)),
            _ => continue,
        };
        found.extend(parent(&name));
    }
    Ok(found)
}

/// Parents of a VHDX.
pub(super) fn vhdx<S: Source + ?Sized>(image: &S) -> Result<Vec<Reference>> {
    const REGION_TABLE: u64 = 192 << 10;
    const METADATA: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
    const LOCATOR: [u8; 16] = guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
    let regions = read_up_to(image, REGION_TABLE, 64 << 10)?;
    let Some(metadata) = entry(&regions, 16, METADATA)? else { return Ok(Vec::new()) };
    let metadata_at = field(metadata, 16).map(u64::from_le_bytes)?;
    let table = read_up_to(image, metadata_at, 64 << 10)?;
    let Some(item) = entry(&table, 32, LOCATOR)? else { return Ok(Vec::new()) };
    let at = metadata_at.checked_add(u64::from(field(item, 16).map(u32::from_le_bytes)?));
    let at = at.ok_or_else(|| damaged("a parent locator too far"))?;
    let locator = read_up_to(image, at, 64 << 10)?;
    let count = usize::from(field(&locator, 18).map(u16::from_le_bytes)?);
    let mut found = Vec::new();
    for pair in locator.get(20..).unwrap_or_default().as_chunks::<12>().0.iter().take(count) {
        let text = |at: usize, len: usize| -> Result<String> {
            let at = field(pair, at).map(u32::from_le_bytes)?;
            let len = usize::from(field(pair, len).map(u16::from_le_bytes)?);
            let at = usize::try_from(at).map_err(|_| damaged("a parent locator too far"))?;
            Ok(utf16(locator.get(at..).and_then(|rest| rest.get(..len)).unwrap_or_default()))
        };
        if text(0, 8)?.ends_with("_path") {
            found.extend(parent(&relative(&text(4, 10)?)));
        }
    }
    Ok(found)
}

/// The entry of 32 bytes that begins with an id, in a table.
fn entry(table: &[u8], first: usize, id: [u8; 16]) -> Result<Option<&[u8; 32]>> {
    let entries = table.get(first..).ok_or_else(|| damaged("a table of a VHDX"))?.as_chunks::<32>().0;
    Ok(entries.iter().find(|entry| entry.starts_with(&id)))
}

const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> [u8; 16] {
    let (first, second, third) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let [a, b, c, d, e, f, g, h] = rest;
    [first[0], first[1], first[2], first[3], second[0], second[1], third[0], third[1], a, b, c, d, e, f, g, h]
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

/// A relative name of Windows as one of this kind of system; others as they are.
fn relative(name: &str) -> Vec<u8> {
    match name.starts_with('\\') || name.contains(':') {
        true => name.as_bytes().to_vec(),
        false => name.replace('\\', "/").into_bytes(),
    }
}

fn parent(name: &[u8]) -> Option<Reference> {
    let name = name.strip_prefix(b"file://").unwrap_or(name);
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    path_of(&name[..end]).map(|path| Reference { role: Role::Parent, path })
}
