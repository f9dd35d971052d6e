use super::*;
use parking_lot::Condvar;
use std::time::Duration;

const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(20);

fn name(name: &str) -> ProviderName {
    ProviderName::new(name).unwrap()
}

fn purpose() -> NewKey {
    NewKey { vm_name: "web01".into(), vm_uuid: uuid::Uuid::nil() }
}

/// Providers of these names, each with a primary key of its own.
fn providers(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    for added in names {
        add(&config, &name(added), "native", &Arguments::default(), false).unwrap();
    }
    (dir, config)
}

/// How many calls of a [`Gated`] provider are waiting, were ever waiting at once, and were made.
#[derive(Default)]
struct Calls {
    waiting: usize,
    most: usize,
    all: usize,
}

/// A provider whose fetches return when as many as `together` wait at once, or fail when that takes too long.
struct Gated {
    inner: Arc<dyn KeyProvider>,
    together: usize,
    calls: Mutex<Calls>,
    arrived: Condvar,
}

impl Gated {
    fn new(inner: Arc<dyn KeyProvider>, together: usize) -> Arc<Self> {
        Arc::new(Self { inner, together, calls: Mutex::default(), arrived: Condvar::new() })
    }
}

impl KeyProvider for Gated {
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.inner.create_key(purpose)
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>> {
        let mut calls = self.calls.lock();
        calls.all += 1;
        calls.waiting += 1;
        calls.most = calls.most.max(calls.waiting);
        self.arrived.notify_all();
        let alone =
            self.arrived.wait_while_for(&mut calls, |calls| calls.most < self.together, ARRIVAL_TIMEOUT).timed_out();
        drop(calls);
        thread::sleep(Duration::from_millis(1)); // lets more calls in, if there were more
        self.calls.lock().waiting -= 1;
        if alone { Err(Error::new(Kind::KeyUnavailable, "nobody else came")) } else { self.inner.fetch_key(key_id) }
    }
}

fn gate(providers: &Providers, gated: &str, together: usize) -> Arc<Gated> {
    let gate = Gated::new(providers.provider(&name(gated)).unwrap(), together);
    *providers.ready[&name(gated)].lock() = Some(gate.clone());
    gate
}

#[test]
fn providers_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Providers>();
}

#[test]
fn a_missing_provider_is_named_beside_those_that_are_there() {
    let (_dir, config) = providers(&["alpha", "beta"]);
    let error = Providers::load(&config).unwrap().provider(&name("gamma")).err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert_eq!(error.to_string(), "no key provider gamma; configured: alpha, beta");
}

#[test]
fn a_provider_that_cannot_be_set_up_stops_no_other_and_may_come_back() {
    let (dir, config) = providers(&["good", "broken"]);
    let key = dir.path().join("keys/broken.key");
    let aside = dir.path().join("aside");
    fs::rename(&key, &aside).unwrap();
    let providers = Providers::load(&config).unwrap();
    assert!(providers.provider(&name("good")).is_ok());
    assert_eq!(providers.provider(&name("broken")).err().unwrap().kind(), Kind::KeyUnavailable);
    fs::rename(&aside, &key).unwrap();
    assert!(providers.provider(&name("broken")).is_ok());
}

#[test]
fn the_default_is_the_first_provider_or_the_chosen_one() {
    let (_dir, config) = providers(&["first", "second"]);
    assert_eq!(Providers::load(&config).unwrap().default_provider().unwrap().0, name("first"));
    add(&config, &name("third"), "native", &Arguments::default(), true).unwrap();
    let providers = Providers::load(&config).unwrap();
    assert_eq!(providers.default_provider().unwrap().0, name("third"));
    assert_eq!(providers.names().map(ProviderName::as_str).collect::<Vec<_>>(), ["first", "second", "third"]);
}

#[test]
fn without_a_provider_the_error_says_how_to_make_one() {
    let (_dir, config) = providers(&[]);
    let error = Providers::load(&config).unwrap().default_provider().err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert!(error.to_string().contains("provider add native"), "{error}");
}

#[test]
fn each_key_is_fetched_once_and_side_by_side() {
    let (_dir, config) = providers(&["local"]);
    let providers = Providers::load(&config).unwrap();
    let gate = gate(&providers, "local", FETCHES_AT_ONCE);
    let made: Vec<(KeyId, Arc<dyn Kek>)> = (0..40).map(|_| gate.create_key(&purpose()).unwrap()).collect();
    let asked = made.iter().chain(&made).map(|(id, _)| id.clone());
    let fetched = providers.fetch_all(asked);
    assert_eq!(fetched.len(), 40);
    for (id, kek) in &made {
        let fetched = fetched[id].as_ref().unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(fetched.check().unwrap(), kek.check().unwrap());
    }
    let calls = gate.calls.lock();
    assert_eq!((calls.all, calls.most), (40, FETCHES_AT_ONCE));
}

