//! The full published vector sets, where they are at hand: `../shared/vectors` from the project's root, or the folder
//! that `VMCRYPTFS_VECTORS` names. Where they are not, these tests say so and check nothing; the handful of published
//! values that must hold on every machine is in the unit tests of `crypto`.
//!
//! Each test counts the vectors that it ran, so that a reader which finds none cannot pass.

#![allow(clippy::print_stderr, reason = "a test that could not run must say so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::Value;
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

/// NIST CAVP, the format whose tweak is a number. (The one of 128-bit tweaks is in `crypto::xts`: no disk has those.)
#[test]
fn xts_of_nist() {
    let Some(text) = read("nist-cavp-xts/tweak-dataunitseqno/XTSGenAES256.rsp") else { return };
    let mut ran = 0;
    for vector in records(&text, "COUNT") {
        let bits: usize = vector["DataUnitLen"].parse().unwrap();
        if bits.is_multiple_of(128) {
            let number = vector["DataUnitSeqNumber"].parse().unwrap();
            check_xts(&vector.bytes("Key"), number, &vector.bytes("PT"), &vector.bytes("CT"));
            ran += 1;
        }
    }
    assert_eq!(ran, 600);
}

#[test]
fn xts_of_ieee_1619() {
    let Some(text) = read("ieee1619/openssl-evp-aes-xts.txt") else { return };
    let mut ran = 0;
    for vector in records(&text, "Cipher").iter().filter(|vector| vector["Cipher"] == "aes-256-xts") {
        let number = tweak_number(&vector.bytes("IV")).expect("IEEE 1619 numbers data units with at most 5 bytes");
        check_xts(&vector.bytes("Key"), number, &vector.bytes("Plaintext"), &vector.bytes("Ciphertext"));
        ran += 1;
    }
    assert_eq!(ran, 5);
}

#[test]
fn xts_of_wycheproof() {
    let Some(text) = read("wycheproof/aes_xts_test.json") else { return };
    let mut ran = 0;
    for vector in wycheproof(&text, |group| group["keySize"] == 512) {
        let (plain, number) = (vector.bytes("msg"), tweak_number(&vector.bytes("iv")));
        if let (Some(number), true) = (number, plain.len().is_multiple_of(16)) {
            assert_eq!(vector["result"], "valid");
            check_xts(&vector.bytes("key"), number, &plain, &vector.bytes("ct"));
            ran += 1;
        }
    }
    assert_eq!(ran, 13);
}

#[test]
fn kwp_of_nist_wraps() {
    let Some(text) = read("keywrap/KWP_AE_256.txt") else { return };
    let mut ran = 0;
    for vector in records(&text, "COUNT").iter().filter(|vector| vector.bytes("P").len() <= MAX_SECRET_LEN) {
        let wrapped = kek(&vector.bytes("K")).wrap_key(&vector.bytes("P")).unwrap();
        assert_eq!(wrapped, vector.bytes("C"), "COUNT {}", vector["COUNT"]);
        ran += 1;
    }
    assert_eq!(ran, 400);
}

#[test]
fn kwp_of_nist_unwraps() {
    let Some(text) = read("keywrap/KWP_AD_256.txt") else { return };
    let (mut good, mut bad) = (0, 0);
    for vector in records(&text, "COUNT").iter().filter(|vector| vector.bytes("C").len() <= MAX_SECRET_LEN + 8) {
        let unwrapped = kek(&vector.bytes("K")).unwrap_key(&vector.bytes("C"));
        if vector.0.contains_key("FAIL") {
            assert_eq!(kind(unwrapped), Kind::KeyRejected, "COUNT {}", vector["COUNT"]);
            bad += 1;
        } else {
            assert_eq!(*unwrapped.unwrap_or_else(|error| panic!("{error}")), *vector.bytes("P"));
            good += 1;
        }
    }
    assert_eq!(good + bad, 400);
    assert!(bad >= 50, "{bad} invalid ones");
}

#[test]
fn kwp_of_wycheproof() {
    let Some(text) = read("wycheproof/aes_kwp_test.json") else { return };
    let (mut good, mut bad) = (0, 0);
    for vector in wycheproof(&text, |group| group["keySize"] == 256) {
        let (kek, key, wrapped) = (kek(&vector.bytes("key")), vector.bytes("msg"), vector.bytes("ct"));
        if vector["result"] == "invalid" {
            assert_eq!(kind(kek.unwrap_key(&wrapped)), Kind::KeyRejected, "tcId {}", vector["tcId"]);
            bad += 1;
        } else if key.len() <= MAX_SECRET_LEN {
            assert_eq!(kek.wrap_key(&key).unwrap(), wrapped, "tcId {}", vector["tcId"]);
            assert_eq!(*kek.unwrap_key(&wrapped).unwrap_or_else(|error| panic!("{error}")), *key);
            good += 1;
        }
    }
    assert_eq!((good, bad), (24, 69));
}

