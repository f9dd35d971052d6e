//! AES-256-GCM (NIST SP 800-38D) over the pieces of one stream: each under the number that it has there, and a mark.
//!
//! The key serves for one stream, so number and mark are a nonce that no two pieces share.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::error::{Error, Kind, Result};

/// Bytes of a tag.
pub const TAG_LEN: usize = 16;

/// The key of a stream.
pub struct PieceKey(LessSafeKey);

impl PieceKey {
    /// The one with these 32 bytes.
    ///
    /// # Errors
    /// `Invalid` for another length.
    pub fn new(key: &[u8]) -> Result<Self> {
        let found = format!("a key of {} bytes for a stream, expected 32", key.len());
        let key =
            UnboundKey::new(&AES_256_GCM, key).map_err(|error| Error::with_source(Kind::Invalid, found, error))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts a piece in place and returns its tag, which covers `head` as well. Number and mark must never come twice.
    ///
    /// # Errors
    /// `Io` when the cipher fails.
    pub fn seal(&self, number: u64, mark: u8, head: &[u8], piece: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        let failed = |error| Error::with_source(Kind::Io, "AES-GCM failed to seal a piece", error);
        let tag = self.0.seal_in_place_separate_tag(nonce(number, mark), Aad::from(head), piece).map_err(failed)?;
        let tag = tag.as_ref().try_into();
        tag.map_err(|error| Error::with_source(Kind::Io, "a tag of another length", error))
    }

    /// Decrypts a piece in place, which its tag follows, and returns it.
    ///
    /// # Errors
    /// `Corrupt` when it is not the piece of this number and mark, or was changed.
    pub fn open<'p>(&self, number: u64, mark: u8, head: &[u8], sealed: &'p mut [u8]) -> Result<&'p [u8]> {
        let opened = self.0.open_in_place(nonce(number, mark), Aad::from(head), sealed);
        opened.map(|piece| &*piece).map_err(|error| {
            let why = format!("piece {number} does not authenticate: it was changed, or is not the one of this place");
            Error::with_source(Kind::Corrupt, why, error)
        })
    }
}

fn nonce(number: u64, mark: u8) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce[8] = mark;
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_opens_only_where_it_was_sealed() {
        let key = PieceKey::new(&[1; 32]).unwrap();
        let mut sealed = vec![7; 100];
        let tag = key.seal(5, 1, b"head", &mut sealed).unwrap();
        sealed.extend_from_slice(&tag);
        let open = |key: &PieceKey, number, mark, head: &[u8], sealed: &[u8]| {
            let mut sealed = sealed.to_vec();
            key.open(number, mark, head, &mut sealed).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&key, 5, 1, b"head", &sealed).unwrap(), [7; 100]);
        let refused = |opened: Result<Vec<u8>>| opened.is_err_and(|error| error.kind() == Kind::Corrupt);
        assert!(refused(open(&key, 6, 1, b"head", &sealed)));
        assert!(refused(open(&key, 5, 2, b"head", &sealed)));
        assert!(refused(open(&key, 5, 1, b"hear", &sealed)));
        assert!(refused(open(&PieceKey::new(&[2; 32]).unwrap(), 5, 1, b"head", &sealed)));
        assert!(refused(open(&key, 5, 1, b"head", &sealed[..99])));
        assert!(refused(open(&key, 5, 1, b"head", &[])));
        assert_eq!(PieceKey::new(&[1; 31]).err().unwrap().kind(), Kind::Invalid);
    }
}
