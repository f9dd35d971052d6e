//! The homes that operations needed, unlocked once and kept for as long as their header file is what it was.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::HOME_FILE;
use crate::fs::node::{Node, NodeNumber};
use crate::fs::{FileSystem, backing};
use crate::store::home_file::HomeKeys;
use crate::vm::folder;
use crate::vm::home::Home;
use crate::vm::keyring::LockState;

/// Tells a header file from a later state of it: its inode, and when that last changed.
type Stamp = (u64, i64, u64);

/// Homes by the node of their VM folder.
#[derive(Default)]
pub(super) struct Homes(RwLock<HashMap<NodeNumber, (Stamp, Arc<Home>)>>);

impl Homes {
    /// Forgets all of them; those that are still unlocked come back with the next operation that needs them.
    pub(super) fn forget(&self) {
        self.0.write().clear();
    }
}

impl FileSystem {
    /// The home that a node belongs to. A VM whose home is locked is locked as a whole.
    pub(super) fn home_of(&self, node: &Node) -> Result<Arc<Home>> {
        let vm = self.nodes.vm_of(node)?;
        let dir = self.dir_of(&vm)?;
        let stat = backing::stat_at(&dir, HOME_FILE.as_ref())?;
        let stamp = (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
        if let Some((known, home)) = self.homes.0.read().get(&vm.number)
            && *known == stamp
            && matches!(self.keyring.state(home.header.uuid), Some(LockState::Unlocked(_)))
        {
            return Ok(Arc::clone(home));
        }
        let home = Arc::new(self.unlock_home(&dir).context(|| format!("home of VM {}", self.name(vm.number)))?);
        self.homes.0.write().insert(vm.number, (stamp, Arc::clone(&home)));
        Ok(home)
    }

    fn unlock_home(&self, dir: &File) -> Result<Home> {
        let stored =
            folder::read_home(dir)?.ok_or_else(|| Error::new(Kind::NotFound, "the VM folder's header is gone"))?;
        let dek = self.keyring.dek(&stored.header)?;
        let header = stored.header.verify(&dek)?;
        Ok(Home { keys: HomeKeys::of(&header, &dek)?, header })
    }
}
