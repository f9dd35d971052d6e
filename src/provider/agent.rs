//! The agent of this host, as programs talk with it: what it is asked and answers over its socket.
//!
//! A message is its length, four bytes in little-endian order, and that many bytes of JSON. After [`Answer::Kek`] come the 32 bytes of
//! the KEK: they go from locked memory to locked memory. Each connection begins with [`Request::Hello`], which every version understands.

pub mod board;
pub mod client;
pub mod keys;
pub mod trust;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::Trouble;
use super::private_file::{self, CONFIG_OF_ROOT, MAX_CONFIG_LEN};
use super::timed::{Deadline, TimedStream};
use crate::error::{Context, Error, Kind, Result};
use crate::key::KeyName;
use crate::text::Show;

/// Version of the messages. One that another version would not understand takes the next number.
pub const PROTOCOL: u32 = 3;
/// Longest request in bytes: a write of the longest record of a board, and what its writer has seen, both in base64.
pub const MAX_REQUEST: usize = 3 << 20;
/// Longest answer in bytes: what an exchange with a cluster of 1,000 hosts has done.
pub const MAX_ANSWER: usize = 4 << 20;

/// What the agent is asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// The first of each connection; answered by [`Answer::Hello`].
    Hello(Hello),
    /// A call of a board that only the agent reaches; answered by [`Answer::Board`].
    Board(Box<board::BoardCall>),
    /// A KEK is to be made under the primary key of a provider; answered by [`Answer::Kek`].
    CreateKey {
        /// The provider.
        provider: String,
        /// What it is for.
        purpose: Purpose,
    },
    /// A KEK that was made before; answered by [`Answer::Kek`].
    FetchKey {
        /// The key.
        key: KeyName,
    },
    /// These KEKs will be fetched: those that the agent does not have can be asked for together. Answered by [`Answer::Prepared`].
    Prepare {
        /// The keys.
        keys: Vec<KeyName>,
    },
    /// What the agent has, and what is wrong; answered by [`Answer::Status`].
    Status,
    /// What the newest document of the cluster asks is to be done now; answered by [`Answer::Done`].
    Sync,
    /// Something about a trust authority; answered by [`Answer::Trust`].
    Trust(Box<trust::TrustCall>),
}

/// What the agent answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To `Hello`.
    Hello(Hello),
    /// To `Board`.
    Board(board::BoardAnswer),
    /// To `CreateKey` and `FetchKey`. The bytes of the KEK follow.
    Kek {
        /// Its key id.
        key: KeyName,
        /// Whether it may wrap: it is active at its key server, if it has one.
        wraps: bool,
    },
    /// To `CreateKey` and `FetchKey`: another host is asked for the KEK. The same request will be answered when that has come.
    Awaited {
        /// What is known of it, for people.
        message: String,
    },
    /// To `Prepare`.
    Prepared,
    /// To `Status`.
    Status(AgentStatus),
    /// To `Sync`.
    Done {
        /// In the form of what was done.
        outcome: serde_json::Value,
    },
    /// To `Trust`.
    Trust(Box<trust::TrustAnswer>),
    /// The request failed.
    Error {
        /// Decides the exit code.
        kind: Kind,
        /// For people.
        message: String,
        /// What is wrong with the key or its server, if that is it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
    },
}

/// What a new KEK is for, and what the request for it is called: the same one gets the same KEK.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Purpose {
    /// Random.
    pub request: Uuid,
    /// Name of the VM.
    pub vm_name: String,
    /// UUID of the VM's home.
    pub vm_uuid: Uuid,
}

/// What is wrong with a key or its server, as a keeper or the agent says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The server does not have the key.
    Missing,
    /// The server does not give it out.
    Denied,
    /// It was destroyed.
    Destroyed,
    /// The server, or every keeper, did not answer.
    Server,
    /// No member of the trust authority answered.
    Authority,
    /// The trust authority gives this host no keys, or this host cannot attest.
    Unattested,
}

impl Fault {
    /// What is wrong by an error, if that says so.
    pub fn of(error: &Error) -> Option<Self> {
        Some(match Trouble::of(error)? {
            Trouble::Missing => Self::Missing,
            Trouble::Destroyed => Self::Destroyed,
            Trouble::Denied | Trouble::State(_) | Trouble::NotAKek => Self::Denied,
            Trouble::AuthorityDown => Self::Authority,
            Trouble::Unattested => Self::Unattested,
            Trouble::Silent
            | Trouble::Unreachable
            | Trouble::Untrusted
            | Trouble::Faulty
            | Trouble::Garbled
            | Trouble::Unsupported => Self::Server,
        })
    }

