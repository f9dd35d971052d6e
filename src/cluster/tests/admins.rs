//! Several admins, admins that come and go, and boards that have gone back.

use std::slice::from_ref;

use super::*;
use crate::cluster::{AdminChange, accept_board};
use crate::format::cluster::{Document, UnverifiedDocument};

fn keys<const N: usize>() -> [SigningKey; N] {
    std::array::from_fn(|_| SigningKey::generate().unwrap())
}

impl Site {
    fn change_admins(&self, signers: &[SigningKey], change: AdminChange, threshold: Option<u8>) -> Result<()> {
        self.session("h1")?.change_admins(signers, change, threshold)
    }

    /// Another copy of the first admin's key.
    fn first_admin(&self) -> SigningKey {
        let mut seed = crate::sys::SecretBytes::zeroed(32);
        seed.copy_from_slice(self.admin.seed());
        SigningKey::new(seed).unwrap()
    }

    fn accept_board(&self, host: &str) -> Result<u64> {
        let config = self.config(host);
        accept_board(&config, |_| {
            // While people type passphrases the agent of the host goes on.
            assert!(HostFiles::of(&config).is_free()?);
            Ok(vec![self.first_admin()])
        })
    }
}

#[test]
fn an_admin_is_added_by_those_before_and_removed_by_those_that_stay() {
    let site = Site::with_two();
    let [second, stranger] = keys();
    let add = AdminChange::Add(second.public());
    refused(site.change_admins(from_ref(&stranger), add, None), Kind::Denied, "0 of the admins after the change");
    refused(site.change_admins(from_ref(&second), add, None), Kind::Denied, "0 of 1 signatures are by admins");
    site.change_admins(site.admins(), add, None).unwrap();
    refused(site.change_admins(site.admins(), add, None), Kind::Exists, "is an admin already");
    site.sync("h2").unwrap();
    // The first key is lost: the second one removes it, and goes on alone.
    let remove = AdminChange::Remove(site.admin.public());
    site.change_admins(from_ref(&second), remove, None).unwrap();
    refused(site.share("h1", "shared"), Kind::Exists, "shares a provider shared already");
    site.add_provider("h1", "more");
    refused(site.share("h1", "more"), Kind::Denied, "0 of 1 signatures are by admins");
    let mut session = site.session("h1").unwrap();
    session.share(from_ref(&second), &provider_name("more")).unwrap();
    drop(session);
    let last = AdminChange::Remove(second.public());
    refused(site.change_admins(from_ref(&second), last, None), Kind::Invalid, "a threshold of 1 of 0 admins");
    assert_eq!(site.sync("h2").unwrap().epoch, 6);
}

#[test]
fn with_a_threshold_as_many_sign_before_and_after() {
    let site = Site::with_two();
    let [second, third] = keys();
    site.change_admins(site.admins(), AdminChange::Add(second.public()), None).unwrap();
    refused(site.change_admins(site.admins(), AdminChange::None, Some(2)), Kind::Denied, "1 of the admins after");
    refused(
        site.change_admins(site.admins(), AdminChange::None, Some(3)),
        Kind::Invalid,
        "a threshold of 3 of 2 admins: expected 1 to 2",
    );
    let both = [site.first_admin(), second];
    site.change_admins(&both, AdminChange::None, Some(2)).unwrap();
    refused(site.rotate(), Kind::Denied, "1 of 1 signatures are by admins of the cluster, expected 2");
    let mut session = site.session("h1").unwrap();
    session.rotate(&KeyFiles { config: &site.config("h1") }, &both, &provider_name("shared"), false).unwrap();
    drop(session);
    let [first, second] = both;
    // One that leaves signs as well: two before it, one after it.
    let two = [first, second];
    refused(
        site.change_admins(&two[..1], AdminChange::Remove(two[0].public()), Some(1)),
        Kind::Denied,
        "0 of the admins after",
    );
    site.change_admins(&two, AdminChange::Remove(two[0].public()), Some(1)).unwrap();
    refused(
        site.change_admins(from_ref(&third), AdminChange::Add(third.public()), None),
        Kind::Denied,
        "0 of 1 signatures",
    );
    assert_eq!(site.sync("h2").unwrap().epoch, 7);
}

/// What the owner of the board and an admin who was removed can make of the rules.
#[test]
fn a_document_with_other_admins_is_taken_only_from_those_before() {
    let site = Site::with_two();
    let [thief] = keys();
    let session = site.session("h2").unwrap();
    let next = site.record(&Key::document(4));
    let forged = |signer: &SigningKey, change: &dyn Fn(&mut Document)| {
        let mut document = session.document().clone();
        (document.epoch, document.previous) = (4, session.view.hash);
        change(&mut document);
        document.sign(from_ref(signer)).unwrap()
    };
    let own = forged(&thief, &|document| (document.admins, document.admins_since) = (vec![thief.public()], 4));
    let silent = forged(&site.admin, &|document| document.admins_since = 4);
    let board = forged(&site.admin, &|document| document.resumed = 3);
    drop(session);
    for (bytes, words) in
        [(own, "0 of 1 signatures"), (silent, "has other admins"), (board, "it says that a board was accepted")]
    {
        fs::write(&next, bytes).unwrap();
        refused(site.session("h2"), Kind::Denied, words);
    }
    fs::remove_file(&next).unwrap();
    site.sync("h2").unwrap();
}

