use data_encoding::BASE64URL_NOPAD;
use uuid::Uuid;

use super::*;
use crate::key::Dek;
use crate::provider::primary_key::tests::key_file;
use crate::sys::SecretBytes;
use std::path::Path;

fn name(name: &str) -> ProviderName {
    ProviderName::new(name).unwrap()
}

fn provider_of(path: &Path) -> NativeProvider {
    NativeProvider::new(name("local"), PrimaryKey::load(path).unwrap())
}

fn purpose() -> NewKey {
    NewKey { vm_name: "web01".into(), vm_uuid: Uuid::nil() }
}

#[test]
fn a_key_made_before_a_restart_unwraps_after_it() {
    let (_dir, path) = key_file();
    let (id, kek) = provider_of(&path).create_key(&purpose()).unwrap();
    let mut dek = SecretBytes::zeroed(64);
    dek[..32].fill(0x3c);
    let wrapped = kek.wrap(&Dek::new(dek).unwrap()).unwrap();

    let fetched = provider_of(&path).fetch_key(&id).unwrap();
    assert_eq!(fetched.unwrap(&wrapped).unwrap().bytes(), [[0x3c; 32], [0; 32]].concat());
    assert_eq!(fetched.check().unwrap(), kek.check().unwrap());
}

#[test]
fn the_key_id_is_the_wrapped_kek() {
    let (_dir, path) = key_file();
    let provider = provider_of(&path);
    let (id, kek) = provider.create_key(&purpose()).unwrap();
    let (owner, wrapped) = id.id().split_once('/').unwrap();
    assert_eq!(owner, provider.primary.uuid().to_string());
    let unwrapped = provider.primary.unwrap_kek(&BASE64URL_NOPAD.decode(wrapped.as_bytes()).unwrap()).unwrap();
    assert_eq!(unwrapped.check().unwrap(), kek.check().unwrap());
    assert_ne!(id, provider.create_key(&purpose()).unwrap().0, "each VM gets a KEK of its own");
}

#[test]
fn a_key_of_another_primary_key_names_both() {
    let (_here, path) = key_file();
    let (_there, other_path) = key_file();
    let (here, there) = (provider_of(&path), provider_of(&other_path));
    let (id, _) = there.create_key(&purpose()).unwrap();
    let error = here.fetch_key(&id).err().unwrap();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    for uuid in [here.primary.uuid(), there.primary.uuid()] {
        assert!(error.to_string().contains(&uuid.to_string()), "{error}");
    }
}

#[test]
fn a_key_of_another_provider_is_refused() {
    let (_dir, path) = key_file();
    let provider = provider_of(&path);
    let (id, _) = provider.create_key(&purpose()).unwrap();
    let renamed = KeyId::new(name("other"), id.id()).unwrap();
    assert_eq!(provider.fetch_key(&renamed).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn every_changed_character_of_a_key_id_is_refused() {
    let (_dir, path) = key_file();
    let provider = provider_of(&path);
    let (id, _) = provider.create_key(&purpose()).unwrap();
    for at in 0..id.id().len() {
        let mut changed = id.id().as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = KeyId::new(name("local"), String::from_utf8(changed).unwrap()).unwrap();
        let error = provider.fetch_key(&changed).err().unwrap_or_else(|| panic!("character {at} is not looked at"));
        assert_eq!(error.kind(), Kind::Corrupt, "character {at}: {}", error.chain());
    }
}

#[test]
fn only_the_one_form_of_a_key_id_is_taken() {
    let (_dir, path) = key_file();
    let provider = provider_of(&path);
    let (id, _) = provider.create_key(&purpose()).unwrap();
    let (owner, wrapped) = id.id().split_once('/').unwrap();
    let uuid = provider.primary.uuid();
    let short = BASE64URL_NOPAD.encode(&[7; 32]);
    for bad in [
        "x".into(),
        owner.to_owned(),
        format!("{owner}/"),
        format!("{}/{wrapped}", uuid.simple()),
        format!("{}/{wrapped}", uuid.braced()),
        format!("{}/{wrapped}", owner.to_uppercase()),
        format!("{owner}/{wrapped}="),
        format!("{owner}/{wrapped}/x"),
        format!("{owner}/{short}"),
    ] {
        let error = provider.fetch_key(&KeyId::new(name("local"), bad.as_str()).unwrap()).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{bad}");
    }
}

#[test]
fn an_exported_kek_is_the_one_of_its_id_and_one_with_a_share_stays_here() {
    let (dir, path) = key_file();
    let provider = provider_of(&path);
    let (id, kek) = provider.create_exported(Uuid::nil(), &purpose()).unwrap();
    assert_eq!(provider.fetch_key(&id).unwrap().check().unwrap(), kek.check().unwrap());
    assert_eq!(provider_of(&path).export_key(&id).unwrap().kek.bytes(), kek.bytes());
    let share = KekShare::create(&dir.path().join("share")).unwrap();
    let with_share = NativeProvider { share: Some(share), ..provider_of(&path) };
    assert_eq!(with_share.export_key(&id).unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(with_share.create_exported(Uuid::nil(), &purpose()).map(drop).unwrap_err().kind(), Kind::Unsupported);
}
