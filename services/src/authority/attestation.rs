//! What a host has to prove before it gets a token: that it has the TPM that it enrolled with, and that this TPM measured what the policy
//! demands. The checks are those of `vmcryptfs-attest`: it gives its verdict only if each of them has passed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::random;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::credential::PendingEnrolment;
use vmcryptfs_attest::identity::{AttestationKey, CreationEvidence, EndorsementEvidence, Host, HostId, Identity};
use vmcryptfs_attest::pcr::{PcrIndex, PcrSelection};
use vmcryptfs_attest::policy::{Evidence, Policy, Refusal};
use vmcryptfs_attest::quote::{Binding, Expected, FreshChallenge, QuoteEvidence, Quoted, Steady, issue};
use vmcryptfs_attest::tpm::Signature;
use vmcryptfs_attest::verdict::Attested;
use vmcryptfs_attest::{self as attest, AuthorityKey};
use zeroize::Zeroizing;

use super::enrolment::Admission;
use super::entry::What;
use super::hosts::{HostRecord, HostState};
use super::policies::ApprovedPolicy;
use super::token;
use super::{Authority, record_refusal};
use crate::trust_wire::{
    AttestRequest, AttestedHost, Blob, Challenge, ChallengeRequest, CredentialAnswer, EnrolAnswer, EnrolRequest,
    EnrolledHost, quoted_for,
};

/// How long a host may take to open its credential.
const CREDENTIAL_LIFE: Duration = Duration::from_secs(5 * 60);
/// Hosts that enrol at once, each with a token of its own.
const MAX_PENDING: usize = 256;
/// Challenges that are remembered as used: more than can be checked while they are fresh.
const MAX_USED: usize = 1 << 18;
/// Bytes of a reason that are logged.
const MAX_REASON: usize = 4000;

/// What an authority remembers of enrolments and challenges, for as long as it runs.
pub(super) struct Attestation {
    /// What authenticates records of hosts.
    records: AuthorityKey,
    /// What authenticates challenges: those of an earlier run may have been used, so it is another one for each.
    challenges: AuthorityKey,
    enrolling: Mutex<HashMap<Uuid, (Instant, Stage)>>,
    used: Mutex<HashMap<[u8; 16], u64>>,
}

enum Stage {
    /// The credential was sent.
    Sent { pending: Box<PendingEnrolment>, token: Uuid, secret: Blob },
    /// It came back, and this was answered: the answer may have been lost.
    Done { credential: [u8; 32], answer: EnrolledHost },
}

impl Attestation {
    /// # Errors
    /// `Io` when the generator fails.
    pub(super) fn new(records: AuthorityKey) -> Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        random::fill(key.as_mut_slice())?;
        let challenges = AuthorityKey::new(*key);
        Ok(Self { records, challenges, enrolling: Mutex::default(), used: Mutex::default() })
    }

    /// Uses a challenge; returns whether that is the first time.
    fn use_once(&self, id: [u8; 16], ends: u64, now: u64) -> attest::Result<bool> {
        let mut used = self.used.lock();
        if used.len() >= MAX_USED {
            used.retain(|_, ends| *ends >= now);
        }
        if used.len() >= MAX_USED {
            return Err(attest::Error::new(attest::Kind::Failed, "too many hosts attest at once: try again"));
        }
        Ok(used.insert(id, ends).is_none())
    }
}

/// An error of the checks as one of ours.
fn of_check(error: attest::Error) -> Error {
    let kind = match error.kind() {
        attest::Kind::Malformed | attest::Kind::Invalid => Kind::Invalid,
        attest::Kind::Unsupported | attest::Kind::Refused => Kind::Denied,
        attest::Kind::Failed => Kind::Busy,
    };
    Error::new(kind, error.to_string())
}

/// What is wrong with the authority's own files is nothing that a host has done, or has to know.
fn of_own_files(error: Error) -> Error {
    Error::with_source(Kind::Io, "keeping what a host has sent", error)
}

fn host_id(uuid: Uuid) -> HostId {
    HostId::new(*uuid.as_bytes())
}

