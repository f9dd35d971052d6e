//! Decryption that skips holes: zero blocks at a unit's end are zeros, not ciphertext (docs/FORMAT.md, "Holes").

use crate::crypto::xts::SectorCipher;
use crate::error::Result;
use crate::sector::{BLOCK_LEN, SectorIndex, SectorSize, UNIT_LEN};

/// Units of the largest sector.
const MAX_UNITS: usize = 8;

/// Decrypts, in place, whole units of ciphertext that start at the start of sector `first`.
pub(super) fn decrypt(cipher: &dyn SectorCipher, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
    let mut solid_from = 0;
    for start in (0..data.len()).step_by(size.in_memory()) {
        let end = data.len().min(start + size.in_memory());
        if is_solid(&data[start..end]) {
            continue;
        }
        decrypt_run(cipher, first, size, data, solid_from, start)?;
        decrypt_with_holes(cipher, sector_at(first, start, size), size, &mut data[start..end])?;
        solid_from = end;
    }
    let end = data.len();
    decrypt_run(cipher, first, size, data, solid_from, end)
}

/// Decrypts sectors without holes, as many at once as there are.
fn decrypt_run(
    cipher: &dyn SectorCipher,
    first: SectorIndex,
    size: SectorSize,
    data: &mut [u8],
    from: usize,
    to: usize,
) -> Result<()> {
    if from < to {
        cipher.decrypt_in_place(sector_at(first, from, size), size, &mut data[from..to])?;
    }
    Ok(())
}

/// Decrypts one sector that has a hole in some unit, or is one.
fn decrypt_with_holes(
    cipher: &dyn SectorCipher,
    index: SectorIndex,
    size: SectorSize,
    sector: &mut [u8],
) -> Result<()> {
    let mut solid = [0; MAX_UNITS];
    for (len, unit) in solid.iter_mut().zip(sector.chunks(UNIT_LEN)) {
        *len = solid_len(unit);
    }
    if solid.iter().all(|&len| len == 0) {
        return Ok(()); // a hole as a whole: zeros already
    }
    cipher.decrypt_in_place(index, size, sector)?;
    for (len, unit) in solid.iter().zip(sector.chunks_mut(UNIT_LEN)) {
        unit[*len..].fill(0);
    }
    Ok(())
}

fn sector_at(first: SectorIndex, start: usize, size: SectorSize) -> SectorIndex {
    SectorIndex(first.0 + start as u64 / size.bytes())
}

/// Whether no unit ends in a zero block. Looks at one block a unit: this is on every read's path.
fn is_solid(sector: &[u8]) -> bool {
    sector.chunks(UNIT_LEN).all(|unit| unit.last_chunk().is_some_and(|block| !is_zero(block)))
}

/// Bytes of a unit before the zero blocks at its end.
pub(super) fn solid_len(unit: &[u8]) -> usize {
    let (blocks, _) = unit.as_chunks::<BLOCK_LEN>();
    blocks.iter().rposition(|block| !is_zero(block)).map_or(0, |last| (last + 1) * BLOCK_LEN)
}

fn is_zero(block: &[u8; BLOCK_LEN]) -> bool {
    u128::from_le_bytes(*block) == 0
}
