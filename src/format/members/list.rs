//! Which disks a VM has, and what each of them is called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::Header;
use crate::text::Show;

/// Advice for a disk that its VM's list does not have where it lies.
const ADVICE: &str = ": `vmcryptfs adopt DISK` takes it in if it is to be there";
/// The same where the list has it elsewhere.
const ADVICE_IF_MOVED: &str = ". If it was renamed, `vmcryptfs adopt DISK` takes it in by this name; if it is a copy, remove it, or put it in \
                               the place of the other one";

/// The disks of a VM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MemberList {
    /// Grows by one on each change.
    pub sequence: u64,
    /// By their UUIDs.
    pub disks: BTreeMap<Uuid, Member>,
}

/// A disk of the list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Member {
    /// The least that its header may have.
    pub dek_generation: u32,
    /// The least sequence of a header with that generation.
    pub sequence: u64,
    /// Its paths below the VM folder, and whether each is its own alone. One that is not may lead to a home file as well: it is about
    /// to become the disk's, or no longer to be.
    pub names: BTreeMap<PathBuf, bool>,
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// A disk, by its header, which may be unverified.
    Disk(Uuid),
    /// A home file.
    HomeFile,
    /// What it is, is not known.
    Unknown,
}

impl MemberList {
    /// The paths that may lead to a home file as well as to a disk.
    pub fn changing(&self) -> impl Iterator<Item = &Path> {
        let names = self.disks.values().flat_map(|member| &member.names);
        names.filter(|(_, is_settled)| !**is_settled).map(|(name, _)| name.as_path())
    }

    /// With each path that is changing as what lies there says. It stays as it is where that is not known, or where a disk lies that
    /// the list does not have there.
    #[must_use]
    pub fn decided(&self, look: impl Fn(&Path) -> There) -> Self {
        let mut list = self.clone();
        for (uuid, member) in &mut list.disks {
            member.names.retain(|name, is_settled| match if *is_settled { There::Unknown } else { look(name) } {
                There::Nothing | There::HomeFile => false,
                There::Disk(found) if found == *uuid => {
                    *is_settled = true;
                    true
                }
                There::Disk(found) => !self.has(found, name),
                There::Unknown => true,
            });
        }
        list.disks.retain(|_, member| !member.names.is_empty());
        list
    }

    /// Whether a path is a disk's, and no home file may have it.
    pub fn is_disk_name(&self, path: &Path) -> bool {
        self.disks.values().any(|member| member.names.get(path) == Some(&true))
    }

    /// Whether a path, or one below it, is in the list.
    pub fn touches(&self, path: &Path) -> bool {
        self.disks.values().any(|member| member.names.keys().any(|name| name.starts_with(path)))
    }

    /// Whether a disk is in the list with this path.
    pub fn has(&self, uuid: Uuid, path: &Path) -> bool {
        self.disks.get(&uuid).is_some_and(|member| member.names.contains_key(path))
    }

    /// Refuses a disk at a path that the list does not give it.
    ///
    /// # Errors
    /// `Corrupt`, with what is there and what the list says.
    pub fn refuse_path(&self, uuid: Uuid, path: &Path) -> Result<()> {
        if self.has(uuid, path) {
            return Ok(());
        }
        let owner = self.disks.iter().find(|(_, member)| member.names.contains_key(path));
        let here = owner.map_or_else(|| "no disk here".to_owned(), |(owner, _)| format!("disk {owner} here"));
        let (says, advice) = match self.disks.get(&uuid) {
            Some(member) => (format!("has it as {}, and {here}", names_of(member)), ADVICE_IF_MOVED),
            None => (format!("does not have it, and has {here}"), ADVICE),
        };
        let message = format!("disk {uuid} lies at {}, but the VM's list of disks {says}{advice}", path.shown());
        Err(Error::new(Kind::Corrupt, message))
    }

    /// The generation that the header of a disk has at least, and the sequence that one of that generation has.
    pub fn least(&self, uuid: Uuid) -> Option<(u32, u64)> {
        self.disks.get(&uuid).map(|member| (member.dek_generation, member.sequence))
    }

    /// Refuses a home file at the path of a disk.
    ///
    /// # Errors
    /// `Corrupt`, with the disk that the list has there.
    pub fn refuse_home_file(&self, path: &Path) -> Result<()> {
        let Some(owner) = self.disk_at(path) else { return Ok(()) };
        Err(Error::new(Kind::Corrupt, home_file_for_disk(path, owner)))
    }

