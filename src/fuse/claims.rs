//! A request that was refused since another mount, process or host has the file leaves an event, and so does one whose claim was lost: one
//! a minute for a file.

use crate::error::Error;
use crate::event::{Event, EventName};
use crate::fs::{FileSystem, NodeNumber};
use crate::storage::claims::{InUse, Lost};

/// Records who has the file, or that another host may have it, if an error says that.
pub(super) fn record(fs: &FileSystem, number: NodeNumber, error: &Error) {
    let name = if InUse::ended(error) {
        EventName::Claim
    } else if Lost::ended(error) {
        EventName::ClaimLost
    } else {
        return;
    };
    let mut event = Event::of(name);
    event.component(&fs.backing_path(number)).through_mount();
    event.failed_as_one_of(event.clone(), 1, error);
}