impl Authority {
    /// Judges the keys of a host that has an enrolment token, and makes a credential to them.
    ///
    /// # Errors
    /// `Denied` for a token that is not good and keys that are not accepted, `Exists` for a host or TPM that is known, `Busy`.
    pub(super) fn enrol(&self, call: &EnrolRequest) -> Result<EnrolAnswer> {
        let begun = self.begin_enrolment(call);
        if let Err(error) = &begun {
            record_refusal(&Event::of(EventName::AuthorityEnrol), error);
        }
        begun
    }

    fn begin_enrolment(&self, call: &EnrolRequest) -> Result<EnrolAnswer> {
        let admission = self.enrolment.look(call.token, &call.secret.0, &call.name)?;
        let chain: Vec<&[u8]> = call.ek_chain.iter().map(|certificate| certificate.0.as_slice()).collect();
        let certificate = call.ek_certificate.as_ref().map(|certificate| certificate.0.as_slice());
        let evidence = EndorsementEvidence { public: &call.ek_public.0, certificate, chain: &chain };
        let now = Timestamp::now().since_1970().as_secs();
        // What is wrong with its own files is nothing that a host has done, or has to know.
        let failed = |error| Error::with_source(Kind::Io, "looking which TPMs are accepted", error);
        let rules = self.own.endorsement_rules().map_err(failed)?;
        let endorsement = rules.check(&evidence, now).map_err(of_check)?;
        let creation = CreationEvidence {
            data: &call.creation_data.0,
            statement: &call.creation_statement.0,
            signature: &call.creation_signature.0,
        };
        let key = AttestationKey::check(&call.ak_public.0, &creation).map_err(of_check)?;
        let uuid = admission.replaces.map_or_else(random::uuid, Ok)?;
        let host = Host::new(host_id(uuid), &call.name).map_err(of_check)?;
        let (pending, credential) = PendingEnrolment::begin(host, endorsement, key).map_err(of_check)?;
        let enrolment = random::uuid()?;
        let mut enrolling = self.attestation.enrolling.lock();
        // With one token one host enrols: another attempt ends the one before, so a host with one token holds up no other.
        let is_before = |stage: &Stage| matches!(stage, Stage::Sent { token, .. } if *token == call.token);
        enrolling.retain(|_, (since, stage)| since.elapsed() < CREDENTIAL_LIFE && !is_before(stage));
        if enrolling.len() >= MAX_PENDING {
            return Err(Error::new(Kind::Busy, "too many hosts enrol at once: try again"));
        }
        let stage = Stage::Sent { pending: Box::new(pending), token: call.token, secret: call.secret.clone() };
        enrolling.insert(enrolment, (Instant::now(), stage));
        let (id_object, encrypted_secret) = (Blob(credential.id_object), Blob(credential.encrypted_secret));
        Ok(EnrolAnswer { enrolment, id_object, encrypted_secret })
    }

    /// Ends an enrolment with what the host's TPM has made of the credential. There is one try.
    ///
    /// # Errors
    /// `NotFound` for an enrolment that has ended, `Denied` for a wrong secret or a token that was used in the meantime, `Exists`, `Io`.
    pub(super) fn finish_enrolment(&self, enrolment: Uuid, call: &CredentialAnswer) -> Result<EnrolledHost> {
        let finished = self.enrolled(enrolment, &call.secret.0);
        match &finished {
            Ok(host) => {
                let mut event = Event::of(EventName::AuthorityEnrol);
                event.uuid(host.host).reason(format!("a host enrolled: {}", host.state.word())).done();
            }
            Err(error) => record_refusal(&Event::of(EventName::AuthorityEnrol), error),
        }
        finished
    }

    fn enrolled(&self, enrolment: Uuid, secret: &[u8]) -> Result<EnrolledHost> {
        let unknown = || Error::new(Kind::NotFound, format!("there is no enrolment {enrolment}: begin again"));
        let mut enrolling = self.attestation.enrolling.lock();
        let (since, stage) = enrolling.remove(&enrolment).ok_or_else(unknown)?;
        let answer = match stage {
            _ if since.elapsed() >= CREDENTIAL_LIFE => return Err(unknown()),
            Stage::Done { credential, answer } => {
                if sha256(secret) != credential {
                    return Err(unknown());
                }
                answer
            }
            Stage::Sent { pending, token, secret: of_token } => {
                let name = pending.host().name().to_owned();
                let identity = pending.finish(secret).map_err(of_check)?;
                self.enrolment
                    .spend((token, &of_token.0, &name), |admission| self.keep(&identity, token, &admission))?
            }
        };
        let done = Stage::Done { credential: sha256(secret), answer: answer.clone() };
        enrolling.insert(enrolment, (since, done));
        Ok(answer)
    }

