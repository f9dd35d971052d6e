//! Key and lock events: what was done with which key, for which component, by which user, and how it ended.
//!
//! They go to files of JSON lines that all processes of this user share (docs/CLI.md, "Events"), and to the journal where
//! it runs. To record one, wherever a verb or a mount has done something with keys:
//!
//! ```no_run
//! # use vmcryptfs::event::{Event, EventName};
//! # fn rewrap(path: &std::path::Path) -> vmcryptfs::error::Result<uuid::Uuid> { Ok(uuid::Uuid::nil()) }
//! # fn rekey(path: &std::path::Path, key_id: &vmcryptfs::key::KeyId) {
//! let rewrapped = rewrap(path);
//! Event::of(EventName::RekeyShallow).component(path).key(key_id).outcome(&rewrapped);
//! # }
//! ```
//!
//! Paths are those of the backing side.
//!
//! An event reports something that has happened, so one that cannot be written does not undo it. The failure is reported at
//! once on standard error, or in a mount's log, and by `status`.

mod chain;
mod class;
pub mod counts;
mod end;
mod journal;
pub mod limit;
mod log;
pub mod reader;
mod user;
pub mod verify;
mod vsphere;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use class::Class;
pub use end::{ends, log_name};
pub use log::place;

use crate::error::{Error, Result};
use crate::key::{KeyId, ProviderName};
use crate::provider::config::{self, Config, EventSettings};
use crate::sys::process::effective_uid;
use crate::text;
use crate::timestamp::Timestamp;

/// Longest reason that is kept, in bytes: with it a line is far shorter than what one write stores atomically.
const MAX_REASON: usize = 2000;

