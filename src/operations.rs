//! The operations of verbs: what they do to VM folders, providers and mounts, each with its name, its object and its events.
//!
//! A verb and the process of a mount do the same operation; both go through [`gate::perform`](crate::gate::perform).

pub mod accept_rollback;
mod answers;
pub mod bind;
pub mod check;
pub mod cluster;
pub mod convert;
pub mod create;
pub mod dump;
pub mod erase;
pub mod events;
pub mod exposed;
pub mod header;
pub mod in_use;
pub mod key_hosts;
mod keys;
pub mod keys_in_memory;
pub mod look;
mod made;
mod manifest;
pub mod mount;
pub mod old_generations;
pub mod provider;
pub mod trust;
mod unlocking;
pub mod unmount;

use std::path::{Path, PathBuf};

/// The path of what lies below `path`, which is a folder, or is `path` itself.
pub fn whole(path: &Path, below: &Path) -> PathBuf {
    let path: PathBuf = path.components().collect(); // a slash at the end says nothing
    if below.as_os_str().is_empty() || !path.is_dir() { path } else { path.join(below) }
}
