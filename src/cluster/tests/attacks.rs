//! What the owner of a board, a thief of a token and a careless admin can do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::cluster::board;
use crate::cluster::join::TOKEN_LIFE;
use crate::format::cluster::{Document, Envelope, UnverifiedDocument};

#[test]
fn what_the_owner_of_the_board_forges_is_refused() {
    let site = Site::with_two();
    let next = site.record(&Key::document(4));
    let session = site.session("h2").unwrap();
    let forged = |signer: &SigningKey, change: &dyn Fn(&mut Document)| {
        let mut document = session.document().clone();
        (document.epoch, document.previous) = (4, session.view.hash);
        change(&mut document);
        document.sign(std::slice::from_ref(signer))
    };
    let stranger = SigningKey::generate().unwrap();
    refused(forged(&stranger, &|_| {}), Kind::Denied, "is not one of the cluster prod");
    let own_admin = forged(&stranger, &|document| document.admins = vec![stranger.public()]).unwrap();
    let skips = forged(&site.admin, &|document| document.epoch = 5).unwrap();
    let elsewhere = forged(&site.admin, &|document| document.previous = [9; 32]).unwrap();
    let other_cluster = forged(&site.admin, &|document| document.cluster = Uuid::nil()).unwrap();
    let mut unsigned = forged(&site.admin, &|_| {}).unwrap();
    unsigned.truncate(unsigned.len() - 66);
    unsigned.push(0);
    drop(session);
    for (bytes, words) in [
        (own_admin, "other admins"),
        (skips, "does not follow"),
        (elsewhere, "does not follow"),
        (other_cluster, "expected prod"),
        (unsigned, "0 of 0 signatures"),
    ] {
        fs::write(&next, bytes).unwrap();
        refused(site.session("h2"), Kind::Denied, words);
    }
    fs::write(&next, "noise").unwrap();
    refused(site.session("h2"), Kind::Corrupt, "document 4 of the board");
    fs::remove_file(&next).unwrap();
    site.sync("h2").unwrap();
}

#[test]
fn a_board_that_was_put_back_is_refused_by_whoever_has_seen_more() {
    let site = Site::with_two();
    let (board, saved) = (site.cluster_folder(), site.dir.path().join("saved"));
    copy_tree(&board, &saved);
    site.add_provider("h1", "second");
    site.share("h1", "second").unwrap();
    site.sync("h2").unwrap();
    fs::remove_dir_all(&board).unwrap();
    copy_tree(&saved, &board);
    refused(site.sync("h2"), Kind::Denied, "the board lacks document 4, which this host has seen");
    // Another document of that number, as an admin would sign who was shown the old board.
    let host = HostFiles::of(&site.config("h1"));
    let mut membership = host.membership().unwrap().unwrap();
    let third = UnverifiedDocument::decode(&fs::read(site.record(&Key::document(3))).unwrap()).unwrap();
    membership.has_seen(3, &third.hash());
    host.keep_membership(&membership).unwrap();
    site.add_provider("h1", "other");
    site.share("h1", "other").unwrap();
    refused(site.sync("h2"), Kind::Denied, "it is another document than document 4 that this host knows");
    fs::remove_dir_all(&board).unwrap();
    refused(site.sync("h2"), Kind::NotFound, "does not have cluster");
    fs::remove_dir_all(site.board_folder()).unwrap();
    refused(site.sync("h2"), Kind::NotFound, "is its file system mounted?");
}

