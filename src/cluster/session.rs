//! Work of a host on its cluster: its own files are locked, and the newest document is proven and remembered.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::board::{self, Board, Key, MemberHealth};
use super::host::{HostFiles, Identity, Membership};
use super::view::{self, View};
use crate::crypto::sign::SigningKey;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Ack, Document, Member, MemberState, UnverifiedDocument};

/// A host at work on its cluster.
pub struct Session {
    pub(super) config: PathBuf,
    pub(super) files: HostFiles,
    pub(super) identity: Identity,
    pub(super) membership: Membership,
    pub(super) board: Box<dyn Board>,
    pub(super) view: View,
    _lock: File,
}

impl Session {
    /// Begins work. What is seen of the documents is remembered before anything is done.
    ///
    /// # Errors
    /// `NotFound` when this host is in no cluster; `Denied` when the board shows less than this host has seen, or what is not
    /// signed; those of the host's files and of the board.
    pub fn open(config: &Path) -> Result<Self> {
        refuse_outside(&HostFiles::of(config))?;
        let lock = HostFiles::of(config).lock()?;
        Self::open_locked(config, lock, |place, cluster| board::open(place, cluster, config))
    }

    /// The same over a board that `open` opens. Another process that has the host locked is waited for `time` at most.
    ///
    /// # Errors
    /// `Busy` when the host is locked for longer, and those of [`open`](Self::open).
    pub fn open_within(
        config: &Path,
        time: Duration,
        open: impl FnOnce(&str, Uuid) -> Result<Box<dyn Board>>,
    ) -> Result<Self> {
        refuse_outside(&HostFiles::of(config))?;
        Self::open_locked(config, HostFiles::of(config).lock_within(time)?, open)
    }

    fn open_locked(config: &Path, lock: File, open: impl FnOnce(&str, Uuid) -> Result<Box<dyn Board>>) -> Result<Self> {
        let files = HostFiles::of(config);
        let mut membership = files.membership()?.ok_or_else(outside)?;
        let identity = files.identity()?;
        let board = open(&membership.board, membership.cluster)?;
        let kept = files.document(&membership)?;
        let view = view::newest(board.as_ref(), membership.epoch, &membership.document()?, kept.as_ref())?;
        if view.document.epoch > membership.epoch || kept.is_none() {
            files.keep_seen(&mut membership, &view)?;
        }
        Ok(Self { config: config.to_path_buf(), files, identity, membership, board, view, _lock: lock })
    }

    /// The newest document.
    pub fn document(&self) -> &Document {
        &self.view.document
    }

    /// UUID of this host.
    pub fn host(&self) -> Uuid {
        self.identity.uuid
    }

    /// Where the board is.
    pub fn board_place(&self) -> &str {
        &self.membership.board
    }

    /// What the board is made of, and whether it works.
    pub fn board_health(&self) -> Vec<MemberHealth> {
        self.board.health()
    }

    /// This host's entry in the document, if it has one.
    pub fn own(&self) -> Option<&Member> {
        self.view.document.member(self.identity.uuid)
    }

    /// What a host has acknowledged, if it has.
    ///
    /// # Errors
    /// `Denied` when the host did not sign it, `Corrupt`, and those of the board.
    pub fn ack_of(&self, member: &Member) -> Result<Option<Ack>> {
        let Some(bytes) = self.board.read(&Key::ack(member.host.uuid))? else { return Ok(None) };
        Ack::decode(&bytes, self.membership.cluster, &member.host)
            .context(|| format!("what host {} acknowledged", member.host.name))
            .map(Some)
    }

    /// Version of the agent that runs on a host, as it says itself. A board that does not tell has none.
    pub(super) fn agent_of(&self, member: &Member) -> Option<String> {
        const MAX_LEN: usize = 32;
        let said = String::from_utf8(self.board.read(&Key::alive(member.host.uuid)).ok()??).ok()?;
        let is_version = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        ((1..=MAX_LEN).contains(&said.len()) && said.chars().all(is_version)).then_some(said)
    }

    /// Whether a host was removed, and has said since that it has wiped its keys, now or before the board lost it.
    pub(super) fn knows_to_have_wiped(&self, member: &Member) -> bool {
        let uuid = member.host.uuid;
        if member.state != MemberState::Removed || self.files.wiped().is_ok_and(|wiped| wiped.contains(&uuid)) {
            return member.state == MemberState::Removed;
        }
        let said = self.ack_of(member).ok().flatten();
        let says_so = said.is_some_and(|ack| ack.epoch >= member.since && ack.holds.is_empty());
        if says_so {
            let _ = self.files.keep_wiped(uuid); // where it cannot be remembered, the board still says it
        }
        says_so
    }

    /// Remembers which removed hosts have said that they wiped their keys.
    pub(super) fn remember_wiped(&self) {
        for member in &self.document().members {
            self.knows_to_have_wiped(member);
        }
    }

    /// Whether this host was removed, and has said since that it has wiped its keys.
    pub(super) fn has_wiped(&self) -> bool {
        self.own().is_some_and(|own| {
            let said = self.ack_of(own).ok().flatten();
            own.state == MemberState::Removed && said.is_some_and(|ack| ack.epoch >= own.since && ack.holds.is_empty())
        })
    }

    /// Refuses a host that is not a member, as what only members may do.
    ///
    /// # Errors
    /// `Denied`.
    pub(super) fn require_active(&self) -> Result<()> {
        require_active(self.own())
    }

    /// Writes the next document: the present one with a change, signed by an admin.
    ///
    /// # Errors
    /// `Denied` when the key is not an admin's, `Busy` when another admin was faster, `Invalid` when the change breaks a rule of
    /// the format, and those of `change` and the board.
    pub(super) fn change(
        &mut self,
        admins: &[SigningKey],
        change: impl FnOnce(&mut Document) -> Result<()>,
    ) -> Result<()> {
        let mut next = self.view.document.clone();
        next.epoch += 1;
        next.previous = self.view.hash;
        change(&mut next)?;
        let bytes = next.sign(admins)?;
        let found = UnverifiedDocument::decode(&bytes)?;
        let hash = found.hash();
        let document = found.following(&self.view.document, &self.view.hash)?;
        if !self.board.write_if_unchanged(&Key::document(next.epoch), None, &bytes)? {
            return Err(Error::new(Kind::Busy, "another admin changed the cluster at the same time: run it again"));
        }
        self.view = View { document, hash, bytes };
        self.files.keep_seen(&mut self.membership, &self.view)
    }
}

fn outside() -> Error {
    let message = "this host is in no cluster: make one with `vmcryptfs cluster init NAME --board BOARD --admin-key FILE`, or join one with `vmcryptfs cluster join`";
    Error::new(Kind::NotFound, message)
}

/// Refuses a host outside of clusters before a file of it is made, such as that of a lock.
fn refuse_outside(files: &HostFiles) -> Result<()> {
    files.membership()?.map(drop).ok_or_else(outside)
}

/// Refuses a host that is not a member, by its entry in the document.
///
/// # Errors
/// `Denied`.
pub(super) fn require_active(own: Option<&Member>) -> Result<()> {
    match own.map(|own| own.state) {
        Some(MemberState::Active) => Ok(()),
        Some(MemberState::Removed) => Err(Error::new(Kind::Denied, "this host was removed from the cluster")),
        None => Err(Error::new(Kind::Denied, "this host is not approved as a member of the cluster yet")),
    }
}
