//! Generations of a primary key, stepped through all short histories of two hosts.

use super::*;
use crate::key::KeyId;
use crate::provider::{NewKey, Providers};

impl Site {
    pub(super) fn rotate(&self) -> Result<usize> {
        let mut session = self.session("h1")?;
        session
            .rotate(&KeyFiles { config: &self.config("h1") }, self.admins(), &provider_name("shared"), false)
            .map(|rotated| rotated.number)
    }

    fn retire(&self) -> Result<()> {
        let mut session = self.session("h1")?;
        let old = session.old_generations(&provider_name("shared"))?;
        session.retire(self.admins(), &provider_name("shared"), &old)
    }

    /// A KEK that a host makes.
    fn new_key(&self, host: &str) -> Result<KeyId> {
        let provider = Providers::load(&self.config(host))?.provider(&provider_name("shared"))?;
        let purpose = NewKey { vm_name: "vm".into(), vm_uuid: Uuid::nil() };
        provider.create_key(&purpose).map(|(id, _)| id)
    }

    fn opens(&self, host: &str, key: &KeyId) -> bool {
        Providers::load(&self.config(host)).unwrap().fetch(key).is_ok()
    }

    fn primaries(&self) -> Vec<(Uuid, bool)> {
        let session = self.session("h1").unwrap();
        let generations = &session.document().providers[0].generations;
        generations.iter().map(|generation| (generation.primary, generation.retired.is_some())).collect()
    }

    /// Which generations a host has, and the number of that by which it makes keys.
    fn generations(&self, host: &str) -> (Vec<bool>, Option<usize>) {
        use crate::provider::generations::Generations;
        let primaries = self.primaries();
        let folder = private_file::folder_of(&self.config(host)).join("keys/shared.key");
        let files = Generations::of(folder);
        let has = primaries.iter().map(|(primary, _)| files.find(*primary).unwrap().is_some()).collect();
        let current = files.current().ok().map(|key| key.uuid());
        (has, primaries.iter().position(|(primary, _)| Some(*primary) == current))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    Rotate,
    Retire,
    SyncFirst,
    SyncSecond,
    Remove,
}

const TURNS: [Turn; 5] = [Turn::Rotate, Turn::Retire, Turn::SyncFirst, Turn::SyncSecond, Turn::Remove];

/// One generation, as it must be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Expected {
    retired: bool,
    /// Whether there is an envelope for the second host.
    left: bool,
    /// Whether each host has it, and has said so.
    has: [bool; 2],
    said: [bool; 2],
}

/// What must be so after a history.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Generated {
    generations: Vec<Expected>,
    current: [Option<usize>; 2],
    /// What each host has said of that.
    makes: [Option<usize>; 2],
    is_removed: bool,
}

impl Generated {
    fn first() -> Self {
        let both = Expected { retired: false, left: true, has: [true; 2], said: [true; 2] };
        Self { generations: vec![both], current: [Some(0); 2], makes: [None; 2], is_removed: false }
    }

    fn all_have_newest(&self) -> bool {
        let newest = self.generations.last().unwrap();
        newest.said[0] && (self.is_removed || newest.said[1])
    }

    fn all_make_by_newest(&self) -> bool {
        let newest = Some(self.generations.len() - 1);
        self.makes[0] == newest && (self.is_removed || self.makes[1] == newest)
    }

    fn step(&mut self, turn: Turn) -> Option<Kind> {
        match turn {
            Turn::Rotate if !self.all_have_newest() => return Some(Kind::Denied),
            Turn::Rotate => self.generations.push(Expected { has: [true, false], ..Expected::default() }),
            Turn::Retire if self.generations.iter().filter(|one| !one.retired).count() == 1 => {
                return Some(Kind::NotFound);
            }
            Turn::Retire if !self.all_make_by_newest() => return Some(Kind::Denied),
            Turn::Retire => {
                let old = self.generations.len() - 1;
                self.generations[..old].iter_mut().for_each(|one| (one.retired, one.left) = (true, false));
            }
            Turn::SyncFirst => self.sync(0),
            Turn::SyncSecond => self.sync(1),
            // The first host has said before what it has.
            Turn::Remove if self.is_removed => {
                self.sync(0);
                return Some(Kind::NotFound);
            }
            Turn::Remove => {
                self.sync(0);
                self.is_removed = true;
                self.generations.iter_mut().for_each(|one| one.left = false);
            }
        }
        None
    }

