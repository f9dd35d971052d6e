//! The pieces of a dump, written and read one after the other: never more than one of them is in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use zeroize::Zeroizing;

use crate::crypto::pieces::{PieceKey, TAG_LEN};
use crate::error::{Context, Error, Kind, Result};
use crate::format::dump::{HEAD_LEN, PIECE_LEN, PieceHead, PieceKind};

/// Bytes that a piece has besides its ciphertext.
const OVERHEAD: u64 = (HEAD_LEN + TAG_LEN) as u64;
/// Room that is kept for what ends a dump: a piece of zeros, and one that says that it was cut.
const END_ROOM: u64 = 2 * OVERHEAD;

/// Where a dump is written to.
pub trait Sink: Write {
    /// Takes back all after the first `len` bytes, so that the next write follows them.
    ///
    /// # Errors
    /// The system's.
    fn take_back(&mut self, len: u64) -> io::Result<()>;
}

impl Sink for File {
    fn take_back(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(drop)
    }
}

/// How a dump ended.
#[derive(Debug)]
pub struct Ended {
    /// Its bytes, in the clear.
    pub plain_len: u64,
    /// Why not all of it was kept, if so.
    pub cut: Option<Error>,
}

/// What a dump would grow to by its next piece, with what ends it.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Its bytes in the clear.
    pub plain_len: u64,
    /// Bytes of its file.
    pub file_len: u64,
}

/// Refuses to let a dump grow.
pub type Room<'r> = dyn FnMut(Growth) -> Result<()> + 'r;

/// Encrypts all that comes from `source` under `dek`, 32 bytes that served for nothing else, into `sink`, which has `header_len` bytes.
///
/// Where `source` fails, `room` refuses, or the medium is full, the dump is ended as one that was cut.
///
/// # Errors
/// `Io` when not even that can be written.
pub fn seal(
    source: &mut dyn Read,
    sink: &mut dyn Sink,
    header_len: u64,
    dek: &[u8],
    room: &mut Room<'_>,
) -> Result<Ended> {
    let mut writer = PieceWriter { key: PieceKey::new(dek)?, sink, number: 0, at: header_len, before: None, zeros: 0 };
    let mut piece = Zeroizing::new(vec![0; PIECE_LEN]);
    let mut plain_len = 0;
    let cut = loop {
        let (len, failure) = fill(source, &mut piece);
        if let Some(error) = failure {
            plain_len += len as u64;
            plain_len -= writer.end_early(&mut piece[..len])?;
            return Ok(Ended { plain_len, cut: Some(Error::io("reading the dump", error)) });
        }
        let file_len = writer.at + len as u64 + OVERHEAD + END_ROOM;
        let growth = Growth { plain_len: plain_len + len as u64, file_len };
        if let Err(refusal) = room(growth).and_then(|()| writer.put(&mut piece[..len])) {
            break Some(refusal);
        }
        plain_len += len as u64;
        if len < PIECE_LEN {
            break None;
        }
    };
    if cut.is_some() {
        plain_len -= writer.end_early(&mut [])?;
    }
    Ok(Ended { plain_len, cut })
}

/// Fills the buffer as far as the source goes. A failure counts only when nothing came before it: what did comes first.
fn fill(source: &mut dyn Read, piece: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut len = 0;
    while len < piece.len() {
        match source.read(&mut piece[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (len, Some(error)),
        }
    }
    (len, None)
}

struct PieceWriter<'s> {
    key: PieceKey,
    sink: &'s mut dyn Sink,
    /// Of the next piece.
    number: u64,
    /// Bytes that are written.
    at: u64,
    /// Where the piece before begins, and its bytes in the clear.
    before: Option<(u64, u64)>,
    /// Whole pieces of zeros that are not written yet.
    zeros: u32,
}

impl PieceWriter<'_> {
    /// Writes a whole piece, or what the dump ends with.
    fn put(&mut self, piece: &mut [u8]) -> Result<()> {
        let is_whole = piece.len() == PIECE_LEN;
        if is_whole && piece.iter().all(|&byte| byte == 0) && self.zeros < u32::MAX {
            self.zeros += 1;
            return Ok(());
        }
        self.flush_zeros()?;
        let head = if is_whole { PieceHead::DATA } else { PieceHead::end(false, piece.len())? };
        self.write(head, piece)
    }

    fn flush_zeros(&mut self) -> Result<()> {
        if self.zeros > 0 {
            self.write(PieceHead::zeros(self.zeros), &mut [])?;
            self.zeros = 0;
        }
        Ok(())
    }

    fn write(&mut self, head: PieceHead, piece: &mut [u8]) -> Result<()> {
        let bytes = head.encode();
        let tag = self.key.seal(self.number, head.kind.number(), &bytes, piece)?;
        let mut write = || {
            self.sink.write_all(&bytes)?;
            self.sink.write_all(piece)?;
            self.sink.write_all(&tag)
        };
        write().context(|| "writing the encrypted dump".into())?;
        self.before = Some((self.at, head.plain_len()));
        self.at += OVERHEAD + piece.len() as u64;
        self.number += 1;
        Ok(())
    }

    /// Ends the dump, with these bytes, as one that was cut. Returns how many bytes in the clear had to be given up for that.
    fn end_early(&mut self, tail: &mut [u8]) -> Result<u64> {
        let zeros = u64::from(self.zeros) * PIECE_LEN as u64;
        let Err(full) = self.end_here(tail) else { return Ok(0) };
        // The medium has not even room for that: the piece before gives its place. Under another kind, its number is used once only.
        let lost = tail.len() as u64 + if self.zeros > 0 { zeros } else { 0 };
        self.zeros = 0;
        let Some((at, plain_len)) = self.before.take() else { return Err(full) };
        (self.at, self.number) = (at, self.number - 1);
        self.end_here(&mut [])?;
        Ok(lost + plain_len)
    }

    fn end_here(&mut self, tail: &mut [u8]) -> Result<()> {
        self.sink.take_back(self.at).context(|| "taking back an unfinished piece".into())?;
        self.flush_zeros()?;
        self.write(PieceHead::end(true, tail.len())?, tail)
    }
}

