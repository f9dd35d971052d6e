//! Stored data that fails authentication leaves an event: one a minute for a file, however much of it is damaged or read.

use crate::error::{Error, Kind};
use crate::event::{Event, EventName};
use crate::fs::{FileSystem, NodeNumber};

/// Records that a file is damaged, if an error says so.
pub(super) fn record(fs: &FileSystem, number: NodeNumber, error: &Error) {
    if error.kind() == Kind::Corrupt {
        let mut event = Event::of(EventName::Integrity);
        event.component(&fs.backing_path(number));
        event.failed_as_one_of(event.clone(), 1, error);
    }
}
