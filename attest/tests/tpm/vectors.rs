//! The recorded statements of tests/vectors/tpm.txt: by name, and that each is read and accepted.

use vmcryptfs_attest::tpm::{Attestation, CreationData, Key, Public, Scheme, Signature, Statement};

use crate::hosts::{Host, KEYS, enrolled};

const TEXT: &str = include_str!("../vectors/tpm.txt");

/// The bytes with this name.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let line = TEXT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    data_encoding::HEXLOWER.decode(line.unwrap_or_else(|| panic!("no vector {name}")).as_bytes()).unwrap()
}

/// All bytes whose names end like this.
pub(crate) fn vectors(end: &str) -> Vec<Vec<u8>> {
    let names = TEXT.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| name.ends_with(end));
    names.map(|(_, digits)| data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()).collect()
}

#[test]
fn a_public_area_has_the_name_that_its_tpm_says() {
    for key in KEYS {
        let public = Public::from_tpm2b(&vector(&format!("one/{key}/public"))).unwrap();
        assert_eq!(public.name().as_bytes(), vector(&format!("one/{key}/name")), "{key}");
        assert_eq!(Public::from_tpmt(public.as_bytes()).unwrap(), public);
    }
    let rsa = Public::from_tpm2b(&vector("one/rsapss/public")).unwrap();
    assert!(matches!(rsa.key(), Key::Rsa { modulus } if modulus.len() == 256));
    assert!(matches!(rsa.scheme(), Scheme::RsaPss(_)));
}

#[test]
fn every_structure_is_read_whole_and_nothing_after_it() {
    type Reads = fn(&[u8]) -> bool;
    let readers: [(&str, Reads); 5] = [
        ("/public", |bytes| Public::from_tpm2b(bytes).is_ok()),
        ("/quote", |bytes| Attestation::read(bytes).is_ok()),
        ("/creation-statement", |bytes| Attestation::read(bytes).is_ok()),
        ("/creation-data", |bytes| CreationData::from_tpm2b(bytes).is_ok()),
        ("-signature", |bytes| Signature::read(bytes).is_ok()),
    ];
    for (name, reads) in readers {
        let all: Vec<_> = vectors(name).into_iter().filter(|bytes| !bytes.starts_with(&[0x30])).collect();
        assert!(all.len() >= 7, "{name}");
        for bytes in all {
            assert!(reads(&bytes), "{name}");
            assert!(!reads(&[&bytes[..], &[0]].concat()), "{name} with a byte after it");
            for len in 0..bytes.len() {
                assert!(!reads(&bytes[..len]), "{name} cut to {len} bytes");
            }
        }
    }
}

#[test]
fn statements_have_what_the_tools_asked_for() {
    let quote = Attestation::read(&vector("one/p256/quote")).unwrap();
    let Statement::Quote(info) = &quote.statement else { panic!("not a quote") };
    assert_eq!(format!("{:?}", info.selections), "[sha256:0,7,14]");
    assert!(quote.clock.safe);
    let creation = Attestation::read(&vector("one/p256/creation-statement")).unwrap();
    let Statement::Creation(info) = &creation.statement else { panic!("not a creation") };
    assert_eq!(info.name.as_bytes(), vector("one/p256/name"));
    let data = CreationData::from_tpm2b(&vector("one/p256/creation-data")).unwrap();
    let parent = Public::from_tpm2b(&vector("one/ek-rsa/public")).unwrap();
    assert_eq!(data.parent, Some(parent.name()));
}

#[test]
fn keys_of_all_schemes_enrol_and_attest() {
    for key in KEYS {
        let host = Host::recorded("one", key);
        let quoted = host.quoted(&enrolled(&host)).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(quoted.values().selection().to_string(), "sha256:0,7,14");
        assert_eq!(quoted.hpke_key().len(), 65);
    }
}
