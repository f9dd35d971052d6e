//! Credentials: a secret that only the TPM with a certain endorsement key and a certain attestation key gives back
//! (TPM 2.0 Library, part 1, "Credential Protection"). This is the verifier's side of TPM2_MakeCredential.

#[allow(clippy::big_endian_bytes, reason = "numbers of a TPM are big-endian")]
mod derive;
mod seal;

use std::fmt;

use zeroize::Zeroizing;

use crate::authority_key::{random, same_secret};
use crate::error::{Error, Result};
use crate::identity::{AttestationKey, EndorsementKey, Host, Identity};

/// Bytes of a secret. TPMs take none that is longer than a digest of the endorsement key's Name algorithm.
const SECRET_LEN: usize = 32;

/// What a host gives to TPM2_ActivateCredential.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`.
    pub id_object: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

/// A host that was sent a credential and has not answered it.
pub struct PendingEnrolment {
    host: Host,
    endorsement: EndorsementKey,
    attestation: AttestationKey,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl PendingEnrolment {
    /// Makes a credential with a new secret, to *that* endorsement key for *that* attestation key's Name.
    ///
    /// # Errors
    /// `Refused` when the endorsement key is not usable, such as a point that is not on its curve; `Failed` when the
    /// cryptographic library failed.
    pub fn begin(host: Host, endorsement: EndorsementKey, attestation: AttestationKey) -> Result<(Self, Credential)> {
        let secret = Zeroizing::new(random()?);
        let credential = seal::make(endorsement.public(), &attestation.name(), &*secret)
            .map_err(|error| error.within("a credential"))?;
        Ok((Self { host, endorsement, attestation, secret }, credential))
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Ends the enrolment with what TPM2_ActivateCredential returned. There is one try: a wrong answer ends it as well.
    ///
    /// # Errors
    /// `Refused` when it is not the secret: the TPM does not hold both keys.
    pub fn finish(self, answer: &[u8]) -> Result<Identity> {
        if !same_secret(&*self.secret, answer) {
            return Err(Error::refused(format!(
                "{} did not give back the secret of its credential: its TPM does not hold both the endorsement key {} and \
                 the attestation key {}",
                self.host.name(),
                self.endorsement.fingerprint(),
                self.attestation.name()
            )));
        }
        Ok(Identity::new(self.host, &self.endorsement, self.attestation))
    }
}

impl fmt::Debug for PendingEnrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingEnrolment({:?})", self.host)
    }
}
