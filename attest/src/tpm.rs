//! Structures of a TPM 2.0 as bytes (TCG, TPM 2.0 Library, part 2). Reading one proves nothing about it.
//!
//! Each reader takes exactly the bytes of one structure. What is missing or too much is refused, and so is a length past
//! what the specification allows. All numbers are big-endian; `TPM2B` is a byte string after its 16-bit length.

mod attest;
mod creation;
mod public;
mod signature;
mod wire;

pub use attest::{Attestation, ClockInfo, Creation, Quote, Statement};
pub use creation::CreationData;
pub use public::{Attributes, Curve, Key, Name, Public, Scheme, Symmetric};
pub use signature::Signature;
pub(crate) use signature::{UNCOMPRESSED, usable};
pub(crate) use wire::{Reader, Writer};

/// Bytes of the longest Name: a hash algorithm and a digest of it.
pub(crate) const MAX_NAME_LEN: usize = 2 + 64;
/// Bytes of the longest digest.
pub(crate) const MAX_DIGEST_LEN: usize = 64;
/// Bytes of the longest RSA modulus or signature: 4,096 bits.
pub(crate) const MAX_RSA_LEN: usize = 512;
/// Bytes of the longest coordinate of a point: the curve P-521.
pub(crate) const MAX_COORDINATE_LEN: usize = 66;

/// `TPM_ALG_NULL`: none.
const ALG_NULL: u16 = 0x0010;
/// RSASSA-PKCS1-v1_5.
const ALG_RSASSA: u16 = 0x0014;
/// RSASSA-PSS.
const ALG_RSAPSS: u16 = 0x0016;
/// ECDSA.
const ALG_ECDSA: u16 = 0x0018;
