//! How this host enrols at an authority, and what it tells it ahead of a reboot.

use std::path::Path;
use std::time::Instant;

use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::provider::agent::trust::{BootPaths, Predicted, TrustStatus};
use vmcryptfs::provider::kinds::trusted::Pin;
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::identity::Fingerprint;
use vmcryptfs_attest::pcr::{HashAlgorithm, PcrIndex, PcrSelection};
use vmcryptfs_attest::policy::Evidence;
use vmcryptfs_attest::predict::{BootFiles, predict as predicted};
use vmcryptfs_attest::tpm::Public;

use super::client::Members;
use super::enrolled::{Enrolled, EnrolledFiles, NewEnrolment};
use super::machine::{Machine, boot_file};
use super::{Session, Trust, VERB_LIMIT};
use crate::authority::enrolment::Token;
use crate::tpm::{AttestationSeed, ENROL_LIMIT, Endorsement, NewAttestationKey, QUOTE_LIMIT};
use crate::trust_wire::{Blob, CredentialAnswer, EnrolAnswer, EnrolRequest, EnrolledHost};

impl Trust {
    /// Enrols with a token. What was known of this authority before is replaced.
    pub(super) fn enrol(&self, token: &str, name: &str, ek_certificate: Option<&Path>) -> Result<TrustStatus> {
        let enrolled = self.enrolled(token, name, ek_certificate);
        let mut event = Event::of(EventName::TrustEnrol);
        if let Ok(enrolled) = &enrolled {
            let Enrolled { authority, host, name, state, .. } = enrolled;
            event.uuid(*host).reason(format!("authority {authority}, as host {name} ({host}): {}", state.word()));
        }
        event.outcome(&enrolled);
        enrolled.map(|enrolled| self.status_of(&enrolled))
    }

    fn enrolled(&self, token: &str, name: &str, ek_certificate: Option<&Path>) -> Result<Enrolled> {
        let token = Token::parse(token)?;
        let damaged = |_| Error::new(Kind::Invalid, "the token has a hash of another length than SHA-256");
        let pin = Pin(token.pin.0.as_slice().try_into().map_err(damaged)?);
        let members = Members::new(&token.urls, pin, VERB_LIMIT)?;
        let (seed, begun) = (AttestationSeed::new()?, Instant::now());
        let (endorsement, key) = self.own_keys(&seed, ek_certificate)?;
        let left = ENROL_LIMIT.saturating_sub(begun.elapsed());
        let request = request_of(&token, name, &endorsement, key);
        let refused = |failed: super::Failed| failed.into_error("enrolling");
        let answer: EnrolAnswer = members.post("/v1/enrol", &request).map_err(refused)?;
        let credential = (answer.id_object.0.as_slice(), answer.encrypted_secret.0.as_slice());
        let secret = self.machine.talk(left)?.tpm.activate(&endorsement, &seed, credential)?;
        let path = format!("/v1/enrol/{}", answer.enrolment);
        let call = CredentialAnswer { secret: Blob(secret.to_vec()) };
        let EnrolledHost { authority, host, state, log_key } = members.post(&path, &call).map_err(refused)?;
        if authority != token.authority {
            let found = format!("authority {authority} has answered, expected {} of the token", token.authority);
            return Err(Error::new(Kind::Denied, found));
        }
        let public = Public::from_tpm2b(&endorsement.public)
            .map_err(|error| Error::with_source(Kind::Io, "the endorsement key of the TPM", error))?;
        let endorsement_key = Fingerprint::of(&public).to_string();
        let new = NewEnrolment { urls: token.urls, pin, name: name.to_owned(), seed, endorsement_key };
        let enrolled = Enrolled::new(new, authority, (host, state), &log_key)?;
        let session = self.session(pin);
        let mut session = session.lock(); // so that nothing that was known before comes back
        *session = Session::default();
        EnrolledFiles::of(&self.config).store(&enrolled)?;
        Ok(enrolled)
    }

