//! The VM home: ordinary files, which are encrypted one by one, and names, links and attributes as any program expects.

mod access_times;
mod acl;
mod attributes;
mod content;
mod forged;
mod names;
mod set_ids;
mod unreadable;
