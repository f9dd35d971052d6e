use super::*;
use crate::provider::{Arguments, add};
use std::fs;

/// As cheap as Argon2 gets: these tests are about the file, not about guessing.
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
const PASSPHRASE: &[u8] = b"correct horse";

fn name(name: &str) -> ProviderName {
    ProviderName::new(name).unwrap()
}

fn sample() -> (Backup, Vec<u8>) {
    let backup = Backup { provider: name("local"), primary: PrimaryKey::generate().unwrap() };
    let bytes = backup.seal(PASSPHRASE, CHEAP).unwrap();
    (backup, bytes)
}

fn unseal(bytes: &[u8], passphrase: &[u8]) -> Result<Backup> {
    SealedBackup::decode(bytes).and_then(|sealed| sealed.open(passphrase))
}

/// A host with one provider, and its configuration file.
fn host(provider: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    add(&config, &name(provider), "native", &Arguments::default(), false).unwrap();
    (dir, config)
}

#[test]
fn the_passphrase_opens_what_it_sealed() {
    let (backup, bytes) = sample();
    assert!(unseal(&bytes, PASSPHRASE).unwrap() == backup);
}

#[test]
fn the_file_is_as_documented() {
    let (backup, bytes) = sample();
    assert_eq!(bytes.len(), 68 + "local".len() + 48 + 32);
    assert_eq!(bytes[..24], *b"VMCRYPTB\x01\0\x05\0\x08\0\0\0\x01\0\0\0\x01\0\0\0");
    assert_eq!(bytes[52..68], *backup.primary_uuid().as_bytes());
    assert_eq!(bytes[68..73], *b"local");
    let key = passphrase::derive(PASSPHRASE, &bytes[24..40].try_into().unwrap(), &CHEAP).unwrap();
    let opened = aead::open(&key, &bytes[40..52].try_into().unwrap(), &bytes[..73], &bytes[73..121]).unwrap();
    assert_eq!(*opened, *backup.primary.bytes());
    assert_eq!(bytes[121..], sha256(&bytes[..121]));
}

/// The file with its checksum made right.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - CHECKSUM_LEN;
    let checksum = sha256(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum);
    bytes
}

#[test]
fn damage_needs_no_passphrase_to_be_seen() {
    let (_, good) = sample();
    for at in 0..good.len() {
        for bit in [0x01, 0x40] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            let expected = if (8..10).contains(&at) { Kind::Unsupported } else { Kind::Corrupt };
            assert_eq!(SealedBackup::decode(&bad).err().unwrap().kind(), expected, "byte {at}");
        }
    }
}

/// Someone without the passphrase can make a checksum, but not the tag.
#[test]
fn every_change_with_a_mended_checksum_is_refused() {
    let (_, good) = sample();
    let mut past_the_limits = 0;
    for at in 0..good.len() - CHECKSUM_LEN {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        if let Ok(sealed) = SealedBackup::decode(&summed(bad)) {
            past_the_limits += 1;
            assert_eq!(sealed.open(PASSPHRASE).err().unwrap().kind(), Kind::KeyRejected, "byte {at} is not looked at");
        }
    }
    assert!(past_the_limits > 90, "salt, nonce, uuid and the sealed key are free bytes: {past_the_limits}");
}

#[test]
fn impossible_content_is_damage_even_under_a_right_checksum() {
    let (_, good) = sample();
    for at in (0..8).chain(10..12).chain([14, 15, 17, 18, 19, 21, 22, 23, 68]) {
        let mut bad = good.clone();
        bad[at] ^= 0xe0;
        assert_eq!(SealedBackup::decode(&summed(bad)).err().unwrap().kind(), Kind::Corrupt, "byte {at}");
    }
    for len in 0..good.len() {
        assert_eq!(SealedBackup::decode(&good[..len]).err().unwrap().kind(), Kind::Corrupt, "{len} bytes");
    }
    for longer in [[good.as_slice(), &[0]].concat(), summed([good.as_slice(), &[0]].concat())] {
        assert_eq!(SealedBackup::decode(&longer).err().unwrap().kind(), Kind::Corrupt);
    }
}

#[test]
fn wrong_passphrase_and_later_version_are_not_damage() {
    let (_, good) = sample();
    assert_eq!(unseal(&good, b"correct house").err().unwrap().kind(), Kind::KeyRejected);
    let mut later = good;
    later[8] = 2;
    assert_eq!(SealedBackup::decode(&later).err().unwrap().kind(), Kind::Unsupported);
}

