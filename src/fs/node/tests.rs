//! The table of nodes under every history of a few requests: names are made, linked, renamed and removed, while the kernel
//! drops names from its cache, forgets nodes and closes files in whatever order it likes.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const ROOT_INODE: u64 = 2;
/// The folders that names are in, by their inode numbers.
const FOLDERS: [u64; 2] = [10, 11];
/// Inode numbers of files. The lowest free one is used again at once.
const FILES: std::ops::RangeInclusive<u64> = 20..=22;
/// Requests of a history.
const LENGTH: usize = 5;

/// A folder by its index, and a name in it.
type Place = (usize, &'static str);
const PLACES: [Place; 3] = [(0, "x"), (1, "x"), (1, "y")];

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create(Place),
    Link(Place, Place),
    Rename(Place, Place),
    Unlink(Place),
    Lookup(Place),
    LookupFolder(usize),
    /// The kernel's cache loses a name.
    Evict(Place),
    /// The kernel forgets a node that no name in its cache leads to.
    Forget(NodeNumber),
    Open(Place),
    Close(u64),
}

/// The backing folders, what the kernel has cached of them, and the table.
#[derive(Clone)]
struct World {
    nodes: Nodes,
    inodes: BTreeMap<Place, u64>,
    /// Inodes of open files.
    open: BTreeSet<u64>,
    cached: BTreeMap<Place, NodeNumber>,
    folders: [Option<NodeNumber>; 2],
    known: BTreeMap<NodeNumber, Known>,
}

/// A node that the kernel knows.
#[derive(Clone)]
struct Known {
    inode: u64,
    lookups: u64,
    /// Whether the last name of its file is gone. The inode's number may be that of another file by now.
    removed: bool,
}

fn stat(inode: u64, links: u64) -> Stat {
    Stat { st_dev: 1, st_ino: inode, st_nlink: links, ..Stat::default() }
}

