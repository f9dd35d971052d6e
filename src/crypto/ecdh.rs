//! Diffie-Hellman on the curve P-256 (NIST SP 800-56A) with a key that is used once.

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;

use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

/// Bytes of a coordinate, and of what is agreed on.
pub const COORDINATE_LEN: usize = 32;
/// What an uncompressed point begins with.
const UNCOMPRESSED: u8 = 4;

/// A point of the curve, by its coordinates in big-endian order. Nothing says that it lies on the curve until it is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Point {
    /// The first coordinate.
    pub x: [u8; COORDINATE_LEN],
    /// The second one.
    pub y: [u8; COORDINATE_LEN],
}

/// Makes a key, agrees with the holder of `peer`'s private key on a secret, and forgets the key. Returns the public key, which
/// the holder needs, and the secret: the first coordinate of the shared point.
///
/// # Errors
/// `Invalid` when `peer` is not a point of the curve, `Io` when the random generator fails.
pub fn agree_once(peer: &Point) -> Result<(Point, SecretBytes)> {
    let private = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())
        .map_err(|error| Error::with_source(Kind::Io, "making a P-256 key", error))?;
    let public = private
        .compute_public_key()
        .map_err(|error| Error::with_source(Kind::Io, "the public part of a P-256 key", error))?;
    let public = point(public.as_ref())
        .ok_or_else(|| Error::new(Kind::Io, "a public key of P-256 in another form than an uncompressed point"))?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, uncompressed(peer));
    let refused = Error::new(Kind::Invalid, "a public key that is not a point of the curve P-256");
    let secret = agree_ephemeral(private, peer, refused, |shared| {
        let mut secret = SecretBytes::zeroed(COORDINATE_LEN);
        secret.copy_from_slice(shared);
        Ok(secret)
    })?;
    Ok((public, secret))
}

fn uncompressed(point: &Point) -> Vec<u8> {
    [&[UNCOMPRESSED][..], &point.x, &point.y].concat()
}

fn point(bytes: &[u8]) -> Option<Point> {
    let (&[UNCOMPRESSED], coordinates) = bytes.split_first_chunk::<1>()? else { return None };
    let (x, y) = coordinates.split_first_chunk()?;
    Some(Point { x: *x, y: y.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_and_another_point_is_refused() {
        let other = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
        let peer = point(other.compute_public_key().unwrap().as_ref()).unwrap();
        let (public, secret) = agree_once(&peer).unwrap();
        let of_other = UnparsedPublicKey::new(&ECDH_P256, uncompressed(&public));
        let same = agree_ephemeral(other, of_other, (), |shared| Ok(shared == &*secret)).unwrap();
        assert!(same);
        assert_ne!(*agree_once(&peer).unwrap().1, *secret, "each key is used once");
        let mut elsewhere = peer;
        elsewhere.y[31] ^= 1;
        assert_eq!(agree_once(&elsewhere).err().unwrap().kind(), Kind::Invalid);
    }
}
