//! The socket by which administrators of this machine ask its authority: root, the authority's own user, and one user that the settings
//! name.

pub(super) mod policy;

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::gate::Principal;
use vmcryptfs::provider::agent::{receive, send};
use vmcryptfs::provider::private_file::CONFIG_OF_ROOT;
use vmcryptfs::provider::timed::{Deadline, TimedStream};
use vmcryptfs::sys::process::effective_uid;
use vmcryptfs::sys::socket::SocketPath;
use vmcryptfs::sys::thread::caught;
use vmcryptfs::text::Show;

use super::enrolment::{Admission, Token};
use super::entry::What;
use super::hosts::{HostRecord, HostState};
use super::keys_of_host::{KeyGiven, keys_of};
use super::own::{self, pin_text};
use super::proposals::Proposal;
use super::{Authority, MAX_NAMED};

use policy::{HostExplained, PolicyAsked, PolicyStatus, Tried};

const MAX_ASKED: usize = 16 << 20;
const MAX_ANSWER: usize = 64 << 20;
/// How long a request may take to arrive, and an answer to be taken. Administrators are answered one after the other.
const TRANSFER: Duration = Duration::from_secs(5);
/// How long an answer is waited for: a key server may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an administrator asks.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Asked {
    Status,
    Hosts,
    Approve { host: String },
    Remove { host: String },
    Replace { host: String, approves: bool, life: Duration },
    Keys { host: String },
    Token { admission: Admission, life: Duration },
    Policy { what: PolicyAsked },
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Answer {
    Status(Status),
    Hosts { hosts: Vec<HostRecord> },
    Host { host: Box<HostRecord> },
    Keys { keys: Vec<KeyGiven> },
    Token { token: Token },
    Policy(PolicyStatus),
    Proposal(Proposal),
    Explained(HostExplained),
    Text { text: String },
    Tried(Tried),
    Error { kind: Kind, message: String },
}

/// How an authority is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Status {
    pub(super) authority: Uuid,
    pub(super) version: String,
    pub(super) listen: SocketAddr,
    pub(super) pin: String,
    pub(super) provider: String,
    pub(super) pending: usize,
    pub(super) approved: usize,
    pub(super) removed: usize,
    pub(super) log_entries: usize,
    pub(super) lacks: Vec<String>,
}

/// The socket of the authority of a machine with this configuration: `/run/vmcryptfs-authority/admin.sock`, or in the authority's
/// folder where the configuration is another one than root's usual one.
pub(super) fn socket_of(config: &Path) -> PathBuf {
    match config == Path::new(CONFIG_OF_ROOT) {
        true => PathBuf::from("/run/vmcryptfs-authority/admin.sock"),
        false => own::folder(config).join("admin.sock"),
    }
}

/// Answers administrators on a thread of its own for as long as the process lives.
///
/// # Errors
/// `Exists` when something that is not a socket is in its place, `Io`.
pub(super) fn begin(config: &Path, authority: Arc<Authority>, address: SocketAddr) -> Result<SocketPath> {
    let path = socket_of(config);
    let making = || format!("making the socket {}", path.shown());
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        // The socket's own mode keeps out users who may not connect.
        DirBuilder::new().mode(0o711).create(folder).context(making)?;
    }
    let (listener, socket) = SocketPath::listen(&path).context(making)?;
    if let Some(user) = authority.own.settings.admin_user {
        // Its mode lets only its owner connect, and root.
        chown(&path, Some(user), None).context(making)?;
    }
    let work = move || serve(&listener, &authority, address);
    let begun = thread::Builder::new().name("admin".into()).spawn(work);
    begun.map(|_| socket).context(|| "starting the thread of administrators".into())
}

fn serve(listener: &UnixListener, authority: &Authority, address: SocketAddr) {
    for stream in listener.incoming() {
        let served = stream.context(|| "taking an administrator's connection".into()).and_then(|stream| {
            caught(|| serve_one(stream, authority, address))
                .unwrap_or_else(|| Err(Error::new(Kind::Io, "the authority failed at this: this is a bug")))
        });
        if let Err(error) = served {
            tracing::info!("an administrator: {}", error.chain());
        }
    }
}

fn serve_one(stream: UnixStream, authority: &Authority, address: SocketAddr) -> Result<()> {
    let principal = Principal::of_peer(&stream)?;
    let mut stream = TimedStream::new(stream, Deadline::after(TRANSFER));
    let answered = admit(authority, principal).and_then(|()| {
        let asked = receive(&mut stream, (Deadline::after(TRANSFER), TRANSFER), MAX_ASKED)?;
        asked.map(|asked| answer(authority, address, asked, principal.uid())).transpose()
    });
    let answer = match answered {
        Ok(None) => return Ok(()), // it has only looked whether somebody is there
        Ok(Some(answer)) => answer,
        Err(error) => Answer::Error { kind: error.kind(), message: error.chain() },
    };
    stream.set_deadline(Deadline::after(TRANSFER));
    send(&mut stream, &answer, MAX_ANSWER)
}