#[test]
fn costs_are_judged_before_they_are_paid() {
    let (backup, good) = sample();
    let cases = [(7, 1, 1), (4_194_305, 1, 1), (8, 0, 1), (8, 65, 1), (8, 1, 0), (136, 1, 17), (15, 1, 2), (0, 0, 0)];
    for (memory_kib, passes, lanes) in cases {
        let mut bad = good.clone();
        for (at, parameter) in [(12, memory_kib), (16, passes), (20, lanes)] {
            bad[at..at + 4].copy_from_slice(&u32::to_le_bytes(parameter));
        }
        let refused = SealedBackup::decode(&summed(bad)).err().unwrap();
        assert_eq!(refused.kind(), Kind::Corrupt, "{memory_kib} {passes} {lanes}");
        let refused = backup.seal(PASSPHRASE, Cost { memory_kib, passes, lanes });
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "{memory_kib} {passes} {lanes}");
    }
    assert!(check_cost(Cost { memory_kib: 4_194_304, passes: 64, lanes: 16 }).is_ok());
    assert!(check_cost(COST).is_ok());
}

#[test]
fn the_configuration_says_backed_up_only_when_the_file_was_written() {
    let (dir, config) = host("local");
    let file = dir.path().join("backup");
    fs::write(&file, "something else").unwrap();
    let backup = Backup::of(&config, &name("local")).unwrap();
    let backed_up =
        || Config::load(&config).unwrap().settings(&name("local")).unwrap().primary_key().unwrap().unwrap().backed_up;
    assert_eq!(backup.write(&config, &file, PASSPHRASE, CHEAP).unwrap_err().kind(), Kind::Exists);
    assert_eq!((fs::read(&file).unwrap().as_slice(), backed_up()), (b"something else".as_slice(), false));
    fs::remove_file(&file).unwrap();
    backup.write(&config, &file, PASSPHRASE, CHEAP).unwrap();
    assert!(backed_up());
    assert!(SealedBackup::read(&file).unwrap().open(PASSPHRASE).unwrap() == backup);
}

#[test]
fn restoring_keeps_to_the_name_of_the_provider() {
    let (backup, bytes) = sample();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    let early = SealedBackup::decode(&bytes).unwrap().expect_provider(&name("other")).unwrap_err();
    let late = backup.restore(&config, &name("other")).unwrap_err();
    for error in [early, late] {
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("of provider local, not other"), "{error}");
    }
    assert!(!config.exists());
}

#[test]
fn restoring_never_overwrites_another_primary_key() {
    let (backup, _) = sample();
    let (dir, config) = host("local");
    let key = dir.path().join("keys/local.key");
    let before = (fs::read(&key).unwrap(), fs::read(&config).unwrap());
    let error = backup.restore(&config, &name("local")).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains(&backup.primary_uuid().to_string()), "{error}");
    assert_eq!((fs::read(&key).unwrap(), fs::read(&config).unwrap()), before);

    let forged = PrimaryKey::new(PrimaryKey::load(&key).unwrap().uuid(), SecretBytes::zeroed(32)).unwrap();
    let forged = Backup { provider: name("local"), primary: forged };
    assert_eq!(forged.restore(&config, &name("local")).unwrap_err().kind(), Kind::Exists);
    assert_eq!(fs::read(&key).unwrap(), before.0);
}

#[test]
fn restoring_mends_a_damaged_key_file_that_is_still_recognised() {
    let (dir, config) = host("local");
    let key = dir.path().join("keys/local.key");
    let backup = Backup::of(&config, &name("local")).unwrap();
    let good = fs::read(&key).unwrap();
    let damaged = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    fs::write(&key, damaged(40)).unwrap();
    backup.restore(&config, &name("local")).unwrap();
    assert_eq!(fs::read(&key).unwrap(), good);

    for unrecognised in [damaged(0), damaged(16), good[..20].to_vec(), Vec::new()] {
        fs::write(&key, &unrecognised).unwrap();
        assert_eq!(backup.restore(&config, &name("local")).unwrap_err().kind(), Kind::Exists);
        assert_eq!(fs::read(&key).unwrap(), unrecognised);
    }
}

#[test]
fn restoring_twice_is_as_good_as_once() {
    let (backup, _) = sample();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    let path = backup.restore(&config, &name("local")).unwrap();
    let key = fs::read(&path).unwrap();
    assert_eq!(backup.restore(&config, &name("local")).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), key);
}

#[test]
fn a_key_that_was_wiped_and_restored_is_not_called_wiped_when_it_is_lost_later() {
    let (_dir, config) = host("local");
    let configured = Config::load(&config).unwrap();
    let settings = primary_key_of(configured.settings(&name("local")).unwrap()).unwrap();
    let path = settings.primary_key_of(&config);
    let (generations, primary) = (Generations::of(path.clone()), PrimaryKey::load(&path).unwrap());
    let backup = Backup { provider: name("local"), primary };
    let why = || generations.current().map(drop).unwrap_err().chain();
    assert!(generations.wipe(backup.primary_uuid()).unwrap() && why().contains("was wiped"));
    backup.restore(&config, &name("local")).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(why().contains("restore it from its backup"), "{}", why());
}
