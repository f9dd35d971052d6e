//! The policy that is in force, and what hosts last attested with, on which another one is tried out.

use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;
use vmcryptfs_attest::pcr::{Digest, HashAlgorithm, PcrIndex, PcrSelection, PcrValues};
use vmcryptfs_attest::policy::{Evidence, MAX_POLICY_BYTES, Policy, dry_run};
use vmcryptfs_attest::verdict::Attested;
use zeroize::Zeroizing;

use super::hosts::{HostRecord, HostState};
use crate::trust_wire::{AttestRequest, Blob};

const MAX_EVIDENCE: u64 = 4 << 20;

/// A policy that a person approved.
pub(super) struct ApprovedPolicy {
    pub(super) policy: Policy,
    pub(super) sha256: String,
}

impl ApprovedPolicy {
    /// Reads one.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |error| Error::with_source(Kind::Invalid, "a policy that is not understood", error);
        let policy = Policy::parse(text).map_err(wrong)?;
        Ok(Self { policy, sha256: HEXLOWER.encode(&sha256(text.as_bytes())) })
    }

    /// Its name and the beginning of its digest.
    pub(super) fn version(&self) -> String {
        format!("{}@{}", self.policy.name(), self.sha256.get(..16).unwrap_or_default())
    }
}

/// Policies and evidence. The lock of the authority's folder is held as long as this is there.
pub(super) struct Policies {
    file: PathBuf,
    evidence: PathBuf,
    current: Mutex<Option<Arc<ApprovedPolicy>>>,
    /// Held while evidence is written: one of them for each host, and few for all.
    keeping: [Mutex<()>; 16],
}

/// What a host last attested with.
#[derive(Deserialize, Serialize)]
struct Kept {
    bank: String,
    registers: Vec<u32>,
    values: Blob,
    firmware_log: Blob,
    userspace_log: Blob,
}

/// What a policy would do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Tried {
    /// Hosts that it accepts, with the sets that they match.
    pub(super) passed: Vec<(String, Vec<String>)>,
    /// Hosts that it refuses, and why.
    pub(super) refused: Vec<(String, String)>,
    /// Approved hosts that have not attested yet.
    pub(super) unknown: Vec<String>,
}

impl Policies {
    /// Those in the authority's folder.
    ///
    /// # Errors
    /// `Invalid` when the policy is not understood, `Denied` when others can change it, `Io`.
    pub(super) fn load(file: PathBuf, evidence: PathBuf) -> Result<Self> {
        private_file::create_folder(&evidence)?;
        let parsed = |bytes: Zeroizing<Vec<u8>>| {
            let text = std::str::from_utf8(&bytes);
            let text = text.map_err(|error| Error::with_source(Kind::Invalid, "a policy that is not UTF-8", error))?;
            ApprovedPolicy::parse(text).map(Arc::new).context(|| format!("reading {}", file.shown()))
        };
        let stored = private_file::read_if_there(MAX_POLICY_BYTES as u64, &file)?;
        let current = stored.map(parsed).transpose()?;
        Ok(Self { file, evidence, current: Mutex::new(current), keeping: <[Mutex<()>; 16]>::default() })
    }

    /// The policy that is in force.
    ///
    /// # Errors
    /// `Denied` when there is none: then no host gets anything.
    pub(super) fn current(&self) -> Result<Arc<ApprovedPolicy>> {
        let none = || {
            let advice =
                "this authority has no policy yet, so no host can attest: `vmcryptfs-authority policy approve FILE`";
            Error::new(Kind::Denied, advice)
        };
        self.current.lock().clone().ok_or_else(none)
    }

    /// Puts a policy in force, once `before` has succeeded.
    ///
    /// # Errors
    /// `Invalid`; those of `before`; `Io`.
    pub(super) fn approve(
        &self,
        text: &str,
        before: impl FnOnce(&ApprovedPolicy) -> Result<()>,
    ) -> Result<Arc<ApprovedPolicy>> {
        let policy = Arc::new(ApprovedPolicy::parse(text)?);
        let mut current = self.current.lock();
        before(&policy)?;
        private_file::replace(&self.file, &[text.as_bytes()])?;
        *current = Some(Arc::clone(&policy));
        Ok(policy)
    }

