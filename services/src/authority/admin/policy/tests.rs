use std::time::Instant;

use uuid::Uuid;
use vmcryptfs_attest::pcr::PcrValues;

use super::*;
use crate::authority::hosts::tests::record;
use crate::authority::rig::Rig;
use crate::trust_wire::{AttestRequest, Blob};

const QUOTED: &str = "sha256:0,2,4,7,9,11,12";

/// What a host sent that booted so: attest/tests/vectors/boots/README.md.
fn sent(log: &[u8], registers: &str) -> (PcrValues, AttestRequest) {
    let selection: PcrSelection = QUOTED.parse().unwrap();
    let lines: Vec<&str> = registers.lines().collect();
    let digits = |register: PcrIndex| lines[usize::from(register.number())].split_once(' ').unwrap().1;
    let values: Vec<_> =
        selection.iter().map(|register| format!("sha256:{}", digits(register)).parse().unwrap()).collect();
    let values = PcrValues::new(selection, values).unwrap();
    let bytes = Blob(values.iter().flat_map(|(_, value)| value.as_bytes().to_vec()).collect());
    let [challenge, hpke_key, quote, signature, userspace_log] = [const { Blob(Vec::new()) }; 5];
    let firmware_log = Blob(log.to_vec());
    let host = Uuid::nil();
    let call =
        AttestRequest { host, challenge, hpke_key, quote, signature, values: bytes, firmware_log, userspace_log };
    (values, call)
}

macro_rules! boot {
    ($name:literal) => {
        sent(
            include_bytes!(concat!("../../../../../attest/tests/vectors/boots/", $name, ".log")),
            include_str!(concat!("../../../../../attest/tests/vectors/boots/", $name, ".pcrs")),
        )
    };
}

/// An authority whose hosts have attested, every fourth of them with another kernel, and the kernel of the others.
fn with_evidence(hosts: usize) -> (Rig, SetSource) {
    let rig = Rig::new();
    let boots = [boot!("secure-boot"), boot!("secure-boot"), boot!("secure-boot"), boot!("other-kernel")];
    for (number, (values, call)) in (0..hosts).zip(boots.iter().cycle()) {
        let host = record(&format!("kvm-{number}"), HostState::Approved);
        rig.authority.hosts.add(&host, || Ok(())).unwrap();
        rig.authority.evidence.accepted(host.uuid, ("identity", "kvm@1", &[]), (values, call)).unwrap();
    }
    (rig, SetSource::Host { host: "kvm-0".into(), registers: Some(vec![4, 7, 11, 12]), measured: None })
}

/// Tries a policy on the stored evidence of this many hosts; returns seconds.
fn tried(hosts: usize) -> f64 {
    let (rig, set) = with_evidence(hosts);
    let start = Instant::now();
    let asked = PolicyAsked::TestSet { set, level: Some("measured".into()) };
    let Answer::Tried(tried) = answer(&rig.authority, asked, 0).unwrap() else { panic!() };
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!((tried.passed.len(), tried.refused.len(), tried.unknown.len()), (hosts / 4 * 3, hosts / 4, 1));
    assert_eq!(tried.refused[0].refusal["event"]["index"], 23, "{}", tried.refused[0].reason);
    seconds
}

const KEPT: &str = "name = \"rescue\"\napproved = \"2026-11-30\"\nkeep = true\n[[pcr]]\nnumber = 7\nmeasured = [\"sha256:\
                    6e0d000000000000000000000000000000000000000000000000000000000082 the keys\"]\n";

#[test]
fn a_set_that_an_administrator_wants_to_keep_is_kept_once_it_is_approved() {
    let rig = Rig::new();
    let set = SetSource::Text { text: KEPT.into(), class: "kvm".into() };
    let Answer::Proposal(Proposal { id: proposal, .. }) =
        answer(&rig.authority, PolicyAsked::Propose { set, name: None }, 0).unwrap()
    else {
        panic!()
    };
    let set = SetSource::Proposal { proposal };
    let approve = PolicyAsked::ApproveSet { set, name: None, level: Some("secureboot".into()) };
    answer(&rig.authority, approve, 0).unwrap();
    assert!(rig.authority.policies.current().unwrap().policy.sets()[0].keeps());
}

/// A policy whose hosts measure what `set` says, approved on these days.
fn with_sets(sets: &[(&str, &str)]) -> PolicyAsked {
    let names: Vec<String> = sets.iter().map(|(name, _)| format!("{name:?}")).collect();
    let mut text = format!(
        "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"kvm*\"]\nlevel = \"secureboot\"\n\
         sets = [{}]\n",
        names.join(", ")
    );
    for (number, (name, approved)) in sets.iter().enumerate() {
        let digest = format!("sha256:{number:064x}");
        text.push_str(&format!(
            "[[set]]\nname = {name:?}\napproved = {approved:?}\n[[set.pcr]]\nnumber = 7\nmeasured = [{digest:?}]\n"
        ));
    }
    PolicyAsked::Approve { text }
}

