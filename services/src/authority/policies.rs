//! The policy that is in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;
use vmcryptfs_attest::policy::{MAX_POLICY_BYTES, Policy};
use zeroize::Zeroizing;

/// A policy that a person approved.
pub(super) struct ApprovedPolicy {
    pub(super) policy: Policy,
    pub(super) text: String,
    pub(super) sha256: String,
    /// How many were approved before it since the authority began. One that has only lost sets that no host used counts as the one before.
    pub(super) generation: u64,
}

impl ApprovedPolicy {
    /// Reads one.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn parse(text: &str, generation: u64) -> Result<Self> {
        let wrong = |error| Error::with_source(Kind::Invalid, "reading the policy", error);
        let policy = Policy::parse(text).map_err(wrong)?;
        Ok(Self { policy, text: text.to_owned(), sha256: HEXLOWER.encode(&sha256(text.as_bytes())), generation })
    }

    /// Its name and the beginning of its digest.
    pub(super) fn version(&self) -> String {
        format!("{}@{}", self.policy.name(), self.sha256.get(..16).unwrap_or_default())
    }
}

/// The policy of an authority. The lock of the authority's folder is held as long as this is there.
pub(super) struct Policies {
    file: PathBuf,
    current: Mutex<Option<Arc<ApprovedPolicy>>>,
    generation: AtomicU64,
}

impl Policies {
    /// The one in the authority's folder.
    ///
    /// # Errors
    /// `Invalid` when the policy is not understood, `Denied` when others can change it, `Io`.
    pub(super) fn load(file: PathBuf) -> Result<Self> {
        let parsed = |bytes: Zeroizing<Vec<u8>>| {
            let text = std::str::from_utf8(&bytes);
            let text = text.map_err(|error| Error::with_source(Kind::Invalid, "a policy that is not UTF-8", error))?;
            ApprovedPolicy::parse(text, 0).map(Arc::new).context(|| format!("reading {}", file.shown()))
        };
        let stored = private_file::read_if_there(MAX_POLICY_BYTES as u64, &file)?;
        let current = stored.map(parsed).transpose()?;
        Ok(Self { file, current: Mutex::new(current), generation: AtomicU64::new(0) })
    }

    /// The policy that is in force.
    ///
    /// # Errors
    /// `Denied` when there is none: then no host gets anything.
    pub(super) fn current(&self) -> Result<Arc<ApprovedPolicy>> {
        self.current.lock().clone().ok_or_else(none)
    }

    /// The generation of the policy that is in force: tokens of others are void.
    pub(super) fn generation(&self) -> &AtomicU64 {
        &self.generation
    }

    /// Puts a policy in force, once `before` has succeeded: tokens of the one before are void.
    ///
    /// # Errors
    /// `Invalid`; those of `before`; `Io`.
    pub(super) fn approve(
        &self,
        text: &str,
        before: impl FnOnce(&ApprovedPolicy) -> Result<()>,
    ) -> Result<Arc<ApprovedPolicy>> {
        let mut current = self.current.lock();
        let next = self.generation.load(Ordering::SeqCst) + 1;
        self.put(&mut current, ApprovedPolicy::parse(text, next)?, before)
    }

    /// Puts in force what `change` makes of the policy, once `before` has succeeded: tokens of the one before are void.
    ///
    /// # Errors
    /// `Denied` when there is no policy; those of `change` and `before`; `Io`.
    pub(super) fn change(
        &self,
        change: impl FnOnce(&Policy) -> Result<Policy>,
        before: impl FnOnce(&ApprovedPolicy) -> Result<()>,
    ) -> Result<Arc<ApprovedPolicy>> {
        let mut current = self.current.lock();
        let changed = change(&current.as_ref().ok_or_else(none)?.policy)?;
        let next = self.generation.load(Ordering::SeqCst) + 1;
        self.put(&mut current, ApprovedPolicy::parse(&changed.to_text(), next)?, before)
    }

    /// Takes a set out that no host uses any more, once `before` has succeeded: tokens stay good. Returns whether the policy that is in
    /// force is still the one that the caller has looked at.
    ///
    /// # Errors
    /// `Invalid` when a class could not be satisfied without it; those of `before`; `Io`.
    pub(super) fn retire(
        &self,
        looked_at: &Arc<ApprovedPolicy>,
        set: &str,
        before: impl FnOnce(&ApprovedPolicy) -> Result<()>,
    ) -> Result<Option<Arc<ApprovedPolicy>>> {
        let mut current = self.current.lock();
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, looked_at)) {
            return Ok(None);
        }
        let wrong = |error| Error::with_source(Kind::Invalid, format!("retiring set {set}"), error);
        let policy = looked_at.policy.without_set(set).map_err(wrong)?;
        let retired = ApprovedPolicy::parse(&policy.to_text(), looked_at.generation)?;
        self.put(&mut current, retired, before).map(Some)
    }

    fn put(
        &self,
        current: &mut Option<Arc<ApprovedPolicy>>,
        policy: ApprovedPolicy,
        before: impl FnOnce(&ApprovedPolicy) -> Result<()>,
    ) -> Result<Arc<ApprovedPolicy>> {
        if policy.text.len() > MAX_POLICY_BYTES {
            let found = format!("a policy of {} bytes, expected at most {MAX_POLICY_BYTES}", policy.text.len());
            return Err(Error::new(Kind::Invalid, found));
        }
        before(&policy)?;
        private_file::replace(&self.file, &[policy.text.as_bytes()])?;
        let policy = Arc::new(policy);
        *current = Some(Arc::clone(&policy));
        self.generation.store(policy.generation, Ordering::SeqCst);
        Ok(policy)
    }
}

fn none() -> Error {
    let advice = "this authority has no policy yet, so no host can attest: `vmcryptfs-authority policy approve FILE`";
    Error::new(Kind::Denied, advice)
}

#[cfg(test)]
mod tests;