    fn sync(&mut self, host: usize) {
        if host == 1 && self.is_removed {
            self.generations.iter_mut().for_each(|one| (one.has[1], one.said[1]) = (false, false));
            (self.current[1], self.makes[1]) = (None, None);
            return;
        }
        for one in self.generations.iter_mut().filter(|one| !one.retired) {
            match host {
                0 => one.left |= !self.is_removed && !one.said[1],
                _ => one.has[1] |= one.left,
            }
        }
        let oldest = self.generations.iter().position(|one| !one.retired);
        let other_has = |one: &Expected| self.is_removed || one.said[1 - host];
        let may_use =
            |(at, one): &(usize, &Expected)| !one.retired && one.has[host] && (Some(*at) == oldest || other_has(one));
        let wanted = self.generations.iter().enumerate().filter(may_use).map(|(at, _)| at).next_back();
        self.current[host] = self.current[host].max(wanted);
        for one in &mut self.generations {
            one.has[host] &= !one.retired;
            one.said[host] = one.has[host];
        }
        self.current[host] = self.current[host].filter(|at| self.generations[*at].has[host]);
        // A document of one generation needs no word about it.
        self.makes[host] = self.current[host].filter(|_| self.generations.len() > 1);
    }
}

fn play_turn(site: &Site, model: &mut Generated, history: &[Turn]) {
    let turn = *history.last().unwrap();
    let expected = model.step(turn);
    let result = match turn {
        Turn::Rotate => site.rotate().map(drop),
        Turn::Retire => site.retire(),
        Turn::SyncFirst => site.sync("h1").map(drop),
        Turn::SyncSecond => site.sync("h2").map(drop),
        Turn::Remove => site.sync("h1").and_then(|_| site.remove("h2")),
    };
    assert_eq!(result.as_ref().map_err(Error::kind).err(), expected, "{history:?}: {result:?}");
    let retired: Vec<bool> = site.primaries().into_iter().map(|(_, retired)| retired).collect();
    assert_eq!(retired, model.generations.iter().map(|one| one.retired).collect::<Vec<_>>(), "{history:?}");
    for (host, name) in ["h1", "h2"].into_iter().enumerate() {
        let has = model.generations.iter().map(|one| one.has[host]).collect();
        assert_eq!(site.generations(name), (has, model.current[host]), "{history:?}: {name}");
    }
    // What one member makes from now on, the other one opens.
    for (host, other) in [("h1", "h2"), ("h2", "h1")] {
        if let Ok(key) = site.new_key(host).as_ref()
            && !model.is_removed
        {
            assert!(site.opens(other, key), "{history:?}: what {host} made is closed to {other}");
        }
    }
}

fn play_turns(site: &Site, model: &Generated, history: &mut Vec<Turn>, played: &mut usize) {
    const LEN: usize = 6;
    if history.len() == LEN {
        return;
    }
    let saved = tempfile::tempdir_in(site.dir.path().parent().unwrap()).unwrap();
    copy_tree(site.dir.path(), saved.path());
    for turn in TURNS {
        let mut next = model.clone();
        history.push(turn);
        play_turn(site, &mut next, history);
        *played += 1;
        if next != *model {
            play_turns(site, &next, history, played);
        }
        history.pop();
        for folder in ["board", "h1", "h2"] {
            fs::remove_dir_all(site.dir.path().join(folder)).unwrap();
        }
        copy_tree(saved.path(), site.dir.path());
    }
}

#[test]
fn after_each_prefix_of_each_short_history_of_rotations_nothing_is_lost_and_nothing_new_is_closed() {
    let site = Site::with_two();
    let mut played = 0;
    play_turns(&site, &Generated::first(), &mut Vec::new(), &mut played);
    assert!(played > 100, "only {played} steps were played");
}

