//! KEKs that keepers push: who gets them, and what the owner of a board, a member and a host that was removed can do.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::cluster::PushOptions;
use crate::cluster::push::{Answer, PushBoard, PushRole};
use crate::crypto::wrap::LocalKek;
use crate::format::cluster::{HostIdentity, PushedProvider, Reference, Refusal, Wish};
use crate::key::KeyId;

impl Site {
    /// Two members, of which the first has the credentials of a key server.
    fn with_keeper() -> Self {
        let site = Self::with_two();
        site.give_credentials("h1");
        site.push("h1", &PushOptions::default()).unwrap();
        site
    }

    fn give_credentials(&self, host: &str) {
        let config = self.config(host);
        let former = fs::read_to_string(&config).unwrap_or_default();
        let files = "servers = [\"kms1:5696\"]\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n";
        let corp = format!("[provider.corp]\nkind = {:?}\n{files}", pushed_kind());
        private_file::replace(&config, &[former.as_bytes(), corp.as_bytes()]).unwrap();
    }

    fn push(&self, host: &str, options: &PushOptions) -> Result<PushedProvider> {
        self.session(host)?.share_pushed(self.admins(), &provider_name("corp"), options)
    }

    fn post(&self, host: &str) -> PushBoard {
        self.session(host).unwrap().into_push_board()
    }

    fn corp(&self) -> PushedProvider {
        self.session("h1").unwrap().document().pushed[0].clone()
    }

    /// The second host wants a key. Returns the record.
    fn want(&self, reference: Reference) -> PathBuf {
        let post = self.post("h2");
        post.want(&provider_name("corp"), &BTreeMap::from([(reference, Wish::Key("1".into()))])).unwrap();
        self.record(&Key::want(&provider_name("corp"), post.host()))
    }

    /// The first host gives the second one a key for its wish, or without one. Returns the record.
    fn give(&self, reference: Reference) -> PathBuf {
        let (post, pushed) = (self.post("h1"), self.corp());
        let host = identity(&post, "h2");
        post.give(&pushed).unwrap().kek(&host, reference, &key_id(), &kek(), true).unwrap();
        self.record(&match reference {
            Reference::NONE => Key::unasked_kek(&pushed.name, host.uuid, &key_id()),
            reference => Key::kek(&pushed.name, host.uuid, reference),
        })
    }

    fn taken(&self, host: &str) -> Vec<(Reference, Result<Answer>)> {
        self.post(host).take(&self.corp()).unwrap()
    }

    fn takes_nothing(&self, host: &str, kind: Kind, words: &str) {
        let mut taken = self.taken(host);
        assert_eq!(taken.len(), 1, "{words}");
        refused(taken.pop().unwrap().1, kind, words);
        assert!(self.taken(host).is_empty(), "what is forged goes from the board");
    }
}

fn identity(post: &PushBoard, name: &str) -> HostIdentity {
    post.document().members.iter().find(|member| member.host.name.as_str() == name).unwrap().host.clone()
}

/// The kind of provider that is pushed.
fn pushed_kind() -> &'static str {
    KINDS.into_iter().find(|kind| kind.can_be_pushed()).unwrap().name()
}

fn key_id() -> KeyId {
    KeyId::new(provider_name("corp"), "1").unwrap()
}

fn kek() -> LocalKek {
    let mut bytes = crate::sys::SecretBytes::zeroed(32);
    bytes.fill(7);
    LocalKek::new(bytes).unwrap()
}

/// Puts what was written for one place in another one.
fn put(record: &Path, bytes: &[u8]) {
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(record, bytes).unwrap();
}

