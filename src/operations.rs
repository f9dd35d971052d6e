//! The operations of verbs: what they do to VM folders, providers and mounts, each with its name, its object and its events.
//!
//! A verb and the process of a mount do the same operation; both go through [`gate::perform`](crate::gate::perform).

pub mod check;
pub mod convert;
pub mod create;
pub mod header;
mod keys;
pub mod keys_in_memory;
pub mod provider;
pub mod unlocking;
pub mod vm_task;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::event::{Event, EventName};

/// The path of what lies below `path`, which is a folder, or is `path` itself.
pub fn whole(path: &Path, below: &Path) -> PathBuf {
    let path: PathBuf = path.components().collect(); // a slash at the end says nothing
    if below.as_os_str().is_empty() || !path.is_dir() { path } else { path.join(below) }
}

/// Records that the process of a mount has ended, and its keys with it.
pub fn mount_ended(folder: &Path, result: &Result<()>) {
    Event::of(EventName::Unmount).component(folder).outcome(result);
}
