//! XAES-256-GCM (C2SP): AES-256-GCM (NIST SP 800-38D) under a key derived from the first half of a 192-bit nonce.
//!
//! The derived key depends only on the nonce's first 96 bits, and setting it up costs a third of sealing 4096 bytes. So
//! the messages of one [`Sealer`] share a random first half, and count a random second half up: each has a nonce of its
//! own, and one key serves them all. An [`Opener`] likewise keeps the key of the message before.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::crypto::aes_block::{self, AesBlock};
use crate::crypto::random;
use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

/// Bytes of a key.
pub const KEY_LEN: usize = aes_block::KEY_LEN;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;
/// Bytes of a tag.
pub const TAG_LEN: usize = 16;
/// Bytes of the nonce that choose the derived key.
const HALF_LEN: usize = 12;

/// A key, ready to derive from: the block cipher, and CMAC's first subkey (NIST SP 800-38B). Neither moves with this value.
pub struct Xaes256Gcm {
    block: AesBlock,
    subkey: SecretBytes,
}

/// What a message needs beside its ciphertext to be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seal {
    /// The message's nonce.
    pub nonce: [u8; NONCE_LEN],
    /// Its tag.
    pub tag: [u8; TAG_LEN],
}

impl Xaes256Gcm {
    /// Takes a key of 32 bytes.
    ///
    /// # Errors
    /// `Invalid` for another length.
    pub fn new(key: &[u8]) -> Result<Self> {
        let block = AesBlock::new(key)?;
        let mut subkey = SecretBytes::zeroed(aes_block::BLOCK_LEN);
        let (first, _) = subkey.as_chunks_mut();
        block.encrypt(&mut first[0]);
        double(&mut first[0]);
        Ok(Self { block, subkey })
    }

    /// Starts to seal messages, under a random nonce.
    ///
    /// # Errors
    /// `Io` when the random generator fails.
    pub fn sealer(&self) -> Result<Sealer> {
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce)?;
        self.sealer_from(nonce)
    }

    fn sealer_from(&self, nonce: [u8; NONCE_LEN]) -> Result<Sealer> {
        let (first, second) = halves(&nonce);
        let mut counter = [0; 16];
        counter[..HALF_LEN].copy_from_slice(&second);
        Ok(Sealer { key: self.derive(&first)?, first, counter: u128::from_le_bytes(counter) })
    }

    /// Starts to open messages.
    pub fn opener(&self) -> Opener<'_> {
        Opener { cipher: self, derived: None }
    }

    /// The key for all nonces that begin so: CMAC(00 01 "X" 00 ‖ first) ‖ CMAC(00 02 "X" 00 ‖ first), of one block each.
    fn derive(&self, first: &[u8; HALF_LEN]) -> Result<LessSafeKey> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        for (counter, half) in (1..).zip(key.as_chunks_mut().0) {
            *half = [0, counter, b'X', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            half[4..].copy_from_slice(first);
            half.iter_mut().zip(self.subkey.iter()).for_each(|(byte, subkey)| *byte ^= subkey);
            self.block.encrypt(half);
        }
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice())
            .map_err(|error| Error::with_source(Kind::Io, "AES-GCM refused a derived key", error))?;
        Ok(LessSafeKey::new(key))
    }
}

/// Seals messages, each under its own nonce.
pub struct Sealer {
    key: LessSafeKey,
    first: [u8; HALF_LEN],
    /// The second half of the next nonce, in its low 96 bits.
    counter: u128,
}

impl Sealer {
    /// Encrypts `plain` into `cipher`, of the same length; the tag covers `associated` as well.
    ///
    /// # Errors
    /// `Io` when AES-GCM fails; `Invalid` when the lengths differ.
    pub fn seal(&mut self, associated: &[u8], plain: &[u8], cipher: &mut [u8]) -> Result<Seal> {
        if plain.len() != cipher.len() {
            return Err(Error::new(
                Kind::Invalid,
                format!("sealing {} bytes into {}, expected equal lengths", plain.len(), cipher.len()),
            ));
        }
        let mut nonce = [0; NONCE_LEN];
        let (first, second) = nonce.split_at_mut(HALF_LEN);
        first.copy_from_slice(&self.first);
        second.copy_from_slice(&self.counter.to_le_bytes()[..HALF_LEN]);
        // Two messages never meet: the low 96 bits take 2^96 steps to come round.
        self.counter = self.counter.wrapping_add(1);
        let mut tag = [0; TAG_LEN];
        let (_, second) = halves(&nonce);
        self.key
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(second),
                Aad::from(associated),
                plain,
                cipher,
                &[],
                &mut tag,
            )
            .map_err(|error| Error::with_source(Kind::Io, "AES-GCM failed to seal", error))?;
        Ok(Seal { nonce, tag })
    }
}

/// Opens messages.
pub struct Opener<'a> {
    cipher: &'a Xaes256Gcm,
    derived: Option<([u8; HALF_LEN], LessSafeKey)>,
}

impl Opener<'_> {
    /// Decrypts `data` where it lies. `false`: it does not authenticate, and `data` holds nothing of use.
    ///
    /// # Errors
    /// `Io` when AES-GCM fails for any other reason.
    pub fn open(&mut self, seal: &Seal, associated: &[u8], data: &mut [u8]) -> Result<bool> {
        let (first, second) = halves(&seal.nonce);
        let (_, key) = match self.derived.take() {
            Some(derived) if derived.0 == first => self.derived.insert(derived),
            _ => self.derived.insert((first, self.cipher.derive(&first)?)),
        };
        let nonce = Nonce::assume_unique_for_key(second);
        let opened = key.open_in_place_separate_tag(nonce, Aad::from(associated), &seal.tag, data).is_ok();
        if !opened {
            data.fill(0);
        }
        Ok(opened)
    }
}

