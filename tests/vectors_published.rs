//! Published test vectors: tests/vectors/published, whose README names the sources.
//!
//! Each test counts the vectors that it ran, so that a reader which finds none cannot pass.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;
use vmcryptfs::crypto::passphrase::{self, Cost};
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::crypto::xts::Engine;
use vmcryptfs::crypto::{aead, derive};
use vmcryptfs::error::{Kind, Result};
use vmcryptfs::key::Dek;
use vmcryptfs::sector::{SectorIndex, SectorSize};
use vmcryptfs::sys::SecretBytes;

/// Longest key or secret that crypto takes, in bytes.
const MAX_SECRET_LEN: usize = 64;

/// The format whose tweak is a number. (The one of 128-bit tweaks is in `crypto::xts`: no disk has those.)
#[test]
fn xts_of_nist() {
    let vectors = read("xts-nist");
    for vector in &vectors {
        let number = vector["number"].parse().unwrap();
        check_xts(&vector.bytes("key"), number, &vector.bytes("plain"), &vector.bytes("cipher"));
    }
    assert_eq!(vectors.len(), 600);
}

#[test]
fn xts_of_ieee_1619() {
    let vectors = read("xts-ieee1619");
    for vector in &vectors {
        let number = tweak_number(&vector.bytes("tweak")).expect("IEEE 1619 numbers data units with at most 5 bytes");
        check_xts(&vector.bytes("key"), number, &vector.bytes("plain"), &vector.bytes("cipher"));
    }
    assert_eq!(vectors.len(), 5);
}

#[test]
fn xts_of_wycheproof() {
    let mut ran = 0;
    for vector in read("xts-wycheproof") {
        let (plain, number) = (vector.bytes("plain"), tweak_number(&vector.bytes("tweak")));
        if let (Some(number), true) = (number, plain.len().is_multiple_of(16)) {
            assert!(vector.is_valid(), "{}", vector["id"]);
            check_xts(&vector.bytes("key"), number, &plain, &vector.bytes("cipher"));
            ran += 1;
        }
    }
    assert_eq!(ran, 13);
}

#[test]
fn kwp_of_nist_wraps() {
    let vectors = read("kwp-nist-wrap");
    for vector in &vectors {
        let wrapped = kek(&vector.bytes("kek")).wrap_key(&vector.bytes("key")).unwrap();
        assert_eq!(wrapped, vector.bytes("wrapped"), "{}", vector["id"]);
    }
    assert_eq!(vectors.len(), 400);
}

#[test]
fn kwp_of_nist_unwraps() {
    let (mut good, mut bad) = (0, 0);
    for vector in read("kwp-nist-unwrap") {
        let unwrapped = kek(&vector.bytes("kek")).unwrap_key(&vector.bytes("wrapped"));
        if vector.is_valid() {
            assert_eq!(*unwrapped.unwrap_or_else(|error| panic!("{error}")), *vector.bytes("key"));
            good += 1;
        } else {
            assert_eq!(kind(unwrapped), Kind::KeyRejected, "{}", vector["id"]);
            bad += 1;
        }
    }
    assert_eq!(good + bad, 400);
    assert!(bad >= 50, "{bad} invalid ones");
}

#[test]
fn kwp_of_wycheproof() {
    let (mut good, mut bad) = (0, 0);
    for vector in read("kwp-wycheproof") {
        let (kek, key, wrapped) = (kek(&vector.bytes("kek")), vector.bytes("key"), vector.bytes("wrapped"));
        if !vector.is_valid() {
            assert_eq!(kind(kek.unwrap_key(&wrapped)), Kind::KeyRejected, "{}", vector["id"]);
            bad += 1;
        } else if key.len() <= MAX_SECRET_LEN {
            assert_eq!(kek.wrap_key(&key).unwrap(), wrapped, "{}", vector["id"]);
            assert_eq!(*kek.unwrap_key(&wrapped).unwrap_or_else(|error| panic!("{error}")), *key);
            good += 1;
        }
    }
    assert_eq!((good, bad), (24, 69));
}

#[test]
fn hkdf_of_rfc_5869_and_wycheproof() {
    let (mut good, mut bad) = (0, 0);
    for file in ["hkdf-rfc5869", "hkdf-wycheproof"] {
        for vector in read(file) {
            let mut out = vec![0; vector["len"].parse().unwrap()];
            let [salt, secret, info] = ["salt", "secret", "info"].map(|name| vector.bytes(name));
            let derived = derive::hkdf_bytes(&salt, &secret, &info, &mut out);
            if vector.is_valid() {
                derived.unwrap();
                assert_eq!(out, vector.bytes("out"), "{file} {}", vector["id"]);
                good += 1;
            } else {
                assert_eq!(kind(derived), Kind::Invalid, "{file} {}", vector["id"]);
                bad += 1;
            }
        }
    }
    assert_eq!((good, bad), (4 + 83, 3));
}

