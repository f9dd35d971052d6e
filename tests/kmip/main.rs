//! The KMIP provider with key servers: real ones (PyKMIP), and one that misbehaves in ways real ones only do at night.
//!
//! Needs the programs `openssl`, `pykmip-server` and `swtpm` (Debian: openssl, python3-pykmip, swtpm).

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "times are worth seeing; cargo shows them with --nocapture")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a fault changes only what it is about")]

mod at_once;
mod certificates;
mod command_line;
mod dumps;
mod fake_server;
mod fake_store;
mod faults;
mod forged;
mod mounts;
mod operations;
mod pykmip;
mod real_server;
mod retire;
mod sealed_share;
mod secrets;
mod seen;
mod share;
mod site;
#[path = "../testkit/mod.rs"]
mod testkit;
mod tls;

use testkit::host;
