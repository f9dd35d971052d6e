//! What attestation needs of this host's TPM 2.0: its endorsement key, an attestation key, the answer to a credential, quotes
//! (docs/ATTESTATION.md). docs/decisions/0074 says why its commands are spoken here.
//!
//! Nothing is kept in the TPM. The keys are primary ones of its endorsement hierarchy: it makes them again, the same ones, of its own
//! seed and of their templates.

mod commands;
mod endorsement;
mod quote;
mod template;

use std::path::Path;
use std::time::Duration;

pub use endorsement::Endorsement;
pub use quote::{QuotedHost, TpmClock};
pub use template::AttestationSeed;

use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::tpm::{Authorization, Command, Reader, Tpm, Writer, parameters_of};
use zeroize::Zeroizing;

use commands::{ACTIVATE_CREDENTIAL, CERTIFY_CREATION, CREATE_PRIMARY, RH_ENDORSEMENT};

/// What a TPM may take for an enrolment. Some take half a minute to make an endorsement key of RSA.
pub const ENROL_LIMIT: Duration = Duration::from_secs(90);
/// What it may take for an attestation.
pub const QUOTE_LIMIT: Duration = Duration::from_secs(10);

/// The TPM of this host.
#[derive(Debug)]
pub struct HostTpm {
    tpm: Tpm,
}

/// An attestation key, and how it was made.
#[derive(Clone, Debug)]
pub struct NewAttestationKey {
    /// `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPM2B_CREATION_DATA`.
    pub creation_data: Vec<u8>,
    /// `TPMS_ATTEST` of TPM2_CertifyCreation, by the key of itself.
    pub statement: Vec<u8>,
    /// `TPMT_SIGNATURE` of it.
    pub signature: Vec<u8>,
}

/// A primary key that is loaded.
struct Primary {
    handle: u32,
    /// `TPM2B_PUBLIC`.
    public: Vec<u8>,
    /// `TPM2B_CREATION_DATA`, its digest, and the ticket for both.
    creation_data: Vec<u8>,
    creation_hash: Vec<u8>,
    ticket: Vec<u8>,
}

impl HostTpm {
    /// Opens the TPM that `path` leads to. It has `limit` for all that is asked of it.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when this user may not use it, `Invalid` when it is something else.
    pub fn open(path: &Path, limit: Duration) -> Result<Self> {
        Ok(Self { tpm: Tpm::open(path, limit)? })
    }

    /// Makes the attestation key of this seed, and has the TPM say how it was made.
    ///
    /// # Errors
    /// `KeyUnavailable` when the TPM does not answer or refuses, `Denied` when its endorsement hierarchy has a password, `Io`.
    pub fn attestation_key(&mut self, seed: &AttestationSeed) -> Result<NewAttestationKey> {
        self.with_primary(&seed.template(), |own, key| {
            let parameters =
                Writer::default().sized(&[]).raw(&key.creation_hash).u16(commands::ALG_NULL).raw(&key.ticket);
            let handles = [key.handle, key.handle];
            let answer = own.send(CERTIFY_CREATION, &handles, &[Authorization::Password], &parameters.finish())?;
            let mut answer = parameters_of(&mut Reader::new(&answer))?;
            let (statement, signature) = (answer.sized()?.to_vec(), answer.rest().to_vec());
            let (public, creation_data) = (key.public.clone(), key.creation_data.clone());
            Ok(NewAttestationKey { public, creation_data, statement, signature })
        })
    }

