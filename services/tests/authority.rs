//! An authority as a process, and a host with a TPM (swtpm, by tpm2-tools) that asks it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "authority/admins.rs"]
mod admins;
#[path = "agent/process.rs"]
#[allow(dead_code, reason = "the tests of agents use all of it")]
mod agents;
#[path = "authority/host.rs"]
mod asking;
#[path = "authority/client.rs"]
mod client;
#[path = "authority/figures.rs"]
mod figures;
#[path = "authority/firmware.rs"]
mod firmware;
#[path = "authority/hosts.rs"]
mod hosts;
#[path = "authority/key_server.rs"]
mod key_server;
#[path = "authority/policies.rs"]
mod policies;
#[path = "authority/process.rs"]
mod process;
#[path = "authority/tpm.rs"]
mod tpm;
#[path = "authority/trusted.rs"]
mod trusted;

#[path = "../../tests/kmip/certificates.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod certificates;
#[path = "../../tests/testkit/datastore.rs"]
mod datastore;
#[path = "../../tests/testkit/tpm.rs"]
mod emulator;
#[path = "../../tests/testkit/host.rs"]
#[allow(dead_code, reason = "the tests of mounts use all of it")]
mod host;
#[path = "../../tests/kmip/pykmip.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod pykmip;
#[path = "../../tests/kmip/site.rs"]
#[allow(dead_code, reason = "the tests of key servers use all of it")]
mod site;

/// As the tests of key servers name it.
mod testkit {
    pub(crate) use crate::datastore;
}