#[test]
fn a_board_that_was_put_back_goes_on_once_an_admin_says_so_and_who_was_removed_stays_so() {
    let site = Site::with_two();
    let (board, saved) = (site.cluster_folder(), site.dir.path().join("saved"));
    refused(site.accept_board("h1"), Kind::Exists, "the board has all that this host has seen");
    site.ask("h3").unwrap();
    site.approve("h3").unwrap();
    site.sync("h3").unwrap();
    copy_tree(&board, &saved);
    site.remove("h2").unwrap();
    site.sync("h3").unwrap();
    fs::remove_dir_all(&board).unwrap();
    copy_tree(&saved, &board);
    for host in ["h1", "h3"] {
        refused(site.sync(host), Kind::Denied, "cluster accept-board");
    }
    let [stranger] = keys();
    let by_stranger = accept_board(&site.config("h1"), |_| Ok(vec![stranger]));
    refused(by_stranger, Kind::Denied, "0 of 1 signatures");
    assert_eq!(site.accept_board("h1").unwrap(), 6);
    for host in ["h1", "h3"] {
        assert_eq!(site.sync(host).unwrap().epoch, 6, "{host}");
    }
    // It had seen the older state, in which it was a member.
    let second = site.sync("h2").unwrap();
    assert_eq!((second.standing, second.epoch, second.wiped.len()), (Standing::Removed, 6, 1));
    // A host that comes later, and what follows.
    site.ask("h4").unwrap();
    site.approve("h4").unwrap();
    assert_eq!(site.sync("h4").unwrap().epoch, 7);
    assert_eq!(site.sync("h3").unwrap().epoch, 7);
}

#[test]
fn a_board_whose_content_is_gone_goes_on_once_an_admin_says_so() {
    let site = Site::with_two();
    fs::remove_dir_all(site.cluster_folder()).unwrap();
    refused(site.sync("h2"), Kind::NotFound, "does not have cluster");
    site.accept_board("h2").unwrap();
    for host in ["h2", "h1", "h2"] {
        assert_eq!(site.sync(host).unwrap().epoch, 4, "{host}");
    }
    assert!(site.has("h1", "shared") && site.has("h2", "shared"));
}

/// A second admin goes on from the old state before anyone has noticed: a host that has seen that and one that has not meet again.
#[test]
fn two_histories_become_one() {
    let site = Site::with_two();
    let (board, saved) = (site.cluster_folder(), site.dir.path().join("saved"));
    copy_tree(&board, &saved);
    site.add_provider("h1", "one");
    site.share("h1", "one").unwrap();
    fs::remove_dir_all(&board).unwrap();
    copy_tree(&saved, &board);
    let mut second = site.session("h2").unwrap();
    site.add_provider("h2", "two");
    second.share(site.admins(), &provider_name("two")).unwrap();
    drop(second);
    refused(site.sync("h1"), Kind::Denied, "it is another document than document 4");
    let accepted = site.accept_board("h1").unwrap();
    assert_eq!(site.sync("h2").unwrap().epoch, accepted);
    assert_eq!(site.sync("h1").unwrap().epoch, accepted);
    assert_eq!(site.session("h2").unwrap().document().providers.len(), 2, "shared and one");
}

/// The record by which a board was accepted, as the owner of the board can use it.
#[test]
fn an_acceptance_is_not_used_twice_and_not_forged() {
    let site = Site::with_two();
    let [thief] = keys();
    let resumed = site.record(&Key::resumed());
    let document = |signer: &SigningKey, epoch: u64, admins: Vec<[u8; 32]>| {
        let session = site.session("h2").unwrap();
        let since = if admins == session.document().admins { 0 } else { epoch };
        let document = Document { epoch, resumed: epoch, admins, admins_since: since, ..session.document().clone() };
        Document { previous: [9; 32], ..document }.sign(from_ref(signer)).unwrap()
    };
    let own = document(&thief, 9, vec![thief.public()]);
    let later = document(&thief, 9, vec![site.admin.public()]);
    let earlier = document(&site.admin, 3, vec![site.admin.public()]);
    for bytes in [own, later] {
        fs::write(&resumed, bytes).unwrap();
        refused(site.session("h2"), Kind::Denied, "by which a board was accepted");
    }
    fs::write(&resumed, earlier).unwrap();
    assert_eq!(site.sync("h2").unwrap().epoch, 3, "what is older than what was seen says nothing");
    // An ordinary document in its place.
    let third = fs::read(site.record(&Key::document(3))).unwrap();
    UnverifiedDocument::decode(&third).unwrap();
    fs::write(&resumed, third).unwrap();
    assert_eq!(site.sync("h2").unwrap().epoch, 3);
}