    /// What is in a credential that was made to this TPM's endorsement key and to the attestation key of this seed.
    ///
    /// # Errors
    /// `Denied` when it was made to others, and as [`attestation_key`](Self::attestation_key).
    pub fn activate(
        &mut self,
        endorsement: &Endorsement,
        seed: &AttestationSeed,
        (id_object, encrypted_secret): (&[u8], &[u8]),
    ) -> Result<Zeroizing<Vec<u8>>> {
        self.with_primary(&seed.template(), |own, key| {
            own.with_endorsement(endorsement, |own, handle| {
                let session = own.endorsement_session()?;
                let parameters = [id_object, encrypted_secret].concat();
                let by = [Authorization::Password, Authorization::Policy(session)];
                let answer = own.tpm.command(ACTIVATE_CREDENTIAL, &[key.handle, handle], &by, &parameters);
                let answer = answer.and_then(|answer| {
                    answer.map_err(|code| {
                        let refusal = code.refusal(ACTIVATE_CREDENTIAL.called);
                        let text = "the authority's answer was not made for the TPM of this host";
                        if refusal.kind() == Kind::Corrupt {
                            Error::with_source(Kind::Denied, text, refusal)
                        } else {
                            refusal
                        }
                    })
                });
                let answer = Zeroizing::new(own.tpm.flush_unless(session, answer)?);
                let secret = parameters_of(&mut Reader::new(&answer))?.sized()?.to_vec();
                Ok(Zeroizing::new(secret))
            })
        })
    }

    /// Makes the primary key of this template, and takes it out of the TPM's memory once `work` is done.
    fn with_primary<T>(&mut self, template: &[u8], work: impl FnOnce(&mut Self, &Primary) -> Result<T>) -> Result<T> {
        let key = self.create_primary(template)?;
        let done = work(self, &key);
        let flushed = self.tpm.flush(key.handle);
        done.and_then(|done| flushed.map(|()| done))
    }

    fn create_primary(&mut self, template: &[u8]) -> Result<Primary> {
        // Neither a password nor data; no outside information, and no PCRs of its creation.
        let parameters = Writer::default().sized(&[0; 4]).sized(template).sized(&[]).u32(0).finish();
        let answer = self.send(CREATE_PRIMARY, &[RH_ENDORSEMENT], &[Authorization::Password], &parameters)?;
        let mut answer = Reader::new(&answer);
        let handle = answer.u32()?;
        let made = parameters_of(&mut answer).and_then(|mut made| {
            let mut sized = || made.sized().map(|bytes| Writer::default().sized(bytes).finish());
            let (public, creation_data, creation_hash) = (sized()?, sized()?, sized()?);
            let (tag, hierarchy, digest) = (made.u16()?, made.u32()?, made.sized()?);
            let ticket = Writer::default().u16(tag).u32(hierarchy).sized(digest).finish();
            Ok(Primary { handle, public, creation_data, creation_hash, ticket })
        });
        self.tpm.flush_unless(handle, made)
    }

    /// Sends a command, all of whose passwords are those of the endorsement hierarchy and of keys that were just made in it.
    fn send(&mut self, command: Command, handles: &[u32], by: &[Authorization], parameters: &[u8]) -> Result<Vec<u8>> {
        let answer =
            self.tpm.command(command, handles, by, parameters).context(|| "asking the TPM of this host".into())?;
        answer.map_err(|code| match code.is_of_password() {
            true => Error::new(Kind::Denied, "the endorsement hierarchy of the TPM has a password, expected none"),
            false => code.refusal(command.called),
        })
    }

    /// The session that the policy of endorsement keys demands: proof of the password of their hierarchy, which is empty.
    fn endorsement_session(&mut self) -> Result<u32> {
        let session = self.tpm.start_policy()?;
        // No nonce, no command that it is limited to, no reference, and no end.
        let parameters = Writer::default().sized(&[]).sized(&[]).sized(&[]).u32(0).finish();
        let handles = [RH_ENDORSEMENT, session];
        let proved = self.send(commands::POLICY_SECRET, &handles, &[Authorization::Password], &parameters);
        self.tpm.flush_unless(session, proved)?;
        Ok(session)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::big_endian_bytes, reason = "a test may panic; numbers of a TPM are big-endian")]
pub(crate) mod tests;
