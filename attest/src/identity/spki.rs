//! Public keys as certificates have them (`SubjectPublicKeyInfo`, RFC 5280), compared with those of public areas.
//!
//! They are written here and compared, never read: a key that is written another way is another key.

use crate::tpm::{Curve, Key, UNCOMPRESSED};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// rsaEncryption, and its parameters: none.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// id-ecPublicKey, then the curve.
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// The exponent 65,537.
const EXPONENT: &[u8] = &[INTEGER, 3, 1, 0, 1];

/// The key as a certificate has it, in DER.
pub(crate) fn encode(key: &Key) -> Vec<u8> {
    let (algorithm, bits): (&[&[u8]], _) = match key {
        Key::Rsa { modulus } => {
            // A number whose first bit is set would be negative without the zero.
            let modulus = element(INTEGER, &[&[0], modulus]);
            (&[RSA], element(SEQUENCE, &[&modulus, EXPONENT]))
        }
        Key::Ecc { curve, x, y } => {
            let algorithm: &[&[u8]] = match curve {
                Curve::P256 => &[EC, P256],
                Curve::P384 => &[EC, P384],
            };
            (algorithm, [&[UNCOMPRESSED][..], x, y].concat())
        }
    };
    element(SEQUENCE, &[&element(SEQUENCE, algorithm), &element(BIT_STRING, &[&[0], &bits])])
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len().to_be_bytes();
    let significant: Vec<u8> = len.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut element = vec![tag];
    match (significant.as_slice(), u8::try_from(significant.len())) {
        ([], _) => element.push(0),
        ([short], _) if *short < 0x80 => element.push(*short),
        (long, count) => {
            element.push(0x80 | count.unwrap_or(0x7f));
            element.extend(long);
        }
    }
    element.extend(content);
    element
}
