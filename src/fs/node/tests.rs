//! The table of nodes under every history of a few requests: names are made, linked, renamed and removed, while the kernel
//! drops names from its cache, forgets nodes and closes files in whatever order it likes, and lookups are overtaken by what
//! changes names.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const ROOT_INODE: u64 = 2;
/// The folders that names are in, by their inode numbers.
const FOLDERS: [u64; 2] = [10, 11];
/// Inode numbers of files. The lowest free one is used again at once.
const INODES: std::ops::RangeInclusive<u64> = 20..=9999;
/// Requests of a history.
const LENGTH: usize = 5;

/// A folder by its index, and a name in it.
type At = (usize, &'static str);
const NAMES: [At; 3] = [(0, "x"), (1, "x"), (1, "y")];

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create(At),
    Link(At, At),
    Rename(At, At),
    Unlink(At),
    /// On the backing side, beside the mount.
    UnlinkBeneath(At),
    Lookup(At),
    /// A lookup has seen the attributes, and adds the node when another step or two are done.
    BeginLookup(At),
    EndLookup,
    LookupFolder(usize),
    /// The kernel's cache loses a name.
    Evict(At),
    /// The kernel forgets a node that no name in its cache leads to.
    Forget(NodeNumber),
    Open(At),
    Close(File),
}

/// What there is to tell files by.
#[derive(Clone, Copy)]
struct Means {
    /// Whether there is a descriptor for each removed file.
    descriptors: bool,
    /// Whether the file system tells when a file was made, or has handles.
    births: bool,
}

/// One of the files that there ever were.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct File {
    serial: u32,
    inode: u64,
}

/// The backing folders, what the kernel has cached of them, and the table.
#[derive(Clone)]
struct World {
    means: Means,
    nodes: Nodes,
    files: BTreeMap<At, File>,
    made: u32,
    open: BTreeSet<File>,
    cached: BTreeMap<At, NodeNumber>,
    folders: [Option<NodeNumber>; 2],
    /// What each node that the kernel knows stands for, and how often it was told.
    known: BTreeMap<NodeNumber, (File, u64)>,
    /// A lookup that is under way.
    looking: Option<(At, File, u64)>,
}

impl Clone for Nodes {
    fn clone(&self) -> Self {
        Self(RwLock::new(self.0.read().clone()))
    }
}

impl World {
    fn new(means: Means) -> Self {
        let root = File { serial: 0, inode: ROOT_INODE };
        let mut world = Self {
            means,
            nodes: Nodes::new(&stat(means, root, 1), Place::Vm),
            files: BTreeMap::new(),
            made: 0,
            open: BTreeSet::new(),
            cached: BTreeMap::new(),
            folders: [None; 2],
            known: BTreeMap::new(),
            looking: None,
        };
        (0..FOLDERS.len()).for_each(|folder| world.look_up_folder(folder));
        world
    }

    fn links(&self, file: File) -> u64 {
        self.files.values().filter(|&&other| other == file).count() as u64
    }

    fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let reachable: Vec<At> = NAMES.into_iter().filter(|at| self.folders[at.0].is_some()).collect();
        for &at in &reachable {
            match (self.files.contains_key(&at), self.cached.contains_key(&at)) {
                (false, false) => steps.push(Step::Create(at)),
                (false, true) => {} // removed on the backing side: the next step evicts it
                (true, false) => steps.push(Step::Lookup(at)),
                (true, true) => {
                    steps.extend([Step::Unlink(at), Step::Open(at)]);
                    steps.extend(self.means.births.then_some(Step::UnlinkBeneath(at)));
                    // Only descriptors and births distinguish a late lookup from one of a new file.
                    let may_be_late = self.looking.is_none() && (self.means.births || self.means.descriptors);
                    steps.extend(may_be_late.then_some(Step::BeginLookup(at)));
                    for &to in reachable.iter().filter(|&&to| to != at) {
                        steps.push(Step::Rename(at, to));
                        steps.extend((!self.files.contains_key(&to)).then_some(Step::Link(at, to)));
                    }
                }
            }
        }
        steps.extend(self.looking.map(|_| Step::EndLookup));
        steps.extend((0..FOLDERS.len()).filter(|&folder| self.folders[folder].is_none()).map(Step::LookupFolder));
        steps.extend(self.cached.keys().copied().map(Step::Evict));
        steps.extend(self.open.iter().copied().map(Step::Close));
        steps.extend(self.known.keys().copied().filter(|&number| !self.is_used(number)).map(Step::Forget));
        steps
    }

    /// Whether the kernel must know a node for the sake of something else.
    fn is_used(&self, number: NodeNumber) -> bool {
        let folder = self.folders.iter().position(|known| *known == Some(number));
        let holds_names = |folder: usize| {
            self.cached.keys().any(|at| at.0 == folder) || self.looking.is_some_and(|(at, ..)| at.0 == folder)
        };
        let is_open = self.known.get(&number).is_some_and(|(file, _)| self.open.contains(file));
        is_open || self.cached.values().any(|&cached| cached == number) || folder.is_some_and(holds_names)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Create(at) => self.create(at),
            Step::Link(from, to) => {
                self.files.insert(to, self.files[&from]);
                self.look_up(to);
            }
            Step::Rename(from, to) => self.rename(from, to),
            Step::Unlink(at) => {
                let left = self.leave(at);
                self.nodes.removed(self.folder(at), at.1.as_ref(), left);
                self.cached.remove(&at);
            }
            Step::UnlinkBeneath(at) => {
                self.files.remove(&at);
                self.cached.remove(&at);
            }
            Step::Lookup(at) => self.look_up(at),
            Step::BeginLookup(at) => {
                let file = self.files[&at];
                self.looking = Some((at, file, self.links(file)));
            }
            Step::EndLookup => {
                if let Some((at, file, links)) = self.looking.take() {
                    self.found(at, file, links);
                }
            }
            Step::LookupFolder(folder) => self.look_up_folder(folder),
            Step::Evict(at) => drop(self.cached.remove(&at)),
            Step::Forget(number) => {
                if let Some((_, lookups)) = self.known.remove(&number) {
                    self.nodes.forget(number, lookups);
                }
                for folder in self.folders.iter_mut().filter(|folder| **folder == Some(number)) {
                    *folder = None;
                }
            }
            Step::Open(at) => drop(self.open.insert(self.files[&at])),
            Step::Close(file) => drop(self.open.remove(&file)),
        }
    }

    /// An inode number is in use while its file has a name, is open, or is held by the table.
    fn create(&mut self, at: At) {
        let held: Vec<u64> = {
            let table = self.nodes.0.read();
            table.slots.values().filter(|slot| slot.held.is_some()).map(|slot| slot.node.backing.inode).collect()
        };
        let is_used = |inode: u64| {
            let is = |file: &File| file.inode == inode;
            self.files.values().any(is) || self.open.iter().any(is) || held.contains(&inode)
        };
        let Some(inode) = INODES.into_iter().find(|&inode| !is_used(inode)) else { return };
        self.made += 1;
        self.files.insert(at, File { serial: self.made, inode });
        self.look_up(at);
    }

    fn look_up_folder(&mut self, folder: usize) {
        let file = File { serial: 0, inode: FOLDERS[folder] };
        let (stat, name) = (stat(self.means, file, 2), format!("d{folder}"));
        let kind = NodeKind::Directory(Place::Inside);
        let node = self.nodes.found(ROOT, name.as_ref(), &stat, Birth::of(&stat), kind).unwrap();
        self.folders[folder] = Some(node.number);
        self.told(&node, file);
    }

    fn look_up(&mut self, at: At) {
        let file = self.files[&at];
        let number = self.found(at, file, self.links(file));
        self.cached.insert(at, number);
    }

    fn found(&mut self, at: At, file: File, links: u64) -> NodeNumber {
        let stat = stat(self.means, file, links);
        let node =
            self.nodes.found(self.folder(at), at.1.as_ref(), &stat, Birth::of(&stat), NodeKind::Symlink).unwrap();
        self.told(&node, file);
        node.number
    }

    /// A node stands for one file, for as long as the kernel knows it.
    fn told(&mut self, node: &Node, file: File) {
        let known = self.known.entry(node.number).or_insert((file, 0));
        assert_eq!((known.0, node.backing.inode), (file, file.inode), "node {}", node.number);
        known.1 += 1;
    }

    fn folder(&self, at: At) -> NodeNumber {
        self.folders[at.0].unwrap()
    }

    /// Takes a name away on disk.
    fn leave(&mut self, at: At) -> Left {
        let file = self.files[&at];
        let stat = stat(self.means, file, self.links(file));
        self.files.remove(&at);
        let descriptor = self.means.descriptors.then(|| std::fs::File::open("/dev/null").unwrap());
        Left { stat, file: descriptor, links: self.links(file) }
    }

    fn rename(&mut self, from: At, to: At) {
        let file = self.files[&from];
        if self.files.get(&to) == Some(&file) {
            return;
        }
        let replaced = self.files.contains_key(&to).then(|| self.leave(to));
        self.files.remove(&from);
        self.files.insert(to, file);
        let stat = stat(self.means, file, 1);
        let [old, new] = [from, to].map(|at| (self.folder(at), OsStr::new(at.1)));
        self.nodes.renamed(&stat, old, new, replaced);
        self.cached.remove(&to);
        self.cached.remove(&from).map(|number| self.cached.insert(to, number));
    }

    /// What the kernel may ask for is answered, and what it was told of a file leads to that file.
    fn check(&self) {
        for (&number, &(file, _)) in &self.known {
            let node = self.nodes.get(number).unwrap();
            assert_eq!(node.backing.inode, file.inode);
            assert_eq!(self.nodes.vm_of(&node).unwrap().number, ROOT);
            let told = self.cached.iter().filter(|(_, cached)| **cached == number).map(|(at, _)| *at);
            let told: Vec<At> = told.filter(|at| self.files.get(at) == Some(&file)).collect();
            if !told.is_empty() {
                let names = self.nodes.names(&node).unwrap();
                let leads_to_it = |at: &At| names.contains(&(self.folder(*at), at.1.into()));
                assert!(told.iter().any(leads_to_it), "{told:?}, {names:?}");
            } else if self.nodes.names(&node).is_err() && self.means.descriptors {
                assert!(self.nodes.held(&node).is_some(), "{file:?} is out of reach");
            }
        }
        let kept = self.nodes.0.read().slots.len();
        assert!(!self.known.is_empty() || kept == 1, "{kept} nodes are left when all are forgotten");
    }
}

fn stat(means: Means, file: File, links: u64) -> Stat {
    let born = means.births.then_some((i64::from(file.serial), 0));
    Stat { st_dev: 1, st_ino: file.inode, st_nlink: links, born, ..Stat::default() }
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
fn a_node_is_its_file_and_is_reached_after_every_history() {
    for (descriptors, births) in [(true, true), (true, false), (false, true), (false, false)] {
        let histories = try_all(&World::new(Means { descriptors, births }), &mut Vec::new());
        assert!(histories > 10_000, "{histories}");
    }
}

#[test]
fn what_the_kernel_never_gives_back_holds_no_descriptors_without_bound() {
    let means = Means { descriptors: true, births: true };
    let mut world = World::new(means);
    for _ in 0..600 {
        world.take(Step::Create((0, "x")));
        world.take(Step::Unlink((0, "x")));
    }
    let held = world.nodes.0.read().slots.values().filter(|slot| slot.held.is_some()).count();
    assert!(held > 0 && held <= 512, "{held}");
}
