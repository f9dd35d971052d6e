//! Stored data that fails authentication leaves an event: at most one a minute for the same damage, however often it is read.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Kind};
use crate::event::{Event, EventName};
use crate::fs::{FileSystem, NodeNumber};

/// For this long the same damage is not recorded again.
const QUIET: Duration = Duration::from_secs(60);
/// At most this many kinds of damage are remembered. Beyond them, one may be recorded twice.
const MAX_REMEMBERED: usize = 256;

static RECORDED: Mutex<Vec<(Instant, PathBuf, String)>> = Mutex::new(Vec::new());

/// Records that a file is damaged, if an error says so.
pub(super) fn record(fs: &FileSystem, number: NodeNumber, error: &Error) {
    if error.kind() == Kind::Corrupt {
        let path = fs.backing_path(number);
        if is_new(&path, error.chain()) {
            Event::of(EventName::Integrity).component(&path).failed(error);
        }
    }
}

fn is_new(path: &std::path::Path, damage: String) -> bool {
    let mut recorded = RECORDED.lock();
    recorded.retain(|(at, ..)| at.elapsed() < QUIET);
    if recorded.iter().any(|(_, of, what)| of == path && *what == damage) {
        return false;
    }
    if recorded.len() == MAX_REMEMBERED {
        recorded.remove(0);
    }
    recorded.push((Instant::now(), path.to_path_buf(), damage));
    true
}
