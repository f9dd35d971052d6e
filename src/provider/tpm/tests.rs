use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;
use std::{fs, thread};

use super::*;
use emulator::Emulator;

#[path = "../../../tests/testkit/tpm.rs"]
mod emulator;

fn secret() -> SecretBytes {
    let mut secret = SecretBytes::zeroed(48);
    secret.fill(0x5a);
    secret
}

fn open(emulator: &Emulator) -> Tpm {
    Tpm::open(&emulator.path(), LIMIT).unwrap()
}

#[test]
fn what_was_sealed_is_unsealed_by_the_same_tpm_also_after_a_restart() {
    let mut emulator = Emulator::start();
    for pcrs in [Pcrs::default(), Pcrs::parse("7, 11").unwrap()] {
        let object = open(&emulator).seal(&secret(), pcrs).unwrap();
        for _ in 0..4 {
            // More often than it has room for: nothing stays loaded.
            assert_eq!(*open(&emulator).unseal(&object).unwrap(), *secret());
        }
        emulator.restart();
        assert_eq!(*open(&emulator).unseal(&object).unwrap(), *secret());
    }
}

#[test]
fn another_tpm_unseals_nothing() {
    let (emulator, other) = (Emulator::start(), Emulator::start());
    let object = open(&emulator).seal(&secret(), Pcrs::default()).unwrap();
    let error = open(&other).unseal(&object).err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert!(error.to_string().contains("another TPM"), "{error}");
}

#[test]
fn every_changed_byte_of_an_object_is_refused_and_leaves_nothing_loaded() {
    let emulator = Emulator::start();
    let object = open(&emulator).seal(&secret(), Pcrs::default()).unwrap();
    for at in (0..object.private.len()).step_by(5) {
        let mut changed = object.clone();
        changed.private[at] ^= 1;
        let error = open(&emulator).unseal(&changed).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "byte {at} of the private part: {}", error.chain());
    }
    for at in (0..object.public.len()).step_by(3) {
        let mut changed = object.clone();
        changed.public[at] ^= 1;
        assert!(open(&emulator).unseal(&changed).is_err(), "byte {at} of the public part");
    }
    assert_eq!(*open(&emulator).unseal(&object).unwrap(), *secret());
}

/// What lies between this program and a TPM: `change` gets the number of each response, from 0, and its bytes.
fn between(emulator: &Emulator, change: impl Fn(usize, &mut Vec<u8>) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("between");
    let listener = UnixListener::bind(&path).unwrap();
    let tpm = emulator.path();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut tpm = std::os::unix::net::UnixStream::connect(tpm).unwrap();
        let mut bytes = vec![0; 4096];
        for number in 0.. {
            let Ok(len @ 1..) = client.read(&mut bytes) else { return };
            tpm.write_all(&bytes[..len]).unwrap();
            let len = tpm.read(&mut bytes).unwrap();
            let mut response = bytes[..len].to_vec();
            change(number, &mut response);
            if client.write_all(&response).is_err() {
                return;
            }
        }
    });
    (folder, path)
}

#[test]
fn a_device_between_neither_reads_nor_changes_what_is_unsealed() {
    let emulator = Emulator::start();
    let object = open(&emulator).seal(&secret(), Pcrs::default()).unwrap();
    // ReadPublic, CreatePrimary, Load, StartAuthSession, Unseal.
    const UNSEAL: usize = 4;
    let (_folder, path) = between(&emulator, |number, response| {
        if number == UNSEAL {
            assert!(!response.windows(8).any(|window| window == [0x5a; 8]), "the secret is in the clear");
            response[20] ^= 1;
        }
    });
    let error = Tpm::open(&path, LIMIT).unwrap().unseal(&object).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("changed on its way"), "{error}");
}

#[test]
fn other_values_of_pcrs_unseal_nothing() {
    let mut emulator = Emulator::start();
    let object = open(&emulator).seal(&secret(), Pcrs::parse("7").unwrap()).unwrap();
    let mut tpm = open(&emulator);
    tpm.extend(7);
    drop(tpm);
    let error = open(&emulator).unseal(&object).err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert!(error.to_string().contains("PCRs have other values"), "{error}");
    emulator.restart();
    assert_eq!(*open(&emulator).unseal(&object).unwrap(), *secret(), "a restart gives them their values back");
}

impl Tpm {
    /// Extends a PCR, as firmware does.
    fn extend(&mut self, pcr: u32) {
        let digests = Writer::default().u32(1).u16(ALG_SHA256).raw(&[7; 32]).finish();
        self.by_password(commands::Command { code: 0x182, called: "PCR_Extend" }, pcr, &digests).unwrap();
    }
}

/// A TPM that answers each command with these bytes; with none, it hangs.
fn answering(answer: Option<Vec<u8>>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tpm");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut bytes = vec![0; 4096];
            while let Ok(1..) = client.read(&mut bytes) {
                if let Some(answer) = &answer
                    && client.write_all(answer).is_err()
                {
                    break;
                }
            }
        }
    });
    (folder, path)
}

fn response(code: u32) -> Vec<u8> {
    Writer::default().u16(0x8001).u32(10).u32(code).finish()
}

#[test]
fn a_tpm_that_hangs_or_never_has_time_costs_no_more_than_the_limit() {
    const SHORT: Duration = Duration::from_millis(150);
    for answer in [None, Some(response(0x922)), Some(response(0)[..4].to_vec())] {
        let (_folder, path) = answering(answer);
        let began = Instant::now();
        let error = Tpm::open(&path, SHORT).unwrap().seal(&secret(), Pcrs::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::KeyUnavailable);
        assert!(error.to_string().contains("did not answer within 150ms"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn what_a_tpm_refuses_or_answers_with_nonsense_is_an_error_that_says_so() {
    for (answer, kind, words) in [
        (response(0x921), Kind::KeyUnavailable, "locked out"),
        (response(0x9a2), Kind::Denied, "has a password"),
        (response(0), Kind::Io, "ends early"),
        (vec![0xff; 10], Kind::Io, "talking to the TPM"),
        (vec![0; 4096], Kind::Io, "talking to the TPM"),
        (Writer::default().u16(0x8001).u32(12).u32(0).u16(9).finish(), Kind::Io, "ends early"),
    ] {
        let (_folder, path) = answering(Some(answer));
        let error = Tpm::open(&path, LIMIT).unwrap().seal(&secret(), Pcrs::default()).err().unwrap();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(words), "{}", error.chain());
    }
}

#[test]
fn what_is_no_tpm_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tpm::open(&folder.path().join("none"), LIMIT).err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert!(error.to_string().contains("has no TPM 2.0"), "{error}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(Tpm::open(&file, LIMIT).err().unwrap().kind(), Kind::Invalid);
    let gone = folder.path().join("gone");
    drop(UnixListener::bind(&gone).unwrap());
    assert_eq!(Tpm::open(&gone, LIMIT).err().unwrap().kind(), Kind::KeyUnavailable);
}

#[test]
fn pcrs_are_numbers_from_0_to_23() {
    assert_eq!(Pcrs::parse("0, 7,23").unwrap(), Pcrs(1 | 1 << 7 | 1 << 23));
    for wrong in ["", "24", "7,", "-1", "7;8", "sha256:7"] {
        assert_eq!(Pcrs::parse(wrong).unwrap_err().kind(), Kind::Invalid, "{wrong}");
    }
    assert_eq!(Pcrs::from_bits(1 << 24).unwrap_err().kind(), Kind::Corrupt);
}
