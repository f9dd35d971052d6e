//! Event logs, policies and predictions from outside: fuzzing, many logs, and boots of real guests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "figures and refusals of the ignored tests are for people")]

mod fuzz;
mod many;
mod measured_boot;
#[path = "../../../tests/fuzz/memory.rs"]
mod memory;
#[path = "../../../vmdk-layout/tests/it/mutation.rs"]
#[allow(clippy::cast_possible_truncation, dead_code, reason = "a choice among few; corpora are made here")]
mod mutation;

use std::fs;
use std::path::{Path, PathBuf};

use vmcryptfs_attest::pcr::{PcrSelection, PcrValues};
use vmcryptfs_attest::policy::{ApprovedSet, Evidence, Policy};

/// What hosts of these tests are quoted.
const QUOTED: &str = "sha256:0,2,4,7,9,11,12";

/// A boot that was recorded.
struct Boot {
    log: Vec<u8>,
    values: PcrValues,
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/boots")
}

impl Boot {
    fn read(folder: &Path, name: &str) -> Self {
        let text = fs::read_to_string(folder.join(name).with_extension("pcrs")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let selection: PcrSelection = QUOTED.parse().unwrap();
        let value = |number: u8| {
            let (found, digits) = lines[usize::from(number)].split_once(' ').unwrap();
            assert_eq!(found, number.to_string());
            format!("sha256:{digits}").parse().unwrap()
        };
        let values = selection.iter().map(|register| value(register.number())).collect();
        let log = fs::read(folder.join(name).with_extension("log")).unwrap();
        Self { log, values: PcrValues::new(selection, values).unwrap() }
    }

    fn evidence<'a>(&'a self, host: &'a str) -> Evidence<'a> {
        Evidence { host, firmware_log: &self.log, userspace_log: b"", values: &self.values }
    }
}

/// A policy for hosts that boot like this one: the platform and what is booted on it are sets of their own.
fn policy_of(boot: &Boot) -> Policy {
    let replayed = boot.evidence("kvm-1").replay().unwrap();
    let set = |name: &str, registers: &str| {
        let set = ApprovedSet::of_host(name, "2026-11-30", &replayed, registers.parse().unwrap()).unwrap();
        format!("[[set]]\n{}", set.to_text().replace("[[pcr]]", "[[set.pcr]]"))
    };
    let head = "format = 1\nname = \"fleet\"\nbank = \"sha256\"\n[[class]]\nname = \"compute\"\nhosts = [\"kvm-*\"]\n\
                level = \"pinned\"\nsets = [\"platform\", \"boot\"]\n";
    let text = format!("{head}{}{}", set("platform", "sha256:0,2,7"), set("boot", "sha256:4,9,11,12"));
    Policy::parse(&text).unwrap()
}
