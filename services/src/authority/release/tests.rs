use std::sync::atomic::AtomicU64;

use tempfile::TempDir;
use vmcryptfs::crypto::hpke::{SealKey, Sealed};
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::provider::kinds::native::NativeProvider;
use vmcryptfs::provider::primary_key::PrimaryKey;
use vmcryptfs::provider::{Failure, Trouble};

use super::*;
use crate::authority::clock::Clock;
use crate::authority::hosts::tests::record as host_record;
use crate::authority::hosts::{HostState, Hosts};
use crate::authority::log::checkpoint::Checkpoint;
use crate::authority::token::tests::proved;

const AUTHORITY: Uuid = Uuid::from_u128(7);

struct Rig {
    _dir: TempDir,
    host: Uuid,
    hosts: Arc<Hosts>,
    generation: AtomicU64,
    tokens: Tokens,
    log: Log,
    top: TopKey,
    key: SealKey,
    token: String,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hosts = Arc::new(Hosts::load(&dir.path().join("hosts")).unwrap());
        let host = host_record("kvm1", HostState::Approved);
        hosts.add(&host, || Ok(())).unwrap();
        let tokens = Tokens::new(AUTHORITY, Clock::begin()).unwrap();
        let log = Log::open(&dir.path().join("log"), AUTHORITY, &SigningKey::generate().unwrap()).unwrap();
        let name = ProviderName::new("top").unwrap();
        let top = TopKey::new(name.clone(), Arc::new(NativeProvider::new(name, PrimaryKey::generate().unwrap())));
        let key = SealKey::generate().unwrap();
        let (token, _) = tokens.make(host.uuid, key.public(), proved(1)).unwrap();
        let generation = AtomicU64::new(1);
        Self { _dir: dir, host: host.uuid, hosts, generation, tokens, log, top, key, token }
    }

    fn release(&self) -> Release<'_> {
        let Self { top, tokens, hosts, generation, log, .. } = self;
        Release { authority: AUTHORITY, top, tokens, standing: Standing { hosts, generation }, log }
    }

    fn make(&self, request: Uuid, names: &[&str]) -> Result<ReleasedKeys> {
        let purpose = |name: &&str| KeyPurpose { vm_name: (*name).to_owned(), vm_uuid: Uuid::from_u128(5) };
        let keys = names.iter().map(purpose).collect();
        self.release().new_keys(&NewKeys { token: self.token.clone(), request, keys })
    }

    fn unwrap(&self, request: Uuid, key_ids: &[String]) -> Result<ReleasedKeys> {
        let key_ids = key_ids.to_vec();
        self.release().unwrap_keys(&UnwrapKeys { token: self.token.clone(), request, key_ids })
    }

    /// The KEK, as the host opens it that has made this request.
    fn open(&self, key: &ReleasedKey, host: Uuid, request: Uuid) -> Result<Vec<u8>> {
        let ReleasedKey::Key { key_id, enc, ciphertext } = key else { panic!("{key:?}") };
        let sealed = Sealed { enc: enc.0.as_slice().try_into().unwrap(), ciphertext: ciphertext.0.clone() };
        self.key.open(SEALED_KEK, &sealed_to(AUTHORITY, host, request, key_id), &sealed).map(|kek| kek.to_vec())
    }

    fn entries(&self) -> Vec<serde_json::Value> {
        let entries = self.log.entries(0, 1000, usize::MAX).unwrap();
        entries.iter().map(|entry| serde_json::from_slice(entry).unwrap()).collect()
    }
}

fn id_of(key: &ReleasedKey) -> String {
    let ReleasedKey::Key { key_id, .. } = key else { panic!("{key:?}") };
    key_id.clone()
}

#[test]
fn a_key_comes_back_by_its_id_and_only_to_the_host_and_request_that_asked() {
    let rig = Rig::new();
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    let made = rig.make(first, &["web01", "web02"]).unwrap().keys;
    let keks: Vec<_> = made.iter().map(|key| rig.open(key, rig.host, first).unwrap()).collect();
    assert_ne!(keks[0], keks[1]);
    let ids: Vec<String> = made.iter().map(id_of).collect();
    let found = rig.unwrap(second, &ids).unwrap().keys;
    for (found, kek) in found.iter().zip(&keks) {
        assert_eq!(&rig.open(found, rig.host, second).unwrap(), kek);
        // An answer that was kept and is played back for another request, or given to another host.
        assert_eq!(rig.open(found, rig.host, first).unwrap_err().kind(), Kind::KeyRejected);
        assert_eq!(rig.open(found, Uuid::nil(), second).unwrap_err().kind(), Kind::KeyRejected);
        let ReleasedKey::Key { enc, ciphertext, .. } = found.clone() else { panic!() };
        let renamed = ReleasedKey::Key { key_id: "other".into(), enc, ciphertext };
        assert_eq!(rig.open(&renamed, rig.host, second).unwrap_err().kind(), Kind::KeyRejected);
    }
    let words: Vec<_> = rig.entries().iter().map(|entry| entry["entry"].as_str().unwrap().to_owned()).collect();
    assert_eq!(words, ["key-made", "key-made", "key-released", "key-released"]);
    assert_eq!(rig.entries()[3]["key"], key_digest(&ids[1]));
    assert!(!serde_json::to_string(&rig.entries()).unwrap().contains(&ids[0]), "anyone may read the log");
}

#[test]
fn a_token_with_another_hpke_key_gets_what_its_thief_cannot_open() {
    let rig = Rig::new();
    let request = Uuid::new_v4();
    let made = rig.make(request, &["web01"]).unwrap().keys;
    let thief = Rig { key: SealKey::generate().unwrap(), ..rig };
    assert_eq!(thief.open(&made[0], thief.host, request).unwrap_err().kind(), Kind::KeyRejected);
}