    /// The trouble that it is.
    pub fn trouble(self) -> Trouble {
        match self {
            Self::Missing => Trouble::Missing,
            Self::Denied => Trouble::Denied,
            Self::Destroyed => Trouble::Destroyed,
            Self::Server => Trouble::Unreachable,
            Self::Authority => Trouble::AuthorityDown,
            Self::Unattested => Trouble::Unattested,
        }
    }
}

/// What both sides say of themselves first. Fields may be added, not changed or removed: versions tell each other apart by it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the side that says it.
    pub protocol: u32,
    /// Version of its program.
    pub version: String,
    /// Name of the host.
    pub host: String,
}

impl Hello {
    /// That of this process.
    pub fn own() -> Self {
        let host = crate::sys::process::host_name();
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host.to_string_lossy().into_owned(),
        }
    }
}

/// What an agent says of itself. Fields may be added.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentStatus {
    /// Name of the cluster that its host is in.
    pub cluster: Option<String>,
    /// Where the board is.
    pub board: Option<String>,
    /// Number of the newest document that it has acted on.
    pub epoch: Option<u64>,
    /// When it last saw the board (RFC 3339, UTC).
    pub seen: Option<String>,
    /// Whether its host was removed from the cluster.
    pub removed: bool,
    /// The providers whose primary keys it has in memory, and the one of each by which new keys are made.
    pub holds: BTreeMap<String, Uuid>,
    /// The providers whose KEKs keepers push to it, and how many it has in memory.
    #[serde(default)]
    pub pushed: BTreeMap<String, usize>,
    /// What went wrong when it last looked at the board, or with a provider.
    pub trouble: Vec<String>,
}

/// The agent of this host: `[agent]` in the configuration file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AgentSettings {
    /// Its socket, absolute; the usual place if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub socket: Option<PathBuf>,
    /// For how long it keeps the keys of its cluster while it does not reach the board; for ever if there is none. At least a second.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "span", serialize_with = "span_text")]
    pub max_offline: Option<Duration>,
    /// The TPM that seals pushed keys which may be kept, absolute; the usual device if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub tpm: Option<PathBuf>,
    /// Numbers of the PCRs that must have the values of then when it gives them back, with commas between; none if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm_pcrs: Option<String>,
    /// The firmware's event log, absolute; the kernel's file if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub firmware_log: Option<PathBuf>,
    /// systemd's log of what it has measured, absolute; its usual place if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub userspace_log: Option<PathBuf>,
}

fn span<'d, D: Deserializer<'d>>(deserializer: D) -> std::result::Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span = humantime::parse_duration(&text).ok().filter(|span| *span >= Duration::from_secs(1));
    let wrong =
        || serde::de::Error::custom(format!("{text:?}, expected a span of time of a second or more, such as \"72h\""));
    span.map(Some).ok_or_else(wrong)
}

fn span_text<S: Serializer>(span: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    span.map(|span| humantime::format_duration(span).to_string()).serialize(serializer)
}

/// The socket of the agent of a host with this configuration: the one that `[agent]` names, else `/run/vmcryptfs/agent.sock`, or
/// `agent.sock` beside the configuration where that is another one than root's usual one.
///
/// # Errors
/// Those of [`Config::load`](super::config::Config::load).
pub fn socket_of(config: &Path) -> Result<PathBuf> {
    /// The kinds of provider use this, so it looks at nothing else.
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        agent: AgentSettings,
    }
    let text = private_file::read_text(MAX_CONFIG_LEN, config)?;
    let whole: Whole = toml::from_str(&text)
        .map_err(|error| Error::with_source(Kind::Invalid, format!("reading [agent] in {}", config.shown()), error))?;
    Ok(whole.agent.socket.unwrap_or_else(|| match config == Path::new(CONFIG_OF_ROOT) {
        true => PathBuf::from("/run/vmcryptfs/agent.sock"),
        false => private_file::folder_of(config).join("agent.sock"),
    }))
}

