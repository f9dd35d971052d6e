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
    assert_eq!(keys.forgotten(), [corp.name.clone()], "mounts that open by it are locked");
    keys.act_on_pushed(&document, &corp, PushRole::Receiver).unwrap();
    assert!(keys.forgotten().is_empty());
}
