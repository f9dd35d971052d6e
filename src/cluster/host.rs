//! What a host keeps of its cluster: its own private keys, and how far it has seen the documents.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::view::View;
use crate::crypto::derive::sha256;
use crate::crypto::hpke::SealKey;
use crate::crypto::random;
use crate::crypto::sign::SigningKey;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Document, HostIdentity, MAX_DOCUMENT_LEN, Name, UnverifiedDocument};
use crate::format::secret_file::{CHECKSUM_LEN, SecretFile};
use crate::provider::private_file;
use crate::sys::SecretBytes;
use crate::text::Show;
use crate::timestamp::Timestamp;

const FORM: SecretFile =
    SecretFile { magic: *b"VMCRYPTI", called: "host's identity", len: 16 + 16 + 32 + 65 + 32 + CHECKSUM_LEN };
/// Version of what the host knows of its cluster.
const VERSION: u16 = 1;
const MAX_MEMBERSHIP_LEN: u64 = 64 * 1024;
/// Longest list of hosts, in bytes: more than a document has members.
const MAX_HOSTS_LEN: u64 = 1 << 20;
const SEEN_TO: &str = "seen-to.json";
const REMOVAL_SEEN_TO: &str = "removal-seen-to.json";
const WIPED: &str = "wiped.json";

/// The folder in which a host with this configuration keeps it: `/var/lib/vmcryptfs/host`, or beside the configuration
/// where that is another one than root's usual one.
pub fn folder(config: &Path) -> PathBuf {
    match config == Path::new(private_file::CONFIG_OF_ROOT) {
        true => PathBuf::from("/var/lib/vmcryptfs/host"),
        false => private_file::folder_of(config).join("host"),
    }
}

/// The private keys of a host.
pub struct Identity {
    /// Its UUID.
    pub uuid: Uuid,
    /// What envelopes are opened with.
    pub seal: SealKey,
    /// What acknowledgements are signed with.
    pub sign: SigningKey,
}

impl Identity {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the generator fails.
    pub fn generate() -> Result<Self> {
        Ok(Self { uuid: random::uuid()?, seal: SealKey::generate()?, sign: SigningKey::generate()? })
    }

    /// As other hosts know it.
    pub fn public(&self, name: Name) -> HostIdentity {
        HostIdentity { uuid: self.uuid, name, seal_key: *self.seal.public(), sign_key: self.sign.public() }
    }

    /// As it is stored.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FORM.len)); // never grows: growing leaves a copy
        bytes.extend_from_slice(&FORM.start());
        bytes.extend_from_slice(self.uuid.as_bytes());
        bytes.extend_from_slice(self.seal.private());
        bytes.extend_from_slice(self.seal.public());
        bytes.extend_from_slice(self.sign.seed());
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = FORM.check(bytes)?;
        let uuid = Uuid::from_bytes(reader.array()?);
        let private = Zeroizing::new(reader.array()?);
        let seal = SealKey::new(&private, reader.array()?);
        let mut seed = SecretBytes::zeroed(32);
        seed.copy_from_slice(reader.bytes(32)?);
        Ok(Self { uuid, seal, sign: SigningKey::new(seed)? })
    }
}

/// Which cluster a host is in or has asked to join, and the newest document that it has seen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Version of this file.
    version: u16,
    /// The cluster.
    pub cluster: Uuid,
    /// The cluster's name.
    pub cluster_name: String,
    /// This host's name.
    pub host_name: String,
    /// Where the board is.
    pub board: String,
    /// Number of the newest document that was seen.
    pub epoch: u64,
    /// Its hash, in hex.
    document: String,
}

impl Membership {
    /// That of a host which has seen this document.
    pub fn new(cluster: Uuid, names: (&Name, &Name), board: &str, epoch: u64, document: &[u8; 32]) -> Self {
        Self {
            version: VERSION,
            cluster,
            cluster_name: names.0.to_string(),
            host_name: names.1.to_string(),
            board: board.to_owned(),
            epoch,
            document: HEXLOWER.encode(document),
        }
    }

    /// The hash of the newest document that was seen.
    ///
    /// # Errors
    /// `Corrupt` when it is not one.
    pub fn document(&self) -> Result<[u8; 32]> {
        let hash = HEXLOWER.decode(self.document.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        hash.ok_or_else(|| Error::new(Kind::Corrupt, format!("{:?}, expected the hash of a document", self.document)))
    }

    /// Says that a newer document was seen.
    pub fn has_seen(&mut self, epoch: u64, document: &[u8; 32]) {
        self.epoch = epoch;
        self.document = HEXLOWER.encode(document);
    }
}

/// What a host has acknowledged last.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Said {
    /// The document that it had acted on.
    pub(super) epoch: u64,
    /// When, in seconds since 1970 by this host's clock.
    pub(super) time: u64,
    /// SHA-256 of the record, in hex, and of the one before: after a crash either is on the board.
    pub(super) records: [String; 2],
}

