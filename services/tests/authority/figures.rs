//! How quickly hosts attest and get keys (docs/TRUST.md, "Figures"): `bench/trust` runs it.

#![allow(clippy::print_stdout, reason = "figures are what it is run for")]

use std::fs;
use std::time::{Duration, Instant};

use uuid::Uuid;
use vmcryptfs::key::KeyName;
use vmcryptfs::provider::agent::trust::TrustCall;
use vmcryptfs::provider::agent::{Answer, Hello, Purpose, Request};

use crate::agents::ask;
use crate::trusted::Site;

/// Keys that are unwrapped.
const KEYS: u128 = 1000;
/// Attestations that are measured.
const ATTESTATIONS: u32 = 200;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Time on a CPU of a process, in the kernel's clock ticks of 10 ms.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
#[ignore = "a measurement"]
fn attestations_and_keys() {
    let site = Site::enrolled();
    let mut agent = site.agent.as_ref().unwrap().connect();
    ask(&mut agent, &Request::Hello(Hello::own()));
    let attest = Request::Trust(Box::new(TrustCall::Attest));
    // A KEK follows its answer on the connection: one that is not read belongs to a connection of its own.
    let new_key = |number: u128| {
        let purpose =
            Purpose { request: Uuid::from_u128(number), vm_name: "vm".into(), vm_uuid: Uuid::from_u128(number) };
        let mut own = site.agent.as_ref().unwrap().connect();
        ask(&mut own, &Request::Hello(Hello::own()));
        let Answer::Kek { key, .. } = ask(&mut own, &Request::CreateKey { provider: "ta".into(), purpose }) else {
            panic!("no key");
        };
        key
    };
    let mut times = Vec::new();
    for number in 0..20 {
        let begun = Instant::now();
        ask(&mut agent, &attest);
        new_key(10_000 + number);
        times.push(begun.elapsed());
    }
    println!("attest and first KEK: {:?} (median of {})", median(times.clone()), times.len());

    let (begun, before) = (Instant::now(), cpu(site.authority.pid()));
    for _ in 0..ATTESTATIONS {
        ask(&mut agent, &attest);
    }
    let (took, used) = (begun.elapsed(), cpu(site.authority.pid()) - before);
    let per_second = |time: Duration| f64::from(ATTESTATIONS) / time.as_secs_f64();
    println!(
        "attestations: {:.0} a second of the authority's CPU, {:.0} a second by one host",
        per_second(used),
        per_second(took)
    );

    let keys: Vec<KeyName> = (0..KEYS).map(new_key).collect();
    let begun = Instant::now();
    let answer = ask(&mut agent, &Request::Prepare { keys });
    assert!(matches!(answer, Answer::Prepared), "{answer:?}");
    println!("{KEYS} unwraps: {:?}", begun.elapsed());
}
