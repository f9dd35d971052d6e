//! Agents as processes, and the programs that ask them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "agent/managed.rs"]
mod managed;
#[path = "agent/process.rs"]
mod process;
#[path = "agent/socket.rs"]
mod socket;

#[path = "../../tests/testkit/datastore.rs"]
mod datastore;
#[path = "../../tests/testkit/host.rs"]
#[allow(dead_code, reason = "the tests of mounts use all of it")]
mod host;
