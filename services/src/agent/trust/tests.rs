use std::net::TcpListener;
use std::thread;

use tempfile::TempDir;
use vmcryptfs::provider::private_file;

use super::enrolled::tests::enrolled;
use super::*;
use crate::authority::enrolment::Token;
use crate::tpm::QUOTE_LIMIT;
use crate::tpm::tests::emulator::Emulator;
use crate::trust_wire::Blob;

/// A host that has enrolled at authorities that do not answer, one for each number.
fn host(authorities: &[u8]) -> (TempDir, Trust) {
    let dir = tempfile::tempdir().unwrap();
    let trust = Trust::of(&dir.path().join("config.toml"));
    for number in authorities {
        let mut known = enrolled();
        known.urls = vec!["https://127.0.0.1:1".into()];
        (known.authority, known.pin) = (Uuid::from_u128((*number).into()), Pin([*number; 32]));
        EnrolledFiles::of(&trust.config).store(&known).unwrap();
    }
    (dir, trust)
}

#[test]
fn those_that_wait_for_an_attestation_that_fails_have_its_error() {
    let (_dir, trust) = host(&[1]);
    // The second one has not enrolled: that is asked again at once by those that come later.
    for (pin, trouble) in [(Pin([1; 32]), Trouble::AuthorityDown), (Pin([2; 32]), Trouble::Unattested)] {
        let members = Members::new(&["https://127.0.0.1:1".into()], pin, KEYS_LIMIT).unwrap();
        let waits_since = Instant::now();
        let error = trust.proved(&members, pin, Instant::now()).map(drop).unwrap_err();
        assert_eq!(Trouble::of(&error), Some(trouble));
        let session = trust.session(pin);
        let shared = session.lock().may_try(waits_since).unwrap_err();
        assert_eq!((shared.chain(), Trouble::of(&shared)), (error.chain(), Some(trouble)));
        assert_eq!(session.lock().may_try(Instant::now()).is_err(), trouble == Trouble::AuthorityDown);
        session.lock().learn(&Ok(()), |_| true);
        session.lock().may_try(waits_since).unwrap();
    }
}

#[test]
fn an_authority_that_does_not_answer_keeps_a_host_from_no_other() {
    let (_dir, trust) = host(&[1, 2]);
    assert!(trust.attest_at_all().is_err());
    let asked = trust.known().unwrap().iter().filter(|known| trust.status_of(known).trouble.is_some()).count();
    assert_eq!(asked, 2);
}

#[test]
fn a_key_waits_for_files_that_cannot_be_read() {
    let (dir, trust) = host(&[]);
    std::fs::write(dir.path().join("trust"), "not a folder").unwrap();
    let settings = Settings { authority: vec!["https://127.0.0.1:1".into()], pin: Pin([1; 32]) };
    let key_id = KeyId::new(ProviderName::new("ta").unwrap(), "id").unwrap();
    let error = trust.find(&settings, &key_id).map(drop).unwrap_err();
    assert_eq!((error.kind(), Trouble::of(&error)), (Kind::KeyUnavailable, Some(Trouble::Unattested)), "{error}");
}

#[test]
fn the_tpm_waits_for_no_authority() {
    let ((dir, trust), tpm) = (host(&[]), Emulator::start());
    let config = format!("[agent]\ntpm = {:?}\n", tpm.path());
    private_file::create(&dir.path().join("config.toml"), &[config.as_bytes()]).unwrap();
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let token = Token {
        authority: Uuid::from_u128(1),
        urls: vec![format!("https://{}", hangs.local_addr().unwrap())],
        pin: Blob(vec![1; 32]),
        id: Uuid::from_u128(2),
        secret: Blob(vec![3; 32]),
    };
    let token = token.to_text().unwrap();
    thread::scope(|scope| {
        let enrolls = scope.spawn(|| trust.enrol(&token, "kvm1", None).map(drop));
        let asked = hangs.accept().unwrap();
        let begun = Instant::now(); // that it is not answered is noticed after two seconds
        trust.machine.talk(QUOTE_LIMIT).unwrap().tpm.clock().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        drop(asked);
        assert_eq!(enrolls.join().unwrap().unwrap_err().kind(), Kind::KeyUnavailable);
    });
}
