//! What a conversion will do, and how much space it takes: known, and refused if need be, before anything is touched.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::text;
use crate::vm::home_state::HomeState;
use crate::vm::inventory::misplaced::Misplaced;
use crate::work::convert::places::Names;
use crate::work::convert::tree::{Entry, EntryForm};
use crate::work::space::Space;

/// What a conversion does with a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Gives it its other form.
    Convert,
    /// Leaves it as it is.
    Keep,
}

/// A file, and what becomes of it.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Below the VM folder; the first of several names.
    pub path: PathBuf,
    /// `disk`, `file` or `link`.
    pub kind: &'static str,
    /// What it is in more detail.
    pub detail: &'static str,
    /// Length in bytes as it is.
    pub len: u64,
    /// Length in bytes in the clear, as far as it is known.
    pub plain_len: u64,
    /// Bytes that it takes.
    pub allocated: u64,
    /// What is done with it.
    pub action: Action,
}

/// All that a conversion is going to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How far the home is encrypted.
    pub state: HomeState,
    /// What the home's state will be.
    pub ends: HomeState,
    /// Files, and links; disks after the home when encrypting, before it when decrypting.
    pub files: Vec<PlannedFile>,
    /// What is taken at once beyond what is taken now, and what is free.
    pub space: Space,
    /// What someone should know before.
    pub notes: Vec<String>,
    /// Why it will not be begun.
    pub obstacles: Vec<Obstacle>,
}

/// Something that would stop a conversion half-way, or make of it what nobody wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// Of the error that it gives.
    pub kind: Kind,
    /// What it is, and what can be done about it.
    pub message: String,
}

impl Obstacle {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl Plan {
    /// Files that are converted.
    pub fn converted(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|file| file.action == Action::Convert)
    }

    /// Adds what is known of names of other files: those that will lead to ciphertext are obstacles, unless they are to `stay`.
    pub(super) fn take_names(&mut self, names: Names, stay: bool) {
        self.notes.extend(names.outside);
        if stay {
            self.notes.extend(names.by_old_place);
            return;
        }
        let what = "it would lead to ciphertext, and plaintext be written over that; --keep-references to leave it";
        let obstacle = |name| Obstacle::new(Kind::Denied, format!("{name} ({what})"));
        self.obstacles.extend(names.by_old_place.into_iter().map(obstacle));
    }

    /// Adds what is known of disks in the clear that the encrypted home knows nothing of: they may be anyone's, and are
    /// genuine once they are encrypted. They are obstacles, unless each is `meant`.
    pub(super) fn take_in<P: std::fmt::Display>(&mut self, disks: impl Iterator<Item = P>, meant: bool) {
        for disk in disks {
            let what = format!("{disk} is in the clear in an encrypted home");
            match meant {
                true => self.notes.push(format!("{what}, and is taken in as it is")),
                false => self.obstacles.push(Obstacle::new(
                    Kind::Denied,
                    format!(
                        "{what}, which anyone could put there; if it is this VM's, --disk {disk} takes it in as it is"
                    ),
                )),
            }
        }
    }

    /// Adds what is not as the home says of its disks: an obstacle, where it is `meant`.
    pub(super) fn take_misplaced(&mut self, misplaced: &[Misplaced], meant: impl Fn(&Path) -> bool) {
        for Misplaced { path, message, .. } in misplaced {
            match meant(path) {
                true => self.obstacles.push(Obstacle::new(Kind::Corrupt, message)),
                false => self.notes.push(message.clone()),
            }
        }
    }

    /// Refuses to begin where an obstacle is in the way.
    ///
    /// # Errors
    /// That of the first one.
    fn refuse_obstacles(&self) -> Result<()> {
        let Some(first) = self.obstacles.first() else { return Ok(()) };
        let message = match self.obstacles.len() - 1 {
            0 => first.message.clone(),
            more => {
                let more = text::count(more, "more obstacle", "more obstacles");
                format!("{} (and {more}, which --dry-run shows)", first.message)
            }
        };
        Err(Error::new(first.kind, message))
    }

    /// Refuses to begin where an obstacle is in the way, or without the space.
    ///
    /// # Errors
    /// `ENOSPC`, or that of the first obstacle.
    pub fn check(&self) -> Result<()> {
        self.refuse_obstacles()?;
        self.space.check(SIDE_BY_SIDE)
    }

    /// Bytes that will be read, written and read back.
    pub(super) fn bytes(&self) -> u64 {
        self.converted().map(|file| file.allocated.min(file.len) * 2).sum()
    }
}

/// Describes an entry.
pub(super) fn planned(entry: &Entry, action: Action, as_disk: bool) -> PlannedFile {
    let (kind, detail) = match entry.found {
        EntryForm::Clear(kind) if as_disk && !kind.is_disk() => ("disk", "as requested"),
        EntryForm::Clear(kind) => (if as_disk { "disk" } else { "file" }, kind.reason()),
        EntryForm::Disk => ("disk", "encrypted disk"),
        EntryForm::Sealed => ("file", "encrypted file"),
        EntryForm::ClearLink => ("link", "symbolic link"),
        EntryForm::SealedLink => ("link", "encrypted symbolic link"),
        EntryForm::Folder => ("folder", "folder"),
        EntryForm::FormNeutral => ("file", "nothing to encrypt"),
        EntryForm::UnreadableOrForeign => ("file", "encrypted file of another home, or damaged"),
    };
    let (len, plain_len, allocated) = (entry.len(), entry.plain_len, entry.allocated());
    PlannedFile { path: entry.path.clone(), kind, detail, len, plain_len, allocated, action }
}

/// Extra space in the course of replacing files one by one: what all before have grown by, and the next one beside its
/// original. Pairs of bytes taken now and then.
pub(super) fn peak_space(files: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut grown: i128 = 0;
    let mut peak: i128 = 0;
    for (now, then) in files {
        peak = peak.max(grown + i128::from(then));
        grown += i128::from(then) - i128::from(now);
    }
    u64::try_from(peak.max(grown)).unwrap_or(u64::MAX)
}

/// What needs the space of a conversion.
pub(super) const SIDE_BY_SIDE: &str = "the largest file, beside its new form,";

/// Most bytes that the encrypted form of a file takes.
pub(super) fn encrypted_space(entry: &Entry, as_disk: bool) -> u64 {
    /// Both copies of a header, and what a file system needs to find them.
    const DISK_HEADER: u64 = 64 << 10;
    /// Blocks that hold the entries of a group, and what finds them.
    const GROUP: u64 = 16 << 10;
    const GROUP_PLAIN: u64 = 256 << 10;
    let allocated = entry.allocated();
    if as_disk {
        return allocated + DISK_HEADER;
    }
    let groups = (entry.len() / GROUP_PLAIN + 1).min(allocated / 4096 + 1);
    allocated + groups * GROUP + 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_largest_file_needs_space_beside_itself() {
        assert_eq!(peak_space([(10, 10), (100, 100), (20, 20)].into_iter()), 100);
        assert_eq!(peak_space([(10, 14), (100, 101)].into_iter()), 105, "what the first has grown by stays");
        assert_eq!(peak_space([(100, 100), (10, 110)].into_iter()), 110);
        assert_eq!(peak_space([(10, 5), (10, 10)].into_iter()), 5);
        assert_eq!(peak_space(std::iter::empty()), 0);
    }
}
