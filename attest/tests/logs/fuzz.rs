//! Fuzzing of all readers of this part: event logs, userspace logs, policies, PE images. See [`mutation`](crate::mutation).

use vmcryptfs_attest::event_log::EventLog;
use vmcryptfs_attest::pcr::{HashAlgorithm, PcrSelection, PcrValues};
use vmcryptfs_attest::policy::{ApprovedSet, Policy};
use vmcryptfs_attest::predict::{PeImage, SectionOrder, Uki};
use vmcryptfs_attest::replay::{ReplayError, Replayed};
use vmcryptfs_attest::userspace_log::UserspaceLog;

use crate::memory::bound_memory;
use crate::mutation::fuzz;
use crate::{Boot, policy_of, recorded};

/// Seconds of each target where nobody asks for more.
const SECONDS: u64 = 1;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

const RECORD: &[u8] = b"\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\
    \"ff5b9d73dad709633ae76adf444012b57e913a12ed7403c3931145862f35f841\"}],\"content_type\":\"systemd\",\"content\":\
    {\"string\":\"os-separator\",\"bootId\":\"189c18dd7ba245f38cf49d9ac154b525\",\"timestamp\":1515761,\"eventType\":\
    \"os-separator\"}}\n";

/// The values that logs give, by what a replay says against values that are zero.
fn values_given(log: &EventLog<'_>, userspace: &UserspaceLog) -> Option<PcrValues> {
    let selection: PcrSelection = "sha256:0,4,7,11".parse().unwrap();
    let mut values = Vec::new();
    for register in selection.iter() {
        let one = PcrSelection::new(BANK, [register]);
        let zero = PcrValues::new(one, vec![vmcryptfs_attest::pcr::Digest::zero(BANK)]).unwrap();
        values.push(match Replayed::new(log, userspace, &zero) {
            Ok(replayed) => *replayed.values().get(register).unwrap(),
            Err(ReplayError::Differs(difference)) => difference.replayed,
            Err(ReplayError::Unusable(_)) => return None,
        });
    }
    PcrValues::new(selection, values).ok()
}

/// Reads logs as an authority does, to the verdict; all that is said of them can be shown.
fn judge(policy: &Policy, log: &[u8], userspace: &[u8]) {
    let (Ok(log), Ok(userspace)) = (EventLog::parse(log), UserspaceLog::parse(userspace)) else { return };
    for event in log.events() {
        let shown = event.description(BANK).to_string();
        assert!(shown.chars().all(|character| !character.is_control()) && shown.len() < 2000, "{shown:?}");
    }
    let Some(values) = values_given(&log, &userspace) else { return };
    let replayed = Replayed::new(&log, &userspace, &values).unwrap();
    if let Err(refusal) = policy.appraise("kvm-1", &replayed) {
        assert!(!refusal.to_string().is_empty());
    }
    let set = ApprovedSet::of_host("learned", "2026-11-30", &replayed, replayed.selection()).unwrap();
    assert_eq!(ApprovedSet::parse(&set.to_text()).unwrap().to_text(), set.to_text());
}

#[test]
fn mutated_event_logs_are_read_or_refused() {
    bound_memory();
    let boots = ["secure-boot", "secure-boot-off", "direct-kernel"].map(|name| Boot::read(&recorded(), name));
    let policy = policy_of(&boots[0]);
    let corpus = boots.map(|boot| boot.log);
    let words: [&[u8]; 6] =
        [b"Spec ID Event03\0", b"StartupLocality\0", b"\x0b\x00", b"\x03\0\0\0", b"\xff\xff\xff\xff", b"S\0e\0c\0"];
    fuzz("event-log", SECONDS, &corpus, &words, |_, _| {}, |input| judge(&policy, input, RECORD));
}

#[test]
fn mutated_userspace_logs_are_read_or_refused() {
    bound_memory();
    let boot = Boot::read(&recorded(), "direct-kernel");
    let policy = policy_of(&Boot::read(&recorded(), "secure-boot"));
    let words: [&[u8]; 8] = [b"\x1e", b"\n", b"\"", b"{", b"[", b"null", b"\"pcr\":7,", b"\\ud800"];
    fuzz("userspace-log", SECONDS, &[RECORD.repeat(3)], &words, |_, _| {}, |input| judge(&policy, &boot.log, input));
}

#[test]
fn mutated_policies_are_read_as_they_are_written() {
    bound_memory();
    let policy = policy_of(&Boot::read(&recorded(), "direct-kernel"));
    let words: [&[u8]; 8] = [b"[[class]]\n", b"sha256:", b"\"", b"[", b"{", b"*", b" = ", b"number = 4\n"];
    fuzz(
        "policy",
        SECONDS,
        &[policy.to_text().into_bytes()],
        &words,
        |_, _| {},
        |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            if let Ok(policy) = Policy::parse(text) {
                assert_eq!(Policy::parse(&policy.to_text()).unwrap().to_text(), policy.to_text());
            }
        },
    );
}

/// A small image with a section of each kind that stubs measure.
fn image() -> Vec<u8> {
    let names = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".pcrpkey"];
    let mut bytes = vec![0; 0x400];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(0x40, b"PE\0\0");
    put(0x46, &[6]);
    put(0x54, &240_u16.to_le_bytes());
    put(0x58, &0x20b_u16.to_le_bytes());
    put(0x58 + 60, &0x400_u32.to_le_bytes());
    put(0x58 + 108, &[16]);
    for (number, (name, place)) in names.iter().zip((0x400_u32..).step_by(16)).enumerate() {
        let header = 0x58 + 240 + 40 * number;
        put(header, name.as_bytes());
        put(header + 8, &[9]);
        put(header + 16, &[16]);
        put(header + 20, &place.to_le_bytes());
    }
    bytes.extend([b'x'; 16 * 6]);
    bytes
}

#[test]
fn mutated_images_are_hashed_or_refused() {
    bound_memory();
    Uki::parse(&image()).unwrap();
    let words: [&[u8]; 6] = [b"MZ", b"PE\0\0", b".linux\0\0", b".profile", b"\xff\xff\xff\xff", b"\x0b\x02"];
    fuzz(
        "image",
        SECONDS,
        &[image()],
        &words,
        |_, _| {},
        |input| {
            if let Ok(image) = PeImage::parse(input) {
                let _hash = image.authenticode(BANK);
            }
            if let Ok(uki) = Uki::parse(input) {
                assert!(uki.measured(BANK, SectionOrder::Uapi).len() >= 2);
            }
        },
    );
}