#[test]
fn what_is_not_a_key_is_refused_by_itself_and_the_others_are_given() {
    let rig = Rig::new();
    let request = Uuid::new_v4();
    let id = id_of(&rig.make(request, &["web01"]).unwrap().keys[0]);
    let mut forged = id.clone().into_bytes();
    *forged.last_mut().unwrap() = if id.ends_with('A') { b'E' } else { b'A' };
    let wrong = [String::from_utf8(forged).unwrap(), "nonsense".into(), String::new(), "a".repeat(600)];
    let found = rig.unwrap(request, &[&wrong[..], &[id]].concat()).unwrap().keys;
    assert_eq!(found.iter().filter(|key| matches!(key, ReleasedKey::Refused { .. })).count(), 4, "{found:?}");
    rig.open(&found[4], rig.host, request).unwrap();
    assert_eq!(rig.entries().len(), 2, "what was not given is not logged");
    let many = vec!["x".to_owned(); MAX_KEYS + 1];
    assert_eq!(rig.unwrap(request, &many).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn nothing_leaves_without_its_entry_or_after_a_removal() {
    let rig = Rig::new();
    let request = Uuid::new_v4();
    let id = id_of(&rig.make(request, &["web01"]).unwrap().keys[0]);
    let host = rig.hosts.change(rig.host, HostState::Removed, |_| Ok(())).unwrap();
    for refused in [rig.make(request, &["web02"]), rig.unwrap(request, &[id])] {
        assert_eq!(refused.unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!((host.state, rig.entries().len()), (HostState::Removed, 1));
    assert_eq!(rig.log.len(), 1);
    let key = SigningKey::generate().unwrap();
    let text = rig.log.checkpoint(&key).unwrap();
    assert_eq!(Checkpoint::verify(&text, &Checkpoint::origin_of(AUTHORITY), &key.public()).unwrap().size, 1);
}

/// A provider that takes so long that an administrator removes the host in the meantime.
struct Slow {
    provider: NativeProvider,
    hosts: Arc<Hosts>,
    host: Uuid,
}

impl KeyProvider for Slow {
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn vmcryptfs::key::Kek>)> {
        self.provider.create_key(purpose)
    }

    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn vmcryptfs::key::Kek>> {
        self.provider.fetch_key(key_id)
    }

    fn create_exported(&self, request: Uuid, purpose: &NewKey) -> Result<(KeyId, LocalKek)> {
        self.hosts.change(self.host, HostState::Removed, |_| Ok(()))?;
        self.provider.create_exported(request, purpose)
    }
}

#[test]
fn a_host_that_is_removed_during_its_call_gets_nothing() {
    let rig = Rig::new();
    let name = ProviderName::new("top").unwrap();
    let provider = NativeProvider::new(name.clone(), PrimaryKey::generate().unwrap());
    let slow = Slow { provider, hosts: Arc::clone(&rig.hosts), host: rig.host };
    let rig = Rig { top: TopKey::new(name, Arc::new(slow)), ..rig };
    assert_eq!(rig.make(Uuid::nil(), &["web01"]).unwrap_err().kind(), Kind::Denied);
}

/// A key server that does not answer.
struct Down;

impl Down {
    fn error() -> Error {
        let failure = Failure::new(Trouble::Unreachable, "10.9.8.7:5696: connection refused");
        Error::with_source(Kind::KeyUnavailable, "key top/1 is unavailable", failure)
    }
}

impl KeyProvider for Down {
    fn create_key(&self, _purpose: &NewKey) -> Result<(KeyId, Arc<dyn vmcryptfs::key::Kek>)> {
        Err(Self::error())
    }

    fn fetch_key(&self, _key_id: &KeyId) -> Result<Arc<dyn vmcryptfs::key::Kek>> {
        Err(Self::error())
    }

    fn export_key(&self, _key_id: &KeyId) -> Result<ExportedKek> {
        Err(Self::error())
    }

    fn create_exported(&self, _request: Uuid, _purpose: &NewKey) -> Result<(KeyId, LocalKek)> {
        Err(Self::error())
    }
}

#[test]
fn where_key_servers_are_is_told_to_administrators_only() {
    let top = || TopKey::new(ProviderName::new("top").unwrap(), Arc::new(Down));
    let rig = Rig { top: top(), ..Rig::new() };
    let refused = [rig.make(Uuid::nil(), &["web01"]).unwrap(), rig.unwrap(Uuid::nil(), &["1".into()]).unwrap()];
    for keys in refused {
        let [ReleasedKey::Refused { error, .. }] = keys.keys.as_slice() else { panic!("{keys:?}") };
        assert_eq!((error.kind, error.fault), (Kind::KeyUnavailable, Some(vmcryptfs::provider::agent::Fault::Server)));
        assert!(error.message.contains("top/1") && !error.message.contains("10.9.8.7"), "{}", error.message);
    }
    let mut rig = crate::authority::rig::Rig::new();
    rig.authority.top = top();
    let [lack] = rig.authority.health().lacks.try_into().unwrap();
    assert!(lack.contains("top-level key") && !lack.contains("10.9.8.7"), "{lack}");
    assert!(rig.authority.to_do()[0].contains("10.9.8.7"), "{:?}", rig.authority.to_do());
}

#[test]
fn health_makes_and_finds_a_key() {
    let rig = Rig::new();
    rig.top.try_out().unwrap();
    assert_eq!(rig.log.len(), 0);
}
