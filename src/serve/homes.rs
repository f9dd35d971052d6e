//! The homes that operations needed, unlocked once and kept for as long as their header file is what it was.
//!
//! A home that is kept is claimed, so that its DEK is not exchanged while something can still be sealed under it. Whatever is
//! made under a home's keys holds it until it is made; an open file of it, until that is closed.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::fs::Stat;

use crate::error::{Context, Result};
use crate::format::header::HOME_FILE;
use crate::serve::{BackingId, ServedFolder};
use crate::sys::file::stat_at;
use crate::vm::folder;
use crate::vm::home::Home;
use crate::vm::settling::decide_left_names;

/// Most homes that are kept while nothing of them is open: descriptors do not grow with the datastore.
const MAX_KEPT: usize = if cfg!(test) { 4 } else { 64 };

/// Tells a header file from a later state of it: its inode, and when that last changed.
type Stamp = (u64, i64, u64);

/// Homes by their VM folder.
#[derive(Default)]
pub(super) struct Homes {
    kept: RwLock<HashMap<BackingId, Kept>>,
    uses: AtomicU64,
}

struct Kept {
    stamp: Stamp,
    home: Arc<Home>,
    /// The larger, the later.
    last_use: AtomicU64,
}

impl Kept {
    /// Ends that it is kept: nothing else would settle its list of disks. Others must not wait for that.
    fn leave(self) {
        // Where that fails, names stay allowed that were, until the home is next opened for changes.
        let _ = self.home.owner.settle();
    }
}

impl Homes {
    /// Forgets all of them; those that are still unlocked come back with the next operation that needs them.
    pub(super) fn forget(&self) {
        let left = std::mem::take(&mut *self.kept.write());
        left.into_values().for_each(Kept::leave);
    }

    pub(super) fn get(&self, vm: BackingId, stamp: Stamp) -> Option<Arc<Home>> {
        let kept = self.kept.read();
        let known = kept.get(&vm).filter(|known| known.stamp == stamp)?;
        known.last_use.store(self.next_use(), Ordering::Relaxed);
        Some(Arc::clone(&known.home))
    }

    fn keep(&self, vm: BackingId, stamp: Stamp, home: &Arc<Home>) {
        let mut kept = self.kept.write();
        let former = kept.remove(&vm);
        let oldest = kept.iter().min_by_key(|(_, known)| known.last_use.load(Ordering::Relaxed)).map(|(vm, _)| *vm);
        let least_used = oldest.filter(|_| kept.len() >= MAX_KEPT).and_then(|oldest| kept.remove(&oldest));
        kept.insert(vm, Kept { stamp, home: Arc::clone(home), last_use: AtomicU64::new(self.next_use()) });
        drop(kept);
        former.into_iter().chain(least_used).for_each(Kept::leave);
    }

    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }
}

impl ServedFolder {
    /// Makes names durable that have changed, and lets the lists of disks say so. Changes of names do not wait for it.
    ///
    /// # Errors
    /// `Io` for the first home where that fails.
    pub fn settle_names(&self) -> Result<()> {
        let kept: Vec<Arc<Home>> = self.homes.kept.read().values().map(|known| Arc::clone(&known.home)).collect();
        kept.iter().map(|home| home.owner.settle()).fold(Ok(()), Result::and)
    }

    /// The home of the VM folder `vm`, which is open as `dir`. A VM whose home is locked is locked as a whole.
    ///
    /// # Errors
    /// Those of [`Home::open`]; the message calls the folder by its `name`.
    pub fn home_of(&self, vm: BackingId, dir: &File, name: impl FnOnce() -> String) -> Result<Arc<Home>> {
        let stat = stat_at(dir, HOME_FILE.as_ref()).context(|| format!("reading attributes of {HOME_FILE}"))?;
        let stamp = (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
        if let Some(home) = self.homes.get(vm, stamp)
            && self.keyring.has_dek(home.header.uuid, Some((stat.st_dev, stat.st_ino)))
        {
            self.tell_of_list((dir, &stat), &home);
            return Ok(home);
        }
        let unlocked = Home::open(dir, self.options.claims, &self.keyring).and_then(|mut home| {
            home.keeper = self.keeper(vm, dir, &home)?;
            if !self.options.read_only && home.past.gone_back().is_none() {
                // Where that cannot be now it can be the next time, and those names open as they are.
                let _ = decide_left_names(dir, &home.owner, self.options.claims);
            }
            Ok(home)
        });
        let home = Arc::new(unlocked.context(|| match name() {
            name if name.is_empty() => "home of this VM".to_owned(),
            name => format!("home of VM {name}"),
        })?);
        self.homes.keep(vm, stamp, &home);
        Ok(home)
    }

    /// Tells if the list of a home's disks has been put back since the home was opened, and when that is over.
    fn tell_of_list(&self, (dir, stat): (&File, &Stat), home: &Home) {
        let gone_back = home.owner.past_of_list().filter(|past| past.gone_back().is_some());
        if gone_back.is_none() {
            self.keyring.forget_note_of_list(home.header.uuid, Some((stat.st_dev, stat.st_ino)));
        } else if let Ok(Some(stored)) = folder::read_home(dir) {
            self.keyring.note_list(&stored.header, gone_back);
        }
    }
}

#[cfg(test)]
mod tests;