/// What was done. Its words in the log never change.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EventName {
    /// A VM folder was made.
    Create,
    /// A disk was made.
    CreateDisk,
    /// A VM folder or datastore was mounted.
    Mount,
    /// The mount's process ended, and its keys with it.
    Unmount,
    /// A KEK was to be fetched from its provider.
    FetchKey,
    /// A component was to be unlocked.
    Unlock,
    /// A component's keys were wiped from memory.
    Lock,
    /// A folder or disk was encrypted.
    Encrypt,
    /// A folder or disk was decrypted.
    Decrypt,
    /// A file of an encrypted home was made a disk, or a disk such a file.
    Convert,
    /// The disks of a VM were bound to it.
    Upgrade,
    /// A disk was taken into another VM.
    Adopt,
    /// A component got another KEK.
    RekeyShallow,
    /// A component got another DEK.
    RekeyDeep,
    /// A VM was copied under keys of its own.
    Clone,
    /// A key slot was added.
    KeyAdd,
    /// A key slot was removed.
    KeyRemove,
    /// A header was saved.
    HeaderBackup,
    /// A header was put back.
    HeaderRestore,
    /// A damaged header copy was repaired from the other.
    HeaderRepair,
    /// A component's keys were destroyed.
    Erase,
    /// The list of which new files of a VM become disks was changed.
    DiskNames,
    /// Headers were verified.
    Check,
    /// A home was unlocked to see which of its files belong to a VMDK.
    Info,
    /// Keys were fetched to see which of them open a component.
    KeyList,
    /// Stored bytes did not authenticate.
    Integrity,
    /// The event log was verified.
    EventsVerify,
    /// A provider was configured.
    ProviderAdd,
    /// A provider was tried.
    ProviderTest,
    /// A provider was made the default.
    ProviderDefault,
    /// A provider got another name.
    ProviderRename,
    /// A primary key was saved.
    ProviderBackup,
    /// A primary key was brought back.
    ProviderRestore,
    /// A share of keys was sealed to the TPM.
    ProviderSeal,
    /// A key was taken out of use.
    ProviderRetire,
    /// A provider reports something although nothing failed.
    ProviderNotice,
    /// A cluster was made.
    ClusterInit,
    /// A token for a host was made.
    ClusterToken,
    /// This host asked to join a cluster.
    ClusterJoin,
    /// A host was made a member.
    ClusterApprove,
    /// A provider was shared with a cluster.
    ClusterShare,
    /// A keeper gave a key of its key server to another host of its cluster.
    ClusterPush,
    /// A primary key came, went or was wiped, as a cluster wants it.
    ClusterSync,
    /// A host was removed from a cluster.
    ClusterRemove,
    /// The agent of this host began, ended, or refused a caller.
    Agent,
    /// The trust authority of this machine was made, began or ended, or refused an administrator.
    Authority,
    /// A host of a trust authority was approved or removed, or a token for one was made.
    AuthorityHost,
    /// A host enrolled at a trust authority.
    AuthorityEnrol,
    /// A host attested, or was refused.
    AuthorityAttest,
    /// A policy of a trust authority was changed.
    AuthorityPolicy,
    /// A trust authority released a key to a host.
    AuthorityRelease,
    /// This host enrolled at a trust authority.
    TrustEnrol,
    /// This host attested at a trust authority, or was refused.
    TrustAttest,
    /// This host proposed to its trust authorities what it is going to measure.
    TrustPropose,
    /// A key for an admin of a cluster was made.
    ClusterAdminKey,
    /// Admins of a cluster, or how many have to sign, were changed.
    ClusterAdmins,
    /// A board that has gone back was accepted.
    ClusterAcceptBoard,
    /// A cluster's provider got another primary key.
    ClusterRotate,
    /// Former primary keys of a cluster's provider were retired.
    ClusterRetire,
    /// This host got a host key, and a dump key that it wraps.
    DumpSetup,
    /// These were made again.
    DumpRenew,
    /// A process ended, and its dump was encrypted.
    DumpTake,
    /// A dump was decrypted.
    DumpDecrypt,
    /// A dump was encrypted again, under a passphrase.
    DumpRecrypt,
    /// Dumps were removed.
    DumpRemove,
    /// A component is older than what this host has seen of it.
    Rollback,
    /// A home is not as it was left, by its manifest.
    Manifest,
    /// A file was to be used that another mount, process or host has.
    Claim,
    /// The file system lost the claim on an open file.
    ClaimLost,
    /// That was accepted.
    AcceptRollback,
    /// What this host has seen of components could not be kept, or is lost.
    Memory,
}

