//! Agents as processes, and the programs that ask them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "agent/managed.rs"]
mod managed;
#[path = "agent/process.rs"]
mod process;
#[path = "agent/pushed.rs"]
mod pushed;
#[path = "agent/socket.rs"]
mod socket;

#[path = "../../tests/kmip/certificates.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod certificates;
#[path = "../../tests/testkit/datastore.rs"]
mod datastore;
#[path = "../../tests/testkit/host.rs"]
#[allow(dead_code, reason = "the tests of mounts use all of it")]
mod host;
#[path = "../../tests/kmip/pykmip.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod pykmip;
#[path = "../../tests/kmip/site.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod site;

#[path = "../../tests/testkit/tpm.rs"]
#[allow(dead_code, reason = "the tests of mounts use all of it")]
mod tpm;

/// As the tests of key servers name it.
mod testkit {
    pub(crate) use crate::datastore;
}