#[test]
fn hkdf_of_rfc_5869_and_wycheproof() {
    let mut ran = 0;
    for file in ["kdf/rfc-5869-HKDF-SHA256.txt", "kdf/hkdf-generated.txt"] {
        let Some(text) = read(file) else { return };
        for vector in records(&text, "COUNT") {
            let mut out = vec![0; vector["L"].parse().unwrap()];
            let [salt, key, info] = ["salt", "IKM", "info"].map(|name| vector.bytes(name));
            derive::hkdf_bytes(&salt, &key, &info, &mut out).unwrap();
            assert_eq!(out, vector.bytes("OKM"), "{file} COUNT {}", vector["COUNT"]);
            ran += 1;
        }
    }
    assert_eq!(ran, 4);

    let Some(text) = read("wycheproof/hkdf_sha256_test.json") else { return };
    let (mut good, mut bad) = (0, 0);
    for vector in wycheproof(&text, |_| true) {
        let mut out = vec![0; vector["size"].parse().unwrap()];
        let [salt, key, info] = ["salt", "ikm", "info"].map(|name| vector.bytes(name));
        let derived = derive::hkdf_bytes(&salt, &key, &info, &mut out);
        if vector["result"] == "invalid" {
            assert_eq!(kind(derived), Kind::Invalid, "tcId {}", vector["tcId"]);
            bad += 1;
        } else {
            derived.unwrap();
            assert_eq!(out, vector.bytes("okm"), "tcId {}", vector["tcId"]);
            good += 1;
        }
    }
    assert_eq!((good, bad), (83, 3));
}

#[test]
fn hmac_of_wycheproof() {
    let Some(text) = read("wycheproof/hmac_sha256_test.json") else { return };
    let (mut good, mut bad) = (0, 0);
    for vector in wycheproof(&text, |_| true) {
        let [key, data, tag] = ["key", "msg", "tag"].map(|name| vector.bytes(name));
        let valid = vector["result"] == "valid";
        assert_eq!(derive::hmac(&key, &data)[..tag.len()] == tag[..], valid, "tcId {}", vector["tcId"]);
        // Some tags are cut short: those must not pass as whole ones.
        assert_eq!(derive::hmac_verifies(&key, &data, &tag), valid && tag.len() == 32, "tcId {}", vector["tcId"]);
        if valid { good += 1 } else { bad += 1 }
    }
    assert_eq!((good, bad), (66, 108));
}

#[test]
fn gcm_of_wycheproof() {
    let Some(text) = read("wycheproof/aes_gcm_test.json") else { return };
    let (mut good, mut bad) = (0, 0);
    for vector in wycheproof(&text, |group| group["keySize"] == 256 && group["ivSize"] == 96) {
        let [key, nonce, associated, secret] = ["key", "iv", "aad", "msg"].map(|name| vector.bytes(name));
        if secret.len() > MAX_SECRET_LEN {
            continue;
        }
        let nonce = nonce.try_into().unwrap();
        let sealed = [vector.bytes("ct"), vector.bytes("tag")].concat();
        let opened = aead::open(&key, &nonce, &associated, &sealed);
        if vector["result"] == "invalid" {
            assert_eq!(kind(opened), Kind::KeyRejected, "tcId {}", vector["tcId"]);
            bad += 1;
        } else {
            assert_eq!(aead::seal(&key, &nonce, &associated, &secret).unwrap(), sealed, "tcId {}", vector["tcId"]);
            assert_eq!(*opened.unwrap_or_else(|error| panic!("{error}")), *secret);
            good += 1;
        }
    }
    assert_eq!((good, bad), (29, 27));
}

/// Those with what the format uses: a salt of 16 bytes, a key of 32, no secret and no associated data.
#[test]
fn argon2id_of_openssl() {
    let Some(text) = read("kdf/argon2id.txt") else { return };
    let mut ran = 0;
    for vector in records(&text, "COUNT").iter().filter(|vector| !vector.0.contains_key("secret")) {
        let (salt, wanted) = (vector.bytes("salt"), vector.bytes("output"));
        if let (Ok(salt), 32) = (salt.try_into(), wanted.len()) {
            let [memory_kib, passes, lanes] = ["memcost", "iter", "lanes"].map(|name| vector[name].parse().unwrap());
            let cost = Cost { memory_kib, passes, lanes };
            let key = passphrase::derive(&vector.bytes("pass"), &salt, &cost).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(*key, *wanted, "COUNT {}", vector["COUNT"]);
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
}

impl std::ops::Index<&str> for Vector {
    type Output = String;

    fn index(&self, name: &str) -> &String {
        self.0.get(name).unwrap_or_else(|| panic!("a vector without {name}: {:?}", self.0))
    }
}

/// Vectors of lines `name = value`, each beginning with the field `opens`. A line `FAIL` is a field too.
fn records(text: &str, opens: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '['])) {
        let (name, value) = line.split_once('=').map_or((line, ""), |(name, value)| (name.trim(), value.trim()));
        if name == opens {
            vectors.push(Vector(BTreeMap::new()));
        }
        if let Some(vector) = vectors.last_mut() {
            vector.0.insert(name.to_owned(), value.to_owned());
        }
    }
    vectors
}

/// Vectors of those groups of a Wycheproof file that are wanted.
fn wycheproof(text: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Vector> {
    let file: Value = serde_json::from_str(text).expect("Wycheproof's files are JSON");
    let groups = file["testGroups"].as_array().expect("Wycheproof's files have groups").iter();
    let vectors = groups.filter(|group| wanted(group)).flat_map(|group| group["tests"].as_array()).flatten();
    vectors
        .map(|vector| {
            let fields = vector.as_object().expect("a Wycheproof vector has fields").iter();
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Vector(fields.map(|(name, value)| (name.clone(), text(value))).collect())
        })
        .collect()
}

/// A file of the published sets; `None`, and a word about it, on a machine that does not have them.
fn read(file: &str) -> Option<String> {
    let folder = std::env::var_os("VMCRYPTFS_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    if !folder.is_dir() {
        eprintln!("NOT RUN: {file}, for the published vectors are not in {}", folder.display());
        return None;
    }
    let path = folder.join(file);
    Some(fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}
