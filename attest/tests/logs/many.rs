//! Policies on the logs of many hosts.

use std::time::Instant;

use vmcryptfs_attest::policy::dry_run;

use crate::{Boot, policy_of, recorded};

/// Tries a policy on this many stored logs, of which every fourth is of a host that would fail; returns seconds.
fn tried(hosts: usize) -> f64 {
    let names = ["secure-boot", "secure-boot", "secure-boot", "other-kernel"];
    let boots = names.map(|name| Boot::read(&recorded(), name));
    let policy = policy_of(&boots[0]);
    let hosts: Vec<String> = (0..hosts).map(|number| format!("kvm-{number}")).collect();
    let start = Instant::now();
    let result = dry_run(&policy, hosts.iter().zip(boots.iter().cycle()).map(|(host, boot)| boot.evidence(host)));
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!((result.passed.len(), result.refused.len()), (hosts.len() / 4 * 3, hosts.len() / 4));
    assert!(result.refused[0].to_string().contains("event 23 of the firmware's log"), "{}", result.refused[0]);
    seconds
}

#[test]
fn a_dry_run_names_the_hosts_that_would_fail() {
    tried(40);
}

#[test]
#[ignore = "measures time: scripts/tests/soak/measured-boot.sh"]
fn a_dry_run_over_ten_thousand_logs_takes_less_than_30_seconds() {
    let seconds = tried(10_000);
    println!("a dry run over 10,000 logs: {seconds:.2} s");
    assert!(seconds < 30.0, "{seconds} s");
}
