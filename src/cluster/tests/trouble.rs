//! What goes wrong with hosts, clocks and versions: each is said with what to do about it.

use std::sync::Arc;

use super::*;
use crate::cluster::SharedKeys;
use crate::cluster::board::{self, Board, Lease, MemberHealth, Watch};
use crate::cluster::push::PushRole;
use crate::format::cluster::{Ack, Document, Generation, PushedProvider, SharedProvider};
use crate::provider::shared_key::SharedKey;

/// Files of keys that cannot be wiped, nor made the current ones.
struct Stuck<'a>(KeyFiles<'a>);

impl SharedKeys for Stuck<'_> {
    fn held(&self, cluster: Uuid, shared: &SharedProvider, wanted: &Generation) -> Result<Option<Arc<SharedKey>>> {
        self.0.held(cluster, shared, wanted)
    }

    fn keep(&self, place: &EnvelopeFor<'_>, shared: &SharedProvider, key: SharedKey, envelope: &[u8]) -> Result<()> {
        self.0.keep(place, shared, key, envelope)
    }

    fn next(&self, shared: &SharedProvider) -> Result<Arc<SharedKey>> {
        self.0.next(shared)
    }

    fn make_current(&self, _: &SharedProvider, _: &Generation) -> Result<bool> {
        Err(Error::new(Kind::Io, "it cannot be made the current one"))
    }

    fn current(&self, _: &SharedProvider) -> Result<Option<Uuid>> {
        Ok(None)
    }

    fn wipe(&self, _: Uuid, _: &SharedProvider, _: &Generation) -> Result<bool> {
        Err(Error::new(Kind::Io, "it cannot be wiped"))
    }

    fn act_on_pushed(&self, _: &Document, _: &PushedProvider, _: PushRole) -> Result<bool> {
        Err(Error::new(Kind::Io, "its KEKs cannot be wiped"))
    }
}

/// A board whose names cannot be listed, and which takes no word of a host if `is_mute`.
struct Broken {
    board: Box<dyn Board>,
    is_mute: bool,
}

impl Board for Broken {
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        self.board.read(key)
    }

    fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool> {
        match self.is_mute && key.as_str().ends_with("/ack") {
            true => Err(Error::new(Kind::Io, "the board is full")),
            false => self.board.write_if_unchanged(key, before, after),
        }
    }

    fn remove(&self, key: &Key) -> Result<()> {
        self.board.remove(key)
    }

    fn list(&self, _: &str, _: usize) -> Result<Vec<Key>> {
        Err(Error::new(Kind::Io, "names cannot be listed"))
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        self.board.watch()
    }

    fn lease(&self, time: Duration) -> Result<Box<dyn Lease>> {
        self.board.lease(time)
    }

    fn health(&self) -> Vec<MemberHealth> {
        self.board.health()
    }
}

impl Site {
    fn on_broken_board(&self, host: &str, is_mute: bool) -> Session {
        let config = self.config(host);
        let open = |place: &str, cluster| {
            let board = board::open(place, cluster, &config)?;
            Ok(Box::new(Broken { board, is_mute }) as Box<dyn Board>)
        };
        Session::open_within(&config, Duration::from_secs(10), open).unwrap()
    }
}

#[test]
fn what_cannot_be_tidied_stops_no_change_and_no_acknowledgement() {
    let site = Site::with_two();
    let config = site.config("h1");
    let removed = site.on_broken_board("h1", false).remove(
        &KeyFiles { config: &config },
        site.admins(),
        &host_name("h2"),
        Removal::default(),
    );
    assert!(removed.unwrap().was_active);
    let session = site.on_broken_board("h1", false);
    session.exchange();
    assert_eq!(session.said().unwrap().epoch, session.document().epoch);
}

#[test]
fn what_was_done_is_told_also_if_it_cannot_be_acknowledged() {
    let site = Site::with_cluster();
    site.ask("h2").unwrap();
    site.approve("h2").unwrap();
    site.sync("h1").unwrap();
    let done = site.on_broken_board("h2", true).exchange();
    assert_eq!((done.received.len(), done.failed.len()), (1, 0), "{done:?}");
    assert!(done.unsaid.unwrap().chain().contains("the board is full"));
    assert!(site.sync("h2").unwrap().unsaid.is_none());
}

#[test]
fn a_host_whose_keys_cannot_be_wiped_or_made_current_still_says_to_have_them() {
    let site = Site::with_two();
    let config = site.config("h2");
    let exchange = || {
        let session = site.session("h2").unwrap();
        let done = session.exchange_with(&Stuck(KeyFiles { config: &config }), &|_| Ok(()), Duration::ZERO);
        (done, session.said().unwrap().holds.len())
    };
    let (done, holds) = exchange();
    assert!(done.failed[0].1.chain().contains("made the current one"), "{done:?}");
    assert_eq!(holds, 1);
    site.remove("h2").unwrap();
    let (done, holds) = exchange();
    assert!(done.failed[0].1.chain().contains("cannot be wiped") && done.wiped.is_empty(), "{done:?}");
    assert_eq!(holds, 1, "it does not sign that it has none");
    let state = || ClusterStatus::of(&site.session("h1").unwrap()).unwrap().hosts;
    let state = || state().into_iter().find(|host| host.name == "h2").unwrap().state;
    assert_eq!(state(), HostState::Removed);
    assert_eq!(site.sync("h2").unwrap().wiped.len(), 1);
    assert_eq!(state(), HostState::Wiped);
}

