//! Progress and cancellation of long-running work.

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Progress of long-running work. Its names in JSON are part of the control socket's protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// What is being worked on: a component's path, or what is done.
    pub what: String,
    /// How much is done.
    pub done: u64,
    /// Of how much.
    pub total: u64,
    /// What is counted.
    pub unit: Unit,
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes of plaintext.
    Bytes,
    /// Homes and disks.
    Components,
    /// Files.
    Files,
}

/// Told of progress at least once a second by work that takes longer. An error stops the work at its next safe point; it is
/// of kind `Stopped` when that was requested.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress) -> Result<()>;
