//! What a quote is made for.

use crate::authority_key::length_of;
use crate::identity::HostId;
use crate::pcr::{Digest, HashAlgorithm};

/// What the digest begins with.
const PURPOSE: &[u8] = b"vmcryptfs attest quote 1";

/// What a host binds its quote to, together with the challenge and its own UUID.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The HPKE public key that answers are sealed to. Its private part lives as long as the process that asks.
    pub hpke_key: &'a [u8],
    /// What is asked for: the bytes of the request that both sides know, or a digest of them.
    pub request: &'a [u8],
}

impl Binding<'_> {
    /// The extra data of the quote: SHA-256 of a purpose, the challenge, the HPKE key, the host's UUID and the request, each
    /// after its length in 64 bits (docs/ATTESTATION.md, "Quotes"). A host gives it to TPM2_Quote as its qualifying data.
    pub fn extra_data(&self, challenge: &[u8], host: HostId) -> Digest {
        let fields = [PURPOSE, challenge, self.hpke_key, host.as_bytes(), self.request];
        let lengths = fields.map(length_of);
        let parts: Vec<&[u8]> = lengths.iter().zip(fields).flat_map(|(length, field)| [&length[..], field]).collect();
        Digest::of(HashAlgorithm::Sha256, &parts)
    }
}
