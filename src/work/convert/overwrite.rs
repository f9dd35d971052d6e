//! Overwriting plaintext that is no longer needed, where it lies.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::crypto::random;
use crate::error::{Context, Result};
use crate::sys::file::{seek_data, seek_hole};

/// Replaces all data of a file by random bytes, durably. Holes stay holes. Random and not zeros: arrays and SSDs turn zeros
/// into nothing at all, and leave alone what lay there.
///
/// # Errors
/// `Io`.
pub(super) fn overwrite(file: &File) -> Result<()> {
    let mut noise = vec![0; 1 << 20];
    let mut at = 0;
    while let Some(start) = seek_data(file, at).context(|| "looking for data to overwrite".into())? {
        let end = seek_hole(file, start).context(|| "looking for data to overwrite".into())?.unwrap_or(start);
        at = start;
        while at < end {
            let len = usize::try_from(end - at).map_or(noise.len(), |left| left.min(noise.len()));
            random::fill(&mut noise[..len])?;
            file.write_all_at(&noise[..len], at).context(|| format!("overwriting the original at {at}"))?;
            at += len as u64;
        }
        at = at.max(start + 1);
    }
    file.sync_all().context(|| "making the overwriting durable".into())
}
