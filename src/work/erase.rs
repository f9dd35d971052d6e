//! Crypto-erase: every wrapped copy of a component's DEK is overwritten, and evidence of it is given.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::crypto::derive::sha256;
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::erasure::{Erasure, MARK_LEN};
use crate::format::header::{COPY_LEN, ComponentKind, DEFAULT_DATA_OFFSET, Header};
use crate::format::names::DiskNames;
use crate::key::KeyName;
use crate::progress::to_the_end;
use crate::sector::UNIT;
use crate::storage::Storage;
use crate::store::header_area;
use crate::text::Show;
use crate::timestamp::Timestamp;
use crate::vm::access::{Claimed, VmAccess};
use crate::vm::component::Component;
use crate::vm::inventory::{Inventory, What};
use crate::vm::{folder, scan};
use crate::work::ComponentResult;

/// Bytes that are overwritten at a time.
const STEP: u64 = 1 << 20;

/// What to erase.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Erase {
    /// Which one; `None` for the home and all disks.
    #[serde(default)]
    pub component: Option<Component>,
}

/// Evidence of what was erased. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Erased {
    /// One for each component.
    pub components: Vec<ComponentResult<Overwritten>>,
    /// What else lies in the folder of a VM that was erased as a whole, and is not encrypted: below the folder.
    #[serde(default, with = "crate::text::path")]
    pub in_the_clear: Vec<PathBuf>,
    /// Which of these show no sign of what they are: they may be ciphertext whose header was overwritten before.
    #[serde(default, with = "crate::text::path")]
    pub no_sign: Vec<PathBuf>,
    /// Headers that are left in such a folder: of drafts, saved ones, of VM folders within.
    #[serde(default, with = "crate::text::path")]
    pub headers_left: Vec<PathBuf>,
    /// What of such a folder could not be looked at, and why.
    #[serde(default)]
    pub unreadable: Vec<String>,
}

/// Evidence of a component that was erased.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Overwritten {
    /// Keys whose wrapped DEKs were in its copies.
    pub keys: Vec<KeyName>,
    /// Both header copies.
    pub copies: Vec<ErasedCopy>,
    /// Bytes that were overwritten, copies included; the rest of the header area was a hole.
    pub overwritten: u64,
}

/// Evidence of a header copy that was overwritten.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ErasedCopy {
    /// Where in the backing file.
    pub offset: u64,
    /// SHA-256 of its 8192 bytes before, in hexadecimal.
    pub sha256_before: String,
    /// As read back from the file afterwards.
    pub sha256_after: String,
}

impl Erase {
    /// Overwrites the header areas of components that nothing uses with random bytes, syncs, and reads them back. Needs no key.
    /// All are claimed before the first is touched. What was erased before is passed over; after an interruption, running again
    /// finishes.
    ///
    /// # Errors
    /// `NotFound` when there is no such component, or none that is not erased already; `Busy`, or `Io`, also when what is read
    /// back is not what was written.
    pub fn run(&self, place: &dyn VmAccess) -> Result<Erased> {
        let mut found = place.components(&to_the_end)?;
        found.retain(|found| self.component.as_ref().is_none_or(|wanted| found.component() == *wanted));
        scan::each_file_once(&mut found);
        found.reverse(); // the home last: as long as it is there, the folder is known as a VM's
        if found.is_empty() {
            let message = "nothing to erase: no header copy is left that could hold a wrapped key";
            return Err(Error::new(Kind::NotFound, message));
        }
        let mut claimed = Vec::new();
        for component in &found {
            let component = component.component();
            claimed.push(place.claim_exclusive(&component, &to_the_end).context(|| component.to_string())?);
        }
        let mut components = Vec::new();
        let mut before = None;
        for (found, claim) in found.iter().zip(&claimed) {
            let component = found.component();
            // Asked under the claim: another run may just have done it.
            if let Some(mark) = header_area::erasure(claim.storage(), component.kind())? {
                // That run may have failed in making the marks durable: the system says so once only.
                write_marks(claim.as_ref(), &mark)?;
                claim.sync()?;
                before = Some(format!("{component}: {} already", mark.describe()));
                continue;
            }
            let (uuid, done) = erase(claim.as_ref(), component.kind()).context(|| component.to_string())?;
            if let Some(header) = found.unverified() {
                place.forget(header);
            }
            components.push(ComponentResult { kind: component.kind(), component, uuid, done });
        }
        match before.filter(|_| components.is_empty()) {
            Some(before) => Err(Error::new(Kind::NotFound, before)),
            None => {
                let mut erased = Erased { components, ..Erased::default() };
                if self.component.is_none() {
                    erased.look_at_the_rest(&place.path());
                }
                Ok(erased)
            }
        }
    }
}

impl Erased {
    /// What erasing keys does not destroy. The work is done: what cannot be looked at is said, and undoes nothing.
    fn look_at_the_rest(&mut self, folder: &Path) {
        match folder::open_dir(folder).and_then(|dir| Inventory::take(&dir, &DiskNames::default())) {
            Err(error) => self.unreadable.push(error.chain()),
            Ok(inventory) => {
                for entry in &inventory.entries {
                    if entry.in_the_clear().is_some() {
                        self.in_the_clear.push(entry.path.clone());
                        self.no_sign.extend(entry.may_be_ciphertext().then(|| entry.path.clone()));
                    } else if entry.headers().is_some() || matches!(entry.what, What::SavedHeader(_)) {
                        self.headers_left.push(entry.path.clone());
                    } else if let Some(error) = entry.unreadable() {
                        self.unreadable.push(format!("{}: {}", entry.path.shown(), error.chain()));
                    }
                }
            }
        }
    }
}