fn halves(nonce: &[u8; NONCE_LEN]) -> ([u8; HALF_LEN], [u8; HALF_LEN]) {
    let (mut first, mut second) = ([0; HALF_LEN], [0; HALF_LEN]);
    first.copy_from_slice(&nonce[..HALF_LEN]);
    second.copy_from_slice(&nonce[HALF_LEN..]);
    (first, second)
}

/// Doubling in GF(2^128), most significant bit first (NIST SP 800-38B, section 6.1), without a branch on the secret.
fn double(value: &mut [u8; 16]) {
    let mut carry = 0;
    for byte in value.iter_mut().rev() {
        let doubled = *byte << 1 | carry;
        carry = *byte >> 7;
        *byte = doubled;
    }
    value[15] ^= 0x87 * carry;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use data_encoding::HEXLOWER;

    use super::*;

    const NONCE: &[u8; 24] = b"ABCDEFGHIJKLMNOPQRSTUVWX";

    fn sealed(key: u8, associated: &[u8]) -> String {
        let mut sealer = Xaes256Gcm::new(&[key; 32]).unwrap().sealer_from(*NONCE).unwrap();
        let mut cipher = [0; 12];
        let seal = sealer.seal(associated, b"XAES-256-GCM", &mut cipher).unwrap();
        assert_eq!(seal.nonce, *NONCE);
        HEXLOWER.encode(&[cipher.as_slice(), &seal.tag].concat())
    }

    #[test]
    fn xaes_gives_published_values() {
        // C2SP, XAES-256-GCM, "Test vectors": the top bit of L is clear in the first and set in the second.
        assert_eq!(sealed(1, b""), "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
        assert_eq!(sealed(3, b"c2sp.org/XAES-256-GCM"), "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
    }

    #[test]
    fn subkeys_are_the_published_ones() {
        // C2SP, XAES-256-GCM, "Test vectors": K1 of each.
        let published = [(1, "e531954aca063d5b8d9c47a47d4cc6f0"), (3, "23810ec50edb99f374409466ed1f4b7b")];
        for (key, subkey) in published {
            assert_eq!(HEXLOWER.encode(&Xaes256Gcm::new(&[key; 32]).unwrap().subkey[..]), subkey);
        }
    }

    #[test]
    fn messages_of_one_sealer_have_different_nonces_and_open_in_any_order() {
        let cipher = Xaes256Gcm::new(&[7; 32]).unwrap();
        let mut first = cipher.sealer().unwrap();
        let mut second = cipher.sealer().unwrap();
        let mut messages = Vec::new();
        for number in 0..200_u8 {
            let sealer = if number % 3 == 0 { &mut first } else { &mut second };
            let mut text = [0; 50];
            let seal = sealer.seal(&[number], &[number; 50], &mut text).unwrap();
            messages.push((seal, text));
        }
        let nonces: HashSet<[u8; 24]> = messages.iter().map(|(seal, _)| seal.nonce).collect();
        assert_eq!(nonces.len(), messages.len());
        let mut opener = cipher.opener();
        for (number, (seal, text)) in (0..200).zip(&messages).rev() {
            let mut data = *text;
            assert!(opener.open(seal, &[number], &mut data).unwrap());
            assert_eq!(data, [number; 50]);
        }
    }

    #[test]
    fn the_second_half_comes_round_without_touching_the_first() {
        let cipher = Xaes256Gcm::new(&[7; 32]).unwrap();
        let mut sealer = cipher.sealer_from([0xff; 24]).unwrap();
        for expected in [[0xff; 12], [0; 12]] {
            let mut data = [1; 8];
            let seal = sealer.seal(b"", &[1; 8], &mut data).unwrap();
            assert_eq!(halves(&seal.nonce), ([0xff; 12], expected));
            assert!(cipher.opener().open(&seal, b"", &mut data).unwrap());
        }
    }

    #[test]
    fn whatever_was_changed_is_refused_and_leaves_zeros() {
        let cipher = Xaes256Gcm::new(&[7; 32]).unwrap();
        let mut text = [0; 20];
        let good = cipher.sealer().unwrap().seal(b"place", &[9; 20], &mut text).unwrap();
        let refused = |cipher: &Xaes256Gcm, seal: &Seal, associated: &[u8], text: &[u8]| {
            let mut data = text.to_vec();
            !cipher.opener().open(seal, associated, &mut data).unwrap() && data.iter().all(|&byte| byte == 0)
        };
        for bit in 0..NONCE_LEN * 8 {
            let mut seal = good;
            seal.nonce[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&cipher, &seal, b"place", &text), "nonce bit {bit}");
        }
        for bit in 0..TAG_LEN * 8 {
            let mut seal = good;
            seal.tag[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&cipher, &seal, b"place", &text), "tag bit {bit}");
        }
        for bit in 0..text.len() * 8 {
            let mut wrong = text;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&cipher, &good, b"place", &wrong), "text bit {bit}");
        }
        assert!(refused(&cipher, &good, b"plane", &text));
        assert!(refused(&Xaes256Gcm::new(&[8; 32]).unwrap(), &good, b"place", &text));
    }

    #[test]
    fn lengths_that_no_caller_has_are_invalid() {
        assert_eq!(Xaes256Gcm::new(&[0; 31]).map(drop).unwrap_err().kind(), Kind::Invalid);
        let mut sealer = Xaes256Gcm::new(&[0; 32]).unwrap().sealer().unwrap();
        assert_eq!(sealer.seal(b"", &[0; 5], &mut [0; 4]).unwrap_err().kind(), Kind::Invalid);
    }
}