    fn keep(&self, identity: &Identity, token: Uuid, admission: &Admission) -> Result<EnrolledHost> {
        let host = identity.host();
        let uuid = Uuid::from_bytes(*host.id().as_bytes());
        let record = identity.to_record(&self.attestation.records).map_err(of_check)?;
        let keys = (identity.endorsement().to_string(), identity.attestation().name().to_string(), Blob(record));
        let state = if admission.approves { HostState::Approved } else { HostState::Pending };
        let record = HostRecord::new((uuid, host.name()), keys, state);
        let HostRecord { name, ek, ak_name, .. } = record.clone();
        let state_word = state.word().to_owned();
        let logged = |what: What| self.log.append(&[what.now()?]).map(drop);
        if admission.replaces.is_some() {
            self.hosts.replace(&record, |former| {
                let former_ek = former.ek.clone();
                logged(What::Replaced { host: uuid, name, ek, ak_name, former_ek, state: state_word, token })?;
                self.evidence.forget_sent(uuid)
            })?;
        } else {
            let entry = What::Enrolled { host: uuid, name, ek, ak_name, state: state_word, token };
            self.hosts.add(&record, || logged(entry))?;
        }
        Ok(EnrolledHost {
            authority: self.own.settings.uuid,
            host: uuid,
            state,
            log_key: Blob(self.own.log_key.public().to_vec()),
        })
    }

    /// A challenge for a host.
    ///
    /// # Errors
    /// `NotFound` for a host that is not known, `Denied` for one that is not approved or that no policy has.
    pub(super) fn challenge(&self, call: &ChallengeRequest) -> Result<Challenge> {
        let host = self.approved(call.host)?;
        let selection = selection(&self.policies.current()?.policy, &host.name)?;
        let now = self.clock.seconds();
        let challenge = issue(&self.attestation.challenges, host_id(host.uuid), selection, now).map_err(of_check)?;
        Ok(Challenge {
            challenge: Blob(challenge),
            bank: selection.bank().to_string(),
            registers: selection.iter().map(PcrIndex::number).collect(),
        })
    }

    fn approved(&self, host: Uuid) -> Result<HostRecord> {
        let host = self.hosts.get(host)?;
        match host.state {
            HostState::Approved => Ok(host),
            HostState::Pending | HostState::Removed => {
                Err(Error::new(Kind::Denied, format!("host {} is {}, expected approved", host.name, host.state.word())))
            }
        }
    }

    /// Judges a host, and gives it a token.
    ///
    /// # Errors
    /// `Denied` when it does not prove something, `Invalid` for what does not follow its form, `NotFound`, `Io`.
    pub(super) fn attest(&self, call: &AttestRequest) -> Result<AttestedHost> {
        let mut event = Event::of(EventName::AuthorityAttest);
        event.uuid(call.host);
        let judged = self.approved(call.host).and_then(|host| self.judge(&host, call));
        match &judged {
            Ok(attested) => {
                event.reason(format!("{}, policy {}", attested.level, attested.policy)).done();
            }
            Err(error) => record_refusal(&event, error),
        }
        judged
    }

