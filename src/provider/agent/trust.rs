//! What programs ask the agent about trust authorities (docs/TRUST.md).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A request.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "trust", rename_all = "kebab-case")]
pub enum TrustCall {
    /// This host is to enrol; answered by [`TrustAnswer::Authorities`], with the one.
    Enrol {
        /// The token, which is a secret.
        token: String,
        /// Name of the host, which the token is for.
        name: String,
        /// Certificate of the TPM's endorsement key in DER, where the TPM has none.
        ek_certificate: Option<PathBuf>,
    },
    /// This host is to attest now, at each authority that it has enrolled at; answered by [`TrustAnswer::Authorities`].
    Attest,
    /// How it is; answered by [`TrustAnswer::Authorities`].
    Status,
    /// What this host will measure when it boots other files; answered by [`TrustAnswer::Predicted`].
    Predict {
        /// The files that it runs by.
        running: BootPaths,
        /// The other ones.
        next: BootPaths,
        /// Name of the set that is made.
        set: String,
    },
    /// What this host is going to measure is proposed at each authority; answered by [`TrustAnswer::Proposed`].
    Propose {
        /// A set for a policy, in TOML.
        set: String,
    },
}

/// Files that are booted, all absolute.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootPaths {
    /// A unified kernel image.
    Uki(PathBuf),
    /// A kernel, as firmware or systemd-boot starts it.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initrd, if there is one.
        initrd: Option<PathBuf>,
        /// All of the command line, as the kernel gets it.
        command_line: String,
    },
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "trust", rename_all = "kebab-case")]
pub enum TrustAnswer {
    /// Authorities that this host has enrolled at.
    Authorities {
        /// Each of them.
        authorities: Vec<TrustStatus>,
    },
    /// What will be measured.
    Predicted(Predicted),
    /// What became of a set.
    Proposed {
        /// At each authority.
        proposed: Vec<Proposed>,
    },
}

/// An authority, as this host knows it. Fields may be added.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TrustStatus {
    /// Its UUID.
    pub authority: Uuid,
    /// Where it is.
    pub urls: Vec<String>,
    /// SHA-256 of its public key, in base64url.
    pub pin: String,
    /// UUID of this host there.
    pub host: Uuid,
    /// Name of this host there.
    pub name: String,
    /// What it said when the host enrolled: `approved`, or `pending`.
    pub enrolled: String,
    /// Fingerprint of the TPM's endorsement key, in hex: an administrator compares it before the host is approved.
    pub endorsement_key: String,
    /// Entries of its log that this host has seen.
    pub log_entries: Option<usize>,
    /// What was proved last, if that is still good.
    pub attested: Option<AttestedNow>,
    /// Why it is not, or the last attempt failed.
    pub trouble: Option<String>,
}

/// An attestation that is good now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AttestedNow {
    /// When it was made (RFC 3339, UTC).
    pub since: String,
    /// For how many seconds it is good.
    pub seconds: u64,
    /// The trust level.
    pub level: String,
    /// The policy that was satisfied.
    pub policy: String,
    /// The approved sets that the host matches.
    pub sets: Vec<String>,
}

/// What a host will measure.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Predicted {
    /// A set for a policy, in TOML.
    pub set: String,
    /// Its registers whose values change.
    pub changes: Vec<u8>,
    /// Registers that cannot be predicted, and why.
    pub unpredicted: Vec<(u8, String)>,
}

/// What became of a set at an authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Proposed {
    /// UUID of the authority.
    pub authority: Uuid,
    /// Whether the policy in force has it already; else it waits for an administrator.
    pub is_approved: bool,
    /// What the set, or the proposal, is called there.
    pub name: String,
}