/// The files of a host.
pub struct HostFiles {
    folder: PathBuf,
}

impl HostFiles {
    /// Those of a host with this configuration.
    pub fn of(config: &Path) -> Self {
        Self { folder: folder(config) }
    }

    /// Waits until no other process changes them; the lock ends when the file is closed.
    ///
    /// # Errors
    /// `Io`.
    pub fn lock(&self) -> Result<File> {
        private_file::create_folder(&self.folder)?;
        private_file::lock(&self.membership_path())
    }

    /// As [`lock`](Self::lock), for `time` at most: what has it may hang at a board.
    ///
    /// # Errors
    /// `Busy` when another process has held it for that long, `Io`.
    pub fn lock_within(&self, time: Duration) -> Result<File> {
        private_file::create_folder(&self.folder)?;
        private_file::lock_within(time, &self.membership_path())
    }

    /// Whether nobody works on them.
    #[cfg(test)]
    pub(crate) fn is_free(&self) -> Result<bool> {
        private_file::try_lock(&self.membership_path()).map(|lock| lock.is_some())
    }

    /// Makes this process the agent of the host; the lock ends when the file is closed.
    ///
    /// # Errors
    /// `Busy` when there is one, `Io`.
    pub fn lock_agent(&self) -> Result<File> {
        private_file::create_folder(&self.folder)?;
        private_file::try_lock(&self.folder.join("agent"))?
            .ok_or_else(|| Error::new(Kind::Busy, "this host has an agent already: it runs in another process"))
    }

    /// The host's private keys.
    ///
    /// # Errors
    /// `NotFound`, `Denied` when others can read them, `Corrupt`, `Unsupported`, `Io`.
    pub fn identity(&self) -> Result<Identity> {
        let path = self.identity_path();
        let bytes = private_file::read_at_most(FORM.len as u64, &path, private_file::open(&path)?)?;
        Identity::decode(&bytes).context(|| format!("reading {}", path.shown()))
    }

    /// Device, number and time of change of the file of private keys, if it is there: each time that the host joins it is another file.
    pub fn identity_stamp(&self) -> Option<(u64, u64, i64, i64)> {
        let found = std::fs::metadata(self.identity_path()).ok()?;
        Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    }