#[test]
fn keys_of_each_generation_open_until_it_is_retired() {
    let site = Site::with_two();
    let first = site.new_key("h2").unwrap();
    assert_eq!(site.rotate().unwrap(), 2);
    refused(site.rotate(), Kind::Denied, "did not confirm to have the newest key of provider shared");
    site.sync("h1").unwrap();
    refused(site.rotate(), Kind::Denied, "h2 did not confirm to have");
    site.sync("h2").unwrap();
    refused(site.retire(), Kind::Denied, "h1 did not confirm to make new keys of provider shared by its newest key");
    site.sync("h1").unwrap();
    let second = site.new_key("h1").unwrap();
    assert_ne!(first.id().split('/').next(), second.id().split('/').next());
    let superseded = |key: &KeyId| {
        Providers::load(&site.config("h1")).unwrap().provider(key.provider()).unwrap().is_superseded(key).unwrap()
    };
    assert_eq!((superseded(&first), superseded(&second)), (true, false));
    for host in ["h1", "h2"] {
        assert!(site.opens(host, &first) && site.opens(host, &second), "{host}");
    }
    // A host that joins in between gets both.
    site.ask("h3").unwrap();
    site.approve("h3").unwrap();
    site.sync("h1").unwrap();
    site.sync("h3").unwrap();
    assert!(site.opens("h3", &first) && site.opens("h3", &second));
    let retired_early = site.retire();
    assert!(retired_early.is_ok(), "h3 makes its keys by the newest one at once: {retired_early:?}");
    for host in ["h1", "h2", "h3"] {
        assert_eq!(site.sync(host).unwrap().wiped.len(), 1, "{host}");
        assert!(!site.opens(host, &first) && site.opens(host, &second), "{host}");
    }
    refused(site.retire(), Kind::NotFound, "has one key");
}

#[test]
fn a_retired_key_that_a_host_still_needs_is_kept_and_said_to_be_there() {
    let site = Site::with_two();
    let first = site.new_key("h2").unwrap();
    site.rotate().unwrap();
    for host in ["h1", "h2", "h1"] {
        site.sync(host).unwrap();
    }
    site.retire().unwrap();
    let (config, former) =
        (site.config("h2"), site.session("h2").unwrap().document().providers[0].generations[0].primary);
    let needed = |primary| if primary == former { Err(Error::new(Kind::Denied, "needed")) } else { Ok(()) };
    let exchange = |refuse: &dyn Fn(Uuid) -> Result<()>| {
        let session = site.session("h2").unwrap();
        let done = session.exchange_with(&KeyFiles { config: &config }, refuse, Duration::ZERO);
        (done, session.said().unwrap().holds.contains(&former))
    };
    for _ in 0..2 {
        let (done, holds) = exchange(&needed);
        assert!(done.wiped.is_empty() && done.failed[0].1.chain().contains("needed") && holds, "{done:?}");
        assert!(site.opens("h2", &first));
    }
    let (done, holds) = exchange(&|_| Ok(()));
    assert!(done.wiped.len() == 1 && done.failed.is_empty() && !holds, "{done:?}");
    // What it has no more is in nobody's way.
    assert!(exchange(&needed).0.failed.is_empty());
    site.remove("h2").unwrap();
    let all = |_| Err(Error::new(Kind::Denied, "needed"));
    assert_eq!(exchange(&all).0.wiped.len(), 1, "a host that was removed wipes all");
}

/// The next key is on this host before a document names it, so an attempt that ends in between leaves one, which is taken.
#[test]
fn a_rotation_that_was_interrupted_begins_again_with_the_same_key() {
    use crate::provider::shared_key::SharedKey;
    let site = Site::with_two();
    let shared = site.session("h1").unwrap().document().providers[0].clone();
    let left = SharedKey::next(&site.config("h1"), &shared).unwrap().uuid();
    site.sync("h1").unwrap();
    site.rotate().unwrap();
    assert_eq!(site.primaries()[1].0, left);
}

#[test]
fn a_provider_that_is_rotated_is_not_backed_up() {
    let site = Site::with_two();
    let is_backed_up = || {
        let config = crate::provider::config::Config::load(&site.config("h1")).unwrap();
        config.settings(&provider_name("shared")).unwrap().primary_key().unwrap().unwrap().backed_up
    };
    crate::provider::config::update(&site.config("h1"), |config| {
        let settings = config.settings(&provider_name("shared"))?.backed_up()?;
        config.set(&provider_name("shared"), settings)
    })
    .unwrap();
    site.rotate().unwrap();
    assert!(is_backed_up(), "keys are still made by the former primary key");
    site.sync("h1").unwrap();
    site.sync("h2").unwrap();
    site.sync("h1").unwrap();
    assert!(!is_backed_up());
}
