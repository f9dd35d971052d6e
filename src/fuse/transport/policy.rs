//! What the transports decide by measuring: when a thread spins before it sleeps, which thread serves a client, whether an operation
//! is quick enough for the thread that read it, and which thread serves which queue.

pub(in crate::fuse) mod latency;
pub(super) mod migration;
pub(super) mod plan;
pub(super) mod spin;
