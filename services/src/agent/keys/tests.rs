use std::time::Duration;

use vmcryptfs::format::cluster::Name;

use super::*;

fn pushed_provider() -> PushedProvider {
    PushedProvider {
        name: ProviderName::new("corp").unwrap(),
        kind: Name::new("kind", "kmip").unwrap(),
        uuid: Uuid::from_u128(1),
        since: 1,
        life: Duration::from_secs(60),
        persists: false,
        keepers: Vec::new(),
        places: Vec::new(),
    }
}

fn document(pushed: Vec<PushedProvider>) -> Document {
    Document {
        epoch: 1,
        cluster: Uuid::from_u128(2),
        previous: [0; 32],
        name: Name::new("cluster", "prod").unwrap(),
        threshold: 1,
        admins: Vec::new(),
        admins_since: 0,
        resumed: 0,
        members: Vec::new(),
        providers: Vec::new(),
        pushed,
    }
}

fn keys(dir: &tempfile::TempDir) -> Keys {
    let config = dir.path().join("config.toml");
    drop(HostFiles::of(&config).lock().unwrap()); // makes the host's folder
    Keys::load(&config, Arc::new(Pushed::load(&config).unwrap())).unwrap()
}

#[test]
fn a_pushed_provider_is_forgotten_until_its_keys_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, corp) = (keys(&dir), pushed_provider());
    let document = document(vec![corp.clone()]);
    keys.act_on_pushed(&document, &corp, PushRole::Receiver).unwrap();
    assert!(keys.pushed().has(&corp.name) && keys.forgotten().is_empty());
    keys.forget("the test says so").unwrap();
    assert!(!keys.pushed().has(&corp.name));
    assert_eq!(keys.forgotten(), std::slice::from_ref(&corp.name), "mounts that open by it are locked");
    keys.act_on_pushed(&document, &corp, PushRole::Receiver).unwrap();
    assert!(keys.forgotten().is_empty());
}

#[test]
fn what_the_document_has_no_longer_is_wiped_by_its_uuid() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, corp) = (keys(&dir), pushed_provider());
    keys.act_on_pushed(&document(vec![corp.clone()]), &corp, PushRole::Receiver).unwrap();
    assert!(keys.forget_others(&document(vec![corp.clone()])).is_empty() && keys.pushed().has(&corp.name));
    let other = PushedProvider { uuid: Uuid::from_u128(3), ..corp.clone() };
    assert!(keys.forget_others(&document(vec![other])).is_empty() && !keys.pushed().has(&corp.name));
    assert_eq!(keys.forgotten(), [corp.name]);
}

#[test]
fn a_generation_that_the_document_has_no_longer_goes_from_memory_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, name) = (keys(&dir), ProviderName::new("shared").unwrap());
    let shared = |generations| SharedProvider { name: name.clone(), generations };
    let generations = vec![come(&keys, &shared(Vec::new())), come(&keys, &shared(Vec::new()))];
    let held = || (keys.current_of(&name), keys.held.read().get(&name).map_or(0, |held| held.keys.len()));
    let kept = || KeptEnvelopes::of(&keys.config).load().unwrap().len();
    let mut document = document(Vec::new());
    document.providers = vec![shared(generations.clone())];
    assert!(keys.forget_others(&document).is_empty());
    assert_eq!((held(), kept()), ((Some(generations[0].primary), 2), 2));
    document.providers = vec![shared(generations[1..].to_vec())];
    assert!(keys.forget_others(&document).is_empty() && keys.forgotten().is_empty());
    assert_eq!((held(), kept()), ((None, 1), 1), "the exchange makes the other one current");
    document.providers = Vec::new();
    assert!(keys.forget_others(&document).is_empty());
    assert_eq!((held(), kept(), keys.forgotten()), ((None, 0), 0, vec![name.clone()]));
}

/// A primary key comes to the host, made by another one.
fn come(keys: &Keys, shared: &SharedProvider) -> Generation {
    let (dir, cluster) = (tempfile::tempdir().unwrap(), Uuid::from_u128(2));
    let config = dir.path().join("config.toml");
    provider::add(&config, &shared.name, "native", &Arguments::default(), false).unwrap();
    let key = SharedKey::of(&config, &shared.name).unwrap();
    let host = Identity::generate().unwrap().public(Name::new("host", "kvm2").unwrap());
    let envelope = key.seal(cluster, &host).unwrap().encode();
    let generation = Generation { primary: key.uuid(), since: 1, retired: None, check: key.check(cluster) };
    let place = EnvelopeFor { cluster, provider: &shared.name, primary: key.uuid(), host: host.uuid };
    keys.keep(&place, shared, key, &envelope).unwrap();
    generation
}
