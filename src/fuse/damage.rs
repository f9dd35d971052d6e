//! Stored bytes that do not authenticate leave an event. A program that reads them again and again leaves one a minute.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Kind};
use crate::event::{Event, EventName};
use crate::fs::{FileSystem, NodeNumber};

/// How long the same damage is not told again.
const QUIET: Duration = Duration::from_secs(60);
/// Most kinds of damage that are remembered; what is found beyond them may be told twice.
const MOST: usize = 256;

static TOLD: Mutex<Vec<(Instant, PathBuf, String)>> = Mutex::new(Vec::new());

/// Records that a file is damaged, if that is what an error says.
pub(super) fn record(fs: &FileSystem, number: NodeNumber, error: &Error) {
    if error.kind() == Kind::Corrupt {
        let path = fs.backing_path(number);
        if is_news(&path, error.chain()) {
            Event::of(EventName::Integrity).component(&path).failed(error);
        }
    }
}

fn is_news(path: &std::path::Path, damage: String) -> bool {
    let mut told = TOLD.lock();
    told.retain(|(at, ..)| at.elapsed() < QUIET);
    if told.iter().any(|(_, of, what)| of == path && *what == damage) {
        return false;
    }
    if told.len() == MOST {
        told.remove(0);
    }
    told.push((Instant::now(), path.to_path_buf(), damage));
    true
}
