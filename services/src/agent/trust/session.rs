//! What this host has proved to an authority, for as long as that is good, and calls that need it.

use std::time::{Duration, Instant};

use uuid::Uuid;
use vmcryptfs::crypto::hpke::{SealKey, Sealed};
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::agent::trust::AttestedNow;
use vmcryptfs::provider::{Failure, Trouble};
use vmcryptfs::text::{beginning, one_line};
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::identity::HostId;
use vmcryptfs_attest::pcr::{HashAlgorithm, PcrIndex, PcrSelection};
use vmcryptfs_attest::quote::Binding;

use super::client::{Asked, Failed, Members};
use super::enrolled::Enrolled;
use super::machine::Machine;
use crate::tpm::{QUOTE_LIMIT, TpmClock};
use crate::trust_wire::{
    AttestRequest, AttestedHost, Blob, Challenge, ChallengeRequest, ReleasedKey, SEALED_KEK, quoted_for, sealed_to,
};

/// A token is not used for its last seconds: it could end on its way.
const MARGIN: Duration = Duration::from_secs(15);
/// It is used no longer than this, whatever the authority says, in seconds.
const MAX_LIFE: u64 = 24 * 60 * 60;
/// Longest word of an authority that is shown, in bytes.
const MAX_SHOWN: usize = 200;

/// What was proved.
pub(super) struct Proved {
    pub(super) token: String,
    key: SealKey,
    until: Instant,
    /// How often the TPM had begun then.
    clock: TpmClock,
    now: AttestedNow,
}

impl Proved {
    /// Whether it is good: the token has not ended, and the TPM has not begun again since.
    pub(super) fn is_good(&self, machine: &Machine) -> Result<bool> {
        Ok(self.left().is_some() && machine.talk(QUOTE_LIMIT)?.tpm.clock()? == self.clock)
    }

