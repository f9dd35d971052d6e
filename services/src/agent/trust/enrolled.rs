//! What this host keeps of an authority that it has enrolled at: a file for each, which holds no secret.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::cluster::host;
use vmcryptfs::crypto::sign::PUBLIC_LEN;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::kinds::trusted::Pin;
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;

use crate::authority::hosts::HostState;
use crate::tpm::AttestationSeed;
use crate::trust_wire::Blob;

const VERSION: u16 = 1;
const MAX_FILE: u64 = 64 << 10;

/// An authority, and this host there.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Enrolled {
    version: u16,
    /// UUID of the authority.
    pub(super) authority: Uuid,
    /// Where it is, by the token.
    pub(super) urls: Vec<String>,
    /// SHA-256 of its public key.
    pub(super) pin: Pin,
    /// UUID of this host there.
    pub(super) host: Uuid,
    /// Name of this host there.
    pub(super) name: String,
    /// What it said when the host enrolled.
    pub(super) state: HostState,
    /// Which attestation key the host has for it.
    pub(super) seed: AttestationSeed,
    /// Fingerprint of the endorsement key, in hex.
    pub(super) endorsement_key: String,
    /// What it signs checkpoints of its log with, in hex.
    log_key: String,
    /// The newest checkpoint of its log that this host has seen.
    pub(super) checkpoint: Option<String>,
}

/// What a host has when its enrolment is done.
pub(super) struct NewEnrolment {
    pub(super) urls: Vec<String>,
    pub(super) pin: Pin,
    pub(super) name: String,
    pub(super) seed: AttestationSeed,
    pub(super) endorsement_key: String,
}

impl Enrolled {
    pub(super) fn new(
        new: NewEnrolment,
        authority: Uuid,
        (host, state): (Uuid, HostState),
        log_key: &Blob,
    ) -> Result<Self> {
        let NewEnrolment { urls, pin, name, seed, endorsement_key } = new;
        let log_key = HEXLOWER.encode(&log_key.0);
        let (version, checkpoint) = (VERSION, None);
        let enrolled =
            Self { version, authority, urls, pin, host, name, state, seed, endorsement_key, log_key, checkpoint };
        enrolled.log_key().map(|_| enrolled)
    }

    /// What checkpoints of the authority's log are signed with.
    pub(super) fn log_key(&self) -> Result<[u8; PUBLIC_LEN]> {
        let key = HEXLOWER.decode(self.log_key.as_bytes()).ok().and_then(|key| key.try_into().ok());
        key.ok_or_else(|| Error::new(Kind::Corrupt, format!("the log key of authority {} is not one", self.authority)))
    }
}

/// The files of a host with this configuration: below `/var/lib/vmcryptfs/trust`, or `trust` beside another configuration.
pub(super) struct EnrolledFiles {
    folder: PathBuf,
}

impl EnrolledFiles {
    pub(super) fn of(config: &Path) -> Self {
        Self { folder: host::folder(config).with_file_name("trust") }
    }

    /// All of them.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a later version, `Denied` when others can change one, `Io`.
    pub(super) fn load(&self) -> Result<Vec<Enrolled>> {
        let reading = || format!("reading {}", self.folder.shown());
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(reading)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.context(reading)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.push(read(&path)?);
            }
        }
        all.sort_by(|one: &Enrolled, other| (&one.urls, one.authority).cmp(&(&other.urls, other.authority)));
        Ok(all)
    }

    /// Stores one, in the place of what was known of this authority before.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn store(&self, enrolled: &Enrolled) -> Result<()> {
        private_file::create_folder(&self.folder)?;
        let json = serde_json::to_vec_pretty(enrolled)
            .map_err(|error| Error::with_source(Kind::Invalid, "an enrolment that has no JSON form", error))?;
        private_file::replace(&self.folder.join(format!("{}.json", enrolled.authority)), &[&json])
    }
}

fn read(path: &Path) -> Result<Enrolled> {
    let reading = || format!("reading {}", path.shown());
    let bytes = private_file::read_if_there(MAX_FILE, path)?.unwrap_or_default();
    #[derive(Deserialize)]
    struct Versioned {
        version: u16,
    }
    let not_one = |error| Error::with_source(Kind::Corrupt, "not what a host keeps of an authority", error);
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(not_one).context(reading)?;
    if version != VERSION {
        let found = format!("{} has version {version}, expected {VERSION}", path.shown());
        return Err(Error::new(Kind::Unsupported, found));
    }
    serde_json::from_slice(&bytes).map_err(not_one).context(reading)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn enrolled() -> Enrolled {
        let new = NewEnrolment {
            urls: vec!["https://localhost:6843".into()],
            pin: Pin([5; 32]),
            name: "kvm1".into(),
            seed: AttestationSeed::new().unwrap(),
            endorsement_key: "ab".into(),
        };
        let host = (Uuid::from_u128(2), HostState::Approved);
        Enrolled::new(new, Uuid::from_u128(1), host, &Blob(vec![6; PUBLIC_LEN])).unwrap()
    }

    #[test]
    fn what_is_stored_comes_back_and_what_is_not_understood_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = EnrolledFiles { folder: folder.path().join("trust") };
        assert!(files.load().unwrap().is_empty());
        let known = enrolled();
        files.store(&known).unwrap();
        let [found] = files.load().unwrap().try_into().unwrap();
        assert_eq!(serde_json::to_value(&found).unwrap(), serde_json::to_value(&known).unwrap());
        let path = files.folder.join(format!("{}.json", known.authority));
        let text = fs::read_to_string(&path).unwrap();
        let later = text.replacen("\"version\": 1", "\"version\": 2", 1);
        for (text, kind) in [(later.as_str(), Kind::Unsupported), (&text[..text.len() / 2], Kind::Corrupt)] {
            private_file::replace(&path, &[text.as_bytes()]).unwrap();
            assert_eq!(files.load().unwrap_err().kind(), kind);
        }
        let wrong = Enrolled::new(
            NewEnrolment {
                urls: Vec::new(),
                pin: Pin([5; 32]),
                name: String::new(),
                seed: known.seed,
                endorsement_key: String::new(),
            },
            Uuid::nil(),
            (Uuid::nil(), HostState::Pending),
            &Blob(vec![6; 31]),
        );
        assert_eq!(wrong.unwrap_err().kind(), Kind::Corrupt);
    }
}
