//! HKDF-SHA-256 (RFC 5869), HMAC-SHA-256 (RFC 2104, FIPS 198-1) and SHA-256 (FIPS 180-4).

use aws_lc_rs::{digest, hkdf, hmac};

use crate::error::{Error, Kind, Result};

/// Longest output of HKDF-SHA-256 in bytes: 255 blocks.
const MAX_HKDF_LEN: usize = 255 * 32;

/// Fills `out` with HKDF-SHA-256, extract and expand, of `key` under `salt` for the purpose `info`.
///
/// # Errors
/// `Invalid` when `out` is empty or longer than 8160 bytes.
pub fn hkdf(salt: &[u8], key: &[u8], info: &str, out: &mut [u8]) -> Result<()> {
    hkdf_bytes(salt, key, info.as_bytes(), out)
}

/// [`hkdf()`] for an `info` that is not text.
///
/// # Errors
/// As of [`hkdf()`].
pub fn hkdf_bytes(salt: &[u8], key: &[u8], info: &[u8], out: &mut [u8]) -> Result<()> {
    let len = out.len();
    if !(1..=MAX_HKDF_LEN).contains(&len) {
        return Err(Error::new(Kind::Invalid, format!("{len} bytes of HKDF output, expected 1 to {MAX_HKDF_LEN}")));
    }
    let pseudo_random_key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    pseudo_random_key
        .expand(&[info], Length(len))
        .and_then(|output| output.fill(out))
        .map_err(|error| Error::with_source(Kind::Invalid, format!("deriving {len} bytes with HKDF"), error))
}

/// HMAC-SHA-256 of `data`.
pub fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().expect("a SHA-256 tag is 32 bytes")
}

/// Whether `tag` is the whole HMAC-SHA-256 of `data`; takes the same time wherever they differ.
pub fn hmac_verifies(key: &[u8], data: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), data, tag).is_ok()
}

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().expect("a SHA-256 digest is 32 bytes")
}

/// SHA-256 of data that comes in pieces.
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Of nothing so far.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds a piece.
    pub fn add(&mut self, data: impl AsRef<[u8]>) {
        self.0.update(data.as_ref());
    }

    /// Of all pieces.
    pub fn finish(self) -> [u8; 32] {
        self.0.finish().as_ref().try_into().expect("a SHA-256 digest is 32 bytes")
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// An output length in the form that aws-lc-rs takes.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn hkdf_gives_the_values_of_rfc_5869() {
        // RFC 5869, A.1 and A.3 (no salt, no info).
        let key = [0x0b; 22];
        let salt = unhex("000102030405060708090a0b0c");
        let mut out = [0; 42];
        hkdf_bytes(&salt, &key, &unhex("f0f1f2f3f4f5f6f7f8f9"), &mut out).unwrap();
        let published = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(HEXLOWER.encode(&out), published);
        hkdf(b"", &key, "", &mut out).unwrap();
        let published = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
        assert_eq!(HEXLOWER.encode(&out), published);
    }

    #[test]
    fn hkdf_outputs_are_prefixes_of_each_other_up_to_the_limit() {
        let mut longest = vec![0; MAX_HKDF_LEN];
        hkdf(b"salt", b"key", "info", &mut longest).unwrap();
        for len in [1, 8, 31, 32, 33, 8159] {
            let mut out = vec![0; len];
            hkdf(b"salt", b"key", "info", &mut out).unwrap();
            assert_eq!(out, longest[..len], "{len} bytes");
        }
        for len in [0, MAX_HKDF_LEN + 1] {
            assert_eq!(hkdf(b"", b"key", "", &mut vec![0; len]).unwrap_err().kind(), Kind::Invalid, "{len} bytes");
        }
    }

    #[test]
    fn hmac_gives_the_values_of_rfc_4231() {
        // RFC 4231, test cases 1, 2 and 6 (a key longer than a block).
        let cases: [(&[u8], &[u8], &str); 3] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, data, published) in cases {
            assert_eq!(HEXLOWER.encode(&hmac(key, data)), published);
            assert!(hmac_verifies(key, data, &unhex(published)));
        }
    }

    #[test]
    fn hmac_refuses_every_flipped_bit_and_every_other_length() {
        let tag = hmac(b"key", b"data");
        for bit in 0..256 {
            let mut wrong = tag;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!hmac_verifies(b"key", b"data", &wrong), "bit {bit}");
        }
        assert!((0..32).all(|len| !hmac_verifies(b"key", b"data", &tag[..len])));
        assert!(!hmac_verifies(b"key", b"data", &[tag.as_slice(), &[0]].concat()));
        assert!(!hmac_verifies(b"kex", b"data", &tag));
    }

    #[test]
    fn sha256_gives_the_value_of_fips_180() {
        // FIPS 180-2, B.1.
        let published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(HEXLOWER.encode(&sha256(b"abc")), published);
        let mut pieces = Sha256::new();
        [b"a".as_slice(), b"", b"bc"].iter().for_each(|piece| pieces.add(piece));
        assert_eq!(HEXLOWER.encode(&pieces.finish()), published);
    }
}