impl Clone for Nodes {
    fn clone(&self) -> Self {
        Self(RwLock::new(self.0.read().clone()))
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            nodes: Nodes::new(&stat(ROOT_INODE, 1), super::Place::Vm),
            inodes: BTreeMap::new(),
            open: BTreeSet::new(),
            cached: BTreeMap::new(),
            folders: [None; 2],
            known: BTreeMap::new(),
        };
        (0..FOLDERS.len()).for_each(|folder| world.look_up_folder(folder));
        world
    }

    fn links(&self, inode: u64) -> u64 {
        self.inodes.values().filter(|&&of| of == inode).count() as u64
    }

    fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let reachable: Vec<Place> = PLACES.into_iter().filter(|place| self.folders[place.0].is_some()).collect();
        for &place in &reachable {
            match self.inodes.contains_key(&place) {
                false => steps.push(Step::Create(place)),
                true if !self.cached.contains_key(&place) => steps.push(Step::Lookup(place)),
                true => {
                    steps.push(Step::Unlink(place));
                    steps.push(Step::Open(place));
                    for &to in reachable.iter().filter(|&&to| to != place) {
                        steps.push(Step::Rename(place, to));
                        steps.extend((!self.inodes.contains_key(&to)).then_some(Step::Link(place, to)));
                    }
                }
            }
        }
        steps.extend((0..FOLDERS.len()).filter(|&folder| self.folders[folder].is_none()).map(Step::LookupFolder));
        steps.extend(self.cached.keys().copied().map(Step::Evict));
        steps.extend(self.open.iter().copied().map(Step::Close));
        steps.extend(self.known.keys().copied().filter(|&number| !self.is_pinned(number)).map(Step::Forget));
        steps
    }

    /// Whether the kernel must know a node for the sake of something else. That of an open file keeps no name.
    fn is_pinned(&self, number: NodeNumber) -> bool {
        let holds_names = |folder: usize| self.cached.keys().any(|place| place.0 == folder);
        let is_open = self.known.get(&number).is_some_and(|known| self.open.contains(&known.inode));
        let folder = self.folders.iter().position(|known| *known == Some(number));
        is_open || self.cached.values().any(|&cached| cached == number) || folder.is_some_and(holds_names)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Create(at) => {
                let is_free = |inode: &u64| self.links(*inode) == 0 && !self.open.contains(inode);
                let Some(inode) = FILES.into_iter().find(is_free) else { return };
                self.inodes.insert(at, inode);
                self.look_up(at);
            }
            Step::Link(from, to) => {
                self.inodes.insert(to, self.inodes[&from]);
                self.look_up(to);
            }
            Step::Rename(from, to) => self.rename(from, to),
            Step::Unlink(at) => {
                self.remove(at);
                self.cached.remove(&at);
            }
            Step::Lookup(at) => self.look_up(at),
            Step::LookupFolder(folder) => self.look_up_folder(folder),
            Step::Evict(at) => drop(self.cached.remove(&at)),
            Step::Forget(number) => {
                if let Some(known) = self.known.remove(&number) {
                    self.nodes.forget(number, known.lookups);
                }
                for folder in self.folders.iter_mut().filter(|folder| **folder == Some(number)) {
                    *folder = None;
                }
            }
            Step::Open(at) => drop(self.open.insert(self.inodes[&at])),
            Step::Close(inode) => drop(self.open.remove(&inode)),
        }
    }

    fn look_up_folder(&mut self, folder: usize) {
        let kind = NodeKind::Directory(super::Place::Inside);
        let name = format!("d{folder}");
        let node = self.nodes.found(ROOT, name.as_ref(), &stat(FOLDERS[folder], 2), kind).unwrap();
        self.folders[folder] = Some(node.number);
        self.told(&node, FOLDERS[folder]);
    }

    fn look_up(&mut self, at: Place) {
        let inode = self.inodes[&at];
        let stat = stat(inode, self.links(inode));
        let node = self.nodes.found(self.folder(at), at.1.as_ref(), &stat, NodeKind::Symlink).unwrap();
        self.cached.insert(at, node.number);
        self.told(&node, inode);
    }

    /// A node stands for one file, for as long as the kernel knows it.
    fn told(&mut self, node: &Node, inode: u64) {
        let known = self.known.entry(node.number).or_insert(Known { inode, lookups: 0, removed: false });
        assert_eq!((known.inode, node.backing), (inode, BackingId::of(&stat(inode, 0))), "node {}", node.number);
        assert!(!known.removed, "node {} was that of another file", node.number);
        known.lookups += 1;
    }

    fn folder(&self, at: Place) -> NodeNumber {
        self.folders[at.0].unwrap()
    }

    fn remove(&mut self, at: Place) {
        let inode = self.inodes[&at];
        let links = self.links(inode);
        self.inodes.remove(&at);
        self.nodes.removed(self.folder(at), at.1.as_ref(), BackingId::of(&stat(inode, links)), links);
        if links == 1 {
            self.known.values_mut().filter(|known| known.inode == inode).for_each(|known| known.removed = true);
        }
    }

    fn rename(&mut self, from: Place, to: Place) {
        let inode = self.inodes[&from];
        if self.inodes.get(&to) == Some(&inode) {
            return;
        }
        if self.inodes.contains_key(&to) {
            self.remove(to);
        }
        self.inodes.remove(&from);
        self.inodes.insert(to, inode);
        let (from_folder, to_folder) = (self.folder(from), self.folder(to));
        let backing = BackingId::of(&stat(inode, 1));
        self.nodes.renamed(backing, (from_folder, from.1.as_ref()), (to_folder, to.1.as_ref()));
        self.cached.remove(&from).map(|number| self.cached.insert(to, number));
    }

    /// What the kernel may ask for is answered, and what it was told of a file leads to that file.
    fn check(&self) {
        for (&place, &number) in &self.cached {
            let node = self.nodes.get(number).unwrap();
            assert_eq!(self.nodes.vm_of(&node).unwrap().number, ROOT);
            let names = self.nodes.names(&node).unwrap();
            assert!(names.contains(&(self.folder(place), place.1.into())), "{place:?}: {names:?}");
            let inode = self.inodes[&place];
            assert_eq!(node.backing, BackingId::of(&stat(inode, 1)));
            for (folder, name) in names {
                let folder = self.nodes.get(folder).unwrap();
                let folder =
                    FOLDERS.iter().position(|inode| BackingId::of(&stat(*inode, 2)) == folder.backing).unwrap();
                let leads_to = self.inodes.iter().find(|(place, _)| place.0 == folder && name == place.1);
                assert_eq!(leads_to.map(|(_, inode)| *inode), Some(inode), "{name:?} in folder {folder}");
            }
        }
        for (number, known) in &self.known {
            let node = self.nodes.get(*number).unwrap();
            assert_eq!(node.backing, BackingId::of(&stat(known.inode, 1)));
            assert!(known.removed || (self.nodes.names(&node).is_ok() && self.nodes.path(&node).is_ok()));
        }
        let kept = self.nodes.0.read().slots.len();
        assert!(!self.known.is_empty() || kept == 1, "{kept} nodes are left when all are forgotten");
    }
}

fn try_all(world: &World, history: &mut Vec<Step>) -> usize {
    if history.len() == LENGTH {
        return 1;
    }
    let mut histories = 0;
    for step in world.possible() {
        let mut next = world.clone();
        history.push(step);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            next.take(step);
            next.check();
        }));
        assert!(outcome.is_ok(), "after {history:?}");
        histories += try_all(&next, history);
        history.pop();
    }
    histories
}

#[test]
fn a_file_that_has_a_name_is_found_after_every_history() {
    let histories = try_all(&World::new(), &mut Vec::new());
    assert!(histories > 10_000, "{histories}");
}