    /// Refuses what is not a file at all at the path of a disk; `what` says what it is.
    ///
    /// # Errors
    /// `Corrupt`, with the disk that the list has there.
    pub fn refuse_special(&self, path: &Path, what: &str) -> Result<()> {
        let Some(owner) = self.disk_at(path) else { return Ok(()) };
        let message = format!(
            "{what} lies at {}, where the VM's list of disks has disk {owner}: put the disk back, or remove it in a mount",
            path.shown()
        );
        Err(Error::new(Kind::Corrupt, message))
    }

    fn disk_at(&self, path: &Path) -> Option<Uuid> {
        self.disks.iter().find(|(_, member)| member.names.get(path) == Some(&true)).map(|(uuid, _)| *uuid)
    }

    /// With a disk at these paths and no others, which no other disk has then.
    #[must_use]
    pub fn with_disk(&self, header: &Header, paths: &[&Path]) -> Self {
        self.with(header.uuid, (header.dek_generation, header.sequence), paths)
    }

    /// With a disk whose header is not made yet at these paths.
    #[must_use]
    pub fn with_coming(&self, uuid: Uuid, paths: &[&Path]) -> Self {
        self.with(uuid, (0, 0), paths)
    }

    fn with(&self, uuid: Uuid, (dek_generation, sequence): (u32, u64), paths: &[&Path]) -> Self {
        let mut list = paths.iter().fold(self.clone(), |list, path| list.without(path));
        let names = paths.iter().map(|path| (path.to_path_buf(), true)).collect();
        list.disks.insert(uuid, Member { dek_generation, sequence, names });
        list
    }

    /// With the header of a disk that it has as the oldest that may be there.
    #[must_use]
    pub fn with_least(&self, header: &Header) -> Self {
        let mut list = self.clone();
        if let Some(member) = list.disks.get_mut(&header.uuid) {
            (member.dek_generation, member.sequence) = (header.dek_generation, header.sequence);
        }
        list
    }

    /// Where no header that the disk at this path had is new enough, if there is one.
    #[must_use]
    pub fn with_outdated(&self, path: &Path) -> Self {
        let mut list = self.clone();
        let here = list.disks.values_mut().filter(|member| member.names.contains_key(path));
        here.for_each(|member| (member.dek_generation, member.sequence) = (member.dek_generation.saturating_add(1), 0));
        list
    }

    /// With another path for the disk at `from`, if there is one.
    #[must_use]
    pub fn linked(&self, from: &Path, to: &Path) -> Self {
        let mut list = self.without(to);
        list.disks.values_mut().filter(|member| member.names.contains_key(from)).for_each(|member| {
            member.names.insert(to.to_path_buf(), true);
        });
        list
    }

    /// Without a path and all that lie below it. A disk without a path is none of the VM any more.
    #[must_use]
    pub fn without(&self, path: &Path) -> Self {
        let mut list = self.clone();
        list.disks.values_mut().for_each(|member| member.names.retain(|name, _| !name.starts_with(path)));
        list.disks.retain(|_, member| !member.names.is_empty());
        list
    }

    /// After a rename in place of what has the name `to`; with `exchange`, what has that name gets the other.
    #[must_use]
    pub fn renamed(&self, from: &Path, to: &Path, exchange: bool) -> Self {
        let moved = |name: &Path| {
            let to_its_place = |from: &Path, to: &Path| Some(below(to, name.strip_prefix(from).ok()?));
            match (to_its_place(from, to), to_its_place(to, from)) {
                (Some(moved), _) => Some(moved),
                (None, Some(moved)) => exchange.then_some(moved),
                (None, None) => Some(name.to_path_buf()),
            }
        };
        let mut list = self.clone();
        for member in list.disks.values_mut() {
            let names = std::mem::take(&mut member.names);
            let names = names.into_iter().filter_map(|(name, settled)| {
                let moved = moved(&name)?;
                let is_settled = settled || moved != name;
                Some((moved, is_settled))
            });
            member.names = names.collect();
        }
        list.disks.retain(|_, member| !member.names.is_empty());
        list
    }

