//! The head of a piece of a dump: what the piece stands for, and how much of it.

use crate::error::{Error, Kind, Result};
use crate::format::Reader;

/// Plaintext bytes of a whole piece.
pub const PIECE_LEN: usize = 1 << 16;
/// Bytes of a head.
pub const HEAD_LEN: usize = 8;

/// What a piece stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PieceKind {
    /// Bytes of the dump.
    Data,
    /// Whole pieces that are zero.
    Zeros,
    /// The bytes that the dump ends with.
    Last,
    /// The bytes after which the writer had to stop.
    Cut,
}

impl PieceKind {
    /// Its number, which is part of the nonce.
    pub fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Zeros => 2,
            Self::Last => 3,
            Self::Cut => 4,
        }
    }
}

/// The head of a piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PieceHead {
    /// What it stands for.
    pub kind: PieceKind,
    /// Bytes; of zeros, whole pieces.
    length: u32,
}

impl PieceHead {
    /// That of a whole piece of data.
    pub const DATA: Self = Self { kind: PieceKind::Data, length: 1 << 16 };

    /// That of this many whole pieces of zeros, at least one.
    pub fn zeros(pieces: u32) -> Self {
        Self { kind: PieceKind::Zeros, length: pieces }
    }

    /// That of the piece with which a dump ends, of less than [`PIECE_LEN`] bytes.
    ///
    /// # Errors
    /// `Invalid` for a longer one.
    pub fn end(is_cut: bool, len: usize) -> Result<Self> {
        let length = u32::try_from(len).ok().filter(|_| len < PIECE_LEN);
        let found =
            || Error::new(Kind::Invalid, format!("a last piece of {len} bytes, expected less than {PIECE_LEN}"));
        Ok(Self { kind: if is_cut { PieceKind::Cut } else { PieceKind::Last }, length: length.ok_or_else(found)? })
    }

    /// Bytes of its ciphertext, without the tag.
    pub fn cipher_len(self) -> usize {
        if self.kind == PieceKind::Zeros { 0 } else { self.length as usize }
    }

    /// Bytes of the dump that it stands for.
    pub fn plain_len(self) -> u64 {
        if self.kind == PieceKind::Zeros { u64::from(self.length) * PIECE_LEN as u64 } else { u64::from(self.length) }
    }

    /// As it is stored.
    pub fn encode(self) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[0] = self.kind.number();
        head[4..].copy_from_slice(&self.length.to_le_bytes());
        head
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode(head: [u8; HEAD_LEN]) -> Result<Self> {
        let mut reader = Reader::new(&head);
        let kind = match reader.u8()? {
            1 => PieceKind::Data,
            2 => PieceKind::Zeros,
            3 => PieceKind::Last,
            4 => PieceKind::Cut,
            kind => return Err(Error::new(Kind::Corrupt, format!("a piece of kind {kind}, expected 1 to 4"))),
        };
        reader.reserved(3)?;
        let length = reader.u32()?;
        let allowed = match kind {
            PieceKind::Data => length as usize == PIECE_LEN,
            PieceKind::Zeros => length > 0,
            PieceKind::Last | PieceKind::Cut => (length as usize) < PIECE_LEN,
        };
        match allowed {
            true => Ok(Self { kind, length }),
            false => Err(Error::new(Kind::Corrupt, format!("a piece of kind {} and length {length}", kind.number()))),
        }
    }
}