    fn left(&self) -> Option<Duration> {
        self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// What is known of it, if its token has not ended.
    pub(super) fn now(&self) -> Option<AttestedNow> {
        Some(AttestedNow { seconds: self.left()?.as_secs(), ..self.now.clone() })
    }

    /// The KEK that was sealed to this host, of this key id if there is one.
    pub(super) fn open(
        &self,
        known: &Enrolled,
        request: Uuid,
        (key_id, enc, ciphertext): (&str, &Blob, Blob),
    ) -> Result<LocalKek> {
        let wrong = || Error::new(Kind::Corrupt, format!("key {key_id} was not sealed to this host for this request"));
        let enc = enc.0.as_slice().try_into().map_err(|_| wrong())?;
        let aad = sealed_to(known.authority, known.host, request, key_id);
        let kek = self.key.open(SEALED_KEK, &aad, &Sealed { enc, ciphertext: ciphertext.0 });
        LocalKek::new(kek.map_err(|error| Error::with_source(Kind::Corrupt, wrong().to_string(), error))?)
    }
}

/// Attests at an authority. Its log is not looked at yet.
pub(super) fn attest(members: &Members, known: &Enrolled, machine: &Machine) -> Asked<Proved> {
    let challenge: Challenge = members.post("/v1/challenge", &ChallengeRequest { host: known.host })?;
    let key = SealKey::generate().map_err(Failed::Down)?;
    let (call, clock) = evidence(known, machine, &challenge, &key).map_err(|error| Failed::Down(unattested(&error)))?;
    let begun = Instant::now();
    let (token, until, now) = said(members.post("/v1/attest", &call)?, begun);
    Ok(Proved { token, key, until, clock, now })
}

/// What an authority says of an attestation that was asked for then: the token, until when it is used, and what is shown. Any
/// number and any text may have come.
fn said(answer: AttestedHost, begun: Instant) -> (String, Instant, AttestedNow) {
    let AttestedHost { token, seconds, level, policy, sets } = answer;
    let seconds = seconds.min(MAX_LIFE);
    let until = begun + Duration::from_secs(seconds).saturating_sub(MARGIN);
    let shown = |text: String| one_line(beginning(&text, MAX_SHOWN)).into_owned();
    let (level, policy, sets) = (shown(level), shown(policy), sets.into_iter().map(shown).collect());
    (token, until, AttestedNow { since: Timestamp::now().to_millis(), seconds, level, policy, sets })
}

fn evidence(
    known: &Enrolled,
    machine: &Machine,
    challenge: &Challenge,
    key: &SealKey,
) -> Result<(AttestRequest, TpmClock)> {
    let selection = selection(challenge)?;
    let (request, hpke_key) = (quoted_for(known.authority), key.public());
    let binding = Binding { hpke_key, request: &request };
    let data = binding.extra_data(&challenge.challenge.0, HostId::new(*known.host.as_bytes()));
    let (quoted, clock) = {
        let mut talk = machine.talk(QUOTE_LIMIT)?;
        let clock = talk.tpm.clock()?; // before the quote: a reset in between is noticed later
        (talk.tpm.quote(&known.seed, selection, data.as_bytes())?, clock)
    };
    let logs = machine.logs(selection)?;
    let call = AttestRequest {
        host: known.host,
        challenge: challenge.challenge.clone(),
        hpke_key: Blob(hpke_key.to_vec()),
        quote: Blob(quoted.statement),
        signature: Blob(quoted.signature),
        values: Blob(quoted.values),
        firmware_log: Blob(logs.firmware),
        userspace_log: Blob(logs.userspace),
    };
    Ok((call, clock))
}

fn selection(challenge: &Challenge) -> Result<PcrSelection> {
    let Challenge { bank, registers, .. } = challenge;
    let wrong =
        || Error::new(Kind::Unsupported, format!("the authority demands registers {registers:?} of bank {bank:?}"));
    let banks = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
    let bank = banks.into_iter().find(|known| known.name() == bank).ok_or_else(wrong)?;
    let registers = registers.iter().map(|number| PcrIndex::new(u32::from(*number)));
    Ok(PcrSelection::new(bank, registers.collect::<vmcryptfs_attest::Result<Vec<_>>>().map_err(|_| wrong())?))
}

/// The error of a host that cannot attest.
pub(super) fn unattested(error: &Error) -> Error {
    let failure = Failure::new(Trouble::Unattested, error.chain());
    Error::with_source(Kind::KeyUnavailable, "this host cannot attest", failure)
}

/// The trouble with a key that an authority did not release.
pub(super) fn released(key: ReleasedKey) -> Result<(String, Blob, Blob)> {
    match key {
        ReleasedKey::Key { key_id, enc, ciphertext } => Ok((key_id, enc, ciphertext)),
        ReleasedKey::Refused { error, .. } => {
            let text = "the authority does not release the key";
            let trouble = error.fault.map_or(Trouble::Denied, vmcryptfs::provider::agent::Fault::trouble);
            let trouble = if trouble.is_of_server() { Trouble::AuthorityDown } else { trouble };
            Err(Error::with_source(Kind::KeyUnavailable, text, Failure::new(trouble, error.message)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use vmcryptfs::crypto::hpke;

    use super::*;
    use crate::agent::trust::enrolled::tests::enrolled;

    #[test]
    fn whatever_an_authority_says_of_an_attestation_is_bounded_and_shown_on_one_line() {
        let begun = Instant::now();
        let answer = |seconds, text: &str| AttestedHost {
            token: "token".into(),
            seconds,
            level: text.into(),
            policy: text.into(),
            sets: vec![text.into()],
        };
        let (token, until, now) = said(answer(600, "measured"), begun);
        assert_eq!((token.as_str(), until - begun), ("token", Duration::from_secs(600) - MARGIN));
        assert_eq!((now.seconds, now.level.as_str(), now.sets), (600, "measured", vec![String::from("measured")]));
        assert_eq!(said(answer(0, ""), begun).1, begun);
        let (_, until, now) = said(answer(u64::MAX, &"\x1b[2J".repeat(1000)), begun);
        assert!(until - begun <= Duration::from_secs(MAX_LIFE));
        for text in [&now.level, &now.policy, &now.sets[0]] {
            assert!(!text.contains('\x1b') && text.len() <= 4 * MAX_SHOWN, "{text}");
        }
    }

    #[test]
    fn an_answer_to_another_request_host_authority_or_key_opens_nothing() {
        let now = AttestedNow {
            since: String::new(),
            seconds: 0,
            level: String::new(),
            policy: String::new(),
            sets: Vec::new(),
        };
        let (key, clock) = (SealKey::generate().unwrap(), TpmClock { resets: 1, restarts: 0 });
        let proved = Proved { token: String::new(), key, until: Instant::now(), clock, now };
        let known = enrolled();
        let request = Uuid::from_u128(3);
        let sealed_for = |public, authority, host, request, id: &str| {
            let aad = sealed_to(authority, host, request, id);
            let Sealed { enc, ciphertext } = hpke::seal(public, SEALED_KEK, &aad, &[7; 32]).unwrap();
            proved.open(&known, Uuid::from_u128(3), ("key", &Blob(enc.to_vec()), Blob(ciphertext)))
        };
        let (public, authority, host) = (proved.key.public(), known.authority, known.host);
        assert_eq!(sealed_for(public, authority, host, request, "key").unwrap().bytes(), [7; 32]);
        let (other, stranger) = (Uuid::from_u128(9), SealKey::generate().unwrap());
        for wrong in [
            sealed_for(public, authority, host, other, "key"),
            sealed_for(public, authority, other, request, "key"),
            sealed_for(public, other, host, request, "key"),
            sealed_for(public, authority, host, request, "other"),
            sealed_for(stranger.public(), authority, host, request, "key"),
        ] {
            assert_eq!(wrong.unwrap_err().kind(), Kind::Corrupt);
        }
    }
}
