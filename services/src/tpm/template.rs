//! Templates of keys (`TPMT_PUBLIC`): of the same one a TPM makes the same primary key.

use serde::{Deserialize, Serialize};
use vmcryptfs::crypto::random;
use vmcryptfs::error::Result;
use vmcryptfs::provider::tpm::Writer;

use super::commands::ALG_NULL;
use crate::trust_wire::Blob;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000b;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const P256: u16 = 0x0003;
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const ENDORSEMENT: u32 = 0x0003_00b2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTESTATION: u32 = 0x0005_0472;
/// `PolicySecret(TPM_RH_ENDORSEMENT)`, the policy of endorsement keys.
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const COORDINATE: [u8; 32] = [0; 32];
const MODULUS: [u8; 256] = [0; 256];

/// A template of endorsement keys (TCG EK Credential Profile for TPM Family 2.0, B.3.3 and B.3.4), and where a vendor puts what is of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EndorsementTemplate {
    /// L-2: P-256.
    P256,
    /// L-1: RSA with 2,048 bits.
    Rsa2048,
}

impl EndorsementTemplate {
    /// Those that are looked for, in this order: a TPM is slow to make keys of RSA.
    pub(super) const ALL: [Self; 2] = [Self::P256, Self::Rsa2048];

    /// NV index of the certificate.
    pub(super) fn certificate(self) -> u32 {
        match self {
            Self::P256 => 0x01c0_000a,
            Self::Rsa2048 => 0x01c0_0002,
        }
    }

    /// All but the number or point of the key.
    pub(super) fn kind(self) -> Vec<u8> {
        let head = |kind| Writer::default().u16(kind).u16(ALG_SHA256).u32(ENDORSEMENT).sized(&POLICY_A);
        let head = match self {
            Self::P256 => head(ALG_ECC),
            Self::Rsa2048 => head(ALG_RSA),
        };
        let kind = head.u16(ALG_AES).u16(128).u16(ALG_CFB).u16(ALG_NULL);
        match self {
            Self::P256 => kind.u16(P256).u16(ALG_NULL).finish(),
            Self::Rsa2048 => kind.u16(2048).u32(0).finish(),
        }
    }

    /// The whole template.
    pub(super) fn template(self) -> Vec<u8> {
        let kind = Writer::default().raw(&self.kind());
        match self {
            Self::P256 => kind.sized(&COORDINATE).sized(&COORDINATE).finish(),
            Self::Rsa2048 => kind.sized(&MODULUS).finish(),
        }
    }
}

/// What tells an attestation key of a TPM from its other ones. It is not a secret: each enrolment has one of its own, so that
/// nobody can tell by the key that two authorities have the same host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AttestationSeed(Blob);

impl AttestationSeed {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the generator fails.
    pub fn new() -> Result<Self> {
        let mut seed = vec![0; COORDINATE.len()];
        random::fill(&mut seed)?;
        Ok(Self(Blob(seed)))
    }

    /// Template of its key: P-256, ECDSA with SHA-256.
    pub(super) fn template(&self) -> Vec<u8> {
        let kind = Writer::default().u16(ALG_ECC).u16(ALG_SHA256).u32(ATTESTATION).sized(&[]);
        let kind = kind.u16(ALG_NULL).u16(ALG_ECDSA).u16(ALG_SHA256).u16(P256).u16(ALG_NULL);
        kind.sized(&self.0.0).sized(&COORDINATE).finish()
    }
}