/// Also the component's UUID, if any copy of its header could be read.
fn erase(claim: &dyn Claimed, kind: ComponentKind) -> Result<(Option<Uuid>, Overwritten)> {
    let storage = claim.storage();
    let headers: Vec<Header> =
        header_area::copies(storage, kind)?.into_iter().flatten().map(|copy| copy.claims().clone()).collect();
    let before = hashes(storage, kind)?;
    let uuid = known_uuid(storage, kind, &headers)?;
    let copies = kind.copy_offsets().map(|offset| offset..offset + COPY_LEN as u64);
    let mut written = Vec::new();
    // All that is beside the copies first: as long as one of them can be read, the rest is not finished, and running again
    // finds the component.
    for range in data_ranges(storage, area_len(storage, kind, &headers)?)? {
        let beside = [range.start..range.end.min(copies[1].start), range.start.max(copies[1].end)..range.end];
        for range in beside {
            overwrite(storage, range.start.max(copies[0].end)..range.end, &mut written)?;
        }
    }
    claim.sync()?;
    // Then of each copy all but the sector with the magic, by which the component is known; that goes last, and is never torn: its
    // place gets the mark by which it stays known.
    for copy in &copies {
        overwrite(storage, copy.start + UNIT..copy.end, &mut written)?;
    }
    claim.sync()?;
    written.extend(write_marks(claim, &Erasure { kind, time: Timestamp::now(), uuid })?);
    claim.sync()?;
    claim.drop_cache();
    for (range, expected) in &written {
        if sha256(&read(storage, range)?) != *expected {
            return Err(Error::new(
                Kind::Io,
                format!("bytes {} to {} did not read back as they were overwritten", range.start, range.end),
            ));
        }
    }
    let after = hashes(storage, kind)?;
    let copy = |((offset, sha256_before), sha256_after)| ErasedCopy { offset, sha256_before, sha256_after };
    let mut keys: Vec<KeyName> = Vec::new();
    for key in headers.iter().flat_map(|header| header.slots.key_ids()).map(KeyName::of) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let done = Overwritten {
        keys,
        copies: kind.copy_offsets().into_iter().zip(before).zip(after).map(copy).collect(),
        overwritten: written.iter().map(|(range, _)| range.end - range.start).sum(),
    };
    Ok((uuid, done))
}

/// Puts the mark in the place of both copies' magic. Returns what was written where.
fn write_marks(claim: &dyn Claimed, mark: &Erasure) -> Result<Vec<(Range<u64>, [u8; 32])>> {
    let bytes = mark.encode()?;
    let mut written = Vec::new();
    for offset in mark.kind.copy_offsets() {
        claim.storage().write_at(offset, &bytes)?;
        written.push((offset..offset + MARK_LEN as u64, sha256(&bytes)));
    }
    Ok(written)
}

/// Whose header area this is, by a copy, or by the mark that an interrupted run has left in the place of one.
fn known_uuid(storage: &dyn Storage, kind: ComponentKind, headers: &[Header]) -> Result<Option<Uuid>> {
    if let Some(header) = headers.first() {
        return Ok(Some(header.uuid));
    }
    for offset in kind.copy_offsets() {
        let bytes = read(storage, &(offset..offset + MARK_LEN as u64))?;
        if let Some(uuid) = Erasure::decode(&bytes).and_then(|mark| mark.uuid) {
            return Ok(Some(uuid));
        }
    }
    Ok(None)
}

/// Where the header area ends: at a disk's data, by what its copies say (unverified: nobody who can write the file is kept from
/// destroying it anyway).
fn area_len(storage: &dyn Storage, kind: ComponentKind, headers: &[Header]) -> Result<u64> {
    let data_offset = |header: &Header| header.shape.disk().map(|disk| disk.data_offset);
    match kind {
        ComponentKind::Home => storage.len(),
        ComponentKind::Disk => Ok(headers.iter().filter_map(data_offset).min().unwrap_or(DEFAULT_DATA_OFFSET)),
    }
}

/// The parts of the header area that are no holes: a hole holds nothing, and overwriting it takes space that a full medium does
/// not have.
fn data_ranges(storage: &dyn Storage, end: u64) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(start) = storage.seek_data(at)?.filter(|&start| start < end) {
        at = storage.seek_hole(start)?.unwrap_or(end).min(end);
        ranges.push(start..at);
    }
    Ok(ranges)
}

fn overwrite(storage: &dyn Storage, range: Range<u64>, written: &mut Vec<(Range<u64>, [u8; 32])>) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let step = at..range.end.min(at + STEP);
        let mut noise = vec![0; usize::try_from(step.end - step.start).unwrap_or_default()];
        random::fill(&mut noise)?;
        storage.write_at(step.start, &noise)?;
        at = step.end;
        written.push((step, sha256(&noise)));
    }
    Ok(())
}

fn read(storage: &dyn Storage, range: &Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
    let len = storage.read_at(range.start, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

fn hashes(storage: &dyn Storage, kind: ComponentKind) -> Result<[String; 2]> {
    let [first, second] = kind.copy_offsets();
    let hash = |offset: u64| -> Result<String> {
        let bytes = read(storage, &(offset..offset + COPY_LEN as u64))?;
        Ok(data_encoding::HEXLOWER.encode(&sha256(&bytes)))
    };
    Ok([hash(first)?, hash(second)?])
}

#[cfg(test)]
mod tests;
