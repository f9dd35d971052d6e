use super::*;

#[test]
fn digests_have_the_length_of_their_algorithm() {
    for algorithm in HashAlgorithm::ALL {
        assert_eq!(HashAlgorithm::from_id(algorithm.id()), Some(algorithm));
        let len = algorithm.digest_len();
        for wrong in [0, len - 1, len + 1, 64 + 1] {
            assert_eq!(Digest::new(algorithm, &vec![0; wrong]).unwrap_err().kind(), Kind::Malformed);
        }
        let digest = Digest::of(algorithm, &[b"ab", b"c"]);
        assert_eq!(digest, Digest::of(algorithm, &[b"abc"]));
        assert_eq!(digest.as_bytes().len(), len);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!(format!("{digest}00").parse::<Digest>().is_err());
    }
    // FIPS 180-4, the example "abc".
    let sha256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Digest::of(HashAlgorithm::Sha256, &[b"abc"]).to_string(), sha256);
    for wrong in ["", "sha256", "sha256:", "md5:00", "sha256:zz"] {
        assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
    }
}

#[test]
fn a_register_is_extended_by_digests_of_its_bank() {
    let zero = Digest::zero(HashAlgorithm::Sha256);
    let measured = Digest::of(HashAlgorithm::Sha256, &[b"kernel"]);
    let extended = zero.extended(&measured).unwrap();
    assert_eq!(extended, Digest::of(HashAlgorithm::Sha256, &[&[0; 32], measured.as_bytes()]));
    assert_eq!(zero.extended(&Digest::zero(HashAlgorithm::Sha1)).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn selections_have_registers_that_there_are() {
    let selection: PcrSelection = "sha256:7,0,23,7".parse().unwrap();
    assert_eq!(selection.to_string(), "sha256:0,7,23");
    assert_eq!(selection.len(), 3);
    assert!(selection.contains(PcrIndex::new(23).unwrap()) && !selection.contains(PcrIndex::new(1).unwrap()));
    for wrong in ["sha256:24", "sha256:", "sha256:-1", "7", "sha256:4294967296", "sha3:7"] {
        assert!(wrong.parse::<PcrSelection>().is_err(), "{wrong}");
    }
    assert!(PcrIndex::new(256 + 7).is_err(), "numbers are not cut to a byte");
}

#[test]
fn there_are_as_many_values_as_registers() {
    let selection: PcrSelection = "sha256:4,7".parse().unwrap();
    let value = |text: &str| Digest::of(HashAlgorithm::Sha256, &[text.as_bytes()]);
    let values = PcrValues::new(selection, vec![value("4"), value("7")]).unwrap();
    assert_eq!(values.get(PcrIndex::new(7).unwrap()), Some(&value("7")));
    assert_eq!(values.get(PcrIndex::new(5).unwrap()), None);
    let both = [value("4").as_bytes(), value("7").as_bytes()].concat();
    assert_eq!(values.digest(HashAlgorithm::Sha384), Digest::of(HashAlgorithm::Sha384, &[&both]));
    assert!(PcrValues::new(selection, vec![value("4")]).is_err());
    assert!(PcrValues::new(selection, vec![value("4"), Digest::zero(HashAlgorithm::Sha384)]).is_err());
}
