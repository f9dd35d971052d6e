//! Calls of a host to the members of an authority: HTTP/1.1 over TLS 1.3 to the key that the host has pinned.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::kinds::trusted::Pin;
use vmcryptfs::provider::{Failure, Trouble};

use super::pinned;
use crate::trust_wire::{MAX_BODY, Refusal, Refused};

/// The next member is tried after this time, beside the one that has not answered yet.
const APART: Duration = Duration::from_millis(250);
/// How long one member may take until TLS is agreed on.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may take to answer: its top-level key may be at a key server.
const ANSWER: Duration = Duration::from_secs(8);

/// What an authority answered.
pub(super) type Asked<T> = std::result::Result<T, Failed>;
/// What one member answered, or what was wrong with it.
type Attempt<T> = std::result::Result<T, String>;
type Sender = SendRequest<Full<Bytes>>;

/// The members of an authority.
#[derive(Clone)]
pub(super) struct Members {
    urls: Vec<String>,
    tls: Arc<ClientConfig>,
    /// How long all of them may take for one call.
    limit: Duration,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// An authority has refused it.
    Refused(Refusal),
    /// No member has answered.
    Down(Error),
}

impl Failed {
    /// As the error of work that was under way.
    pub(super) fn into_error(self, doing: &str) -> Error {
        match self {
            Self::Refused(Refusal { kind, message, .. }) => {
                Error::new(kind, format!("{doing}: the authority has refused: {message}"))
            }
            Self::Down(error) => error,
        }
    }
}

/// One call.
struct Call {
    method: Method,
    path: String,
    body: Bytes,
}

/// What threads wait for is done here, so that a client's thread needs no room for it.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = Builder::new_multi_thread().worker_threads(1).thread_name("authority").enable_all().build();
    let made = made.context(|| "starting the thread that asks authorities".into())?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// Does something after a time.
pub(super) fn later(after: Duration, work: impl FnOnce() + Send + 'static) -> Result<()> {
    runtime()?.spawn(async move {
        tokio::time::sleep(after).await;
        work();
    });
    Ok(())
}

impl Members {
    /// Those at these addresses, which have this key.
    ///
    /// # Errors
    /// `Io` when TLS cannot be set up.
    pub(super) fn new(urls: &[String], pin: Pin, limit: Duration) -> Result<Self> {
        Ok(Self { urls: urls.to_vec(), tls: pinned::config(pin)?, limit })
    }

    /// What is answered to a request.
    pub(super) fn post<A: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Asked<A> {
        let invalid = |error| Failed::Down(Error::with_source(Kind::Invalid, "a request that has no JSON form", error));
        let body = Bytes::from(serde_json::to_vec(request).map_err(invalid)?);
        if body.len() > MAX_BODY {
            let found =
                format!("a request of {} bytes, expected at most {MAX_BODY}: is the event log that long?", body.len());
            return Err(Failed::Down(Error::new(Kind::Invalid, found)));
        }
        let answer = self.call(Call { method: Method::POST, path: path.to_owned(), body })?;
        serde_json::from_slice(&answer).map_err(|error| self.down(&error.to_string()))
    }

    /// What is there.
    pub(super) fn get(&self, path: &str) -> Asked<Bytes> {
        self.call(Call { method: Method::GET, path: path.to_owned(), body: Bytes::new() })
    }

    fn down(&self, why: &str) -> Failed {
        let failure = Failure::new(Trouble::AuthorityDown, why);
        let text = format!("no trust authority answers at {}", self.urls.join(", "));
        Failed::Down(Error::with_source(Kind::KeyUnavailable, text, failure))
    }

    fn call(&self, call: Call) -> Asked<Bytes> {
        let runtime = runtime().map_err(Failed::Down)?;
        let (urls, tls, limit) = (self.urls.clone(), Arc::clone(&self.tls), self.limit);
        let asked = runtime.spawn(async move { timeout(limit, ask_members(urls, tls, call)).await });
        let asked = runtime.block_on(asked).map_err(|error| self.down(&error.to_string()))?;
        let late = |_| self.down(&format!("no answer within {} s", limit.as_secs()));
        let (status, body) = asked.map_err(late)?.map_err(|why| self.down(&why))?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        match serde_json::from_slice::<Refused>(&body) {
            Ok(Refused { error }) => Err(Failed::Refused(error)),
            Err(_) => Err(self.down(&message_of(status, &body))),
        }
    }
}

/// The answer of the first member that gives one; else what each of them said.
async fn ask_members(urls: Vec<String>, tls: Arc<ClientConfig>, call: Call) -> Attempt<(StatusCode, Bytes)> {
    let (mut left, mut trying, mut said) = (urls.into_iter(), JoinSet::new(), Vec::new());
    loop {
        if let Some(url) = left.next() {
            let tls = Arc::clone(&tls);
            trying.spawn(async move { (connect(&url, tls).await, url) });
        } else if trying.is_empty() {
            return Err(said.join("; "));
        }
        // The next one is tried as soon as this one has failed.
        let tried =
            if left.len() > 0 { timeout(APART, trying.join_next()).await.ok() } else { Some(trying.join_next().await) };
        let Some(Some(tried)) = tried else { continue };
        match tried {
            Ok((Ok(sender), url)) => match exchange(sender, &url, &call).await {
                // Another member may have what this one lacks.
                Ok((status, body)) if status.is_server_error() => {
                    said.push(format!("{url}: {}", message_of(status, &body)))
                }
                Ok(answer) => return Ok(answer),
                Err(why) => said.push(format!("{url}: {why}")),
            },
            Ok((Err(why), url)) => said.push(format!("{url}: {why}")),
            Err(error) => said.push(error.to_string()),
        }
    }
}

/// What an authority says in an answer that is not one.
fn message_of(status: StatusCode, body: &[u8]) -> String {
    let not_understood = |_| format!("an answer with status {status} that is not understood");
    serde_json::from_slice::<Refused>(body).map_or_else(not_understood, |refused| refused.error.message)
}

async fn connect(url: &str, tls: Arc<ClientConfig>) -> Attempt<Sender> {
    timeout(CONNECT, agree(url, tls))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| described(&error))
}

async fn agree(url: &str, tls: Arc<ClientConfig>) -> io::Result<Sender> {
    let invalid = |error: &dyn fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
    let uri: Uri = url.parse().map_err(|error| invalid(&error))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(|error| invalid(&error))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(mut sender: Sender, url: &str, call: &Call) -> Attempt<(StatusCode, Bytes)> {
    let authority = url.strip_prefix("https://").unwrap_or(url);
    let request = Request::builder().method(&call.method).uri(&call.path).header(HOST, authority);
    let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(call.body.clone()));
    let request = request.map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| described(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    timeout(ANSWER, answer).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// An error with all its causes.
fn described(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(more) = cause {
        let more_text = more.to_string();
        if !text.contains(&more_text) {
            text += &format!(": {more_text}");
        }
        cause = more.source();
    }
    text
}
