//! Policies that look at what a host has booted: how sets come to be, are approved and retire.

use std::fs;

use serde_json::Value;
use uuid::Uuid;
use vmcryptfs::error::Kind;
use vmcryptfs_attest::policy::ApprovedSet;
use vmcryptfs_services::trust_wire::{AttestedHost, ProposeRequest, ProposedSet};

use crate::asking::{Host, Refusal, call, denied, new_key, site, token};
use crate::firmware::Boot;
use crate::process::Authority;

const LEARNS: &str = "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"kvm*\"]\n\
                      level = \"identity\"\nlearn = [4, 7, 11, 12]\n";

fn propose(authority: &Authority, token: &str, set: &str) -> Result<ProposedSet, Refusal> {
    call(authority, "/v1/propose", &ProposeRequest { token: token.to_owned(), set: set.to_owned() })
}

fn attest(authority: &Authority, host: &Host) -> Result<AttestedHost, Refusal> {
    let challenge = host.challenge(authority)?;
    call(authority, "/v1/attest", &host.quoted(&challenge, host.authority))
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

/// A host whose first kernel was learned and approved, and its token.
fn with_a_learned_kernel() -> (Authority, Host, AttestedHost) {
    let (authority, tpm) = site();
    let mut host = Host::enrol(&authority, tpm, &token(&authority));
    authority.run(&["host", "approve", "kvm1"]);
    let quoted_nothing = authority.try_run(&["policy", "approve", "kvm1"]);
    assert!(String::from_utf8_lossy(&quoted_nothing.stderr).contains("has not attested yet"), "{quoted_nothing:?}");
    let file = authority.write("learns.toml", LEARNS);
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
    host.boot(Boot::of("kernel 1"));

    // What the host measures becomes a proposal, and no rule.
    let learning = attest(&authority, &host).unwrap();
    assert_eq!((learning.level.as_str(), learning.sets.len()), ("identity", 0));
    attest(&authority, &host).unwrap();
    let list = authority.json(&["policy", "list"]);
    let [proposal] = list["proposals"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!((&proposal["source"], &proposal["hosts"][0]), (&"learned".into(), &"kvm1".into()));
    assert_eq!(list["sets"], serde_json::json!([]));
    let id = proposal["id"].as_str().unwrap();
    let measured = ["--proposal", id, "--level", "measured"];
    let tried = authority.json(&[&["policy", "test"][..], &measured].concat());
    assert_eq!(tried["passed"][0][0], "kvm1", "{tried}");
    assert_eq!(authority.json(&["policy", "list"])["sets"], serde_json::json!([]), "it was only tried");
    authority.run(&[&["policy", "approve", "--name", "kernel-1"][..], &measured].concat());
    assert!(authority.run(&["policy", "list"]).contains("set kernel-1: approved "));
    denied(new_key(&authority, &learning.token, Uuid::nil()), "another policy was approved since");
    let first = attest(&authority, &host).unwrap();
    assert_eq!((first.level.as_str(), first.sets.as_slice()), ("measured", &["kernel-1".to_owned()][..]));
    (authority, host, first)
}

/// The host says what it will boot; returns the proposal.
fn proposed(authority: &Authority, first: &AttestedHost) -> String {
    let next = authority.json(&["policy", "show"]).as_str().unwrap().split("[[set]]").nth(1).unwrap().to_owned();
    let next = next.replace("[[set.pcr]]", "[[pcr]]").replace("note = \"", "#").replace("kernel-1", "kernel-2");
    let same = propose(authority, &first.token, &next).unwrap();
    assert_eq!(same, ProposedSet::Approved { set: "kernel-1".into() });
    for (line, wrong) in [("keep = true\n", "only an administrator"), ("extra = 1\n", "is not understood")] {
        let (status, kind, message) = propose(authority, &first.token, &format!("{line}{next}")).unwrap_err();
        assert!((status, kind) == (400, Kind::Invalid) && message.contains(wrong), "{status} {kind:?} {message}");
    }
    denied(propose(authority, "no token", &next), "is not a JWT");
    let digest = |kernel: &str| data_encoding::HEXLOWER.encode(&vmcryptfs::crypto::derive::sha256(kernel.as_bytes()));
    let next = next.replace(&digest("kernel 1"), &digest("kernel 2"));
    let ProposedSet::Waiting { proposal } = propose(authority, &first.token, &next).unwrap() else { panic!() };
    let shown = authority.run(&["policy", "show", "--proposal", &proposal]);
    assert_eq!(ApprovedSet::parse(&shown).unwrap().name(), "kernel-2");
    proposal
}

#[test]
fn a_kernel_is_learned_the_next_one_is_proposed_refused_and_approved_and_the_old_one_retires() {
    let (mut authority, mut host, first) = with_a_learned_kernel();
    let proposal = proposed(&authority, &first);
    let old_log = host.boot(Boot::of("kernel 2"));
    let (_, _, reason) = attest(&authority, &host).unwrap_err();
    assert!(reason.contains("an event is not the approved one"), "{reason}");

    // The log of the boot before does not help, nor do its values.
    let challenge = host.challenge(&authority).unwrap();
    let mut stale = host.quoted(&challenge, host.authority);
    stale.firmware_log.0 = old_log;
    denied(call::<AttestedHost>(&authority, "/v1/attest", &stale), "event logs give the values of the quote");

    // Its administrator is told why, and what to type.
    attest(&authority, &host).unwrap_err();
    let explained = authority.json(&["policy", "explain", "kvm1"]);
    let refusal = &explained["refused"]["explained"];
    assert_eq!((&refusal["rule"], &refusal["register"]), (&"approved-sets".into(), &4.into()), "{explained}");
    assert_eq!(explained["attested"]["sets"][0], "kernel-1");
    let command = refusal["command"].as_str().unwrap();
    assert!(reason.ends_with(&format!("To approve what was measured: {command}")), "{reason}");
    assert!(authority.run(&["policy", "explain", "kvm1"]).contains(command));
    let args: Vec<&str> = command.strip_prefix("vmcryptfs-authority ").unwrap().split(' ').collect();
    assert_eq!(
        (&args[..4], &args[5..]),
        (&["policy", "approve", "kvm1", "--measured"][..], &["--pcr", "4,7,11,12"][..])
    );
    let missing = authority.try_run(&["policy", "approve", "kvm1", "--pcr", "0"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("without PCR 0"), "{missing:?}");

    // The same was proposed: what is approved is either. The old set goes when no host uses it, and no token with it.
    authority.run(&["policy", "approve", "--proposal", &proposal]);
    assert_eq!(names(&authority.json(&["policy", "list"])["sets"]), ["kernel-1", "kernel-2"]);
    let second = attest(&authority, &host).unwrap();
    assert_eq!(second.sets, ["kernel-2"]);
    let list = authority.json(&["policy", "list"]);
    assert_eq!((names(&list["sets"]), &list["sets"][0]["hosts"][0]), (vec!["kernel-2"], &"kvm1".into()));
    assert_eq!(list["proposals"], serde_json::json!([]));
    new_key(&authority, &second.token, Uuid::nil()).unwrap();
    host.boot(Boot::of("kernel 3"));
    attest(&authority, &host).unwrap_err();
    // What was said of kernel 2 approves nothing that the host has booted since.
    let stale = authority.try_run(&args);
    assert!(String::from_utf8_lossy(&stale.stderr).contains("has sent something else since"), "{stale:?}");
    let explained = authority.json(&["policy", "explain", "kvm1"]);
    let command = explained["refused"]["explained"]["command"].as_str().unwrap();
    authority.run(&command.split(' ').skip(1).collect::<Vec<_>>());
    let third = attest(&authority, &host).unwrap();
    host.boot(Boot::of("kernel 3"));
    attest(&authority, &host).unwrap();
    denied(new_key(&authority, &third.token, Uuid::nil()), "attested by another boot");

    authority.end(rustix::process::Signal::TERM);
    let log = fs::read_to_string(authority.folder().join("log/entries")).unwrap();
    for (word, times) in [("set-proposed", 2), ("set-approved", 3), ("set-retired", 2), ("attestation-refused", 4)] {
        assert_eq!(log.matches(&format!("\"entry\":\"{word}\"")).count(), times, "{word}: {log}");
    }
    authority.start();
    attest(&authority, &host).unwrap();
}
