//! qcow, qcow2 and QED (QEMU: docs/interop/qcow2.rst, qed_spec.rst).

use vmdk_layout::Source;

use super::{Reference, Role, damaged, field, named, read, read_up_to};
use crate::error::Result;

/// QEMU refuses longer names.
const MAX_NAME_LEN: u32 = 1023;
/// More extensions than are known, several times over.
const MAX_EXTENSIONS: usize = 64;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;

/// Backing file and data file of a qcow2 image.
pub(super) fn qcow2<S: Source + ?Sized>(image: &S) -> Result<Vec<Reference>> {
    let head = read_up_to(image, 0, 112)?;
    let u32_at = |at| field(&head, at).map(u32::from_be_bytes);
    let (version, backing_at, backing_len) = (u32_at(4)?, field(&head, 8).map(u64::from_be_bytes)?, u32_at(16)?);
    let cluster_bits = u32_at(20)?;
    let header_len = match version {
        1 => None, // the first qcow has no extensions
        2 => Some(72),
        3.. => Some(u64::from(u32_at(100)?)),
        0 => return Err(damaged("qcow2 version 0")),
    };
    let (mut format, mut found) = (None, Vec::new());
    if let Some(start) = header_len {
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged(&format!("clusters of 2^{cluster_bits} bytes")));
        }
        let end = if backing_at == 0 { 1 << cluster_bits } else { backing_at.min(1 << cluster_bits) };
        for (kind, text) in extensions(image, start, end)? {
            match kind {
                BACKING_FORMAT => format = Some(String::from_utf8_lossy(&text).into_owned()),
                DATA_FILE => found.extend(named(&text, &Role::Data)),
                _ => {}
            }
        }
    }
    found.extend(backing(image, backing_at, backing_len, format)?);
    Ok(found)
}

/// Type and content of the extensions of a header that hold names.
fn extensions<S: Source + ?Sized>(image: &S, start: u64, end: u64) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut at = start;
    for _ in 0..MAX_EXTENSIONS {
        if at + 8 > end {
            return Ok(found);
        }
        let head = read_up_to(image, at, 8)?;
        let (Ok(kind), Ok(len)) = (field(&head, 0).map(u32::from_be_bytes), field(&head, 4).map(u32::from_be_bytes))
        else {
            return Ok(found);
        };
        if kind == 0 {
            return Ok(found);
        }
        if at + 8 + u64::from(len) > end {
            return Err(damaged(&format!("a header extension of {len} bytes at {at}")));
        }
        if matches!(kind, BACKING_FORMAT | DATA_FILE) && len <= MAX_NAME_LEN {
            found.push((kind, read(image, at + 8, u64::from(len))?));
        }
        at += 8 + u64::from(len).next_multiple_of(8);
    }
    Err(damaged("too many header extensions"))
}

/// The backing file of a QED image.
pub(super) fn qed<S: Source + ?Sized>(image: &S) -> Result<Vec<Reference>> {
    const HAS_BACKING_FILE: u64 = 1;
    const BACKING_IS_RAW: u64 = 4;
    let head = read(image, 0, 64)?;
    let features = field(&head, 16).map(u64::from_le_bytes)?;
    if features & HAS_BACKING_FILE == 0 {
        return Ok(Vec::new());
    }
    let (at, len) = (field(&head, 56).map(u32::from_le_bytes)?, field(&head, 60).map(u32::from_le_bytes)?);
    let format = (features & BACKING_IS_RAW != 0).then(|| "raw".to_owned());
    backing(image, u64::from(at), len, format)
}

fn backing<S: Source + ?Sized>(image: &S, at: u64, len: u32, format: Option<String>) -> Result<Vec<Reference>> {
    if at == 0 || len == 0 {
        return Ok(Vec::new());
    }
    if len > MAX_NAME_LEN {
        return Err(damaged(&format!("the name of a backing file of {len} bytes")));
    }
    Ok(named(&read(image, at, u64::from(len))?, &Role::Backing(format)))
}
