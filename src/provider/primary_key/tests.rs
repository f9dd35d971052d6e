use super::*;
use crate::crypto::derive::sha256;
use crate::error::Kind;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A new primary key file in a folder of its own.
pub(in crate::provider) fn key_file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys/local.key");
    PrimaryKey::generate().unwrap().create(&path).unwrap();
    (dir, path)
}

#[test]
fn the_file_is_as_documented() {
    let (_dir, path) = key_file();
    let bytes = fs::read(&path).unwrap();
    let primary = PrimaryKey::load(&path).unwrap();
    assert_eq!(bytes.len(), 96);
    assert_eq!(bytes[..16], *b"VMCRYPTP\x01\0\0\0\0\0\0\0");
    assert_eq!(bytes[16..32], *primary.uuid().as_bytes());
    assert_eq!(bytes[32..64], *primary.bytes());
    assert_eq!(bytes[64..], sha256(&bytes[..64]));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn every_flipped_byte_of_a_primary_key_file_is_refused() {
    let (_dir, path) = key_file();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&path, bad).unwrap();
        let error = PrimaryKey::load(&path).err().unwrap_or_else(|| panic!("byte {at} is not looked at"));
        let expected = if (8..10).contains(&at) { Kind::Unsupported } else { Kind::Corrupt };
        assert_eq!(error.kind(), expected, "byte {at}: {}", error.chain());
        assert!(error.to_string().contains("local.key"), "{error}");
    }
    fs::write(&path, good).unwrap();
    assert!(PrimaryKey::load(&path).is_ok());
}

#[test]
fn reserved_bytes_are_refused_even_under_a_right_checksum() {
    let primary = PrimaryKey::generate().unwrap();
    let mut body = FORM.encode(primary.uuid(), primary.bytes());
    body[15] = 1;
    assert_eq!(FORM.decode(&body, sha256(&body)).err().unwrap().kind(), Kind::Corrupt);
}

#[test]
fn a_primary_key_file_has_one_length() {
    let (_dir, path) = key_file();
    let good = fs::read(&path).unwrap();
    for len in [0, 1, 95, 97] {
        let mut bad = good.clone();
        bad.resize(len, 0);
        fs::write(&path, bad).unwrap();
        assert_eq!(PrimaryKey::load(&path).err().unwrap().kind(), Kind::Corrupt, "{len} bytes");
    }
    let later = [b"VMCRYPTP\x02\0".as_slice(), &[0; 100]].concat();
    fs::write(&path, later).unwrap();
    assert_eq!(PrimaryKey::load(&path).err().unwrap().kind(), Kind::Unsupported, "a later version has its own length");
}

#[test]
fn a_missing_or_open_primary_key_file_says_how_to_go_on() {
    let (_dir, path) = key_file();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = PrimaryKey::load(&path).err().unwrap();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("mode 0640") && error.to_string().contains("chmod 600"), "{error}");

    fs::remove_file(&path).unwrap();
    let error = PrimaryKey::load(&path).err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert!(error.to_string().contains("restore"), "{error}");
}

#[test]
fn a_primary_key_is_never_overwritten_by_a_new_one() {
    let (_dir, path) = key_file();
    let before = fs::read(&path).unwrap();
    assert_eq!(PrimaryKey::generate().unwrap().create(&path).unwrap_err().kind(), Kind::Exists);
    assert_eq!(fs::read(&path).unwrap(), before);
}
