//! Where hosts leave documents and envelopes for each other, and what a board can do, whatever it is made of.
//!
//! Nothing on a board is trusted: names of records are made or checked here, and lengths have a bound. An engine only has to
//! keep writers apart. Calls wait, for a limited time: no engine waits for a board that does not answer.

pub mod address;
pub mod agent;
pub mod folder;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use uuid::Uuid;

use crate::crypto::derive::sha256;
use crate::error::Result;
use crate::format::cluster::{EnvelopeFor, MAX_DOCUMENT_LEN, Reference, TokenId};
use crate::key::{KeyId, ProviderName};
use crate::provider::agent::board::BoardWork;
pub use crate::provider::agent::board::MemberHealth;
use address::Address;
use agent::AgentBoard;
use folder::FolderBoard;

/// Longest record, in bytes.
pub const MAX_RECORD: usize = MAX_DOCUMENT_LEN;
/// Longest name of a record, in bytes.
const MAX_KEY: usize = 255;

/// The name of a record: parts that are separated by `/`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key(String);

impl Key {
    /// A document, by its epoch.
    pub fn document(epoch: u64) -> Self {
        Self(format!("document/{epoch:020}"))
    }

    /// An envelope, by what it is bound to.
    pub fn envelope(place: &EnvelopeFor<'_>) -> Self {
        Self(format!("envelope/{}/{}/{}", place.provider, place.primary, place.host))
    }

    /// The document by which admins have accepted that the board has gone back.
    pub fn resumed() -> Self {
        Self("resumed".into())
    }

    /// A request to join.
    pub fn join(token: TokenId) -> Self {
        Self(format!("join/{}", HEXLOWER.encode(&token.0)))
    }

    /// What a host says that it has.
    pub fn ack(host: Uuid) -> Self {
        Self(format!("host/{host}/ack"))
    }

    /// That a host lives, under a lease.
    pub fn alive(host: Uuid) -> Self {
        Self(format!("host/{host}/alive"))
    }

    /// What a host wants of a pushed provider.
    pub fn want(provider: &ProviderName, host: Uuid) -> Self {
        Self(format!("want/{provider}/{host}"))
    }

    /// Below it are the KEKs of a pushed provider for a host.
    pub fn keks(provider: &ProviderName, host: Uuid) -> String {
        format!("kek/{provider}/{host}")
    }

    /// The answer to a wish of a host.
    pub fn kek(provider: &ProviderName, host: Uuid, reference: Reference) -> Self {
        Self(format!("{}/{reference}", Self::keks(provider, host)))
    }

    /// A KEK that its host did not wish for.
    pub fn unasked_kek(provider: &ProviderName, host: Uuid, key: &KeyId) -> Self {
        Self(format!("{}/{}", Self::keks(provider, host), HEXLOWER.encode(&sha256(key.id().as_bytes()))))
    }

    /// A name that was read from a board, if it can be that of a record.
    pub fn parse(text: &str) -> Option<Self> {
        let is_part = |part: &str| {
            let ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(ok)
        };
        (text.len() <= MAX_KEY && text.split('/').all(is_part)).then(|| Self(text.to_owned()))
    }

    /// The token of a request to join, if it is the name of one.
    pub fn token(&self) -> Option<TokenId> {
        let token = HEXLOWER.decode(self.0.strip_prefix("join/")?.as_bytes()).ok()?;
        Some(TokenId(token.try_into().ok()?))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The records of one cluster.
pub trait Board: Send + Sync {
    /// A record, if it is there.
    ///
    /// # Errors
    /// `Corrupt` when it is longer than [`MAX_RECORD`] or not a record, `Io` and others when the board does not answer.
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>>;

    /// Writes a record if it is still what its writer has seen, which is `None` where it was not there. Returns whether it was.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and what keeps a board from being written to.
    fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool>;

    /// Removes a record, if it is there.
    ///
    /// # Errors
    /// As [`write_if_unchanged`](Self::write_if_unchanged).
    fn remove(&self, key: &Key) -> Result<()>;

    /// Names of the records below a part of the board such as `join`, in order. It looks at `most` of them at most.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    fn list(&self, under: &str, most: usize) -> Result<Vec<Key>>;

    /// Removes what writers that died have left on it, where the engine has such things. Never what a writer is at work on.
    ///
    /// # Errors
    /// As [`write_if_unchanged`](Self::write_if_unchanged).
    fn clean(&self) -> Result<()> {
        Ok(())
    }

    /// Begins to watch: what changes from now on is seen.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    fn watch(&self) -> Result<Box<dyn Watch>>;

    /// Begins a lease. Records under it end when nobody has kept it alive for `time`.
    ///
    /// # Errors
    /// As [`write_if_unchanged`](Self::write_if_unchanged).
    fn lease(&self, time: Duration) -> Result<Box<dyn Lease>>;

    /// What the board is made of, and whether each part of that works. It waits some seconds at most.
    fn health(&self) -> Vec<MemberHealth>;
}

/// One board, with its connections, for several users.
impl<B: Board> Board for Arc<B> {
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        B::read(self, key)
    }

    fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool> {
        B::write_if_unchanged(self, key, before, after)
    }

    fn remove(&self, key: &Key) -> Result<()> {
        B::remove(self, key)
    }

    fn list(&self, under: &str, most: usize) -> Result<Vec<Key>> {
        B::list(self, under, most)
    }

    fn clean(&self) -> Result<()> {
        B::clean(self)
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        B::watch(self)
    }

    fn lease(&self, time: Duration) -> Result<Box<dyn Lease>> {
        B::lease(self, time)
    }

    fn health(&self) -> Vec<MemberHealth> {
        B::health(self)
    }
}

/// What has changed on a board.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing, in the time that was given.
    Nothing,
    /// These records were written or have ended.
    Records(BTreeSet<Key>),
    /// What has changed is not known: all that matters must be read again.
    Unknown,
}