    /// Keeps what a host has attested with.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn keep_evidence(&self, host: Uuid, attested: &Attested, call: &AttestRequest) -> Result<()> {
        let selection = attested.quoted().values().selection();
        let kept = Kept {
            bank: selection.bank().to_string(),
            registers: selection.iter().map(|index| index.number().into()).collect(),
            values: call.values.clone(),
            firmware_log: call.firmware_log.clone(),
            userspace_log: call.userspace_log.clone(),
        };
        let json = serde_json::to_vec(&kept)
            .map_err(|error| Error::with_source(Kind::Invalid, "evidence that has no JSON form", error))?;
        self.keep(host, &json)
    }

    /// A host may attest several times at once, and the files that are replaced have one name.
    fn keep(&self, host: Uuid, json: &[u8]) -> Result<()> {
        let [.., last] = *host.as_bytes();
        let _keeping = self.keeping[usize::from(last) % self.keeping.len()].lock();
        private_file::replace(&self.path(host), &[json])
    }

    /// What a policy would do to these hosts, by what they last attested with.
    ///
    /// # Errors
    /// `Invalid` for a policy that is not understood; `Corrupt`, `Io`.
    pub(super) fn try_out(&self, text: &str, hosts: &[HostRecord]) -> Result<Tried> {
        let policy = ApprovedPolicy::parse(text)?.policy;
        let mut tried = Tried { passed: Vec::new(), refused: Vec::new(), unknown: Vec::new() };
        for host in hosts.iter().filter(|host| host.state == HostState::Approved) {
            let Some((kept, values)) = self.evidence(host.uuid)? else {
                tried.unknown.push(host.name.clone());
                continue;
            };
            let evidence = Evidence {
                host: &host.name,
                firmware_log: &kept.firmware_log.0,
                userspace_log: &kept.userspace_log.0,
                values: &values,
            };
            let result = dry_run(&policy, [evidence]);
            tried.passed.extend(result.passed.into_iter().map(|passed| (passed.host, passed.sets)));
            tried.refused.extend(result.refused.into_iter().map(|refusal| (host.name.clone(), refusal.to_string())));
        }
        Ok(tried)
    }

    fn evidence(&self, host: Uuid) -> Result<Option<(Kept, PcrValues)>> {
        let path = self.path(host);
        let stored = private_file::read_if_there(MAX_EVIDENCE, &path)?;
        let read = stored.map(|bytes| read_evidence(&bytes)).transpose();
        read.context(|| format!("reading {}", path.shown()))
    }

    fn path(&self, host: Uuid) -> PathBuf {
        self.evidence.join(format!("{host}.json"))
    }
}

fn read_evidence(bytes: &[u8]) -> Result<(Kept, PcrValues)> {
    let damaged = |error: String| Error::new(Kind::Corrupt, format!("damaged evidence: {error}"));
    let kept: Kept = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let wrong = |error: vmcryptfs_attest::Error| damaged(error.to_string());
    let bank: HashAlgorithm = kept.bank.parse().map_err(wrong)?;
    let registers = kept.registers.iter().map(|number| PcrIndex::new(*number));
    let selection = PcrSelection::new(bank, registers.collect::<vmcryptfs_attest::Result<Vec<_>>>().map_err(wrong)?);
    let digests = kept.values.0.chunks(bank.digest_len()).map(|value| Digest::new(bank, value));
    let values = PcrValues::new(selection, digests.collect::<vmcryptfs_attest::Result<_>>().map_err(wrong)?);
    Ok((kept, values.map_err(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_attests_several_times_at_once_is_kept_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let policies = Policies::load(dir.path().join("policy.toml"), dir.path().join("evidence")).unwrap();
        let keep = || (0..10).for_each(|_| policies.keep(Uuid::nil(), b"{}").unwrap());
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(keep))));
    }
}