    /// What the host knows of its cluster, if it is in one or has asked to join.
    ///
    /// # Errors
    /// `Denied` when others can change it, `Corrupt`, `Io`.
    pub fn membership(&self) -> Result<Option<Membership>> {
        let path = self.membership_path();
        let Some(bytes) = private_file::read_if_there(MAX_MEMBERSHIP_LEN, &path)? else { return Ok(None) };
        let found: Membership = serde_json::from_slice(&bytes)
            .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))?;
        if found.version != VERSION {
            let message = format!("{} of version {}, expected {VERSION}", path.shown(), found.version);
            return Err(Error::new(Kind::Unsupported, message));
        }
        Ok(Some(found))
    }

    /// Keeps new private keys, and forgets those that were there.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep_identity(&self, identity: &Identity) -> Result<()> {
        private_file::replace_and_wipe(&self.identity_path(), &[&identity.encode()])
    }

    /// Keeps what the host knows of its cluster.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep_membership(&self, membership: &Membership) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(membership)
            .map_err(|error| Error::with_source(Kind::Invalid, "a membership that has no JSON form", error))?;
        private_file::replace(&self.membership_path(), &[&bytes])
    }

    /// The newest document that was seen, whole; `None` where an older version of this program has seen it.
    ///
    /// # Errors
    /// `Denied` when others can change it, `Io`.
    pub fn document(&self, membership: &Membership) -> Result<Option<Document>> {
        let path = self.document_path();
        let Some(bytes) = private_file::read_if_there(MAX_DOCUMENT_LEN as u64, &path)? else { return Ok(None) };
        // After a crash it may be a later one than the one that was acted on.
        let known =
            UnverifiedDocument::decode(&bytes).and_then(|found| found.known(membership.epoch, &membership.document()?));
        Ok(known.ok())
    }

    /// Keeps what the host has seen: the document itself, then that it was seen.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn keep_seen(&self, membership: &mut Membership, view: &View) -> Result<()> {
        membership.has_seen(view.document.epoch, &view.hash);
        private_file::replace(&self.document_path(), &[&view.bytes])?;
        self.keep_membership(membership)
    }

    /// What this host has acknowledged, so that another one with its identity is noticed; `None` before the first time.
    ///
    /// # Errors
    /// `Denied` when others can change it, `Corrupt`, `Io`.
    pub(super) fn said(&self) -> Result<Option<Said>> {
        let path = self.folder.join("acknowledged.json");
        let Some(bytes) = private_file::read_if_there(MAX_MEMBERSHIP_LEN, &path)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))
    }

    /// Keeps what this host is about to acknowledge.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn keep_said(&self, said: &Said) -> Result<()> {
        let bytes = serde_json::to_vec(said)
            .map_err(|error| Error::with_source(Kind::Invalid, "an acknowledgement that has no JSON form", error))?;
        private_file::replace(&self.folder.join("acknowledged.json"), &[&bytes])
    }

    /// When this host last reached its board, if that was stored.
    ///
    /// # Errors
    /// `Denied` when others can change it, `Io`.
    pub fn contact(&self) -> Result<Option<Timestamp>> {
        let path = self.contact_path();
        let Some(bytes) = private_file::read_if_there(MAX_MEMBERSHIP_LEN, &path)? else { return Ok(None) };
        // What is damaged is as long ago as can be: it must not prolong anything.
        let time = std::str::from_utf8(&bytes).ok().and_then(|text| Timestamp::parse(text.trim_end()));
        Ok(Some(time.unwrap_or(Timestamp::from_secs(0))))
    }

    /// Stores when this host has reached its board.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep_contact(&self, time: Timestamp) -> Result<()> {
        private_file::replace(&self.contact_path(), &[time.to_millis().as_bytes(), b"\n"])
    }

    /// Compromised hosts about which an admin has said on this host that what status asks is done.
    ///
    /// # Errors
    /// `Denied` when others can change the file, `Corrupt`, `Io`.
    pub fn seen_to(&self) -> Result<BTreeSet<Uuid>> {
        self.hosts_in(SEEN_TO)
    }

    /// Adds one of them.
    ///
    /// # Errors
    /// As [`seen_to`](Self::seen_to).
    pub(super) fn keep_seen_to(&self, host: Uuid) -> Result<()> {
        self.keep_host_in(SEEN_TO, host)
    }

    /// Hosts about which that was said when they were not known to be compromised.
    ///
    /// # Errors
    /// As [`seen_to`](Self::seen_to).
    pub(super) fn removal_seen_to(&self) -> Result<BTreeSet<Uuid>> {
        self.hosts_in(REMOVAL_SEEN_TO)
    }

    /// Adds one of them.
    ///
    /// # Errors
    /// As [`seen_to`](Self::seen_to).
    pub(super) fn keep_removal_seen_to(&self, host: Uuid) -> Result<()> {
        self.keep_host_in(REMOVAL_SEEN_TO, host)
    }

    /// Removed hosts that have said, as this host has seen, that they wiped their keys: a board may lose that.
    ///
    /// # Errors
    /// As [`seen_to`](Self::seen_to).
    pub(super) fn wiped(&self) -> Result<BTreeSet<Uuid>> {
        self.hosts_in(WIPED)
    }

    /// Adds one of them.
    ///
    /// # Errors
    /// As [`seen_to`](Self::seen_to).
    pub(super) fn keep_wiped(&self, host: Uuid) -> Result<()> {
        self.keep_host_in(WIPED, host)
    }

    fn hosts_in(&self, name: &str) -> Result<BTreeSet<Uuid>> {
        let path = self.folder.join(name);
        let Some(bytes) = private_file::read_if_there(MAX_HOSTS_LEN, &path)? else { return Ok(BTreeSet::new()) };
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))
    }

    fn keep_host_in(&self, name: &str, host: Uuid) -> Result<()> {
        let mut hosts = self.hosts_in(name)?;
        if !hosts.insert(host) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&hosts)
            .map_err(|error| Error::with_source(Kind::Invalid, "UUIDs that have no JSON form", error))?;
        private_file::replace(&self.folder.join(name), &[&bytes])
    }

    fn contact_path(&self) -> PathBuf {
        self.folder.join("reached-board")
    }

    fn document_path(&self) -> PathBuf {
        self.folder.join("document")
    }

    fn identity_path(&self) -> PathBuf {
        self.folder.join("identity")
    }

    fn membership_path(&self) -> PathBuf {
        self.folder.join("membership.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_another_process_has_locked_is_waited_for_no_longer_than_that() {
        let dir = tempfile::tempdir().unwrap();
        let files = HostFiles::of(&dir.path().join("config.toml"));
        let locked = files.lock().unwrap();
        let error = files.lock_within(Duration::from_millis(30)).unwrap_err();
        assert!(error.kind() == Kind::Busy && error.chain().contains("membership.json.lock"), "{}", error.chain());
        drop(locked);
        files.lock_within(Duration::ZERO).unwrap();
    }

    #[test]
    fn an_identity_comes_back_and_damage_is_seen() {
        let identity = Identity::generate().unwrap();
        let bytes = identity.encode();
        assert_eq!(bytes.len(), FORM.len);
        let name = || Name::new("host", "h1").unwrap();
        assert_eq!(Identity::decode(&bytes).unwrap().public(name()), identity.public(name()));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(Identity::decode(&wrong).is_err(), "byte {at}");
            assert!(Identity::decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}
