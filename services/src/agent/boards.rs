//! The boards that this agent reaches, for itself and for programs of this host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::cluster::Session;
use vmcryptfs::cluster::board::address::Address;
use vmcryptfs::cluster::board::agent::tls_of;
use vmcryptfs::cluster::board::folder::FolderBoard;
use vmcryptfs::cluster::board::{Board, Key};
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::agent::board::{Base64, BoardAnswer, BoardCall, BoardWork};
use vmcryptfs::provider::tls_files::TlsFiles;

use crate::board::etcd::EtcdBoard;

/// The board of a cluster, without a detour through this agent's own socket: one that can be watched and gives leases.
///
/// # Errors
/// Those of the engine, and of the certificates of etcd.
pub(super) fn reach(config: &Path, place: &str, cluster: Uuid) -> Result<Box<dyn Board>> {
    Ok(match Address::parse(place)? {
        Address::Folder(path) => Box::new(FolderBoard::open(&path, cluster)?),
        Address::Etcd(endpoints) => Box::new(EtcdBoard::reach(endpoints, tls_of(config)?, cluster)?),
    })
}

/// How long the agent waits for a program that has the host locked, and may hang at its board.
pub(super) const HOST_TIME: Duration = Duration::from_secs(10);
/// Most names in an answer, so that it stays a short message.
const MAX_NAMES: usize = 8192;

/// The board that was asked last, with its connections: programs ask several times in a row.
#[derive(Default)]
pub(super) struct Boards {
    last: Mutex<Option<Known>>,
}

struct Known {
    address: String,
    cluster: Uuid,
    tls: TlsFiles,
    board: Arc<EtcdBoard>,
}

impl Boards {
    /// Makes a call.
    ///
    /// # Errors
    /// `Invalid` for an address or a name that is not one, and those of the board.
    pub(super) fn answer(&self, call: BoardCall) -> Result<BoardAnswer> {
        let board = self.of(&call.board, call.cluster, call.tls)?;
        let key = |name: &str| {
            Key::parse(name).ok_or_else(|| Error::new(Kind::Invalid, format!("{name:?} is not the name of a record")))
        };
        Ok(match call.work {
            BoardWork::Check => {
                board.list("", 1)?;
                BoardAnswer::Done
            }
            BoardWork::Create => {
                board.expect_new()?;
                BoardAnswer::Done
            }
            BoardWork::Open => {
                board.expect_known()?;
                BoardAnswer::Done
            }
            BoardWork::Read { key: name } => {
                BoardAnswer::Record { value: board.read(&key(&name)?)?.map(|value| Base64::of(&value)) }
            }
            BoardWork::Write { key: name, before, after } => {
                let before = before.map(|before| before.bytes()).transpose()?;
                let is_written = board.write_if_unchanged(&key(&name)?, before.as_deref(), &after.bytes()?)?;
                BoardAnswer::Written { is_written }
            }
            BoardWork::Remove { key: name } => {
                board.remove(&key(&name)?)?;
                BoardAnswer::Done
            }
            BoardWork::List { under, most } => {
                let keys = board.list(&under, most.min(MAX_NAMES))?;
                BoardAnswer::Names { keys: keys.iter().map(Key::to_string).collect() }
            }
            BoardWork::Health => BoardAnswer::Members { members: board.health() },
        })
    }

    /// Begins work of the agent itself on its cluster. It takes no place of a client, and waits for the host's lock for [`HOST_TIME`] at most.
    ///
    /// # Errors
    /// `Busy` when the host is locked for longer, and those of [`Session::open`].
    pub(super) fn session(&self, config: &Path) -> Result<Session> {
        Session::open_within(config, HOST_TIME, |place, cluster| {
            Ok(match Address::parse(place)? {
                Address::Folder(path) => Box::new(FolderBoard::open(&path, cluster)?),
                Address::Etcd(_) => {
                    let board = self.of(place, cluster, tls_of(config)?)?;
                    board.expect_known()?;
                    Box::new(board)
                }
            })
        })
    }

    fn of(&self, place: &str, cluster: Uuid, tls: TlsFiles) -> Result<Arc<EtcdBoard>> {
        let mut last = self.last.lock();
        let is_it = |known: &&Known| known.address == place && known.cluster == cluster && known.tls == tls;
        if let Some(known) = last.as_ref().filter(is_it) {
            return Ok(Arc::clone(&known.board));
        }
        let Address::Etcd(endpoints) = Address::parse(place)? else {
            let message = format!("the board {place}: the agent is asked only for boards on etcd");
            return Err(Error::new(Kind::Invalid, message));
        };
        let board = Arc::new(EtcdBoard::reach(endpoints, tls.clone(), cluster)?);
        let address = place.to_owned();
        *last = Some(Known { address, cluster, tls, board: Arc::clone(&board) });
        Ok(board)
    }
}