#[test]
fn a_key_that_a_host_wants_comes_from_a_keeper_and_opens_there() {
    let site = Site::with_keeper();
    let reference = Reference([1; 16]);
    site.want(reference);
    let wants = site.post("h1").wants(&site.corp()).unwrap();
    let want = wants[0].1.as_ref().unwrap();
    assert_eq!((wants.len(), &want.wishes), (1, &BTreeMap::from([(reference, Wish::Key("1".into()))])));
    site.give(reference);
    let mut taken = site.taken("h2");
    let (found, Ok(Answer::Kek { id, kek: given, wraps })) = taken.pop().unwrap() else { panic!("no KEK") };
    assert_eq!((found, id, given.bytes(), wraps), (reference, key_id(), kek().bytes(), true));
    assert!(site.taken("h2").is_empty(), "it is taken once");

    let (post, pushed) = (site.post("h1"), site.corp());
    let mut giver = post.give(&pushed).unwrap();
    giver.refuse(&identity(&post, "h2"), reference, Some(&key_id()), Refusal::Missing, "no member has it").unwrap();
    let mut taken = site.taken("h2");
    let (_, Ok(Answer::Refused { refusal, why, .. })) = taken.pop().unwrap() else { panic!("no refusal") };
    assert_eq!((refusal, why.as_str()), (Refusal::Missing, "keeper h1: no member has it"));
    // With nothing left to want, the want goes.
    let key = Key::want(&pushed.name, site.post("h2").host());
    site.post("h2").want(&pushed.name, &BTreeMap::new()).unwrap();
    assert!(!site.record(&key).exists());
}

