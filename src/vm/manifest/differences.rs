//! How a home's tree differs from what its manifest says, for people: what was exchanged, moved, replaced, removed or put in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::format::manifest::{Entry, EntryKind};
use crate::text::Show;
use crate::vm::manifest::tree::path_of;

/// Each difference, named once.
pub(super) fn differences(sealed: &[Entry], there: &[Entry]) -> Vec<String> {
    let (old, new) = (by_path(sealed), by_path(there));
    let (old_places, new_places) = (places(sealed), places(there));
    let mut told = Told::default();
    let moves: BTreeMap<&Path, &Path> = old_places
        .iter()
        .filter_map(|(identity, from)| match (from.as_slice(), new_places.get(identity)?.as_slice()) {
            ([from], [to]) if from != to => Some((*from, *to)),
            _ => None,
        })
        .collect();
    told.folders(&old, &moves);
    told.moved(&old, &moves);
    for (&path, &entry) in &old {
        if told.old.contains(path) {
            continue;
        }
        let Some(now) = new.get(path).filter(|_| !told.new.contains(path)) else {
            let gone_above = path.parent().is_some_and(|above| old.contains_key(above) && !new.contains_key(above));
            if !gone_above && !new.contains_key(path) {
                told.say(format!("{} was removed", path.shown()));
            }
            continue;
        };
        if let Some(what) = changed(path, entry, now, &old_places) {
            told.say(what);
        }
    }
    for path in new.keys().filter(|path| !old.contains_key(*path)) {
        let new_above = path.parent().is_some_and(|above| new.contains_key(above) && !old.contains_key(above));
        if !new_above && !told.new.contains(*path) {
            told.say(put_in(path.shown()));
        }
    }
    told.lines
}

/// Whether a difference is none any more once what lies at `path` belongs there. A text that may be about another path is not: an
/// attacker chooses names, such as `root.raw is now data.raw`.
pub(super) fn is_settled_by(difference: &str, path: &Path) -> bool {
    let path = path.shown();
    let is_a_path = |text: &str| !text.is_empty() && !text.contains(' ');
    difference == put_in(path)
        || difference == replaced(path)
        || difference == other_version(path)
        || difference == other_attributes(path)
        || difference.strip_prefix(&copy_of(path, "")).is_some_and(is_a_path)
        || [moved("", path), moved_over("", path)].iter().any(|end| difference.strip_suffix(end).is_some_and(is_a_path))
}

fn put_in(path: impl Display) -> String {
    format!("{path} was put in")
}

fn replaced(path: impl Display) -> String {
    format!("{path} was replaced by something else")
}

fn other_version(path: impl Display) -> String {
    format!("{path} is another version of the file, older or newer")
}

fn other_attributes(path: impl Display) -> String {
    format!("the extended attributes of {path} were changed")
}

fn copy_of(path: impl Display, from: impl Display) -> String {
    format!("{path} is now a copy of {from}")
}

fn moved(from: impl Display, path: impl Display) -> String {
    format!("{from} is now {path}")
}

fn moved_over(from: impl Display, path: impl Display) -> String {
    format!("{from} is now in the place of {path}")
}

/// What makes an entry the same under another name.
type Identity = (EntryKind, [u8; 32]);

fn identity(entry: &Entry) -> Option<Identity> {
    let mut id = [0; 32];
    match entry.kind {
        EntryKind::File | EntryKind::Disk => id[..16].copy_from_slice(&entry.id),
        EntryKind::Link => id = entry.content,
        EntryKind::Folder | EntryKind::Empty | EntryKind::Other => return None,
    }
    Some((entry.kind, id))
}

fn by_path(entries: &[Entry]) -> BTreeMap<&Path, &Entry> {
    entries.iter().map(|entry| (path_of(entry), entry)).collect()
}

/// The names of each file.
fn places(entries: &[Entry]) -> HashMap<Identity, Vec<&Path>> {
    let mut places: HashMap<Identity, Vec<&Path>> = HashMap::new();
    for entry in entries {
        if let Some(identity) = identity(entry) {
            places.entry(identity).or_default().push(path_of(entry));
        }
    }
    places
}

/// How what has one name differs from what had it.
fn changed(path: &Path, old: &Entry, new: &Entry, old_places: &HashMap<Identity, Vec<&Path>>) -> Option<String> {
    let path = path.shown();
    if (old.kind, identity(old)) != (new.kind, identity(new)) {
        let from = identity(new).and_then(|identity| old_places.get(&identity)?.first().copied());
        return Some(match from {
            Some(from) => copy_of(path, from.shown()),
            None => replaced(path),
        });
    }
    if old.content != new.content {
        return Some(other_version(path));
    }
    (old.values != new.values).then(|| other_attributes(path))
}

/// What was said, and which paths it explains.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    old: BTreeSet<PathBuf>,
    new: BTreeSet<PathBuf>,
}

impl Told {
    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Folders all of whose files are in another folder now.
    fn folders(&mut self, old: &BTreeMap<&Path, &Entry>, moves: &BTreeMap<&Path, &Path>) {
        let mut moved: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for (from, to) in moves {
            if let Some((from, to)) = differing_folders(from, to).filter(|(from, _)| !moved.contains_key(*from))
                && files_below(old, from).all(|path| {
                    let now = path.strip_prefix(from).map(|below| to.join(below));
                    now.is_ok_and(|now| moves.get(path).is_some_and(|to| **to == now))
                })
                && files_below(old, to).all(|path| moves.contains_key(path))
            {
                moved.insert(from.to_path_buf(), to.to_path_buf());
            }
        }
        for (from, to) in &moved {
            match moved.get(to) == Some(from) {
                true if from < to => {
                    self.say(format!("the folders {} and {} were exchanged", from.shown(), to.shown()));
                }
                true => {}
                false => self.say(format!("the folder {} is now {}", from.shown(), to.shown())),
            }
            for path in old.keys().filter(|path| path.starts_with(from)) {
                self.old.insert(path.to_path_buf());
                if let Ok(below) = path.strip_prefix(from) {
                    self.new.insert(to.join(below));
                }
            }
        }
    }

