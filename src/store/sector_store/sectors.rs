//! The sectors of one request: from the backing file into its buffer and back, with what lies beside the bytes it wants.

use std::ops::Range;

use super::SectorStore;
use crate::error::{Error, Kind, Result};
use crate::sector::{self, BLOCK, SectorIndex, Span, UNIT, UNIT_LEN};
use crate::storage::Storage;
use crate::store::holes;
use crate::store::plain_file::{HEADROOM, PlainFile, index};

impl<S: Storage> SectorStore<S> {
    /// Reads and decrypts a span that lies within the disk; it then begins at the front of `buffer`.
    pub(super) fn read_span(&self, span: Span, buffer: &mut [u8]) -> Result<()> {
        let piece_len = self.storage.read_piece_len();
        for (number, piece) in buffer[..span.unit_len()].chunks_mut(piece_len).enumerate() {
            let at = number * piece_len;
            let filled = self.storage.read_at(self.cipher_offset(span.start() + at as u64), piece)?;
            self.decrypt_piece(span, at, filled, piece)?;
        }
        Ok(())
    }

    /// Decrypts a piece of a span, which lies at `at` in it, and of which this many bytes were in the backing file.
    pub(super) fn decrypt_piece(&self, span: Span, at: usize, filled: usize, piece: &mut [u8]) -> Result<()> {
        let start = span.start() + at as u64;
        if filled < piece.len() && at + filled < span.wanted().end {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the backing file ends at byte {} of the disk's data", start + filled as u64),
            ));
        }
        // Behind the last block is the mark that keeps the length, which must not count as ciphertext.
        let end = index(sector::ceil(self.plain_len(), BLOCK).saturating_sub(start)).min(filled);
        if end < piece.len() {
            piece[end..].fill(0);
        }
        let first = SectorIndex(span.first.0 + at as u64 / self.sector_size.bytes());
        holes::decrypt(self.cipher.load().sectors(), first, self.sector_size, piece)
    }

    /// Encrypts the plaintext at [`HEADROOM`] where it lies, and writes it.
    pub(super) fn write_locked(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        let span = Span::covering(plain_offset, len, self.sector_size);
        let old_len = self.plain_len();
        let new_len = old_len.max(span.end());
        let units = self.encrypt_units(span, old_len, new_len, buffer)?;
        let written = self.storage.write_at(self.cipher_offset(span.units().start), &buffer[units]);
        self.finish_write(written, old_len, new_len)
    }

    /// Encrypts the plaintext at [`HEADROOM`] together with the rest of its units, and returns where in the buffer lies what
    /// is to be written.
    pub(super) fn encrypt_units(
        &self,
        span: Span,
        old_len: u64,
        new_len: u64,
        buffer: &mut [u8],
    ) -> Result<Range<usize>> {
        let start = HEADROOM - span.skip;
        let buffer = &mut buffer[start..];
        let mut filled = self.merge_edges(span, old_len, new_len, buffer)?;
        self.cipher.load().sectors().encrypt_in_place(span.first, self.sector_size, &mut buffer[..filled])?;
        if new_len > old_len {
            filled = self.append_length_mark(new_len, span, filled, buffer);
        }
        let from = index(span.units().start - span.start());
        Ok(start + from..start + filled)
    }

    /// Puts around the wanted bytes what the units at both ends of the span hold besides them, and returns how many bytes
    /// from the span's start are to be encrypted.
    fn merge_edges(&self, span: Span, old_len: u64, new_len: u64, buffer: &mut [u8]) -> Result<usize> {
        let units = span.units();
        let end = units.end.min(sector::ceil(new_len, BLOCK));
        let wanted = span.wanted();
        let mut unit = [0; UNIT_LEN];
        let head = index(units.start - span.start());
        buffer[..head].fill(0);
        if head < wanted.start {
            self.read_unit(units.start, old_len, &mut unit)?;
            buffer[head..wanted.start].copy_from_slice(&unit[..wanted.start - head]);
        }
        let tail = index(units.end - span.start());
        if wanted.end < tail {
            self.read_unit(units.end - UNIT, old_len, &mut unit)?;
            buffer[wanted.end..tail].copy_from_slice(&unit[UNIT_LEN - (tail - wanted.end)..]);
        }
        Ok(index(end - span.start()))
    }

    /// Plaintext of one unit, with zeros past the end of the disk.
    pub(super) fn read_unit(&self, start: u64, old_len: u64, unit: &mut [u8; UNIT_LEN]) -> Result<()> {
        unit.fill(0);
        let len = index(old_len.saturating_sub(start).min(UNIT));
        if len > 0 {
            let mut sector = [0; 4096];
            let span = Span::covering(start, len, self.sector_size);
            self.read_span(span, &mut sector)?;
            unit[..len].copy_from_slice(&sector[span.wanted()]);
        }
        Ok(())
    }

    /// After a last block that is not full, the backing file has as many zeros as the block has bytes.
    fn append_length_mark(&self, new_len: u64, span: Span, filled: usize, buffer: &mut [u8]) -> usize {
        let marked = index(sector::cipher_len(new_len) - span.start());
        buffer[filled..marked].fill(0);
        marked
    }
}
