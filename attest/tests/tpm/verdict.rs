//! The verdict over recorded quotes: all proofs are of one host and one quote.

use vmcryptfs_attest::event_log::EventLog;
use vmcryptfs_attest::pcr::{Digest, HashAlgorithm, PcrValues};
use vmcryptfs_attest::policy::{Level, Policy, Satisfied};
use vmcryptfs_attest::quote::{Expected, Quoted, Steady};
use vmcryptfs_attest::replay::Replayed;
use vmcryptfs_attest::userspace_log::UserspaceLog;
use vmcryptfs_attest::verdict::Attested;

use crate::hosts::{Host, enrolled};

const EV_SEPARATOR: u32 = 4;
const EV_IPL: u32 = 13;

/// A log of these events: register, type and digest (TCG PC Client Platform Firmware Profile, "Event Logging").
fn log(events: &[(u32, u32, Digest)]) -> Vec<u8> {
    let mut content = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    content.extend(1_u32.to_le_bytes());
    content.extend([0x0b, 0, 32, 0, 0]);
    let mut log = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20]].concat();
    log.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    log.extend(content);
    for (register, kind, digest) in events {
        for field in [*register, *kind, 1] {
            log.extend(field.to_le_bytes());
        }
        log.extend([0x0b, 0]);
        log.extend(digest.as_bytes());
        log.extend(0_u32.to_le_bytes());
    }
    log
}

/// What the recorded TPMs have measured.
fn measured() -> Vec<u8> {
    let of = |content: &[u8]| Digest::of(HashAlgorithm::Sha256, &[content]);
    let separator = of(&[0; 4]);
    log(&[(7, EV_IPL, of(b"measured")), (0, EV_SEPARATOR, separator), (7, EV_SEPARATOR, separator)])
}

fn replayed(quoted: &Quoted) -> Replayed {
    let log = measured();
    Replayed::new(&EventLog::parse(&log).unwrap(), &UserspaceLog::default(), quoted.values()).unwrap()
}

fn satisfied(host: &str, replayed: &Replayed) -> Satisfied {
    let policy = "format = 1\nname = \"test\"\nbank = \"sha256\"\n[[class]]\nname = \"all\"\nhosts = [\"*\"]\nlevel = \"identity\"\n";
    Policy::parse(policy).unwrap().appraise(host, replayed).unwrap()
}

#[test]
fn a_host_with_all_proofs_is_attested() {
    let host = Host::recorded("one", "p256");
    let quoted = host.quoted(&enrolled(&host)).unwrap();
    let steady = Steady::check(&quoted, Expected::Any).unwrap();
    let replayed = replayed(&quoted);
    let satisfied = satisfied("node-1", &replayed);
    let attested = Attested::conclude(quoted, steady, replayed, satisfied).unwrap();
    assert_eq!(attested.identity().host().name(), "node-1");
    assert_eq!(attested.satisfied().level(), Level::Identity);
    assert_eq!(attested.boot(), steady.boot());
    assert_eq!(attested.quoted().hpke_key(), host.hpke_key);
    assert_eq!(attested.replayed().values(), attested.quoted().values());
}

#[test]
fn proofs_of_other_hosts_quotes_and_values_do_not_go_together() {
    let one = Host::recorded("one", "p256");
    let quoted = one.quoted(&enrolled(&one)).unwrap();
    let steady = Steady::check(&quoted, Expected::Any).unwrap();
    let mine = replayed(&quoted);
    let refused = |steady, replayed: &Replayed, satisfied, because: &str| {
        let error = Attested::conclude(quoted.clone(), steady, replayed.clone(), satisfied).unwrap_err();
        assert!(error.to_string().contains(because), "{error}");
    };
    // Another quote: of another TPM.
    let other = Host::recorded("two", "p256");
    let other = other.quoted(&enrolled(&other)).unwrap();
    let of_other = Steady::check(&other, Expected::Any).unwrap();
    refused(of_other, &mine, satisfied("node-1", &mine), "its boot is that of another quote");
    refused(steady, &mine, satisfied("node-2", &mine), "its policy was satisfied by node-2");
    // Other values, which an empty log leads to.
    let values = PcrValues::new("sha256:8".parse().unwrap(), vec![Digest::zero(HashAlgorithm::Sha256)]);
    let log = log(&[]);
    let elsewhere = Replayed::new(&EventLog::parse(&log).unwrap(), &UserspaceLog::default(), &values.unwrap()).unwrap();
    refused(steady, &elsewhere, satisfied("node-1", &mine), "its events are of other values");
    refused(steady, &mine, satisfied("node-1", &elsewhere), "its policy was satisfied by other values");
}