    fn judge(&self, host: &HostRecord, call: &AttestRequest) -> Result<AttestedHost> {
        let identity = Identity::from_record(&self.attestation.records, &host.identity.0).map_err(of_check)?;
        let now = self.clock.seconds();
        let fresh = FreshChallenge::check(&self.attestation.challenges, &call.challenge.0, host_id(host.uuid), now);
        // Anyone can ask for challenges of a host. Only what its TPM has signed uses one up, so nobody else fills what is remembered.
        let signature = Signature::read(&call.signature.0);
        let signed = signature.and_then(|signature| signature.verify(identity.attestation().public(), &call.quote.0));
        let signed = signed.map_err(|error| error.within(format_args!("the quote of {}", host.name)));
        let fresh = fresh.and_then(|fresh| signed.map(|()| fresh));
        let spent = fresh.and_then(|fresh| fresh.spend(|id, ends| self.attestation.use_once(*id, ends, now)));
        let request = quoted_for(self.own.settings.uuid);
        let binding = Binding { hpke_key: &call.hpke_key.0, request: &request };
        let evidence = QuoteEvidence { statement: &call.quote.0, signature: &call.signature.0, values: &call.values.0 };
        let quoted = spent.and_then(|spent| Quoted::check(Arc::new(identity), spent, &binding, &evidence));
        let quoted = quoted.map_err(of_check)?;
        // From here on it is the host's own TPM that has spoken: what is refused is logged, and nobody else can fill the log.
        let policy = self.policies.current()?;
        let values = quoted.values().clone();
        let sent = (&values, call);
        let attested = conclude(&policy, host, quoted, call).or_else(|(error, refusal)| {
            let reason = vmcryptfs::text::beginning(&error.chain(), MAX_REASON).to_owned();
            self.evidence.refused(host.uuid, (&reason, refusal.as_deref()), sent).map_err(of_own_files)?;
            let entry = What::AttestationRefused { host: host.uuid, reason };
            self.log.append(&[entry.now()?]).and(Err(error))
        })?;
        let satisfied = attested.satisfied();
        let (level, version) = (satisfied.level().to_string(), policy.version());
        let moved =
            self.evidence.accepted(host.uuid, (&level, &version, satisfied.sets()), sent).map_err(of_own_files)?;
        self.learn(&policy, host, &attested);
        if moved {
            self.retire_sets();
        }
        let (token, claims) = self.tokens.issue(&attested, &policy, host.epoch)?;
        let proved = &claims.vmcryptfs;
        let entry = What::Attested {
            host: host.uuid,
            level: proved.level.clone(),
            policy: proved.policy.clone(),
            resets: proved.resets,
            restarts: proved.restarts,
            token: claims.jti,
        };
        self.log.append(&[entry.now()?])?;
        Ok(AttestedHost {
            token,
            seconds: token::LIFE,
            level: proved.level.clone(),
            policy: proved.policy.clone(),
            sets: attested.satisfied().sets().to_vec(),
        })
    }
}

/// Why there is no verdict, with the policy's own words for it if it is that which refuses.
type Refused = (Error, Option<Box<Refusal>>);

/// The verdict over a quote that is the host's own.
fn conclude(
    policy: &ApprovedPolicy,
    host: &HostRecord,
    quoted: Quoted,
    call: &AttestRequest,
) -> std::result::Result<Attested, Refused> {
    let of_check = |error| (of_check(error), None);
    let steady = Steady::check(&quoted, Expected::Any).map_err(of_check)?;
    let evidence = Evidence {
        host: &host.name,
        firmware_log: &call.firmware_log.0,
        userspace_log: &call.userspace_log.0,
        values: quoted.values(),
    };
    let refused = |refusal: Box<Refusal>| (Error::new(Kind::Denied, refusal.to_string()), Some(refusal));
    let replayed = evidence.replay().map_err(refused)?;
    let satisfied = policy.policy.appraise(&host.name, &replayed).map_err(refused)?;
    Attested::conclude(quoted, steady, replayed, satisfied).map_err(of_check)
}

/// The registers that a host has to be quoted: none where only its TPM counts.
fn selection(policy: &Policy, host: &str) -> Result<PcrSelection> {
    let unknown = || Error::new(Kind::Denied, format!("no class of policy {} has host {host}", policy.name()));
    policy.selection_for(host).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members share what authenticates records, and nothing that has to be good once.
    #[test]
    fn a_challenge_of_one_member_is_refused_by_another_and_used_once_by_its_own() {
        let [one, other] = [(); 2].map(|()| Attestation::new(AuthorityKey::new([7; 32])).unwrap());
        let (host, selection) = (host_id(Uuid::from_u128(1)), "sha256:7".parse().unwrap());
        let challenge = issue(&one.challenges, host, selection, 100).unwrap();
        let fresh = |member: &Attestation| FreshChallenge::check(&member.challenges, &challenge, host, 100);
        assert_eq!(fresh(&other).map(drop).unwrap_err().kind(), attest::Kind::Refused);
        let spend = || fresh(&one).unwrap().spend(|id, ends| one.use_once(*id, ends, 100));
        spend().unwrap();
        assert_eq!(spend().map(drop).unwrap_err().kind(), attest::Kind::Refused);
    }
}