/// A watch of a board.
pub trait Watch: Send {
    /// Waits for changes, for `time` at most. Each change is reported once or more often, also one between two calls.
    ///
    /// # Errors
    /// When the board does not answer. Watching resumes with the next call, and misses nothing.
    fn wait(&mut self, time: Duration) -> Result<Change>;
}

/// What ends when its owner does.
pub trait Lease: Send {
    /// Writes a record that ends with the lease, in place of one that is there.
    ///
    /// # Errors
    /// `NotFound` when the lease has ended, and those of [`Board::write_if_unchanged`].
    fn write(&mut self, key: &Key, value: &[u8]) -> Result<()>;

    /// Begins the lease's time again. Returns whether it had not ended: if it had, its records are gone.
    ///
    /// # Errors
    /// Those of [`Board::write_if_unchanged`]; the lease may be alive.
    fn keep_alive(&mut self) -> Result<bool>;

    /// Ends it and its records now.
    ///
    /// # Errors
    /// Those of [`Board::write_if_unchanged`]; it ends by itself then.
    fn end(self: Box<Self>) -> Result<()>;
}

/// Checks that a new cluster can be made on a board, as far as that can be known before. One on etcd is asked through the agent of the
/// host with this configuration.
///
/// # Errors
/// Those of [`Address::parse`], of the engine, and of the agent.
pub fn check(place: &str, config: &Path) -> Result<()> {
    match Address::parse(place)? {
        Address::Folder(path) => folder::check(&path),
        Address::Etcd(_) => AgentBoard::of(config, place, Uuid::nil())?.expect(BoardWork::Check).map(drop),
    }
}

/// Makes the board of a new cluster.
///
/// # Errors
/// Those of [`check`], `Exists`.
pub fn create(place: &str, cluster: Uuid, config: &Path) -> Result<Box<dyn Board>> {
    match Address::parse(place)? {
        Address::Folder(path) => Ok(Box::new(FolderBoard::create(&path, cluster)?)),
        Address::Etcd(_) => Ok(Box::new(AgentBoard::of(config, place, cluster)?.expect(BoardWork::Create)?)),
    }
}

/// The board of a cluster.
///
/// # Errors
/// Those of [`check`], `NotFound` when the cluster is not on it.
pub fn open(place: &str, cluster: Uuid, config: &Path) -> Result<Box<dyn Board>> {
    match Address::parse(place)? {
        Address::Folder(path) => Ok(Box::new(FolderBoard::open(&path, cluster)?)),
        Address::Etcd(_) => Ok(Box::new(AgentBoard::of(config, place, cluster)?.expect(BoardWork::Open)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::provider::private_file;

    #[test]
    fn a_name_from_a_board_is_checked() {
        for key in [Key::document(7), Key::ack(Uuid::nil()), Key::alive(Uuid::nil()), Key::join(TokenId([7; 16]))] {
            assert_eq!(Key::parse(key.as_str()), Some(key));
        }
        for text in ["", "/", "a/", "a//b", "../a", "a/.lock", "a b", "a\nb", "\u{e4}", &"a".repeat(256)] {
            assert_eq!(Key::parse(text), None, "{text:?}");
        }
        assert_eq!(Key::join(TokenId([7; 16])).token(), Some(TokenId([7; 16])));
        assert!(["join/07", "host/0707", "join/x"].iter().all(|text| Key::parse(text).unwrap().token().is_none()));
    }

    #[test]
    fn a_board_on_etcd_needs_its_certificates_and_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (config, place) = (dir.path().join("config.toml"), "etcd:https://a:2379");
        let refused = |kind: Kind, words: &str| {
            for refused in [check(place, &config), open(place, Uuid::nil(), &config).map(drop)] {
                let error = refused.unwrap_err();
                assert!(error.kind() == kind && error.chain().contains(words), "{}", error.chain());
            }
        };
        refused(Kind::Invalid, "needs a section [board] with ca, cert and key");
        private_file::replace(&config, &[b"[board]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n"]).unwrap();
        refused(Kind::Io, "start vmcryptfs-agent");
    }
}
