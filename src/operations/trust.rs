//! Trust authorities, at which this host enrols and attests. Its agent does both, since it has the TPM and keeps what was proved.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::event::EventName;
use crate::gate::{Object, Operation, Trail};
use crate::progress::OnProgress;
use crate::provider::agent::client::AgentClient;
use crate::provider::agent::trust::{Predicted, Proposed, TrustAnswer, TrustCall, TrustStatus};
use crate::provider::agent::{Answer, Request};

/// Has this host enrol at an authority.
pub struct EnrolHost<'a> {
    /// Where its token comes from: a secret.
    pub token: &'a dyn Fn() -> Result<Zeroizing<String>>,
    /// Name of this host there.
    pub name: &'a str,
    /// Certificate of the TPM's endorsement key in DER, absolute, where the TPM has none.
    pub ek_certificate: Option<PathBuf>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for EnrolHost<'_> {
    const NAME: EventName = EventName::TrustEnrol;
    type Outcome = TrustStatus;

    fn object(&self) -> Object {
        Object::Host
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<TrustStatus> {
        let (token, name) = ((self.token)()?, self.name.to_owned());
        let call = TrustCall::Enrol { token: token.to_string(), name, ek_certificate: self.ek_certificate };
        let enrolled = authorities(self.config, call)?;
        trail.in_parts(); // the agent leaves the event
        enrolled.into_iter().next().ok_or_else(other_answer)
    }
}

/// Has this host attest now, at each authority that it has enrolled at.
pub struct AttestHost<'a> {
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for AttestHost<'_> {
    const NAME: EventName = EventName::TrustAttest;
    type Outcome = Vec<TrustStatus>;

    fn object(&self) -> Object {
        Object::Host
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<TrustStatus>> {
        let attested = authorities(self.config, TrustCall::Attest)?;
        trail.in_parts(); // the agent leaves the events
        Ok(attested)
    }
}

/// Proposes a set to each authority that this host has enrolled at. It is no rule until an administrator approves it.
pub struct ProposeSet<'a> {
    /// The set, in TOML.
    pub set: String,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for ProposeSet<'_> {
    const NAME: EventName = EventName::TrustPropose;
    type Outcome = Vec<Proposed>;

    fn object(&self) -> Object {
        Object::Host
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<Vec<Proposed>> {
        match ask(self.config, TrustCall::Propose { set: self.set })? {
            TrustAnswer::Proposed { proposed } => Ok(proposed),
            TrustAnswer::Authorities { .. } | TrustAnswer::Predicted(_) => Err(other_answer()),
        }
    }
}

/// The authorities that this host has enrolled at.
///
/// # Errors
/// `KeyUnavailable` when the agent does not answer, and what it answers.
pub fn status(config: &Path) -> Result<Vec<TrustStatus>> {
    authorities(config, TrustCall::Status)
}

/// What this host will measure when it boots other files.
///
/// # Errors
/// As [`status`].
pub fn predict(config: &Path, call: TrustCall) -> Result<Predicted> {
    match ask(config, call)? {
        TrustAnswer::Predicted(predicted) => Ok(predicted),
        TrustAnswer::Authorities { .. } | TrustAnswer::Proposed { .. } => Err(other_answer()),
    }
}

fn authorities(config: &Path, call: TrustCall) -> Result<Vec<TrustStatus>> {
    match ask(config, call)? {
        TrustAnswer::Authorities { authorities } => Ok(authorities),
        TrustAnswer::Predicted(_) | TrustAnswer::Proposed { .. } => Err(other_answer()),
    }
}

fn ask(config: &Path, call: TrustCall) -> Result<TrustAnswer> {
    let answer = AgentClient::of(config)?.ask(&Request::Trust(Box::new(call)))?;
    let Answer::Trust(answer) = answer else { return Err(other_answer()) };
    Ok(*answer)
}

fn other_answer() -> Error {
    Error::new(Kind::Invalid, "an answer of another version of vmcryptfs-agent")
}