impl EventName {
    /// As the log has it.
    #[allow(clippy::too_many_lines, reason = "each name has its line")]
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateDisk => "create-disk",
            Self::Mount => "mount",
            Self::Unmount => "unmount",
            Self::FetchKey => "fetch-key",
            Self::Unlock => "unlock",
            Self::Lock => "lock",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Convert => "convert",
            Self::Upgrade => "upgrade",
            Self::Adopt => "adopt",
            Self::RekeyShallow => "rekey-shallow",
            Self::RekeyDeep => "rekey-deep",
            Self::Clone => "clone",
            Self::KeyAdd => "key-add",
            Self::KeyRemove => "key-remove",
            Self::HeaderBackup => "header-backup",
            Self::HeaderRestore => "header-restore",
            Self::HeaderRepair => "header-repair",
            Self::Erase => "erase",
            Self::DiskNames => "disk-names",
            Self::Check => "check",
            Self::Info => "info",
            Self::KeyList => "key-list",
            Self::Integrity => "integrity",
            Self::EventsVerify => "events-verify",
            Self::ProviderAdd => "provider-add",
            Self::ProviderTest => "provider-test",
            Self::ProviderDefault => "provider-default",
            Self::ProviderRename => "provider-rename",
            Self::ProviderBackup => "provider-backup",
            Self::ProviderRestore => "provider-restore",
            Self::ProviderSeal => "provider-seal",
            Self::ProviderRetire => "provider-retire",
            Self::ProviderNotice => "provider-notice",
            Self::ClusterInit => "cluster-init",
            Self::ClusterToken => "cluster-token",
            Self::ClusterJoin => "cluster-join",
            Self::ClusterApprove => "cluster-approve",
            Self::ClusterShare => "cluster-share",
            Self::ClusterPush => "cluster-push",
            Self::ClusterSync => "cluster-sync",
            Self::ClusterRemove => "cluster-remove",
            Self::Agent => "agent",
            Self::Authority => "authority",
            Self::AuthorityHost => "authority-host",
            Self::AuthorityEnrol => "authority-enrol",
            Self::AuthorityAttest => "authority-attest",
            Self::AuthorityPolicy => "authority-policy",
            Self::AuthorityRelease => "authority-release",
            Self::TrustEnrol => "trust-enrol",
            Self::TrustAttest => "trust-attest",
            Self::TrustPropose => "trust-propose",
            Self::ClusterAdminKey => "cluster-admin-key",
            Self::ClusterAdmins => "cluster-admins",
            Self::ClusterAcceptBoard => "cluster-accept-board",
            Self::ClusterRotate => "cluster-rotate",
            Self::ClusterRetire => "cluster-retire",
            Self::DumpSetup => "dump-setup",
            Self::DumpRenew => "dump-renew",
            Self::DumpTake => "dump-take",
            Self::DumpDecrypt => "dump-decrypt",
            Self::DumpRecrypt => "dump-recrypt",
            Self::DumpRemove => "dump-remove",
            Self::Rollback => "rollback",
            Self::Manifest => "manifest",
            Self::Claim => "claim",
            Self::ClaimLost => "claim-lost",
            Self::AcceptRollback => "accept-rollback",
            Self::Memory => "memory",
        }
    }
}

/// A line of the log. Fields may be added, not changed or removed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// RFC 3339, UTC.
    pub time: String,
    /// Name of the user, or its number if it has none.
    pub user: String,
    /// The login user behind `user`, where that is known and differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// Process that recorded it.
    pub pid: u32,
    /// A word of [`EventName`].
    pub operation: String,
    /// `ok` or `failed`.
    pub result: String,
    /// Name of the key provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The provider's name of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Backing path of the component, as [`text::path`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// UUID of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Why it failed, or what is to be known of its success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The event that vSphere has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsphere_event: Option<String>,
    /// Its number among the events of its file, from 1 on. Earlier versions wrote neither this nor the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// SHA-256 of the line before; none if there was no line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

impl Record {
    /// Whether what was done succeeded.
    pub fn succeeded(&self) -> bool {
        self.result == "ok"
    }
}

/// An event that is being described; it is recorded by the method that says how it ended.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Event {
    operation: EventName,
    class: Class,
    by: u32,
    provider: Option<String>,
    key_id: Option<String>,
    component: Option<PathBuf>,
    is_disk: bool,
    uuid: Option<Uuid>,
    reason: Option<String>,
}

impl Event {
    /// An event of this operation by the user of this process.
    pub fn of(operation: EventName) -> Self {
        Self {
            operation,
            class: Class::of(operation),
            by: effective_uid(),
            provider: None,
            key_id: None,
            component: None,
            is_disk: false,
            uuid: None,
            reason: None,
        }
    }

    /// Another user than that of this process asked for it.
    pub fn by(&mut self, uid: u32) -> &mut Self {
        self.by = uid;
        self
    }

    /// A program asked for it through a mount.
    pub fn through_mount(&mut self) -> &mut Self {
        self.class = Class::Reads;
        self
    }