    /// What holds while this list becomes `after`: a disk may be where either has it, and so may a home file where they differ.
    #[must_use]
    pub fn until(&self, after: &Self) -> Self {
        let mut list = self.clone();
        for (uuid, member) in &after.disks {
            let before = list.disks.entry(*uuid).or_insert_with(|| Member { names: BTreeMap::new(), ..member.clone() });
            (before.dek_generation, before.sequence) =
                (before.dek_generation, before.sequence).min((member.dek_generation, member.sequence));
            for (name, is_settled) in &member.names {
                *before.names.entry(name.clone()).or_insert(true) &= *is_settled; // it may be changing already
            }
        }
        for (uuid, member) in &mut list.disks {
            let is_kept = |name: &Path| self.has(*uuid, name) && after.has(*uuid, name);
            member.names.iter_mut().filter(|(name, _)| !is_kept(name)).for_each(|(_, settled)| *settled = false);
        }
        list
    }
}

/// What to say of a home file that lies where a list has a disk.
pub fn home_file_for_disk(path: &Path, disk: Uuid) -> String {
    format!(
        "a home file lies at {}, where the VM's list of disks has disk {disk}: put the disk back, or remove the file in a mount",
        path.shown()
    )
}

/// `path` itself has nothing below it.
fn below(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_path_buf() } else { path.join(rest) }
}

fn names_of(member: &Member) -> String {
    let names: Vec<String> = member.names.keys().map(|name| name.shown().to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(disks: &[(u128, &[&str])]) -> MemberList {
        let names = |names: &[&str]| names.iter().map(|name| (PathBuf::from(name), true)).collect();
        let member = |names_of: &[&str]| Member { dek_generation: 0, sequence: 1, names: names(names_of) };
        let disks = disks.iter().map(|(uuid, names)| (Uuid::from_u128(*uuid), member(names))).collect();
        MemberList { sequence: 1, disks }
    }

    #[test]
    fn renames_move_what_lies_below_and_take_the_place_of_what_was_there() {
        let before = list(&[(1, &["a", "s/b"]), (2, &["c"]), (3, &["s2/d"])]);
        let renamed = |from: &str, to: &str| before.renamed(Path::new(from), Path::new(to), false);
        assert_eq!(renamed("a", "c"), list(&[(1, &["c", "s/b"]), (3, &["s2/d"])]));
        assert_eq!(renamed("s", "t"), list(&[(1, &["a", "t/b"]), (2, &["c"]), (3, &["s2/d"])]));
        assert_eq!(renamed("home-file", "c"), list(&[(1, &["a", "s/b"]), (3, &["s2/d"])]));
        let exchanged = before.renamed(Path::new("a"), Path::new("c"), true);
        assert_eq!(exchanged, list(&[(1, &["c", "s/b"]), (2, &["a"]), (3, &["s2/d"])]));
    }

    #[test]
    fn a_name_that_is_changing_is_decided_by_what_lies_there() {
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let before = list(&[(1, &["a", "s/b"]), (2, &["c"])]);
        let during = before.until(&before.renamed(Path::new("a"), Path::new("c"), false));
        let decided = |a: There, c: There| during.decided(|name| if name == Path::new("a") { a } else { c });
        let renamed = list(&[(1, &["c", "s/b"])]);
        assert_eq!(decided(There::Nothing, There::Disk(one)), renamed);
        assert_eq!(decided(There::HomeFile, There::Disk(one)), renamed);
        assert_eq!(decided(There::Disk(one), There::Disk(two)), before);
        assert_eq!(decided(There::Disk(one), There::HomeFile), list(&[(1, &["a", "s/b"])]));
        assert_eq!(decided(There::Unknown, There::Disk(Uuid::from_u128(3))), during);
        assert_eq!(decided(There::Nothing, There::Nothing), list(&[(1, &["s/b"])]));
        assert_eq!(renamed.decided(|_| There::Nothing), renamed);
    }

    #[test]
    fn while_a_name_changes_its_disk_may_have_either_and_a_home_file_too() {
        let before = list(&[(1, &["a", "z"]), (2, &["c"])]);
        let after = before.renamed(Path::new("a"), Path::new("c"), false);
        let during = before.until(&after);
        let [one, two] = [1, 2].map(Uuid::from_u128);
        for (uuid, name) in [(one, "a"), (one, "c"), (one, "z"), (two, "c")] {
            during.refuse_path(uuid, Path::new(name)).unwrap();
        }
        assert!(during.refuse_path(two, Path::new("a")).is_err());
        for (name, is_disks_alone) in [("a", false), ("c", false), ("z", true)] {
            assert_eq!(during.refuse_home_file(Path::new(name)).is_err(), is_disks_alone, "{name}");
        }
        assert!(after.refuse_path(two, Path::new("c")).is_err() && after.refuse_home_file(Path::new("c")).is_err());
    }
}
