//! Watching a folder: it is looked through every two seconds. No file system that several hosts share tells one of them what
//! another one changes.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use super::{FolderBoard, Stamp};
use crate::cluster::board::{Change, Key, Watch};
use crate::error::{Error, Kind, Result};

const INTERVAL: Duration = Duration::from_secs(2);
/// Most names that are looked at: far more than 4096 hosts have.
pub(super) const MAX_RECORDS: usize = 1 << 18;

/// A watch, and what it has seen.
pub(super) struct FolderWatch {
    board: FolderBoard,
    seen: BTreeMap<Key, Stamp>,
    looked: Instant,
}

impl FolderWatch {
    pub(super) fn begin(board: FolderBoard) -> Result<Self> {
        let seen = look(&board)?;
        Ok(Self { board, seen, looked: Instant::now() })
    }

    pub(super) fn look_again(&mut self) -> Result<Change> {
        let now = look(&self.board)?;
        self.looked = Instant::now();
        let written = now.iter().filter(|(key, stamp)| self.seen.get(*key) != Some(stamp)).map(|(key, _)| key);
        let ended = self.seen.keys().filter(|key| !now.contains_key(*key));
        let changed: BTreeSet<Key> = written.chain(ended).cloned().collect();
        self.seen = now;
        Ok(if changed.is_empty() { Change::Nothing } else { Change::Records(changed) })
    }
}

fn look(board: &FolderBoard) -> Result<BTreeMap<Key, Stamp>> {
    let records = board.records("", MAX_RECORDS)?;
    match records.len() {
        MAX_RECORDS.. => Err(Error::new(Kind::Corrupt, format!("the board has more than {MAX_RECORDS} records"))),
        _ => Ok(records.into_iter().collect()),
    }
}

impl Watch for FolderWatch {
    fn wait(&mut self, time: Duration) -> Result<Change> {
        let end = Instant::now() + time;
        loop {
            let next = self.looked + INTERVAL;
            let until = next.min(end);
            thread::sleep(until.saturating_duration_since(Instant::now()));
            if until < next {
                return Ok(Change::Nothing);
            }
            match self.look_again()? {
                Change::Nothing => {}
                change @ (Change::Records(_) | Change::Unknown) => return Ok(change),
            }
        }
    }
}