    /// The component that it is about: its backing path. A home's is its VM folder's.
    pub fn component(&mut self, path: &Path) -> &mut Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        self.component = Some(absolute.components().collect()); // without a slash at its end
        self
    }

    /// As [`component`](Self::component), of a disk: vSphere has events of its own for VMs that are locked as a whole.
    pub fn disk(&mut self, path: &Path) -> &mut Self {
        self.is_disk = true;
        self.component(path)
    }

    /// The component's UUID.
    pub fn uuid(&mut self, uuid: Uuid) -> &mut Self {
        self.uuid = Some(uuid);
        self
    }

    /// The KEK that was used, and its provider.
    pub fn key(&mut self, key_id: &KeyId) -> &mut Self {
        self.key_id = Some(key_id.id().to_owned());
        self.provider(key_id.provider())
    }

    /// The provider that it is about.
    pub fn provider(&mut self, name: &ProviderName) -> &mut Self {
        self.provider = Some(name.to_string());
        self
    }

    /// What is to be known of a success. A failure's reason is its error.
    pub fn reason(&mut self, reason: impl Into<String>) -> &mut Self {
        self.reason = Some(reason.into());
        self
    }

    /// Records how something ended.
    pub fn outcome<T>(&self, result: &Result<T>) {
        match result {
            Ok(_) => self.done(),
            Err(error) => self.failed(error),
        }
    }

    /// Records a success.
    pub fn done(&self) {
        self.record(None);
    }

    /// Records a failure.
    pub fn failed(&self, error: &Error) {
        self.record(Some(error));
    }

    fn record(&self, failure: Option<&Error>) {
        if cfg!(test) && CONFIG.get().is_none() {
            return; // unit tests leave the log of their user alone
        }
        let record = self.recorded(failure, Timestamp::now());
        let operation = record.operation.clone();
        counts::add(self.operation, failure.is_some());
        let failure = writer::append(record, self.class)
            .err()
            .map(|error| format!("event {operation} is not recorded: {}", error.chain()));
        if let Some(failure) = &failure {
            counts::add_unrecorded();
            tracing::error!("{failure}");
        }
        *UNRECORDED.lock() = failure;
    }

    fn recorded(&self, failure: Option<&Error>, time: Timestamp) -> Record {
        let reason = failure.map(Error::chain).or_else(|| self.reason.clone());
        Record {
            time: time.to_millis(),
            user: user::name(self.by),
            login: user::login(self.by),
            pid: std::process::id(),
            operation: self.operation.word().to_owned(),
            result: if failure.is_some() { "failed" } else { "ok" }.to_owned(),
            provider: self.provider.clone(),
            key_id: self.key_id.clone(),
            component: self.component.as_ref().map(|path| text::path::to_text(path).into_owned()),
            uuid: self.uuid,
            reason: reason.map(bounded),
            vsphere_event: vsphere::event_id(self.operation, failure, self.is_disk).map(str::to_owned),
            sequence: None,
            previous: None,
        }
    }
}

/// A text on one line, and of bounded length.
fn bounded(text: String) -> String {
    text::one_line(text::beginning(&text, MAX_REASON)).into_owned()
}

static CONFIG: OnceLock<PathBuf> = OnceLock::new();
static LOG: OnceLock<log::Log> = OnceLock::new();
static UNRECORDED: Mutex<Option<String>> = Mutex::new(None);

/// Says which configuration file the settings of the log are in. The first call counts; it is read with the first event.
pub fn use_config(path: &Path) {
    let _ = CONFIG.set(path.to_path_buf());
}

/// Why the last event was not recorded, if it was not.
pub fn unrecorded() -> Option<String> {
    UNRECORDED.lock().clone()
}

/// The settings of the log. The verbs that need the configuration report one that cannot be read; events go to the usual place.
///
/// # Errors
/// `NotFound` when a user has no home folder to look in.
pub fn settings() -> Result<EventSettings> {
    let config = match CONFIG.get() {
        Some(path) => path.clone(),
        None => config::locate(None)?,
    };
    Ok(Config::load(&config).map(|config| config.events().clone()).unwrap_or_default())
}

fn log() -> Result<&'static log::Log> {
    match LOG.get() {
        Some(log) => Ok(log),
        None => {
            let log = log::Log::new(&settings()?)?;
            Ok(LOG.get_or_init(|| log))
        }
    }
}

#[cfg(test)]
mod tests;