fn admit(authority: &Authority, principal: Principal) -> Result<()> {
    let uid = principal.uid();
    if uid == 0 || uid == effective_uid() || authority.own.settings.admin_user == Some(uid) {
        return Ok(());
    }
    let refusal = Error::new(Kind::Denied, format!("user {uid} may not administer the authority of this machine"));
    let mut event = Event::of(EventName::Authority);
    event.by(uid).failed_as_one_of(Event::of(EventName::Authority), MAX_NAMED, &refusal);
    Err(refusal)
}

fn answer(authority: &Authority, address: SocketAddr, asked: Asked, by: u32) -> Result<Answer> {
    match asked {
        Asked::Status => Ok(Answer::Status(status(authority, address))),
        Asked::Hosts => Ok(Answer::Hosts { hosts: authority.hosts.list() }),
        Asked::Approve { host } => change(authority, &host, HostState::Approved, by),
        Asked::Remove { host } => change(authority, &host, HostState::Removed, by),
        Asked::Policy { what } => policy::answer(authority, what, by),
        Asked::Token { admission, life } => make_token(authority, admission, life, by),
        Asked::Replace { host, approves, life } => {
            let HostRecord { uuid, name, state, .. } = authority.hosts.find(&host)?;
            if state == HostState::Removed {
                let found = format!("host {name} is removed: it enrols as a new one, with `host token {name}`");
                return Err(Error::new(Kind::Invalid, found));
            }
            make_token(authority, Admission { approves, host: name, replaces: Some(uuid) }, life, by)
        }
        Asked::Keys { host } => {
            let keys = keys_of(&authority.log, authority.hosts.find(&host)?.uuid)?;
            Ok(Answer::Keys { keys })
        }
    }
}

fn make_token(authority: &Authority, admission: Admission, life: Duration, by: u32) -> Result<Answer> {
    let own = &authority.own;
    let (host, approves, replaces) = (admission.host.clone(), admission.approves, admission.replaces);
    let words = match replaces {
        Some(_) => format!("a token for another TPM of host {host} was made"),
        None => "a token for a host was made".to_owned(),
    };
    let log = |token| logged(authority, What::TokenMade { token, host, approves, replaces, by: called(by) });
    let of = (own.settings.uuid, own.settings.urls.clone(), &own.pin());
    let made = authority.enrolment.make(of, admission, life, log);
    let mut event = Event::of(EventName::AuthorityHost);
    event.by(by).reason(words).outcome(&made);
    made.map(|token| Answer::Token { token })
}

fn change(authority: &Authority, called_host: &str, state: HostState, by: u32) -> Result<Answer> {
    let changed = authority.hosts.find(called_host).and_then(|found| {
        authority.hosts.change(found.uuid, state, |host| {
            let (host, name) = (host.uuid, host.name.clone());
            logged(
                authority,
                match state {
                    HostState::Approved => What::Approved { host, name, by: called(by) },
                    HostState::Pending | HostState::Removed => What::Removed { host, name, by: called(by) },
                },
            )
        })
    });
    let mut event = Event::of(EventName::AuthorityHost);
    if let Ok(host) = &changed {
        event.uuid(host.uuid);
    }
    event.by(by).reason(format!("host {called_host}: {}", state.word())).outcome(&changed);
    if changed.is_ok() && state == HostState::Removed {
        authority.retire_sets();
    }
    changed.map(|host| Answer::Host { host: Box::new(host) })
}

fn logged(authority: &Authority, what: What) -> Result<()> {
    authority.log.append(&[what.now()?]).map(drop)
}

/// A user, as the log has it. Names are not in it: they may be another user's later.
fn called(uid: u32) -> String {
    format!("uid {uid}")
}

fn status(authority: &Authority, listen: SocketAddr) -> Status {
    let hosts = authority.hosts.list();
    let count = |state| hosts.iter().filter(|host| host.state == state).count();
    Status {
        authority: authority.own.settings.uuid,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listen,
        pin: pin_text(&authority.own.pin()),
        provider: authority.own.settings.provider.clone(),
        pending: count(HostState::Pending),
        approved: count(HostState::Approved),
        removed: count(HostState::Removed),
        log_entries: authority.log.len(),
        lacks: authority.to_do(),
    }
}

/// Asks the authority of this machine.
///
/// # Errors
/// `NotFound` when none runs, and what it answers.
pub(super) fn ask(config: &Path, asked: &Asked) -> Result<Answer> {
    let path = socket_of(config);
    let stream = UnixStream::connect(&path).map_err(|error| {
        let advice = format!("no authority answers at {}: is it started (vmcryptfs-authority start)?", path.shown());
        Error::with_source(Kind::NotFound, advice, error)
    })?;
    let mut stream = TimedStream::new(stream, Deadline::after(TRANSFER));
    // One that refuses says so before it is asked, and may have closed its side.
    let sent = send(&mut stream, asked, MAX_ASKED);
    let answer = receive(&mut stream, (Deadline::after(PATIENCE), TRANSFER), MAX_ANSWER);
    match (answer, sent) {
        (Ok(Some(Answer::Error { kind, message })), _) => Err(Error::new(kind, message)),
        (Ok(Some(answer)), _) => Ok(answer),
        (Ok(None) | Err(_), Err(error)) | (Err(error), Ok(())) => {
            Err(error).context(|| format!("asking the authority at {}", path.shown()))
        }
        (Ok(None), Ok(())) => Err(Error::new(Kind::Io, "the authority closed the connection without an answer")),
    }
}