/// A part of a dump, in the clear.
#[derive(Debug, Eq, PartialEq)]
pub enum Part<'p> {
    /// Bytes.
    Bytes(&'p [u8]),
    /// This many bytes of zeros.
    Zeros(u64),
}

/// Reads the pieces of a dump.
pub struct DumpReader<'s> {
    source: &'s mut dyn Read,
    key: PieceKey,
    number: u64,
    piece: Zeroizing<Vec<u8>>,
    /// How the dump ended, once it has.
    ended: Option<PieceKind>,
}

impl<'s> DumpReader<'s> {
    /// Reads what follows a header, given the dump's DEK.
    ///
    /// # Errors
    /// `Invalid` when the DEK is not of 32 bytes.
    pub fn new(source: &'s mut dyn Read, dek: &[u8]) -> Result<Self> {
        let piece = Zeroizing::new(vec![0; PIECE_LEN + TAG_LEN]);
        Ok(Self { source, key: PieceKey::new(dek)?, number: 0, piece, ended: None })
    }

    /// Whether its writer had to stop. Known when [`next_part`](Self::next_part) has returned `None`.
    pub fn is_cut(&self) -> bool {
        self.ended == Some(PieceKind::Cut)
    }

    /// The next part, which is authentic; `None` after the last one.
    ///
    /// # Errors
    /// `Corrupt` when the file ends without a last piece, goes on after it, or a piece is not the one of its place.
    pub fn next_part(&mut self) -> Result<Option<Part<'_>>> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let mut head = [0; HEAD_LEN];
        read_exact(self.source, &mut head, self.number)?;
        let parsed = PieceHead::decode(head)?;
        let sealed = &mut self.piece[..parsed.cipher_len() + TAG_LEN];
        read_exact(self.source, sealed, self.number)?;
        if matches!(parsed.kind, PieceKind::Last | PieceKind::Cut) {
            self.refuse_more()?;
            self.ended = Some(parsed.kind);
        }
        let sealed = &mut self.piece[..parsed.cipher_len() + TAG_LEN];
        let opened = self.key.open(self.number, parsed.kind.number(), &head, sealed)?;
        self.number += 1;
        Ok(Some(if parsed.kind == PieceKind::Zeros { Part::Zeros(parsed.plain_len()) } else { Part::Bytes(opened) }))
    }

    fn refuse_more(&mut self) -> Result<()> {
        let mut more = [0];
        match self.source.read(&mut more).context(|| "reading the encrypted dump".into())? {
            0 => Ok(()),
            _ => Err(Error::new(Kind::Corrupt, "bytes follow the last piece of the dump, expected none")),
        }
    }
}

/// The plaintext of a dump as a stream: what is encrypted again under another key. It ends with an error where the dump was cut.
pub struct Plaintext<'s> {
    /// What it comes from.
    pub reader: DumpReader<'s>,
    /// Bytes of the piece that are still to be given: their place, and whether they are zeros.
    left: (usize, u64, bool),
    /// Why it ended early, if not because its writer had to stop.
    pub failure: Option<Error>,
}

impl<'s> Plaintext<'s> {
    /// That of a dump of which nothing was read yet.
    pub fn new(reader: DumpReader<'s>) -> Self {
        Self { reader, left: (0, 0, false), failure: None }
    }
}

impl Read for Plaintext<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.1 == 0 && !buffer.is_empty() {
            let part = match self.reader.next_part() {
                Ok(Some(Part::Bytes(bytes))) => Some((bytes.len() as u64, false)),
                Ok(Some(Part::Zeros(len))) => Some((len, true)),
                Ok(None) => None,
                Err(error) => {
                    let why = error.to_string();
                    self.failure = Some(error);
                    return Err(io::Error::other(why));
                }
            };
            match part {
                Some((len, is_zeros)) => self.left = (0, len, is_zeros),
                None if self.reader.is_cut() => return Err(io::Error::other("its writer had to stop here")),
                None => return Ok(0),
            }
        }
        let (at, left, is_zeros) = self.left;
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match is_zeros {
            true => buffer[..len].fill(0),
            false => buffer[..len].copy_from_slice(&self.reader.piece[at..at + len]),
        }
        self.left = (at + len, left - len as u64, is_zeros);
        Ok(len)
    }
}

fn read_exact(source: &mut dyn Read, wanted: &mut [u8], number: u64) -> Result<()> {
    source.read_exact(wanted).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let found = format!("the dump was cut off: it ends without its last piece, in piece {number}");
            return Error::new(Kind::Corrupt, found);
        }
        Error::io("reading the encrypted dump", error)
    })
}

#[cfg(test)]
mod tests;
