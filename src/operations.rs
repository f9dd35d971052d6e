//! The operations of verbs: what they do to VM folders, providers and mounts, each with its name, its object and its events.
//!
//! A verb and the process of a mount do the same operation; both go through [`gate::perform`](crate::gate::perform).

mod keys;
pub mod unlocking;
pub mod vm_task;
