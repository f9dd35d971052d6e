//! A board that this program reaches through the agent of its host, as it has no engine for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::{Board, Key, Lease, MemberHealth, Watch};
use crate::error::{Error, Kind, Result};
use crate::provider::agent::board::{Base64, BoardAnswer, BoardCall, BoardWork};
use crate::provider::agent::client::AgentClient;
use crate::provider::agent::{Answer, Request, socket_of};
use crate::provider::config::Config;
use crate::provider::private_file::folder_of;
use crate::provider::tls_files::TlsFiles;
use crate::text::Show;

/// The board of one cluster.
#[derive(Debug)]
pub(super) struct AgentBoard {
    socket: PathBuf,
    address: String,
    tls: TlsFiles,
    cluster: Uuid,
}

impl AgentBoard {
    /// A board whose TLS files are named in `[board]` of the configuration.
    ///
    /// # Errors
    /// `Invalid` when they are not, and those of the configuration.
    pub(super) fn of(config: &Path, address: &str, cluster: Uuid) -> Result<Self> {
        let tls = tls_of(config)?;
        Ok(Self { socket: socket_of(config)?, address: address.to_owned(), tls, cluster })
    }

    /// Whether the board answers, and what `work` asks of it.
    pub(super) fn expect(self, work: BoardWork) -> Result<Self> {
        self.carry_out(work)?;
        Ok(self)
    }

    fn carry_out(&self, work: BoardWork) -> Result<()> {
        let BoardAnswer::Done = self.ask(work)? else { return Err(unexpected("that it is done")) };
        Ok(())
    }

    fn ask(&self, work: BoardWork) -> Result<BoardAnswer> {
        let call = BoardCall { board: self.address.clone(), cluster: self.cluster, tls: self.tls.clone(), work };
        // A connection of its own: what was asked over one that rests may be asked twice, and a write is not to be.
        let answer = AgentClient::at(self.socket.clone()).ask(&Request::Board(Box::new(call)));
        let answer = answer.map_err(|error| {
            let kind = if error.kind() == Kind::KeyUnavailable { Kind::Io } else { error.kind() };
            Error::with_source(kind, format!("asking the board {} through the agent", self.address), error)
        })?;
        let Answer::Board(answer) = answer else { return Err(unexpected("about its board")) };
        Ok(answer)
    }
}

/// The files of TLS with the board, as `[board]` of the configuration names them.
///
/// # Errors
/// `Invalid` when it does not, and those of [`Config::load`].
pub fn tls_of(config: &Path) -> Result<TlsFiles> {
    let configured = Config::load(config)?;
    let files = configured.board().ok_or_else(|| {
        let message = format!(
            "{} does not name the files of TLS with the board: it needs a section [board] with ca, cert and key",
            config.shown()
        );
        Error::new(Kind::Invalid, message)
    })?;
    let folder = folder_of(config);
    let TlsFiles { ca, cert, key } = files;
    Ok(TlsFiles { ca: folder.join(ca), cert: folder.join(cert), key: folder.join(key) })
}

fn unexpected(expected: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the agent answers something else, expected {expected}"))
}

impl Board for AgentBoard {
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let answer = self.ask(BoardWork::Read { key: key.to_string() })?;
        let BoardAnswer::Record { value } = answer else { return Err(unexpected("a record")) };
        value.map(|value| value.bytes()).transpose()
    }

    fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool> {
        let (before, after) = (before.map(Base64::of), Base64::of(after));
        let answer = self.ask(BoardWork::Write { key: key.to_string(), before, after })?;
        let BoardAnswer::Written { is_written } = answer else { return Err(unexpected("whether it is written")) };
        Ok(is_written)
    }

    fn remove(&self, key: &Key) -> Result<()> {
        self.carry_out(BoardWork::Remove { key: key.to_string() })
    }

    fn list(&self, under: &str, most: usize) -> Result<Vec<Key>> {
        let answer = self.ask(BoardWork::List { under: under.to_owned(), most })?;
        let BoardAnswer::Names { keys } = answer else { return Err(unexpected("names of records")) };
        Ok(keys.iter().filter_map(|key| Key::parse(key)).take(most).collect())
    }

    /// Only the agent itself watches.
    fn watch(&self) -> Result<Box<dyn Watch>> {
        Err(Error::new(Kind::Unsupported, "a board on etcd is watched by the agent, not through it"))
    }

    /// A lease ends with the program that has it, which is the agent.
    fn lease(&self, _: Duration) -> Result<Box<dyn Lease>> {
        Err(Error::new(Kind::Unsupported, "leases of a board on etcd are the agent's"))
    }

    fn health(&self) -> Vec<MemberHealth> {
        let answer = self.ask(BoardWork::Health);
        if let Ok(BoardAnswer::Members { members }) = answer {
            return members;
        }
        let trouble = answer.map_or_else(|error| error, |_| unexpected("the members of the board")).chain();
        vec![MemberHealth { member: "agent of this host".into(), version: String::new(), trouble: Some(trouble) }]
    }
}