#[test]
fn hmac_of_wycheproof() {
    let (mut good, mut bad) = (0, 0);
    for vector in read("hmac-wycheproof") {
        let [key, data, tag] = ["key", "data", "tag"].map(|name| vector.bytes(name));
        let valid = vector.is_valid();
        assert_eq!(derive::hmac(&key, &data)[..tag.len()] == tag[..], valid, "{}", vector["id"]);
        // Some tags are cut short: those must not pass as whole ones.
        assert_eq!(derive::hmac_verifies(&key, &data, &tag), valid && tag.len() == 32, "{}", vector["id"]);
        if valid { good += 1 } else { bad += 1 }
    }
    assert_eq!((good, bad), (66, 108));
}

#[test]
fn gcm_of_wycheproof() {
    let (mut good, mut bad) = (0, 0);
    for vector in read("gcm-wycheproof") {
        let [key, nonce, associated, secret] = ["key", "nonce", "associated", "plain"].map(|name| vector.bytes(name));
        if secret.len() > MAX_SECRET_LEN {
            continue;
        }
        let nonce = nonce.try_into().unwrap();
        let sealed = [vector.bytes("cipher"), vector.bytes("tag")].concat();
        let opened = aead::open(&key, &nonce, &associated, &sealed);
        if vector.is_valid() {
            assert_eq!(aead::seal(&key, &nonce, &associated, &secret).unwrap(), sealed, "{}", vector["id"]);
            assert_eq!(*opened.unwrap_or_else(|error| panic!("{error}")), *secret);
            good += 1;
        } else {
            assert_eq!(kind(opened), Kind::KeyRejected, "{}", vector["id"]);
            bad += 1;
        }
    }
    assert_eq!((good, bad), (29, 27));
}

/// The vectors with what the format uses: a salt of 16 bytes and a key of 32.
#[test]
fn argon2id_of_openssl() {
    let mut ran = 0;
    for vector in read("argon2id") {
        let (salt, wanted) = (vector.bytes("salt"), vector.bytes("out"));
        if let (Ok(salt), 32) = (salt.try_into(), wanted.len()) {
            let [memory_kib, passes, lanes] =
                ["memory_kib", "passes", "lanes"].map(|name| vector[name].parse().unwrap());
            let cost = Cost { memory_kib, passes, lanes };
            let key = passphrase::derive(&vector.bytes("passphrase"), &salt, &cost);
            assert_eq!(*key.unwrap_or_else(|error| panic!("{error}")), *wanted, "{}", vector["id"]);
            ran += 1;
        }
    }
    assert_eq!(ran, 2);
}

/// All engines, both directions, both ways to encrypt.
fn check_xts(key: &[u8], number: u64, plain: &[u8], wanted: &[u8]) {
    let dek = Dek::new(secret(key)).expect("XTS vectors have keys of 64 bytes");
    let (first, size) = (SectorIndex(number), SectorSize::SMALL);
    assert!(plain.len() <= size.in_memory(), "one data unit");
    for engine in Engine::available() {
        let cipher = engine.cipher(&dek).expect("halves differ");
        let mut data = vec![0; plain.len()];
        cipher.encrypt(first, size, plain, &mut data).expect("lengths are multiples of a block");
        assert_eq!(data, wanted, "{engine} encrypts data unit {number}");
        cipher.decrypt_in_place(first, size, &mut data).expect("as above");
        assert_eq!(data, plain, "{engine} decrypts data unit {number}");
        cipher.encrypt_in_place(first, size, &mut data).expect("as above");
        assert_eq!(data, wanted, "{engine} encrypts data unit {number} in place");
    }
}

/// The number that a little-endian tweak stands for, if a disk could have a sector of that number.
fn tweak_number(tweak: &[u8]) -> Option<u64> {
    let mut bytes = [0; 16];
    bytes[..tweak.len()].copy_from_slice(tweak);
    u64::try_from(u128::from_le_bytes(bytes)).ok()
}

fn kek(key: &[u8]) -> LocalKek {
    LocalKek::new(secret(key)).expect("KEKs of these vectors are 32 bytes")
}

fn secret(bytes: &[u8]) -> SecretBytes {
    let mut secret = SecretBytes::zeroed(bytes.len());
    secret.copy_from_slice(bytes);
    secret
}

fn kind<T>(result: Result<T>) -> Kind {
    result.map(drop).expect_err("an invalid vector was accepted").kind()
}

/// One vector: its fields by name.
struct Vector(BTreeMap<String, String>);

impl Vector {
    /// A field of hexadecimal digits.
    fn bytes(&self, name: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(self[name].as_bytes()).expect("fields of bytes are hexadecimal")
    }

    /// Sets without invalid vectors have no field for it.
    fn is_valid(&self) -> bool {
        match self.0.get("result").map(String::as_str) {
            None | Some("valid") => true,
            Some("invalid") => false,
            Some(other) => panic!("result {other}, expected valid or invalid"),
        }
    }
}

impl std::ops::Index<&str> for Vector {
    type Output = String;

    fn index(&self, name: &str) -> &String {
        self.0.get(name).unwrap_or_else(|| panic!("a vector without {name}: {:?}", self.0))
    }
}

/// The vectors of a file: lines `name = value`, each vector beginning with its `id`.
fn read(name: &str) -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/published/{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut vectors = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}: no field"));
        if name.trim() == "id" {
            vectors.push(Vector(BTreeMap::new()));
        }
        let vector = vectors.last_mut().expect("a vector begins with its id");
        vector.0.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    vectors
}
