//! A request that was refused since another mount, process or host has the file leaves an event: one a minute for a file.

use crate::error::Error;
use crate::event::{Event, EventName};
use crate::fs::{FileSystem, NodeNumber};
use crate::storage::claims::InUse;

/// Records who has the file, if an error says that.
pub(super) fn record(fs: &FileSystem, number: NodeNumber, error: &Error) {
    if InUse::ended(error) {
        let mut event = Event::of(EventName::Claim);
        event.component(&fs.backing_path(number)).through_mount();
        event.failed_as_one_of(event.clone(), 1, error);
    }
}
