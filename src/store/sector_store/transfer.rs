//! Requests of a disk whose I/O somebody else carries out: begun without waiting for a lock, ended wherever it suits.

use std::io;

use super::SectorStore;
use crate::error::{Error, Result};
use crate::sector::{MAX_OFFSET, MAX_PLAIN_LEN, Span};
use crate::storage::Storage;
use crate::store::plain_file::{HEADROOM, PlainFile, range_end};
use crate::store::transfer::{Begun, Direction, Transfer};

impl<S: Storage> SectorStore<S> {
    pub(super) fn begin_reading(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        let end = range_end(plain_offset, len, MAX_OFFSET)?;
        let Some(guard) = self.locks.try_shared(plain_offset..end) else { return Ok(Begun::MustWait) };
        let len = self.len_within(plain_offset..end);
        if len == 0 {
            return Ok(Begun::Done(0));
        }
        let span = Span::covering(plain_offset, len, self.sector_size);
        let start = HEADROOM - span.skip;
        let memory = start..start + span.unit_len();
        let cipher_offset = self.cipher_offset(span.start());
        let Some(file) = self.storage.raw_io_target(cipher_offset, &buffer[memory.clone()]) else {
            self.read_span(span, &mut buffer[start..])?;
            return Ok(Begun::Done(len));
        };
        let (direction, ticket) = (Direction::Read, guard.into_ticket());
        Ok(Begun::UnderWay(Transfer { direction, file, cipher_offset, memory, span, len, ticket }))
    }

    /// A write that grows the disk has to be the only one past its end, which is worth waiting for.
    pub(super) fn begin_writing(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        let end = range_end(plain_offset, len, MAX_PLAIN_LEN)?;
        if len == 0 {
            return Ok(Begun::Done(0));
        }
        let Some(guard) = self.locks.try_exclusive(self.changed_with(plain_offset..end)) else {
            return Ok(Begun::MustWait);
        };
        let plain_len = self.plain_len();
        if end > plain_len {
            return Ok(Begun::MustWait);
        }
        let span = Span::covering(plain_offset, len, self.sector_size);
        let memory = self.encrypt_units(span, plain_len, plain_len, buffer)?;
        let cipher_offset = self.cipher_offset(span.units().start);
        let Some(file) = self.storage.raw_io_target(cipher_offset, &buffer[memory.clone()]) else {
            self.storage.write_at(cipher_offset, &buffer[memory])?;
            return Ok(Begun::Done(len));
        };
        let (direction, ticket) = (Direction::Write, guard.into_ticket());
        Ok(Begun::UnderWay(Transfer { direction, file, cipher_offset, memory, span, len, ticket }))
    }

    /// Does what is left of a request after its I/O, of which `moved` tells how many bytes were transferred.
    pub(super) fn end(&self, transfer: Transfer, moved: io::Result<usize>, buffer: &mut [u8]) -> Result<usize> {
        let Transfer { direction, cipher_offset, memory, span, len, ticket, .. } = transfer;
        let _guard = self.locks.resume(ticket);
        let moved = match moved {
            Ok(moved) => moved.min(memory.len()),
            Err(error) if should_retry_buffered(&error) => 0,
            Err(error) => {
                let what = format!("{} bytes of the backing file at {cipher_offset}", memory.len());
                return Err(self.storage.raw_io_failed(Error::io(what, error)));
            }
        };
        let (data, rest_offset) = (&mut buffer[memory], cipher_offset + moved as u64);
        let rest = &mut data[moved..];
        match direction {
            Direction::Write if rest.is_empty() => {}
            Direction::Write => self.storage.write_at(rest_offset, rest)?,
            Direction::Read => {
                let more = if rest.is_empty() { 0 } else { self.storage.read_at(rest_offset, rest)? };
                self.decrypt_piece(span, 0, moved + more, data)?;
            }
        }
        Ok(len)
    }
}

/// Whether the error is of the way that the I/O took, not of the file.
fn should_retry_buffered(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EAGAIN | libc::EINTR))
}