#[test]
fn a_want_of_a_host_that_is_gone_ends_and_goes_from_the_board() {
    let site = Site::with_keeper();
    let record = site.want(Reference([1; 16]));
    let lease = record.with_file_name(format!(".lease-{}", record.file_name().unwrap().to_str().unwrap()));
    let wants = || site.post("h1").wants(&site.corp()).unwrap().len();
    let age = |seconds| {
        let file = fs::File::options().write(true).open(&lease).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    age(55);
    assert_eq!(wants(), 1);
    site.want(Reference([1; 16])); // again, for another minute
    assert_eq!(wants(), 1);
    age(65);
    assert_eq!((wants(), record.exists(), lease.exists()), (0, false, false));
}

#[test]
fn a_want_that_its_host_did_not_sign_there_is_no_want() {
    let site = Site::with_keeper();
    let record = site.want(Reference([1; 16]));
    let bytes = fs::read(&record).unwrap();
    let wants = |words: &str| {
        let mut wants = site.post("h1").wants(&site.corp()).unwrap();
        assert_eq!(wants.len(), 1, "{words}");
        refused(wants.pop().unwrap().1, Kind::Denied, words);
    };
    for at in [20, 40, 60, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        put(&record, &changed);
        let found = site.post("h1").wants(&site.corp()).unwrap().pop().unwrap().1;
        assert!(found.is_err(), "byte {at}");
    }
    fs::remove_file(&record).unwrap();
    // In the place of another member, and of another provider.
    let moved = site.record(&Key::want(&provider_name("corp"), site.post("h1").host()));
    put(&moved, &bytes);
    wants("did not write there");
    fs::remove_file(&moved).unwrap();
    // A stranger's, and an old one of a host that was removed: nobody reads them.
    put(&site.record(&Key::want(&provider_name("corp"), Uuid::from_bytes([9; 16]))), &bytes);
    put(&record, &bytes);
    site.remove("h2").unwrap();
    put(&record, &bytes);
    assert!(site.post("h1").wants(&site.corp()).unwrap().is_empty());
    refused(
        site.post("h2").want(&provider_name("corp"), &BTreeMap::from([(Reference([1; 16]), Wish::Key("1".into()))])),
        Kind::Denied,
        "was removed",
    );
}

/// The owner of the board can put anything there. It must not keep others from their keys.
#[test]
fn a_record_that_cannot_be_read_stands_in_nobody_s_way() {
    let site = Site::with_keeper();
    let too_long = vec![0; crate::cluster::board::MAX_RECORD + 1];
    let reference = Reference([1; 16]);
    // In the place of a keeper's own want, and before and after the answer to another host's.
    let wanted = site.want(reference);
    let other = site.record(&Key::want(&provider_name("corp"), site.post("h1").host()));
    put(&other, &too_long);
    let wants = site.post("h1").wants(&site.corp()).unwrap();
    let is_good: Vec<bool> = wants.iter().map(|(host, want)| (host.name.as_str() == "h2") == want.is_ok()).collect();
    assert_eq!((is_good.as_slice(), other.exists()), ([true, true].as_slice(), false));
    let host = identity(&site.post("h1"), "h2").uuid;
    let answer = |reference| site.record(&Key::kek(&provider_name("corp"), host, reference));
    let (before, after) = (answer(Reference([0x01; 16])), answer(Reference([0xff; 16])));
    let given = site.give(Reference([0x10; 16]));
    [&before, &after].into_iter().for_each(|record| put(record, &too_long));
    let taken = site.taken("h2");
    assert_eq!(taken.iter().map(|(_, answer)| answer.is_ok()).collect::<Vec<_>>(), [false, true, false]);
    assert!([before, after, given].iter().all(|record| !record.exists()));
    // In the place of an answer, and of what the host itself says.
    put(&answer(reference), &too_long);
    assert!(!site.post("h1").is_answered(&site.corp(), host, reference).unwrap());
    put(&wanted, &too_long);
    site.want(reference);
    assert!(site.post("h1").wants(&site.corp()).unwrap().iter().all(|(_, want)| want.is_ok()));
}

#[test]
fn a_wish_is_answered_only_by_what_its_host_can_take() {
    let site = Site::with_keeper();
    let reference = Reference([1; 16]);
    let host = identity(&site.post("h1"), "h2").uuid;
    let is_answered = |reference| site.post("h1").is_answered(&site.corp(), host, reference).unwrap();
    assert!(!is_answered(reference));
    let record = site.give(reference);
    assert!(is_answered(reference));
    let bytes = fs::read(&record).unwrap();
    put(&site.record(&Key::kek(&provider_name("corp"), host, Reference([2; 16]))), &bytes);
    put(&record, &[&bytes[..bytes.len() - 1], &[!bytes[bytes.len() - 1]]].concat());
    assert!(!is_answered(reference) && !is_answered(Reference([2; 16])));
}

/// A member signs what it likes. A keeper's log and its key server get no such id.
#[test]
fn a_want_of_what_no_slot_can_name_is_no_want() {
    let site = Site::with_keeper();
    for id in ["", "a\nb", &"k".repeat(513)] {
        let wishes = BTreeMap::from([(Reference([1; 16]), Wish::Key(id.into()))]);
        site.post("h2").want(&provider_name("corp"), &wishes).unwrap();
        let found = site.post("h1").wants(&site.corp()).unwrap().pop().unwrap().1;
        refused(found, Kind::Corrupt, "expected 1 to 512 without control characters");
    }
}

#[test]
fn a_key_that_was_moved_forged_or_is_for_another_host_is_refused() {
    let site = Site::with_keeper();
    let (post, pushed) = (site.post("h1"), site.corp());
    let second = identity(&post, "h2");
    let reference = Reference([1; 16]);
    let record = site.give(reference);
    let bytes = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    for at in [16, 33, 49, 65, 81, 98, 120, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        put(&record, &changed);
        assert!(site.taken("h2").pop().unwrap().1.is_err(), "byte {at}");
    }
    // For another wish, as one that was not asked for, and for another host.
    put(&site.record(&Key::kek(&pushed.name, second.uuid, Reference([2; 16]))), &bytes);
    site.takes_nothing("h2", Kind::Denied, "it was moved");
    put(&site.record(&Key::unasked_kek(&pushed.name, second.uuid, &key_id())), &bytes);
    site.takes_nothing("h2", Kind::Denied, "it was moved");
    put(&site.record(&Key::kek(&pushed.name, post.host(), reference)), &bytes);
    site.takes_nothing("h1", Kind::Denied, "it was moved");
    put(&record, b"noise");
    site.takes_nothing("h2", Kind::Corrupt, "kek/corp/");
    // By a member that is not a keeper.
    refused(site.post("h2").give(&pushed).map(drop), Kind::Denied, "not a keeper");
    let own = HostFiles::of(&site.config("h2")).identity().unwrap();
    let parcel = crate::format::cluster::Parcel {
        cluster: post.document().cluster,
        keeper: own.uuid,
        host: second.uuid,
        provider: pushed.uuid,
        reference,
        key: Some("1".into()),
    };
    put(&record, &parcel.seal(kek().bytes(), true, &second.seal_key, &own.sign).unwrap());
    site.takes_nothing("h2", Kind::Denied, "no keeper did");
    // In the name of the keeper.
    let parcel = crate::format::cluster::Parcel { keeper: post.host(), ..parcel };
    put(&record, &parcel.seal(kek().bytes(), true, &second.seal_key, &own.sign).unwrap());
    site.takes_nothing("h2", Kind::Denied, "did not sign");
}

#[test]
fn a_host_that_was_removed_gets_nothing_and_a_keeper_that_was_removed_gives_nothing() {
    let site = Site::with_keeper();
    site.give_credentials("h2");
    let both = site.push("h2", &PushOptions::default()).unwrap();
    assert_eq!((both.keepers.len(), both.uuid), (2, site.corp().uuid));
    let (first, second) = (site.post("h1"), site.post("h2"));
    let (reference, host) = (Reference([3; 16]), identity(&first, "h1"));
    second.give(&both).unwrap().kek(&host, reference, &key_id(), &kek(), true).unwrap();
    let record = site.record(&Key::kek(&both.name, host.uuid, reference));
    let old = fs::read(&record).unwrap();
    assert!(site.taken("h1").pop().unwrap().1.is_ok());
    site.remove("h2").unwrap();
    // What it gave before, and what it gives now by the document that it knew.
    put(&record, &old);
    site.takes_nothing("h1", Kind::Denied, "no keeper did");
    second.give(&both).unwrap().kek(&host, reference, &key_id(), &kek(), true).unwrap();
    site.takes_nothing("h1", Kind::Denied, "no keeper did");
    let post = site.post("h1");
    let pushed = site.corp();
    let given = post.give(&pushed).unwrap().kek(&identity(&post, "h2"), reference, &key_id(), &kek(), true);
    refused(given, Kind::Denied, "not an active member");
    assert_eq!(PushRole::of(post.document(), &pushed, second.host()), Some(PushRole::Removed));
}

#[test]
fn what_is_for_a_host_that_was_removed_goes_from_the_board() {
    let site = Site::with_keeper();
    let (want, kek) = (site.want(Reference([1; 16])), site.give(Reference([1; 16])));
    assert!(want.exists() && kek.exists());
    site.remove("h2").unwrap();
    assert!(!want.exists() && !kek.exists());
}

#[test]
fn what_a_compromised_host_could_get_and_its_credentials_are_named() {
    let site = Site::with_keeper();
    site.give_credentials("h2");
    site.push("h2", &PushOptions::default()).unwrap();
    let compromised = Removal { compromised: true, ..Removal::default() };
    let removed = site.remove_as("h2", compromised).unwrap();
    assert_eq!((removed.pushed, removed.kept), (vec![provider_name("corp")], vec![provider_name("corp")]));
    let status = ClusterStatus::of(&site.session("h1").unwrap()).unwrap();
    let named = |problem: &String| {
        let words = [
            "h2 was compromised",
            "each VM of corp: `vmcryptfs rekey --deep VM_FOLDER`",
            "a keeper of corp: revoke its credentials",
        ];
        words.iter().all(|words| problem.contains(words))
    };
    assert!(status.problems.iter().any(named), "{:?}", status.problems);
    // No host can see that it is done, so a person says it.
    let session = site.session("h1").unwrap();
    refused(session.see_to(&host_name("h1")), Kind::NotFound, "no host h1 was removed from the cluster");
    assert_eq!(session.see_to(&host_name("h2")).unwrap().name, host_name("h2"));
    let problems = ClusterStatus::of(&session).unwrap().problems;
    assert!(!problems.iter().any(named), "{problems:?}");
}

#[test]
fn what_was_seen_to_before_a_host_was_known_to_be_compromised_is_asked_again() {
    let site = Site::with_keeper();
    site.remove("h2").unwrap();
    let problems = || ClusterStatus::of(&site.session("h1").unwrap()).unwrap().problems;
    let is_said = |words: &str| problems().iter().any(|problem| problem.contains(words));
    assert!(is_said("h2 was removed in document"), "{:?}", problems());
    site.session("h1").unwrap().see_to(&host_name("h2")).unwrap();
    assert!(!is_said("h2 was"), "{:?}", problems());
    site.remove_as("h2", Removal { compromised: true, ..Removal::default() }).unwrap();
    assert!(is_said("h2 was compromised, and could get the key of each VM of corp"), "{:?}", problems());
    site.session("h1").unwrap().see_to(&host_name("h2")).unwrap();
    assert!(!is_said("could get the key of each VM"), "{:?}", problems());
}

#[test]
fn keepers_come_and_go_and_one_is_always_left() {
    let site = Site::with_keeper();
    let options = |keepers: &[&str], no_keepers: &[&str]| PushOptions {
        keepers: keepers.iter().map(ToString::to_string).collect(),
        no_keepers: no_keepers.iter().map(ToString::to_string).collect(),
        ..PushOptions::default()
    };
    let first = site.corp();
    assert_eq!((first.places.as_slice(), first.kind.as_str()), (["kms1:5696".to_owned()].as_slice(), pushed_kind()));
    refused(site.push("h1", &options(&[], &["h1"])), Kind::Invalid, "no keeper left");
    refused(site.push("h1", &options(&["h9"], &[])), Kind::NotFound, "no active host h9");
    refused(
        site.session("h2").unwrap().share_pushed(site.admins(), &provider_name("other"), &options(&["h1"], &[])),
        Kind::NotFound,
        "has no provider other",
    );
    let config = site.config("h1");
    let remove = |host: &str, as_seen_by: &str| {
        let mut session = site.session(as_seen_by)?;
        session.remove(&KeyFiles { config: &config }, site.admins(), &host_name(host), Removal::default())
    };
    refused(remove("h1", "h2").map(drop), Kind::Denied, "the last keeper of provider corp");
    let life = Duration::from_secs(60);
    let changed = site.push("h2", &PushOptions { life: Some(life), ..options(&["h2"], &[]) }).unwrap();
    assert_eq!((changed.keepers.len(), changed.life, changed.since), (2, life, first.since));
    site.sync("h1").unwrap();
    remove("h1", "h2").unwrap();
    // One at a time: a session locks its host.
    let words = "has no primary key: its key server makes a key for each VM";
    let old = site.session("h2").unwrap().old_generations(&provider_name("corp"));
    refused(old, Kind::Unsupported, words);
    let (keys, corp) = (KeyFiles { config: &config }, provider_name("corp"));
    let rotated = site.session("h2").unwrap().rotate(&keys, site.admins(), &corp, true);
    refused(rotated, Kind::Unsupported, words);
    let status = ClusterStatus::of(&site.session("h2").unwrap()).unwrap();
    assert_eq!(status.pushed[0].keepers, ["h2"]);
    let problem = "h2 did not say to be ready as keeper of provider corp";
    assert!(status.problems.iter().any(|found| found.contains(problem)), "{:?}", status.problems);
}
