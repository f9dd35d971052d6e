//! Credentials of tpm2-tools, for keys whose private part is known: what was sealed with a seed is sealed the same here.

use aws_lc_rs::agreement::{PrivateKey, agree};
use aws_lc_rs::rsa::{OaepPrivateDecryptingKey, PrivateDecryptingKey};
use data_encoding::HEXLOWER;

use super::*;
use crate::tpm::Reader;

const TEXT: &str = include_str!("../../../tests/vectors/tpm.txt");
/// Of the file that tpm2_makecredential writes: a magic number and a version.
const FILE_HEADER: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];

fn vector(name: &str) -> Vec<u8> {
    let line = TEXT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    HEXLOWER.decode(line.unwrap_or_else(|| panic!("no vector {name}")).as_bytes()).unwrap()
}

/// The endorsement key that tpm2-tools assume where they are given only a key: template L-1 or L-2 without its policy.
fn endorsement(which: &str) -> Public {
    let spki = vector(&format!("credential-{which}/public"));
    let storage =
        |kind| Writer::default().u16(kind).u16(0x000b).u32(0x0003_00b2).u16(0).u16(6).u16(128).u16(0x43).u16(0x10);
    let bytes = if which == "rsa" {
        let modulus = &spki[spki.len() - 5 - 256..spki.len() - 5];
        storage(1).u16(2048).u32(0).sized("modulus", modulus).unwrap()
    } else {
        let (x, y) = spki[spki.len() - 64..].split_at(32);
        storage(0x23).u16(3).u16(0x10).sized("x", x).unwrap().sized("y", y).unwrap()
    };
    let public = Public::from_tpmt(&bytes.finish()).unwrap();
    assert_eq!(spki_of(public.key()), spki, "keys are written as openssl writes them");
    public
}

/// The seed of a credential, by the private key.
fn seed(endorsement: &Public, which: &str, encrypted: &[u8]) -> Zeroizing<Vec<u8>> {
    let private = vector(&format!("credential-{which}/private"));
    let Key::Ecc { x, .. } = endorsement.key() else {
        let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(&private).unwrap()).unwrap();
        let mut seed = vec![0; key.min_output_size()];
        return Zeroizing::new(
            key.decrypt(&OAEP_SHA256_MGF1SHA256, encrypted, &mut seed, Some(OAEP_LABEL)).unwrap().to_vec(),
        );
    };
    let mut reader = Reader::new(encrypted);
    let (own_x, own_y) = (reader.sized("x", 32).unwrap(), reader.sized("y", 32).unwrap());
    reader.finish().unwrap();
    let peer = UnparsedPublicKey::new(&ECDH_P256, [&[UNCOMPRESSED][..], own_x, own_y].concat());
    let private = PrivateKey::from_private_key_der(&ECDH_P256, &private).unwrap();
    agree(&private, peer, (), |shared| Ok(kdfe(HashAlgorithm::Sha256, shared, IDENTITY, [own_x, x]))).unwrap()
}

/// Both parts of a credential: `TPM2B_ID_OBJECT`, and the content of `TPM2B_ENCRYPTED_SECRET`.
fn parts(file: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut reader = Reader::new(file.strip_prefix(&FILE_HEADER).unwrap());
    let object = reader.sized("object", 1024).unwrap();
    let encrypted = reader.sized("seed", 1024).unwrap();
    reader.finish().unwrap();
    (Writer::default().sized("object", object).unwrap().finish(), encrypted.to_vec())
}

#[test]
fn credentials_are_those_of_tpm2_tools() {
    for which in ["rsa", "ecc"] {
        let endorsement = endorsement(which);
        let name = Name::from_bytes(&vector(&format!("credential-{which}/name"))).unwrap();
        let secret = vector(&format!("credential-{which}/secret"));
        let (theirs, encrypted) = parts(&vector(&format!("credential-{which}/blob")));
        let same_seed = seed(&endorsement, which, &encrypted);
        assert_eq!(id_object(&endorsement, &same_seed, &name, &secret).unwrap(), theirs, "{which}");

        let ours = make(&endorsement, &name, &secret).unwrap();
        let file = [&FILE_HEADER[..], &ours.id_object, &ours.encrypted_secret].concat();
        let (object, encrypted) = parts(&file);
        let new_seed = seed(&endorsement, which, &encrypted);
        assert_ne!(new_seed, same_seed, "{which}: seeds are used once");
        assert_eq!(id_object(&endorsement, &new_seed, &name, &secret).unwrap(), object, "{which}");
    }
}

#[test]
fn a_point_that_is_not_on_its_curve_is_refused() {
    let bytes = endorsement("ecc").as_bytes().to_vec();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    let name = Name::from_bytes(&vector("credential-ecc/name")).unwrap();
    assert!(make(&Public::from_tpmt(&bytes).unwrap(), &name, &[1; 32]).is_ok());
    let error = make(&Public::from_tpmt(&changed).unwrap(), &name, &[1; 32]).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}
