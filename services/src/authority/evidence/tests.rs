use super::*;

fn sent(log: &[u8]) -> (PcrValues, AttestRequest) {
    let selection = PcrSelection::new(HashAlgorithm::Sha256, []);
    let [challenge, hpke_key, quote, signature, values, userspace_log] = [const { Blob(Vec::new()) }; 6];
    let firmware_log = Blob(log.to_vec());
    let call =
        AttestRequest { host: Uuid::nil(), challenge, hpke_key, quote, signature, values, firmware_log, userspace_log };
    (PcrValues::new(selection, Vec::new()).unwrap(), call)
}

#[test]
fn what_a_host_sent_last_comes_back_and_what_it_matched() {
    let dir = tempfile::tempdir().unwrap();
    let host = Uuid::from_u128(1);
    let store = EvidenceStore::load(dir.path().to_path_buf()).unwrap();
    assert!(store.newest(host).unwrap().is_none());
    let log = |store: &EvidenceStore| store.newest(host).unwrap().unwrap().0.firmware_log.0;
    let accept = |store: &EvidenceStore, sets: &[String], log: &[u8]| {
        let (values, call) = sent(log);
        store.accepted(host, ("measured", "kvm@1", sets), (&values, &call)).unwrap()
    };
    let [old, new] = ["old", "new"].map(|name| vec![name.to_owned()]);
    assert!(accept(&store, &old, b"one"));
    assert!(!accept(&store, &old, b"one"), "nothing is new");
    let since = store.note(host).attested.unwrap().since;
    assert!(!accept(&store, &old, b"two"));
    assert_eq!((log(&store).as_slice(), store.note(host).attested.unwrap().since), (&b"two"[..], since));

    let (values, call) = sent(b"three");
    store.refused(host, ("another kernel", None), (&values, &call)).unwrap();
    assert_eq!(log(&store), b"three");
    // What it matched before counts until it is accepted again; also after a restart.
    for store in [&store, &EvidenceStore::load(dir.path().to_path_buf()).unwrap()] {
        assert_eq!((store.sets_of(host), log(store).as_slice()), (Some(old.clone()), &b"three"[..]));
        assert_eq!(store.note(host).refused.unwrap().reason, "another kernel");
    }
    let store = EvidenceStore::load(dir.path().to_path_buf()).unwrap();
    assert!(accept(&store, &new, b"three"));
    assert_eq!(
        (store.note(host).refused, store.sets_of(host), log(&store).as_slice()),
        (None, Some(new), &b"three"[..])
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "evidence and note");
}

#[test]
fn what_another_tpm_of_a_host_sent_is_forgotten_but_not_the_sets_that_it_matched() {
    let dir = tempfile::tempdir().unwrap();
    let (host, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let store = EvidenceStore::load(dir.path().to_path_buf()).unwrap();
    let (values, call) = sent(b"one");
    let sets = ["old".to_owned()];
    store.accepted(host, ("measured", "kvm@1", &sets), (&values, &call)).unwrap();
    store.refused(host, ("another kernel", None), (&values, &call)).unwrap();
    store.forget_sent(host).unwrap();
    store.forget_sent(new).unwrap();
    for store in [&store, &EvidenceStore::load(dir.path().to_path_buf()).unwrap()] {
        assert!(store.newest(host).unwrap().is_none());
        assert_eq!((store.note(host).refused, store.sets_of(host)), (None, Some(sets.to_vec())));
        assert_eq!(store.sets_of(new), Some(Vec::new()));
    }
    store.accepted(host, ("measured", "kvm@1", &sets), (&values, &call)).unwrap();
    assert!(store.newest(host).unwrap().is_some());
}

#[test]
fn evidence_without_a_note_is_of_a_host_that_may_match_any_set() {
    let dir = tempfile::tempdir().unwrap();
    let host = Uuid::from_u128(1);
    private_file::create(&dir.path().join(format!("{host}.json")), &[b"{}"]).unwrap();
    let store = EvidenceStore::load(dir.path().to_path_buf()).unwrap();
    assert_eq!(store.sets_of(host), None);
    assert_eq!(store.sets_of(Uuid::nil()), Some(Vec::new()));
    assert_eq!(store.newest(host).map(drop).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_host_that_attests_several_times_at_once_is_kept_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = EvidenceStore::load(dir.path().to_path_buf()).unwrap();
    let keep = |thread: u8| {
        (0..10).for_each(|round| {
            let (values, call) = sent(&[thread, round]);
            store.accepted(Uuid::nil(), ("identity", "kvm@1", &[]), (&values, &call)).unwrap();
        });
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || keep(thread)))));
}
