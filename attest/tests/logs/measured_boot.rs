//! Guests that were booted for this, by scripts/tests/soak/measured-boot.sh.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use vmcryptfs_attest::pcr::{HashAlgorithm, PcrIndex};
use vmcryptfs_attest::policy::{Policy, Refusal, Rule};
use vmcryptfs_attest::predict::{BootFiles, SectionOrder, Uki, predict};

use crate::{Boot, policy_of};

const HOST: &str = "kvm-1";

fn folder() -> PathBuf {
    env::var_os("MEASURED_BOOTS").expect("MEASURED_BOOTS is not set: run scripts/tests/soak/measured-boot.sh").into()
}

fn refused(policy: &Policy, boot: &Boot) -> Refusal {
    *boot.evidence(HOST).appraise(policy).unwrap_err()
}

/// The next boot is refused, then predicted, approved and accepted. Returns the refusal.
fn predicted_and_approved(running: &Boot, next: &Boot, old: &BootFiles<'_>, new: &BootFiles<'_>) -> Refusal {
    let policy = policy_of(running);
    running.evidence(HOST).appraise(&policy).unwrap();
    let refusal = refused(&policy, next);
    let prediction = predict(&running.evidence(HOST).replay().unwrap(), old, new).unwrap();
    assert_eq!(prediction.unpredicted(), []);
    for predicted in prediction.registers() {
        assert_eq!(Some(&predicted.value), next.values.get(predicted.register), "{}", predicted.register);
    }
    let policy = policy.with_set(prediction.to_set("next", "2026-12-01").unwrap(), "compute").unwrap();
    assert_eq!(next.evidence(HOST).appraise(&policy).unwrap().sets(), ["platform", "next"]);
    assert_eq!(running.evidence(HOST).appraise(&policy).unwrap().sets(), ["platform", "boot"]);
    refusal
}

#[test]
#[ignore = "needs boots of guests: scripts/tests/soak/measured-boot.sh"]
fn changed_images_are_refused_and_accepted_once_predicted_and_approved() {
    let folder = folder();
    let image = |name: &str| fs::read(folder.join(name).with_extension("efi")).unwrap();
    let running = Boot::read(&folder, "secure-boot");
    let old = image("secure-boot");
    for (name, also_changed, section) in
        [("other-kernel", &[11][..], ".linux"), ("other-command-line", &[9, 11], ".cmdline")]
    {
        let (next, new) = (Boot::read(&folder, name), image(name));
        let refusal = predicted_and_approved(&running, &next, &BootFiles::Uki(&old), &BootFiles::Uki(&new));
        println!("{name}: {refusal}\n");
        assert_eq!((refusal.rule, refusal.register.unwrap().number()), (Rule::ApprovedSets, 4));
        assert!(refusal.event.unwrap().description.contains("BOOTX64.EFI"));
        assert_eq!(refusal.also.iter().map(|also| also.register).collect::<Vec<_>>(), also_changed);
        let also = refusal.also.iter().find(|also| also.register == 11).unwrap();
        assert!(also.event.as_ref().unwrap().description.contains(section));
    }
}

#[test]
#[ignore = "needs boots of guests: scripts/tests/soak/measured-boot.sh"]
fn a_kernel_of_a_boot_loader_is_predicted() {
    let folder = folder();
    let read = |name: &str, extension: &str| fs::read(folder.join(name).with_extension(extension)).unwrap();
    let files = |name: &str| {
        let line = String::from_utf8(read(name, "cmdline")).unwrap();
        (read(name, "kernel"), read(name, "initrd"), line)
    };
    let ((old, old_initrd, old_line), (new, new_initrd, new_line)) = (files("loader"), files("loader-next"));
    let [running, next] = ["loader", "loader-next"].map(|name| Boot::read(&folder, name));
    let old = BootFiles::Kernel { kernel: &old, initrd: Some(&old_initrd), command_line: &old_line };
    let new = BootFiles::Kernel { kernel: &new, initrd: Some(&new_initrd), command_line: &new_line };
    println!("loader-next: {}\n", predicted_and_approved(&running, &next, &old, &new));
}

#[test]
#[ignore = "needs boots of guests: scripts/tests/soak/measured-boot.sh"]
fn secure_boot_that_is_off_is_refused_whatever_is_approved() {
    let folder = folder();
    let off = Boot::read(&folder, "secure-boot-off");
    for policy in [policy_of(&Boot::read(&folder, "secure-boot")), policy_of(&off)] {
        let refusal = refused(&policy, &off);
        println!("secure-boot-off: {refusal}\n");
        assert_eq!((refusal.rule, refusal.register.unwrap().number()), (Rule::SecureBoot, 7));
        assert_eq!(refusal.event.unwrap().description, "the variable SecureBoot = 0");
    }
}

#[test]
#[ignore = "needs boots of guests: scripts/tests/soak/measured-boot.sh"]
fn pcr_11_is_that_of_systemd_measure_and_of_the_guest() {
    let folder: &Path = &folder();
    let image = fs::read(folder.join("secure-boot.efi")).unwrap();
    let expected = fs::read_to_string(folder.join("secure-boot.pcr-11")).unwrap();
    let value = Uki::parse(&image).unwrap().pcr_11(HashAlgorithm::Sha256, SectionOrder::Systemd252, &[]).unwrap();
    assert_eq!(value.to_string(), format!("sha256:{}", expected.trim()));
    assert_eq!(Boot::read(folder, "secure-boot").values.get(PcrIndex::new(11).unwrap()), Some(&value));
}