#[test]
fn one_provider_does_not_wait_for_another() {
    let (_dir, config) = providers(&["stuck", "quick"]);
    let providers = Providers::load(&config).unwrap();
    let (stuck, quick) = (gate(&providers, "stuck", 3), gate(&providers, "quick", 1));
    let two = |gate: &Gated| (0..2).map(|_| gate.create_key(&purpose()).unwrap().0).collect::<Vec<_>>();
    let (stuck_ids, quick_ids) = (two(&stuck), two(&quick));
    thread::scope(|scope| {
        let all = scope.spawn(|| providers.fetch_all(stuck_ids.iter().chain(&quick_ids).cloned()));
        // Two calls to the stuck provider wait for a third, which only comes once the quick one has answered.
        let mut calls = quick.calls.lock();
        assert!(!quick.arrived.wait_while_for(&mut calls, |calls| calls.all < 2, ARRIVAL_TIMEOUT).timed_out());
        drop(calls);
        stuck.fetch_key(&stuck_ids[0]).unwrap();
        assert!(all.join().unwrap().values().all(Result::is_ok));
    });
}

#[test]
fn keys_that_cannot_be_had_do_not_take_others_with_them() {
    let (dir, config) = providers(&["good", "broken"]);
    let all = Providers::load(&config).unwrap();
    let made = |from: &str| all.provider(&name(from)).unwrap().create_key(&purpose()).unwrap().0;
    let (good, broken) = (made("good"), [made("broken"), made("broken")]);
    let gone = KeyId::new(name("gone"), "x").unwrap();
    let nonsense = KeyId::new(name("good"), "nonsense").unwrap();
    fs::remove_file(dir.path().join("keys/broken.key")).unwrap();

    let asked = [good.clone(), broken[0].clone(), broken[1].clone(), gone.clone(), nonsense.clone()];
    let fetched = Providers::load(&config).unwrap().fetch_all(asked);
    assert!(fetched[&good].is_ok());
    let failure = |id: &KeyId| fetched[id].as_ref().err().unwrap();
    for id in &broken {
        assert_eq!(failure(id).kind(), Kind::KeyUnavailable);
        assert_eq!(failure(id).os_error(), Some(2), "the cause is kept: {}", failure(id).chain());
    }
    assert_eq!(failure(&gone).kind(), Kind::KeyUnavailable);
    assert!(failure(&gone).chain().contains("configured: broken, good"), "{}", failure(&gone).chain());
    assert_eq!(failure(&nonsense).kind(), Kind::Corrupt);
}

#[test]
fn nothing_asked_is_nothing_fetched() {
    let (_dir, config) = providers(&[]);
    assert!(Providers::load(&config).unwrap().fetch_all([]).is_empty());
}

#[test]
fn a_round_trip_notices_a_provider_that_mixes_up_its_keys() {
    struct Confused(Arc<dyn KeyProvider>);
    impl KeyProvider for Confused {
        fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)> {
            self.0.create_key(purpose)
        }
        fn fetch_key(&self, _: &KeyId) -> Result<Arc<dyn Kek>> {
            Ok(self.0.create_key(&purpose())?.1)
        }
    }
    let (_dir, config) = providers(&["local"]);
    let (_, good) = Providers::load(&config).unwrap().default_provider().unwrap();
    assert!(round_trip(&*good).is_ok());
    assert_eq!(round_trip(&Confused(good)).unwrap_err().kind(), Kind::KeyRejected);
}

#[test]
fn a_key_file_that_no_provider_is_configured_for_is_not_lost() {
    let (dir, config) = providers(&["local"]);
    let key = fs::read(dir.path().join("keys/local.key")).unwrap();
    fs::remove_file(&config).unwrap();
    let error = add(&config, &name("local"), "native", &Arguments::default(), false).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains("primary-key = \"keys/local.key\""), "{error}");
    assert_eq!(fs::read(dir.path().join("keys/local.key")).unwrap(), key);
}

#[test]
fn a_provider_that_could_not_be_configured_leaves_no_key_behind() {
    let (dir, config) = providers(&["local"]);
    fs::create_dir_all(dir.path().join(".config.toml.new/obstacle")).unwrap();
    assert!(add(&config, &name("second"), "native", &Arguments::default(), false).is_err());
    assert!(!dir.path().join("keys/second.key").exists());
    assert!(dir.path().join("keys/local.key").exists());
}

/// A provider that is being set up holds its lock, for as long as its files take.
#[test]
fn notices_do_not_wait_for_a_provider_that_is_being_set_up() {
    let (_dir, config) = providers(&["stuck", "other"]);
    let providers = Providers::load(&config).unwrap();
    let _setting_up = providers.ready[&name("stuck")].lock();
    assert!(providers.take_notices().is_empty());
    assert!(providers.provider(&name("other")).is_ok());
}