    /// The keys of the TPM that an authority is shown. Others can talk with the TPM while the authority looks at them.
    fn own_keys(
        &self,
        seed: &AttestationSeed,
        ek_certificate: Option<&Path>,
    ) -> Result<(Endorsement, NewAttestationKey)> {
        let mut talk = self.machine.talk(ENROL_LIMIT)?;
        let mut endorsement = talk.tpm.endorsement()?;
        if let Some(path) = ek_certificate {
            endorsement.certificate = Some(boot_file(path)?);
        }
        Ok((endorsement, talk.tpm.attestation_key(seed)?))
    }
}

fn request_of(token: &Token, name: &str, endorsement: &Endorsement, key: NewAttestationKey) -> EnrolRequest {
    EnrolRequest {
        token: token.id,
        secret: token.secret.clone(),
        name: name.to_owned(),
        ek_public: Blob(endorsement.public.clone()),
        ek_certificate: endorsement.certificate.clone().map(Blob),
        ek_chain: endorsement.chain.iter().cloned().map(Blob).collect(),
        ak_public: Blob(key.public),
        creation_data: Blob(key.creation_data),
        creation_statement: Blob(key.statement),
        creation_signature: Blob(key.signature),
    }
}

/// Registers that files of the operating system are measured into.
const PREDICTED: [u32; 4] = [4, 9, 11, 12];

/// Of a date, YYYY-MM-DD.
const DATE_LEN: usize = 10;

/// What this host measures when it boots `next`, as a set that can be approved before it does.
pub(super) fn predict(machine: &Machine, running: &BootPaths, next: &BootPaths, set: &str) -> Result<Predicted> {
    let of_check =
        |error: vmcryptfs_attest::Error| Error::with_source(Kind::Invalid, "predicting what will be measured", error);
    let registers = PREDICTED
        .iter()
        .map(|number| PcrIndex::new(*number))
        .collect::<vmcryptfs_attest::Result<Vec<_>>>()
        .map_err(of_check)?;
    let selection = PcrSelection::new(HashAlgorithm::Sha256, registers);
    let values = machine.talk(QUOTE_LIMIT)?.tpm.values(selection)?;
    let logs = machine.logs(selection)?;
    let (firmware_log, userspace_log) = (logs.firmware.as_slice(), logs.userspace.as_slice());
    let evidence = Evidence { host: "this host", firmware_log, userspace_log, values: &values };
    let replayed = evidence.replay().map_err(|refusal| Error::new(Kind::Invalid, refusal.to_string()))?;
    let (running, next) = (Files::read(running)?, Files::read(next)?);
    let prediction = predicted(&replayed, &running.as_boot_files(), &next.as_boot_files()).map_err(of_check)?;
    let now = Timestamp::now().to_millis();
    let today = now.get(..DATE_LEN).unwrap_or(&now);
    let approved = prediction.to_set(set, today).map_err(of_check)?;
    Ok(Predicted {
        set: approved.to_text(),
        changes: prediction.registers().iter().filter(|one| one.changes).map(|one| one.register.number()).collect(),
        unpredicted: prediction.unpredicted().iter().map(|(register, why)| (register.number(), why.clone())).collect(),
    })
}

/// The content of files that are booted.
enum Files {
    Uki(Vec<u8>),
    Kernel { kernel: Vec<u8>, initrd: Option<Vec<u8>>, command_line: String },
}

impl Files {
    fn read(paths: &BootPaths) -> Result<Self> {
        Ok(match paths {
            BootPaths::Uki(path) => Self::Uki(boot_file(path)?),
            BootPaths::Kernel { kernel, initrd, command_line } => Self::Kernel {
                kernel: boot_file(kernel)?,
                initrd: initrd.as_deref().map(boot_file).transpose().context(|| "the initrd".into())?,
                command_line: command_line.clone(),
            },
        })
    }

    fn as_boot_files(&self) -> BootFiles<'_> {
        match self {
            Self::Uki(image) => BootFiles::Uki(image),
            Self::Kernel { kernel, initrd, command_line } => {
                BootFiles::Kernel { kernel, initrd: initrd.as_deref(), command_line }
            }
        }
    }
}