/// The names of the sets that an answer says are in force, which they must be.
fn in_force_by(rig: &Rig, asked: PolicyAsked) -> Vec<String> {
    let Answer::Policy(status) = answer(&rig.authority, asked, 0).unwrap() else { panic!() };
    let current = rig.authority.policies.current().unwrap();
    let sets: Vec<String> = current.policy.sets().iter().map(|set| set.name().to_owned()).collect();
    assert_eq!(status.sets.into_iter().map(|set| set.name).collect::<Vec<_>>(), sets);
    sets
}

fn matches(rig: &Rig, set: &str) {
    let (values, call) = boot!("secure-boot");
    let sets = [set.to_owned()];
    rig.authority.evidence.accepted(rig.host, ("secureboot", "kvm@1", &sets), (&values, &call)).unwrap();
}

#[test]
fn a_set_that_is_approved_is_newer_than_one_whose_date_somebody_has_typed() {
    for typed in ["9998-12-31", "9998-12-31T10:00:00Z"] {
        let rig = Rig::new();
        answer(&rig.authority, with_sets(&[("present", typed)]), 0).unwrap();
        matches(&rig, "present");
        let next = |name: &str| PolicyAsked::ApproveSet {
            set: SetSource::Text { text: KEPT.replace("keep = true\n", ""), class: "kvm".into() },
            name: Some(name.into()),
            level: None,
        };
        assert_eq!(in_force_by(&rig, next("next")), ["present", "next"], "{typed}");
        assert_eq!(in_force_by(&rig, next("last")), ["present", "next", "last"], "{typed}");
    }
}

#[test]
fn what_retires_when_a_policy_is_approved_is_not_said_to_be_in_force() {
    let rig = Rig::new();
    matches(&rig, "new");
    let policy = with_sets(&[("old", "2026-11-01"), ("new", "2026-11-02")]);
    assert_eq!(in_force_by(&rig, policy), ["new"]);
}

#[test]
fn a_set_of_one_host_is_tried_on_what_others_sent() {
    tried(8);
}

#[test]
#[ignore = "measures time: scripts/tests/soak/dry-run.sh"]
#[allow(clippy::print_stdout, reason = "the figure is for people")]
fn a_dry_run_over_ten_thousand_stored_logs_takes_less_than_30_seconds() {
    let seconds = tried(10_000);
    println!("a dry run over 10,000 stored logs: {seconds:.2} s");
    assert!(seconds < 30.0, "{seconds} s");
}

#[test]
fn what_makes_no_policy_is_refused_and_leaves_the_one_in_force() {
    let (rig, set) = with_evidence(1);
    let before = rig.authority.policies.current().unwrap().sha256.clone();
    let refused = |asked| answer(&rig.authority, asked, 0).map(drop).unwrap_err();
    let approve = |set: &SetSource, level: Option<&str>| {
        let level = level.map(str::to_owned);
        refused(PolicyAsked::ApproveSet { set: set.clone(), name: None, level })
    };
    let with = |registers: Option<Vec<u8>>| SetSource::Host { host: "kvm-0".into(), registers, measured: None };
    let named = |host: &str, measured: Option<String>| SetSource::Host { host: host.into(), registers: None, measured };
    let of_other = boot!("other-kernel").0.name_of(QUOTED.parse().unwrap());
    for (set, level, kind, words) in [
        (&set, None, Kind::Invalid, "choose a higher level"),
        (&set, Some("strict"), Kind::Invalid, "expected identity, secureboot, measured or pinned"),
        (&with(Some(vec![4])), Some("measured"), Kind::Invalid, "none of its sets has PCR 7"),
        (&with(Some(vec![14])), Some("measured"), Kind::Invalid, "without PCR 14"),
        (&with(Some(vec![99])), Some("measured"), Kind::Invalid, "PCR 99"),
        (&named("kvm1", None), None, Kind::NotFound, "has not attested yet"),
        (&named("kvm9", None), None, Kind::NotFound, "kvm9"),
        (&named("kvm-0", Some(of_other)), Some("measured"), Kind::Denied, "has sent something else since"),
        (&SetSource::Proposal { proposal: "none".into() }, None, Kind::NotFound, "no proposal"),
    ] {
        let error = approve(set, level);
        assert!(error.kind() == kind && error.chain().contains(words), "{words}: {}", error.chain());
    }
    let error = refused(PolicyAsked::Approve { text: "format = 1\n".into() });
    assert_eq!(error.kind(), Kind::Invalid);
    assert_eq!(rig.authority.policies.current().unwrap().sha256, before);
    let of_this = boot!("secure-boot").0.name_of(QUOTED.parse().unwrap());
    let asked = PolicyAsked::TestSet { set: named("kvm-0", Some(of_this)), level: Some("measured".into()) };
    answer(&rig.authority, asked, 0).unwrap();
    // Each approval is later than the one before, and has a name of its own.
    let approve = |level: &str| PolicyAsked::ApproveSet { set: set.clone(), name: None, level: Some(level.into()) };
    let status = |asked| match answer(&rig.authority, asked, 0) {
        Ok(Answer::Policy(status)) => status,
        other => panic!("{other:?}"),
    };
    status(approve("secureboot"));
    let sets = status(approve("measured")).sets;
    assert!(sets[0].name.starts_with("kvm-0-20") && sets[1].name == format!("{}.2", sets[0].name), "{sets:?}");
    assert!(sets[0].approved < sets[1].approved, "{sets:?}");
}