#[test]
fn an_envelope_opens_in_its_place_only_and_a_bad_one_is_replaced() {
    let site = Site::with_two();
    site.ask("h3").unwrap();
    site.approve("h3").unwrap();
    site.sync("h1").unwrap();
    let (second, third) = (site.record(&site.envelope("h2")), site.record(&site.envelope("h3")));
    let good = fs::read(&third).unwrap();
    let session = site.session("h1").unwrap();
    let host = session.document().members.iter().find(|member| member.host.name.as_str() == "h3").unwrap().host.clone();
    let (cluster, shared) = (session.document().cluster, session.document().providers[0].clone());
    drop(session);
    let place = EnvelopeFor { cluster, provider: &shared.name, primary: shared.newest().primary, host: host.uuid };
    let seal = |place: &EnvelopeFor<'_>, key: &[u8]| Envelope::seal(place, &host.seal_key, key).unwrap().encode();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let key = site.primary("h1", "shared").unwrap();
    let raw = fs::read(private_file::folder_of(&site.config("h1")).join("keys/shared.key")).unwrap();
    let raw = &raw[32..64];
    for (bytes, kind, words) in [
        (fs::read(&second).unwrap(), Kind::KeyRejected, "the envelope of provider shared"),
        (flipped, Kind::KeyRejected, "the envelope of provider shared"),
        (seal(&place, &[7; 32]), Kind::Corrupt, "it is forged"),
        (seal(&EnvelopeFor { cluster: Uuid::nil(), ..place }, raw), Kind::KeyRejected, "for another purpose"),
        (seal(&EnvelopeFor { primary: Uuid::nil(), ..place }, raw), Kind::KeyRejected, "for another purpose"),
        (good[..good.len() - 1].to_vec(), Kind::Corrupt, "the envelope of provider shared"),
    ] {
        fs::write(&third, bytes).unwrap();
        refused(site.sync("h3"), kind, words);
        assert!(!third.exists() && site.primary("h3", "shared").is_none());
    }
    assert_eq!(site.sync("h3").unwrap().awaited, [provider_name("shared")]);
    assert_eq!(site.sync("h2").unwrap().sent.len(), 1, "any host that has the key leaves it again");
    assert_eq!(site.sync("h3").unwrap().received, [(provider_name("shared"), key.uuid())]);
    assert!(site.has("h3", "shared"));
}

#[test]
fn a_key_is_sealed_again_only_to_a_host_that_does_not_say_that_it_has_it() {
    let site = Site::with_two();
    let envelope = site.record(&site.envelope("h2"));
    fs::remove_file(&envelope).unwrap();
    assert!(site.sync("h1").unwrap().sent.is_empty(), "h2 has acknowledged the key");
    assert!(!envelope.exists());
    fs::remove_file(private_file::folder_of(&site.config("h2")).join("keys/shared.key")).unwrap();
    assert_eq!(site.sync("h2").unwrap().awaited, [provider_name("shared")]);
    assert_eq!(site.sync("h1").unwrap().sent.len(), 1);
    site.sync("h2").unwrap();
    assert!(site.has("h2", "shared"));
}

#[test]
fn what_a_host_says_counts_only_if_that_host_has_signed_it() {
    let site = Site::with_two();
    let session = site.session("h1").unwrap();
    let uuids: BTreeMap<&str, Uuid> =
        session.document().members.iter().map(|member| (member.host.name.as_str(), member.host.uuid)).collect();
    let (first, second) = (site.record(&Key::ack(uuids["h1"])), site.record(&Key::ack(uuids["h2"])));
    let states = || -> BTreeSet<(String, bool)> {
        let status = ClusterStatus::of(&session).unwrap();
        status
            .hosts
            .into_iter()
            .map(|host| (host.name, host.state == HostState::Ready && host.error.is_none()))
            .collect()
    };
    let both = |second| [("h1".to_owned(), true), ("h2".to_owned(), second)].into();
    assert_eq!(states(), both(true));
    let good = fs::read(&second).unwrap();
    fs::copy(&first, &second).unwrap();
    assert_eq!(states(), both(false));
    for at in 0..good.len() {
        let mut wrong = good.clone();
        wrong[at] ^= 1;
        fs::write(&second, wrong).unwrap();
        assert_eq!(states(), both(false), "byte {at}");
    }
    drop(session);
    // So a host that says nothing believable does not count as one that has the key.
    refused(site.remove("h1"), Kind::Denied, "no host but h1 has confirmed to have all keys of provider shared");
    site.sync("h2").unwrap();
    site.remove("h1").unwrap();
}