#[test]
fn a_host_that_was_cloned_after_it_joined_is_noticed_on_both() {
    let site = Site::with_two();
    copy_tree(&site.dir.path().join("h2"), &site.dir.path().join("clone"));
    // Within one second both would say the same: one of them has lost its key, and says so twice.
    fs::remove_file(site.dir.path().join("clone/keys/shared.key")).unwrap();
    fs::remove_file(site.record(&site.envelope("h2"))).unwrap();
    site.sync("clone").unwrap();
    site.sync("clone").unwrap();
    refused(site.sync("h2"), Kind::Busy, "another host acknowledges as this one, h2");
    refused(site.sync("clone"), Kind::Busy, "another host acknowledges as this one, h2");
    assert!(site.has("h2", "shared"), "nothing is lost by it");
    // With one of the two gone it ends by itself.
    let _ = site.sync("h2");
    site.sync("h2").unwrap();
}

#[test]
fn a_host_that_crashed_between_its_word_and_the_board_is_not_its_own_clone() {
    let site = Site::with_two();
    let ack = site.record(&Key::ack(site.session("h2").unwrap().host()));
    let before = fs::read(&ack).unwrap();
    site.sync("h2").unwrap();
    fs::write(&ack, before).unwrap();
    site.sync("h2").unwrap();
    fs::remove_file(&ack).unwrap();
    site.sync("h2").unwrap();
}

#[test]
fn a_clock_that_is_ten_years_off_changes_no_key_and_is_said() {
    let site = Site::with_two();
    let session = site.session("h2").unwrap();
    let own = session.own().unwrap().host.clone();
    let place = board::open(&site.board_place(), session.document().cluster, &site.config("h2")).unwrap();
    let key = Key::ack(own.uuid);
    let before = place.read(&key).unwrap().unwrap();
    let ack = Ack::decode(&before, session.document().cluster, &own).unwrap();
    let ten_years = Duration::from_secs(3653 * 24 * 3600);
    let later = Timestamp::from_secs((ack.time.since_1970() + ten_years).as_secs());
    let bytes = Ack { time: later, ..ack }.encode(&session.identity.sign).unwrap();
    assert!(place.write_if_unchanged(&key, Some(&before), &bytes).unwrap());
    drop(session);
    let status = ClusterStatus::of(&site.session("h1").unwrap()).unwrap();
    assert!(status.problems[0].contains("the clock of h2 was"), "{:?}", status.problems);
    assert!(status.hosts.iter().all(|host| host.state == HostState::Ready));
    // An admin whose clock is off is told what it says.
    site.ask("h3").unwrap();
    let approved = site.session("h1").unwrap().approve(site.admins(), "h3", later);
    refused(approved, Kind::Denied, "by this host's clock it is");
}

/// As on a host that has nothing to do with clusters.
#[test]
fn work_on_no_cluster_leaves_no_file() {
    let site = Site::new();
    let config = site.config("h9");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    refused(site.session("h9").map(drop), Kind::NotFound, "this host is in no cluster");
    let within = Session::open_within(&config, Duration::ZERO, |_, _| Err(Error::new(Kind::Io, "not reached")));
    refused(within.map(drop), Kind::NotFound, "this host is in no cluster");
    let left: Vec<_> = fs::read_dir(config.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.iter().filter(|path| **path != config).count(), 0, "{left:?}");
}

#[test]
fn a_generation_that_a_host_lacks_is_said_with_what_it_makes_there() {
    let site = Site::with_two();
    site.rotate().unwrap();
    site.sync("h1").unwrap();
    let said = || {
        let problems = ClusterStatus::of(&site.session("h1").unwrap()).unwrap().problems;
        problems.into_iter().find(|problem| problem.starts_with("generation 2 of shared")).unwrap_or_default()
    };
    assert!(said().contains("confirmed yet by h2. New keys are made by a former generation"), "{}", said());
    ["h2", "h1", "h2"].into_iter().for_each(|host| drop(site.sync(host).unwrap()));
    assert_eq!(said(), "");
    let mut session = site.session("h1").unwrap();
    let old = session.old_generations(&provider_name("shared")).unwrap();
    session.retire(site.admins(), &provider_name("shared"), &old).unwrap();
    drop(session);
    // One that comes later, when there is no other.
    site.ask("h3").unwrap();
    site.approve("h3").unwrap();
    assert!(said().contains("by h3. Former ones are retired"), "{}", said());
}

#[test]
fn a_document_of_a_later_version_asks_for_a_later_program() {
    let site = Site::with_two();
    let third = site.record(&Key::document(3));
    let mut bytes = fs::read(&third).unwrap();
    bytes[8] = 4;
    fs::write(site.record(&Key::document(4)), bytes).unwrap();
    refused(
        site.sync("h2"),
        Kind::Unsupported,
        "another host has a newer version of vmcryptfs, which this host needs as well",
    );
    assert!(site.has("h2", "shared"), "it works on with what it has");
}

#[test]
fn an_approval_that_was_interrupted_before_it_tidied_is_finished_by_the_same_command() {
    let site = Site::with_cluster();
    site.ask("h2").unwrap();
    let join = site.cluster_folder().join("join");
    let request = fs::read_dir(&join).unwrap().next().unwrap().unwrap().path();
    let left = fs::read(&request).unwrap();
    site.approve("h2").unwrap();
    let epoch = || site.session("h1").unwrap().document().epoch;
    let (granted, is_there) = (epoch(), || request.exists());
    assert!(!is_there());
    fs::write(&request, left).unwrap();
    site.approve("h2").unwrap();
    assert_eq!((epoch(), is_there()), (granted, false));
    refused(site.approve("h2"), Kind::Exists, "h2 (");
    refused(site.approve("h3"), Kind::NotFound, "no host h3 asks to join the cluster; nor does any other");
}