/// Sends a message.
///
/// # Errors
/// `Invalid` when it has no JSON form or is longer than `max`, `Io`.
pub fn send(stream: &mut impl Write, message: &impl Serialize, max: usize) -> Result<()> {
    let json = serde_json::to_vec(message)
        .map_err(|error| Error::with_source(Kind::Invalid, "a message that has no JSON form", error))?;
    let len = u32::try_from(json.len()).ok().filter(|_| json.len() <= max);
    let len = len.ok_or_else(|| too_long(json.len(), max))?;
    // In one write: a peer that reads the length finds the rest.
    let frame = [&len.to_le_bytes(), json.as_slice()].concat();
    stream.write_all(&frame).context(|| "sending a message".into())
}

/// Receives a message, if one begins before `first`; what has begun must have ended after `rest`. `None`: the other side has closed
/// the connection between two messages.
///
/// # Errors
/// `Corrupt` for what is not a message or longer than `max`, `Io`.
pub fn receive<T: DeserializeOwned>(
    stream: &mut TimedStream<UnixStream>,
    (first, rest): (Deadline, Duration),
    max: usize,
) -> Result<Option<T>> {
    let receiving = || "receiving a message".to_owned();
    let mut len = [0; 4];
    stream.set_deadline(first);
    let read = loop {
        match stream.read(&mut len) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.context(receiving)?,
        }
    };
    if read == 0 {
        return Ok(None);
    }
    stream.set_deadline(Deadline::after(rest));
    stream.read_exact(&mut len[read..]).context(receiving)?;
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > max {
        return Err(too_long(len, max));
    }
    let mut json = vec![0; len];
    stream.read_exact(&mut json).context(receiving)?;
    let message = serde_json::from_slice(&json);
    message.map(Some).map_err(|error| Error::with_source(Kind::Corrupt, "a message that is not understood", error))
}

fn too_long(len: usize, max: usize) -> Error {
    Error::new(Kind::Corrupt, format!("a message of {len} bytes, expected at most {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, TimedStream<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, TimedStream::new(theirs, Deadline::after(Duration::ZERO)))
    }

    fn received(bytes: &[u8]) -> Result<Option<Request>> {
        let (mut ours, mut theirs) = pair();
        ours.write_all(bytes).unwrap();
        drop(ours);
        receive(&mut theirs, (Deadline::after(Duration::from_secs(5)), Duration::from_secs(5)), MAX_REQUEST)
    }

    #[test]
    fn messages_arrive_and_nothing_else_does() {
        let hello = Hello::own();
        let mut bytes = Vec::new();
        send(&mut bytes, &Request::Hello(hello.clone()), MAX_REQUEST).unwrap();
        let Some(Request::Hello(found)) = received(&bytes).unwrap() else { panic!("not a hello") };
        assert_eq!(found, hello);
        assert!(received(&[]).unwrap().is_none(), "the other side has gone");
        for cut in 1..bytes.len() {
            assert_eq!(received(&bytes[..cut]).unwrap_err().kind(), Kind::Io, "{cut} bytes");
        }
        let huge = received(&u32::MAX.to_le_bytes()).unwrap_err();
        assert_eq!((huge.kind(), huge.to_string().contains("4294967295 bytes")), (Kind::Corrupt, true), "{huge}");
        for nonsense in [&b"\x02\0\0\0{}"[..], b"\x03\0\0\0\xff\xfe\xfd", b"\0\0\0\0"] {
            assert_eq!(received(nonsense).unwrap_err().kind(), Kind::Corrupt, "{nonsense:?}");
        }
    }

    #[test]
    fn settings_come_back_and_a_span_that_is_none_or_too_short_is_refused() {
        let text = "socket = \"/run/a.sock\"\nmax-offline = \"3days\"\n";
        let settings: AgentSettings = toml::from_str(text).unwrap();
        assert_eq!(settings.max_offline, Some(Duration::from_secs(3 * 24 * 3600)));
        assert_eq!(toml::to_string(&settings).unwrap(), text);
        for wrong in ["0s", "999ms", "soon", ""] {
            let error = toml::from_str::<AgentSettings>(&format!("max-offline = {wrong:?}")).unwrap_err();
            assert!(error.to_string().contains("expected a span of time of a second or more"), "{error}");
        }
    }

    #[test]
    fn a_message_that_is_not_sent_to_its_end_is_given_up() {
        let (mut ours, mut theirs) = pair();
        ours.write_all(&[9, 0, 0, 0, b'{']).unwrap();
        let times = (Deadline::after(Duration::from_secs(60)), Duration::from_millis(20));
        assert_eq!(receive::<Request>(&mut theirs, times, MAX_REQUEST).unwrap_err().kind(), Kind::Io);
    }
}