#[test]
fn a_token_lets_one_host_in_once_and_not_late() {
    let site = Site::with_cluster();
    let config = |host: &str| site.config(host);
    let token = || site.session("h1").unwrap().token(site.admins()).unwrap();
    let used = token();
    join::ask(&config("h2"), &used, &host_name("h2")).unwrap();
    refused(join::ask(&config("h3"), &used, &host_name("h3")), Kind::Denied, "the token was used already");
    // The same host again is a run that was stopped: what it asked with stays.
    let identity = || fs::read(config("h2").with_file_name("host").join("identity")).unwrap();
    let asked_with = identity();
    join::ask(&config("h2"), &used, &host_name("h2")).unwrap();
    assert_eq!(identity(), asked_with);
    let late = Timestamp::from_secs((Timestamp::now().since_1970() + TOKEN_LIFE + Duration::from_secs(2)).as_secs());
    let mut session = site.session("h1").unwrap();
    refused(session.approve(site.admins(), "h2", late), Kind::Denied, "the token of host h2 ended at");
    let other = SigningKey::generate().unwrap();
    refused(
        session.approve(std::slice::from_ref(&other), "h2", Timestamp::now()),
        Kind::Denied,
        "is not by a token of this admin",
    );
    refused(session.token(std::slice::from_ref(&other)), Kind::Denied, "is not one of the cluster prod");
    session.approve(site.admins(), "h2", Timestamp::now()).unwrap();
    refused(session.approve(site.admins(), "h2", Timestamp::now()), Kind::Exists, "is a member of the cluster already");
    drop(session);
    refused(join::ask(&config("h3"), &used, &host_name("h3")), Kind::Denied, "used already, by host h2");
    refused(join::ask(&config("h3"), &token(), &host_name("h2")), Kind::Exists, "has a host of the name h2");
    refused(join::ask(&config("h2"), &token(), &host_name("h9")), Kind::Exists, "in the cluster prod already, as h2");
    refused(site.init("h2"), Kind::Exists, "in the cluster prod already, as h2");
    // Two that ask by one name are told apart by their UUIDs.
    for folder in ["h3", "h4"] {
        join::ask(&config(folder), &token(), &host_name("twin")).unwrap();
    }
    refused(site.approve("twin"), Kind::Invalid, "say which by its UUID");
    site.approve(&HostFiles::of(&config("h3")).identity().unwrap().uuid.to_string()).unwrap();
    refused(site.approve("twin"), Kind::Exists, "has a host of the name twin");
    assert_eq!(site.sync("h4").unwrap().standing, Standing::Pending);
}

#[test]
fn a_request_that_was_changed_or_made_without_the_token_is_refused() {
    let site = Site::with_cluster();
    site.ask("h2").unwrap();
    let request = fs::read_dir(site.cluster_folder().join("join")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&request).unwrap();
    for at in 0..good.len() {
        let mut wrong = good.clone();
        wrong[at] ^= 1;
        fs::write(&request, wrong).unwrap();
        assert!(site.approve("h2").is_err(), "byte {at}");
        assert_eq!(site.session("h1").unwrap().document().members.len(), 1, "byte {at}");
    }
    fs::write(&request, good).unwrap();
    site.approve("h2").unwrap();
}

#[test]
fn a_provider_of_the_same_name_is_left_alone() {
    let site = Site::with_cluster();
    site.add_provider("h2", "shared");
    let own = site.primary("h2", "shared").unwrap().uuid();
    site.ask("h2").unwrap();
    site.approve("h2").unwrap();
    site.sync("h1").unwrap();
    refused(site.sync("h2"), Kind::Exists, "the two need different names");
    site.remove("h2").unwrap();
    let _ = site.sync("h2");
    assert_eq!(site.primary("h2", "shared").unwrap().uuid(), own, "a removed host wipes only what the cluster shares");
}

#[test]
fn two_admins_at_once_make_one_document_each() {
    let site = Site::with_two();
    site.add_provider("h1", "one");
    let mut slow = site.session("h1").unwrap();
    // What another admin's host writes while this one thinks.
    let board = board::open(&site.board_place(), slow.document().cluster, &site.config("h1")).unwrap();
    let mut second = slow.document().clone();
    (second.epoch, second.previous) = (4, slow.view.hash);
    assert!(board.write_if_unchanged(&Key::document(4), None, &second.sign(site.admins()).unwrap()).unwrap());
    refused(slow.share(site.admins(), &provider_name("one")), Kind::Busy, "at the same time");
    drop(slow);
    site.share("h1", "one").unwrap();
    assert_eq!(site.session("h2").unwrap().document().epoch, 5);
}
