//! The key derivation functions of TPMs (TPM 2.0 Library, part 1, "Key Derivation Function"), and HMAC.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::pcr::{Digest, HashAlgorithm};

/// Bits of a byte.
const BITS: u32 = 8;

/// KDFa: as many bytes as a digest of `hash` has, or the first `len` of them.
///
/// One round of it is enough for all keys here: none is longer than a digest.
pub(super) fn kdfa(
    hash: HashAlgorithm,
    key: &[u8],
    label: &str,
    contexts: [&[u8]; 2],
    len: usize,
) -> Zeroizing<Vec<u8>> {
    let parts = [&1_u32.to_be_bytes()[..], label.as_bytes(), &[0], contexts[0], contexts[1], &bits(len)];
    first(&code(hash, key, &parts), len)
}

/// KDFe, for seeds that both sides agree on: as many bytes as a digest of `hash` has.
pub(super) fn kdfe(hash: HashAlgorithm, shared: &[u8], label: &str, points: [&[u8]; 2]) -> Zeroizing<Vec<u8>> {
    let parts = [&1_u32.to_be_bytes()[..], shared, label.as_bytes(), &[0], points[0], points[1]];
    first(Digest::of(hash, &parts).as_bytes(), hash.digest_len())
}

/// HMAC of these parts, one after the other.
pub(super) fn code(hash: HashAlgorithm, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let algorithm = match hash {
        HashAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
        HashAlgorithm::Sha512 => hmac::HMAC_SHA512,
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    for part in parts {
        context.update(part);
    }
    Zeroizing::new(context.sign().as_ref().to_vec())
}

fn first(bytes: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.iter().copied().take(len).collect())
}

fn bits(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).saturating_mul(BITS).to_be_bytes()
}
