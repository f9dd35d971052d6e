//! What the table of nodes holds, and how it changes. Each change is made under one lock.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use crate::error::Result;
use crate::fs::node::{Birth, FIRST_OWN_NUMBER, Node, NodeKind, NodeNumber, ROOT, stale};
use crate::serve::BackingId;

/// Most removed files that are held open at once; the kernel forgets nearly all of them with the removal.
const MAX_HELD: usize = 512;

/// A name in a directory.
pub(in crate::fs) type Name = (NodeNumber, OsString);

#[cfg_attr(test, derive(Clone))]
pub(super) struct Table {
    pub(super) slots: HashMap<NodeNumber, Slot>,
    by_backing: HashMap<BackingId, NodeNumber>,
    next_own: NodeNumber,
    /// Of the next node whose file system has no number for it. Another mount begins elsewhere.
    next_generation: u32,
    /// How many removed files are held.
    held: usize,
    /// Files to be closed once the table is unlocked: that may take as long as freeing all their space.
    pub(super) to_close: Vec<Arc<File>>,
}

/// A node, and what keeps it in the table.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Slot {
    pub(super) node: Arc<Node>,
    /// The names that the kernel was told of, the latest first: hard links have several. None once they were removed.
    pub(super) names: Vec<Name>,
    /// Where the last name was, once there is none.
    was_in: Option<NodeNumber>,
    /// Without a name: the file, by which it is still reached, and whose inode number no other file can get in the meantime.
    pub(super) held: Option<Arc<File>>,
    /// Whether the file has no name left on disk either.
    is_gone: bool,
    /// What the kernel has not given back.
    pub(super) lookups: u64,
    /// Names of nodes that lie in this directory, or did to the end. The kernel may forget a directory before the files in it;
    /// the way to them leads through it all the same.
    children: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        let random = RandomState::new().build_hasher().finish().to_le_bytes();
        Self {
            slots: HashMap::new(),
            by_backing: HashMap::new(),
            next_own: FIRST_OWN_NUMBER,
            next_generation: u32::from_le_bytes([random[0], random[1], random[2], random[3]]),
            held: 0,
            to_close: Vec::new(),
        }
    }

    /// The node of a backing inode. If that is another file than it was, it is not a node yet.
    pub(super) fn known(&mut self, backing: BackingId, birth: Birth) -> Option<NodeNumber> {
        let number = *self.by_backing.get(&backing)?;
        if self.slots.get(&number).is_some_and(|slot| slot.node.birth.may_be(birth)) {
            return Some(number);
        }
        self.by_backing.remove(&backing);
        None
    }

    /// The directory that a node lies in, or lay in.
    pub(super) fn parent_of(&self, number: NodeNumber) -> Result<NodeNumber> {
        let slot = self.slots.get(&number).ok_or_else(stale)?;
        slot.names.first().map(|name| name.0).or(slot.was_in).ok_or_else(stale)
    }

    pub(super) fn last_name(&self, number: NodeNumber) -> Result<Name> {
        self.slots.get(&number).and_then(|slot| slot.names.first()).cloned().ok_or_else(stale)
    }

    fn is_directory(&self, number: NodeNumber) -> bool {
        self.slots.get(&number).is_some_and(|slot| matches!(slot.node.kind, NodeKind::Directory(_)))
    }

    /// A node that is not known. Its number is the preferred one where that is free.
    pub(super) fn add(
        &mut self,
        backing: BackingId,
        birth: Birth,
        preferred: Option<NodeNumber>,
        kind: NodeKind,
    ) -> NodeNumber {
        let free =
            preferred.filter(|number| (ROOT..FIRST_OWN_NUMBER).contains(number) && !self.slots.contains_key(number));
        let number = free.unwrap_or_else(|| {
            self.next_own += 1;
            self.next_own - 1
        });
        let generation = birth.generation().unwrap_or_else(|| {
            self.next_generation = self.next_generation.wrapping_add(1);
            self.next_generation
        });
        if backing != BackingId::NONE {
            self.by_backing.insert(backing, number);
        }
        let slot = Slot {
            node: Arc::new(Node { number, generation, kind, backing, birth }),
            names: Vec::new(),
            was_in: None,
            held: None,
            is_gone: false,
            lookups: 0,
            children: 0,
        };
        self.slots.insert(number, slot);
        number
    }

    /// The kernel was told of a node by this name, one of `links` on disk. Names beyond these are dropped, the oldest first.
    pub(super) fn looked_up(
        &mut self,
        number: NodeNumber,
        parent: NodeNumber,
        name: &OsStr,
        links: u64,
    ) -> Option<Arc<Node>> {
        self.add_name(number, parent, name);
        // One more may be there: this one is old already if the lookup was slower than a rename.
        let links = if self.is_directory(number) { 1 } else { links.max(1) };
        let most = usize::try_from(links).unwrap_or(usize::MAX).saturating_add(1);
        while let Some((parent, name)) = self.slots.get(&number).and_then(|slot| slot.names.get(most)).cloned() {
            self.remove_name(number, parent, &name);
        }
        let slot = self.slots.get_mut(&number)?;
        slot.lookups += 1;
        Some(Arc::clone(&slot.node))
    }

    /// The name becomes the first one. A file that is gone gets none: the thread that found one was slower than its removal.
    pub(super) fn add_name(&mut self, number: NodeNumber, parent: NodeNumber, name: &OsStr) {
        let Some(slot) = self.slots.get_mut(&number).filter(|slot| !slot.is_gone) else { return };
        if let Some(at) = slot.names.iter().position(|known| known.0 == parent && known.1 == name) {
            slot.names[..=at].rotate_right(1);
        } else if let Some(directory) = self.slots.get_mut(&parent) {
            directory.children += 1;
            let Some(slot) = self.slots.get_mut(&number) else { return };
            slot.names.insert(0, (parent, name.to_os_string()));
            let was_in = slot.was_in.take();
            if let Some(file) = slot.held.take() {
                self.held -= 1;
                self.to_close.push(file);
            }
            was_in.into_iter().for_each(|directory| self.leave(directory));
        }
    }

    pub(super) fn remove_name(&mut self, number: NodeNumber, parent: NodeNumber, name: &OsStr) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Some(at) = slot.names.iter().position(|known| known.0 == parent && known.1 == name) else { return };
        slot.names.remove(at);
        if slot.names.is_empty() {
            slot.was_in = Some(parent);
        } else {
            self.leave(parent);
        }
    }

    /// A node lost a name, and has `links` left on disk. Without a name it is reached by `file`.
    pub(super) fn lose_name(&mut self, number: NodeNumber, name: (NodeNumber, &OsStr), links: u64, file: Option<File>) {
        self.remove_name(number, name.0, name.1);
        while links == 0
            && let Ok((parent, name)) = self.last_name(number)
        {
            self.remove_name(number, parent, &name); // renamed or removed by another host
        }
        let file = file.map(Arc::new);
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.is_gone = links == 0;
        match file {
            Some(file) if slot.names.is_empty() && slot.held.is_none() && self.held < MAX_HELD => {
                self.held += 1;
                slot.held = Some(file);
            }
            file => {
                self.to_close.extend(file);
                // Not held, its inode number may be that of a new file at once.
                if links == 0 && slot.held.is_none() {
                    let backing = slot.node.backing;
                    self.forget_backing(backing, number);
                }
            }
        }
    }

    /// A directory holds one name less.
    fn leave(&mut self, parent: NodeNumber) {
        if let Some(slot) = self.slots.get_mut(&parent) {
            slot.children -= 1;
            self.let_go(parent);
        }
    }

    /// Drops a node that the kernel does not know and in which none lies that it knows; then, maybe, those that this lay in.
    pub(super) fn let_go(&mut self, number: NodeNumber) {
        let mut doubtful = vec![number];
        while let Some(number) = doubtful.pop() {
            let is_kept = |slot: &Slot| slot.lookups > 0 || slot.children > 0;
            if number == ROOT || self.slots.get(&number).is_none_or(is_kept) {
                continue;
            }
            let Some(slot) = self.slots.remove(&number) else { continue };
            self.forget_backing(slot.node.backing, number);
            self.held -= usize::from(slot.held.is_some());
            self.to_close.extend(slot.held);
            for parent in slot.names.into_iter().map(|(parent, _)| parent).chain(slot.was_in) {
                self.slots.entry(parent).and_modify(|directory| directory.children -= 1);
                doubtful.push(parent);
            }
        }
    }

    fn forget_backing(&mut self, backing: BackingId, number: NodeNumber) {
        if self.by_backing.get(&backing) == Some(&number) {
            self.by_backing.remove(&backing);
        }
    }
}
