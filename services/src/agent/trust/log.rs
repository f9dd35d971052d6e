//! The log of an authority, as a host watches it: what it has seen once must be in every later state.

use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::{Failure, Trouble};

use super::client::Members;
use super::enrolled::Enrolled;
use crate::authority::log::checkpoint::Checkpoint;
use crate::authority::log::tree::{self, Hash};
use crate::trust_wire::LogProof;

/// The newest checkpoint, as text, if the log begins with all that this host has seen of it.
///
/// # Errors
/// `KeyUnavailable` when no member answers, or with another log.
pub(super) fn newest(members: &Members, known: &Enrolled) -> Result<String> {
    let asking = |failed: super::client::Failed| failed.into_error("asking for the log of the authority");
    let text = members.get("/v1/log/checkpoint").map_err(asking)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let now = verified(known, &text).map_err(|error| untrusted(&error.chain()))?;
    let Some(before) = &known.checkpoint else { return Ok(text) };
    let before = verified(known, before)?;
    if before.size > now.size {
        let found = format!(
            "it has {} entries, and had {} before: it was cut, or restored from a backup",
            now.size, before.size
        );
        return Err(untrusted(&found));
    }
    let nodes = match before.size == now.size {
        true => Vec::new(),
        false => {
            let path = format!("/v1/log/proof/consistency?old={}&size={}", before.size, now.size);
            let proof = members.get(&path).map_err(asking)?;
            let proof: LogProof = serde_json::from_slice(&proof).map_err(|error| untrusted(&error.to_string()))?;
            let nodes = proof.nodes.into_iter().map(|node| node.0.try_into().ok()).collect::<Option<Vec<Hash>>>();
            nodes.ok_or_else(|| untrusted("a proof whose nodes are not hashes"))?
        }
    };
    match tree::extends((&before.root, before.size), (&now.root, now.size), &nodes) {
        true => Ok(text),
        false => Err(untrusted(&format!("its first {} entries are others than this host has seen", before.size))),
    }
}

/// A checkpoint of the authority's log.
///
/// # Errors
/// Those of [`Checkpoint::verify`].
pub(super) fn verified(known: &Enrolled, text: &str) -> Result<Checkpoint> {
    Checkpoint::verify(text, &Checkpoint::origin_of(known.authority), &known.log_key()?)
}

fn untrusted(why: &str) -> Error {
    let failure = Failure::new(Trouble::AuthorityDown, why);
    Error::with_source(Kind::KeyUnavailable, "the log of the authority is not the one that this host knows", failure)
}
