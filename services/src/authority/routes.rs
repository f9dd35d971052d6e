//! What each call of a host is answered. It runs on a thread that may wait.

use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vmcryptfs::error::{Error, Kind, Result};

use super::Authority;
use crate::trust_wire::{Blob, LogEntries, LogProof, MAX_BODY, Refusal, Refused};

/// Entries of one answer, and their bytes: as JSON texts in JSON they take up to twice as many.
const MAX_ENTRIES: usize = 1000;
const MAX_ENTRY_BYTES: usize = 400 << 10;
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// A call.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
}

/// What is answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

/// Does what a call asks for.
pub(super) fn answer(authority: &Authority, call: &Call<'_>) -> Answer {
    done(authority, call).unwrap_or_else(|error| refused(&error))
}

fn done(authority: &Authority, call: &Call<'_>) -> Result<Answer> {
    let is_post = match *call.method {
        Method::GET => false,
        Method::POST => true,
        _ => return Err(unknown(call)),
    };
    match (is_post, call.path) {
        (false, "/v1/health") => {
            let health = authority.health();
            let status = if health.lacks.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Ok(Answer { status, ..json(&health)? })
        }
        (false, "/v1/log/checkpoint") => {
            let body = authority.log.checkpoint(&authority.own.log_key)?.into_bytes();
            Ok(Answer { status: StatusCode::OK, content_type: TEXT, body })
        }
        (false, "/v1/log/entries") => {
            let [first, count] = numbers(call.query, ["first", "count"])?;
            let found = authority.log.entries(first, count.min(MAX_ENTRIES), MAX_ENTRY_BYTES)?;
            let text = |entry| {
                let damaged = |error| Error::with_source(Kind::Corrupt, "a log entry that is not UTF-8", error);
                String::from_utf8(entry).map_err(damaged)
            };
            json(&LogEntries { first, entries: found.into_iter().map(text).collect::<Result<_>>()? })
        }
        (false, "/v1/log/proof/inclusion") => {
            let [index, size] = numbers(call.query, ["index", "size"])?;
            proof(authority.log.inclusion(index, size))
        }
        (false, "/v1/log/proof/consistency") => {
            let [old, size] = numbers(call.query, ["old", "size"])?;
            proof(authority.log.consistency(old, size))
        }
        (true, "/v1/keys/new") => json(&authority.release().new_keys(&parsed(call.body)?)?),
        (true, "/v1/keys/unwrap") => json(&authority.release().unwrap_keys(&parsed(call.body)?)?),
        (true, "/v1/enrol") => json(&authority.enrol(&parsed(call.body)?)?),
        (true, "/v1/challenge") => json(&authority.challenge(&parsed(call.body)?)?),
        (true, "/v1/propose") => json(&authority.propose(&parsed(call.body)?)?),
        (true, "/v1/attest") => json(&authority.attest(&parsed(call.body)?)?),
        (true, path) => {
            let enrolment = path.strip_prefix("/v1/enrol/").and_then(|uuid| Uuid::try_parse(uuid).ok());
            let enrolment = enrolment.ok_or_else(|| unknown(call))?;
            json(&authority.finish_enrolment(enrolment, &parsed(call.body)?)?)
        }
        _ => Err(unknown(call)),
    }
}

fn unknown(call: &Call<'_>) -> Error {
    let path = vmcryptfs::text::one_line(vmcryptfs::text::beginning(call.path, 100)).into_owned();
    Error::new(Kind::NotFound, format!("there is no call {} {path}", call.method))
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| Error::with_source(Kind::Invalid, "a request that is not understood", error))
}

fn json(answer: &impl Serialize) -> Result<Answer> {
    let body = serde_json::to_vec(answer)
        .map_err(|error| Error::with_source(Kind::Io, "an answer that has no JSON form", error))?;
    Ok(Answer { status: StatusCode::OK, content_type: JSON, body })
}

/// The numbers of a query, which has exactly these names, in any order.
fn numbers<const N: usize>(query: &str, names: [&str; N]) -> Result<[usize; N]> {
    let wrong = || {
        let form: Vec<String> = names.iter().map(|name| format!("{name}=NUMBER")).collect();
        Error::new(Kind::Invalid, format!("expected ?{}", form.join("&")))
    };
    let mut found = [None; N];
    for part in query.split('&') {
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let at = names.iter().position(|known| *known == name).ok_or_else(wrong)?;
        let value = value.parse().map_err(|_| wrong())?;
        if found[at].replace(value).is_some() {
            return Err(wrong());
        }
    }
    let mut all = [0; N];
    for (number, found) in all.iter_mut().zip(found) {
        *number = found.ok_or_else(wrong)?;
    }
    Ok(all)
}

fn proof(nodes: Option<Vec<[u8; 32]>>) -> Result<Answer> {
    let nodes = nodes.ok_or_else(|| Error::new(Kind::NotFound, "the log has no such entries"))?;
    json(&LogProof { nodes: nodes.iter().map(|node| Blob(node.to_vec())).collect() })
}

/// The answer to a body that is too long.
pub(super) fn too_long() -> Answer {
    let error = Error::new(Kind::Invalid, format!("a body of over {MAX_BODY} bytes"));
    Answer { status: StatusCode::PAYLOAD_TOO_LARGE, ..refused(&error) }
}

/// The answer to a call that is refused. What went wrong inside is for the authority's own log.
pub(super) fn refused(error: &Error) -> Answer {
    let status = match error.kind() {
        Kind::Invalid | Kind::Corrupt => StatusCode::BAD_REQUEST,
        Kind::Denied | Kind::KeyRejected => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Exists => StatusCode::CONFLICT,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Busy | Kind::KeyUnavailable | Kind::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Io | Kind::ReadOnly => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let message = match status {
        StatusCode::INTERNAL_SERVER_ERROR => {
            tracing::error!("a call failed: {}", error.chain());
            "the authority failed at this, and its log says why".to_owned()
        }
        _ => error.chain(),
    };
    let body = Refused { error: Refusal::of(error, message) };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    Answer { status, content_type: JSON, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_each_number_once() {
        assert_eq!(numbers("first=3&count=4", ["first", "count"]).unwrap(), [3, 4]);
        assert_eq!(numbers("count=4&first=3", ["first", "count"]).unwrap(), [3, 4]);
        for wrong in [
            "",
            "first=3",
            "first=3&first=3",
            "first=3&count=4&more=5",
            "first=-1&count=4",
            "first=&count=4",
            "first&count",
        ] {
            assert_eq!(numbers(wrong, ["first", "count"]).unwrap_err().kind(), Kind::Invalid, "{wrong:?}");
        }
    }
}
