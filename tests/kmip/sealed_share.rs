//! Shares of KEKs that are sealed to the TPM of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::host::Host;
use crate::testkit::tpm::Emulator;

fn configure(host: &Host, change: impl Fn(&str) -> String) {
    let config = host.path("config/config.toml");
    let text = fs::read_to_string(config).unwrap();
    fs::write(config, change(&text)).unwrap();
}

#[test]
fn a_sealed_share_opens_vms_by_its_own_tpm_only_and_the_copy_seals_it_again() {
    let (host, tpm, other) = (Host::configured(""), Emulator::start(), Emulator::start());
    let [socket, of_other] = [&tpm, &other].map(|tpm| tpm.path().display().to_string());
    let (vm, share, copy) = (host.path("web01"), host.path("share"), host.path("copy"));
    host.refuses(&["provider", "add", "native", "local", "--kek-share", "tpm"], 2, "give a file with --kek-share");
    host.run(&["provider", "add", "native", "local", "--kek-share", share]);
    host.run(&["create", vm]);
    host.run(&["create-disk", host.path("web01/root.raw"), "--size", "1M"]);
    host.refuses(&["provider", "seal", "local", "--tpm", host.path("none")], 4, "has no TPM 2.0");
    let said = host.run(&["provider", "seal", "local", "--tpm", &socket, "--pcrs", "7"]);
    assert!(said.contains("sealed kek-share"), "{said}");
    fs::rename(share, copy).unwrap();
    let text = fs::read_to_string(host.path("config/config.toml")).unwrap();
    assert!(text.contains("kek-share = \"tpm\"") && text.contains(&socket), "{text}");
    let secret = &fs::read(copy).unwrap()[32..64];
    let sealed = fs::read(host.path("config/keys/local.kek-share")).unwrap();
    assert!(!sealed.windows(32).any(|window| window == secret), "the share is in the file");

    host.run(&["check", vm]);
    assert!(host.run(&["provider", "test", "local"]).contains("works"));
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("notes"), "inside").unwrap();
    assert_eq!(fs::read(mount.path("root.raw")).unwrap().len(), 1 << 20);
    mount.unmount();

    // Another TPM opens nothing; a mount waits for none, and opens the VM once the right one is there.
    configure(&host, |text| text.replace(&socket, &of_other));
    host.refuses(&["rekey", vm], 4, "was sealed to another TPM");
    let mount = host.mount("web01", &[]);
    let refused = fs::read(mount.path("notes")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY));
    configure(&host, |text| text.replace(&of_other, &socket));
    host.run(&["unlock", &mount.root().display().to_string()]);
    assert_eq!(fs::read(mount.path("notes")).unwrap(), b"inside");
    mount.unmount();

    // A host that lost its TPM, or another host: from the copy.
    host.refuses(&["provider", "seal", "local", "--tpm", &of_other], 2, "--share");
    host.run(&["provider", "seal", "local", "--tpm", &of_other, "--share", copy]);
    drop(tpm);
    host.run(&["check", vm]);
    damage(&host, copy, &sealed);
    let backup = ["provider", "backup", "local", host.path("backup"), "--passphrase-file", host.path("passphrase")];
    fs::write(host.path("passphrase"), "correct horse").unwrap();
    let said = host.try_run(&backup);
    assert!(String::from_utf8_lossy(&said.stderr).contains("does not have the kek-share of local"), "{said:?}");
}

fn damage(host: &Host, copy: &str, of_former_tpm: &[u8]) {
    let (sealed, config) = (host.path("config/keys/local.kek-share"), host.path("config/config.toml"));
    let whole = fs::read(sealed).unwrap();
    fs::write(sealed, of_former_tpm).unwrap();
    host.refuses(&["provider", "test", "local"], 4, "was sealed to another TPM");
    let mut flipped = whole.clone();
    flipped[150] ^= 1;
    fs::write(sealed, flipped).unwrap();
    host.refuses(&["provider", "test", "local"], 3, "the sealed kek-share is damaged");
    fs::remove_file(sealed).unwrap();
    host.refuses(&["provider", "test", "local"], 4, "no sealed kek-share");
    fs::write(sealed, &whole).unwrap();
    let seal = ["provider", "seal", "local", "--share", copy];
    host.refuses(&seal, 7, "others than its owner can read");
    fs::set_permissions(sealed, fs::Permissions::from_mode(0o600)).unwrap();
    // Another share would open nothing of what there is.
    let second = Host::configured("");
    second.run(&["provider", "add", "native", "local", "--kek-share", second.path("share")]);
    let before = fs::read(config).unwrap();
    host.refuses(&["provider", "seal", "local", "--share", second.path("share")], 7, "have share");
    assert!(fs::read(config).unwrap() == before && Path::new(copy).exists());
    fs::remove_file(sealed).unwrap();
    host.run(&seal);
    host.refuses(&["provider", "seal", "nowhere"], 8, "no key provider nowhere");
}
