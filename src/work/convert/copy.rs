//! Content from one form into another, and whether it arrived: data is copied, holes stay holes.
//!
//! Two threads each take the next piece, so that one reads and decrypts while the other encrypts and writes.

use std::sync::atomic::Ordering;
use std::thread;

use parking_lot::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::store::buffer::request_buffer;
use crate::store::plain_file::{MAX_REQUEST, PlainFile};
use crate::sys::AlignedBuffer;
use crate::work::convert::progress_counter::ProgressCounter;

/// More do not pay: the medium and the page cache are what is waited for.
const THREADS: usize = 2;
const PIECE: u64 = MAX_REQUEST as u64;

/// Gives `to`, which must be empty, the length, the data and the holes of `from`. Not synced.
///
/// # Errors
/// `Stopped`, `Corrupt` when `from` is damaged, or `Io`; then `to` holds a part.
pub(super) fn copy(from: &dyn PlainFile, to: &dyn PlainFile, pace: &ProgressCounter<'_>) -> Result<()> {
    to.set_len(from.plain_len())?;
    let next = |at: u64| {
        let Some(start) = from.seek_data(at)? else { return Ok(None) };
        let end = from.seek_hole(start)?.unwrap_or(start);
        Ok(Some((start, end)))
    };
    for_each_piece(from.plain_len(), next, pace, |start, len, buffers| {
        let [first, second] = buffers;
        let data = read(from, start, len, first).context(|| "reading the original".into())?;
        to.write_at(start, data, second)
    })
}

/// Compares what was copied with where it came from, both read again.
///
/// # Errors
/// `Corrupt` when they differ, `Stopped`, or `Io`.
pub(super) fn compare(from: &dyn PlainFile, to: &dyn PlainFile, pace: &ProgressCounter<'_>) -> Result<()> {
    if from.plain_len() != to.plain_len() {
        let message = format!("{} bytes were read back, expected {}", to.plain_len(), from.plain_len());
        return Err(Error::new(Kind::Corrupt, message));
    }
    // What is a hole in both is equal.
    let next = |at: u64| {
        let starts = [from.seek_data(at)?, to.seek_data(at)?];
        let Some(start) = starts.into_iter().flatten().min() else { return Ok(None) };
        let ends = [from.seek_hole(start)?, to.seek_hole(start)?];
        Ok(ends.into_iter().flatten().max().map(|end| (start, end)))
    };
    for_each_piece(from.plain_len(), next, pace, |start, len, buffers| {
        let [first, second] = buffers;
        let original = read(from, start, len, first).context(|| "reading the original".into())?;
        let copy = read(to, start, len, second).context(|| "reading back".into())?;
        match original.iter().zip(copy).position(|(original, copy)| original != copy) {
            None => Ok(()),
            Some(at) => Err(Error::new(
                Kind::Corrupt,
                format!("byte {} was read back other than it was written", start + at as u64),
            )),
        }
    })
}

/// Calls `each` for all pieces of the ranges that `next` finds from a position on, on several threads, each with buffers
/// of its own. The first error ends it.
fn for_each_piece(
    len: u64,
    next: impl Fn(u64) -> Result<Option<(u64, u64)>> + Sync,
    pace: &ProgressCounter<'_>,
    each: impl Fn(u64, usize, &mut [AlignedBuffer; 2]) -> Result<()> + Sync,
) -> Result<()> {
    // What is left of the range found last, and from where to look for the next one.
    let state = Mutex::new(Ok((0, 0)));
    let take = || -> Option<(u64, u64)> {
        let mut state = state.lock();
        let (mut start, mut end) = *state.as_ref().ok()?;
        let found = if start < end { Ok(Some((start, end))) } else { next(end) };
        match found {
            Ok(Some(found)) => (start, end) = found,
            Ok(None) => return None,
            Err(error) => {
                *state = Err(error);
                return None;
            }
        }
        // A file that is changed at this time may have lost the range: the read shows that.
        end = end.max(start + 1).min(len);
        let stop = end.min(start - start % PIECE + PIECE);
        *state = Ok((stop, end));
        (start < stop).then_some((start, stop))
    };
    let done = pace.bytes();
    let run = |tell: &dyn Fn() -> Result<()>| {
        let mut buffers = [request_buffer(), request_buffer()];
        while let Some((start, stop)) = take() {
            let piece = usize::try_from(stop - start).unwrap_or(MAX_REQUEST);
            let worked = each(start, piece, &mut buffers);
            done.fetch_add(stop - start, Ordering::Relaxed);
            if let Err(error) = worked.and_then(|()| tell()) {
                *state.lock() = Err(error);
            }
        }
    };
    pace.tell()?;
    thread::scope(|scope| {
        for _ in 1..THREADS.min(usize::try_from(len.div_ceil(PIECE)).unwrap_or(THREADS)) {
            scope.spawn(|| run(&|| Ok(())));
        }
        run(&|| pace.tell());
    });
    state.into_inner().map(drop)
}

/// All bytes of a range that lies within the file.
fn read<'b>(file: &dyn PlainFile, start: u64, len: usize, buffer: &'b mut AlignedBuffer) -> Result<&'b [u8]> {
    let data = file.read_at(start, len, buffer)?;
    match data.len() == len {
        true => Ok(data),
        false => Err(Error::new(Kind::Busy, "the file became shorter while it was read: something else uses it")),
    }
}

#[cfg(test)]
mod tests;