    fn moved(&mut self, old: &BTreeMap<&Path, &Entry>, moves: &BTreeMap<&Path, &Path>) {
        for (&from, &to) in moves {
            if self.old.contains(from) {
                continue;
            }
            let is_exchange = moves.get(to) == Some(&from);
            if !is_exchange || from < to {
                let (from, place) = (from.shown(), to.shown());
                self.say(match (is_exchange, old.contains_key(to)) {
                    (true, _) => format!("{from} and {place} were exchanged"),
                    (false, true) => moved_over(from, place),
                    (false, false) => moved(from, place),
                });
            }
            if !is_exchange {
                self.old.insert(from.to_path_buf());
                self.new.insert(to.to_path_buf());
            }
        }
        for (&from, &to) in moves.iter().filter(|(from, to)| moves.get(*to) == Some(*from)) {
            self.old.insert(from.to_path_buf());
            self.new.insert(to.to_path_buf());
        }
    }
}

fn files_below<'e>(old: &BTreeMap<&'e Path, &'e Entry>, folder: &Path) -> impl Iterator<Item = &'e Path> {
    let below = old.iter().filter(|(path, entry)| path.starts_with(folder) && identity(entry).is_some());
    below.map(|(path, _)| *path).collect::<Vec<_>>().into_iter()
}

/// The two folders that make the difference between two paths of one name.
fn differing_folders<'p>(from: &'p Path, to: &'p Path) -> Option<(&'p Path, &'p Path)> {
    let (mut one, mut other) = (from, to);
    while one.file_name().is_some() && one.file_name() == other.file_name() {
        (one, other) = (one.parent()?, other.parent()?);
    }
    let is_folder = one != from && !one.as_os_str().is_empty() && !other.as_os_str().is_empty();
    is_folder.then_some((one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind, id: u8, content: u8) -> Entry {
        Entry { path: path.into(), kind, id: [id; 16], content: [content; 32], values: [0; 32] }
    }

    /// Path, id and content of each file; the folders that they lie in come by themselves.
    fn tree(files: &[(&str, u8, u8)]) -> Vec<Entry> {
        let mut folders: BTreeSet<&Path> = files.iter().filter_map(|file| Path::new(file.0).parent()).collect();
        folders.insert(Path::new(""));
        let folders = folders.iter().map(|path| entry(path.to_str().unwrap(), EntryKind::Folder, 0, 0));
        let files = files.iter().map(|&(path, id, content)| entry(path, EntryKind::File, id, content));
        let mut all: Vec<Entry> = folders.chain(files).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    #[test]
    fn only_what_is_about_a_path_and_no_other_is_settled_by_it() {
        let settled = |text: &str| is_settled_by(text, Path::new("d/ab"));
        let about = ["d/ab was put in", "d/ab is now a copy of c", "c is now d/ab", "c is now in the place of d/ab"];
        assert!(about.into_iter().all(settled));
        assert!(settled("the extended attributes of d/ab were changed"));
        for other in [
            "d/ab c was put in",
            "d/abc was put in",
            "d/ab was removed",
            "d/ab and c were exchanged",
            "a is now b is now d/ab",
            "d/ab is now a copy of c was removed",
            "the folder c is now d/ab",
        ] {
            assert!(!settled(other), "{other}");
        }
    }

    #[test]
    fn each_difference_is_named_once() {
        let before = [("a", 1, 1), ("b", 2, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)];
        type File = (&'static str, u8, u8);
        let cases: [(&[File], &[&str]); 11] = [
            (&before, &[]),
            (&[("a", 2, 1), ("b", 1, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)], &["a and b were exchanged"]),
            (
                &[("a", 1, 1), ("b", 2, 1), ("e/x", 3, 1), ("d/x", 4, 1), ("d/y", 5, 1)],
                &["the folders d and e were exchanged"],
            ),
            (&[("a", 1, 1), ("b", 2, 1), ("e/x", 3, 1), ("d/x", 4, 1), ("e/y", 5, 1)], &["d/x and e/x were exchanged"]),
            (
                &[("a", 1, 2), ("b", 2, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)],
                &["a is another version of the file, older or newer"],
            ),
            (&[("b", 2, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)], &["a was removed"]),
            (&[("a", 1, 1), ("b", 2, 1), ("d/x", 3, 1)], &["e was removed"]),
            (&[("a", 1, 1), ("b", 2, 1), ("c", 9, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)], &["c was put in"]),
            (&[("a", 1, 1), ("b", 1, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)], &["b is now a copy of a"]),
            (&[("b", 1, 1), ("d/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)], &["a is now in the place of b"]),
            (
                &[("a", 9, 1), ("b", 2, 1), ("f/x", 3, 1), ("e/x", 4, 1), ("e/y", 5, 1)],
                &["the folder d is now f", "a was replaced by something else"],
            ),
        ];
        for (after, expected) in cases {
            assert_eq!(differences(&tree(&before), &tree(after)), expected, "{after:?}");
        }
    }
}
