//! What was written since the last sync, and so may be overwritten where it lies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::format::home_file::{BlockIndex, GroupIndex};

/// Blocks of one group, a bit each.
#[derive(Clone, Copy, Default)]
pub(super) struct Blocks(u64);

impl Blocks {
    pub(super) fn insert(&mut self, block: BlockIndex) {
        self.0 |= 1 << block.in_group();
    }

    pub(super) fn contains(self, block: BlockIndex) -> bool {
        self.0 >> block.in_group() & 1 == 1
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    fn remove(&mut self, others: Self) {
        self.0 &= !others.0;
    }
}

/// What a write did to the blocks of one group.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    /// Blocks whose newest version is not known to be durable.
    pub(super) all: Blocks,
    /// Those of them that keep an older version for the case of a crash.
    pub(super) double: Blocks,
}

/// Keeps writers and syncs apart: what is being made durable must not change in the meantime.
#[derive(Default)]
pub(super) struct Unsynced {
    gate: RwLock<()>,
    groups: Mutex<HashMap<GroupIndex, Written>>,
    /// Whether all is durable as it is seen, but the blocks among `groups`.
    settled: AtomicBool,
    failed: AtomicBool,
}

impl Unsynced {
    /// Of a file that is opened. What others left in it may not be durable.
    pub(super) fn of_opening(has_content: bool) -> Self {
        Self { settled: AtomicBool::new(!has_content), ..Self::default() }
    }

    /// Held by a thread that changes blocks; taken inside of range locks.
    pub(super) fn writing(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    /// Held by a thread that syncs.
    pub(super) fn syncing(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write()
    }

    pub(super) fn of(&self, group: GroupIndex) -> Blocks {
        self.groups.lock().get(&group).copied().unwrap_or_default().all
    }

    pub(super) fn add(&self, group: GroupIndex, written: Written) {
        let mut groups = self.groups.lock();
        let known = groups.entry(group).or_default();
        known.all.add(written.all);
        known.double.add(written.double);
    }

    /// Forgets the groups that begin at block `end` or after it. Nothing that is written later overtakes the file's length, so
    /// of one that was cut to nothing all is as if it were durable.
    pub(super) fn cut_off(&self, end: u64) {
        if end == 0 {
            self.settled.store(true, Ordering::Release);
        }
        self.groups.lock().retain(|group, _| group.blocks().start < end);
    }

    /// Empties it, after a sync, and gives the groups in which older versions are no longer needed.
    pub(super) fn settle(&self) -> Vec<(GroupIndex, Blocks)> {
        self.settled.store(true, Ordering::Release);
        let groups = std::mem::take(&mut *self.groups.lock());
        let double = groups.into_iter().map(|(group, written)| (group, written.double));
        double.filter(|(_, blocks)| !blocks.is_empty()).collect()
    }

    /// Others may have written and synced since: nothing is known of any block.
    pub(super) fn forget(&self, has_content: bool) {
        self.settled.store(!has_content, Ordering::Release);
        self.groups.lock().clear();
    }

    /// A write of these blocks failed: what it left may not be durable, nor be what their entries say.
    pub(super) fn failed_to_write(&self, group: GroupIndex, blocks: Blocks) {
        self.unsettle();
        if let Some(written) = self.groups.lock().get_mut(&group) {
            written.all.remove(blocks);
            written.double.remove(blocks);
        }
    }

    fn unsettle(&self) {
        self.settled.store(false, Ordering::Release);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}
