//! Admins accept a board that has gone back.

use std::fs::File;
use std::path::Path;

use super::board::{self, Board, Key};
use super::host::{HostFiles, Membership};
use super::view::{self, View};
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{Ack, Document, UnverifiedDocument};

/// Most documents of others that are passed over for a number that is free.
const MAX_PASSED: u64 = 1024;

/// A host whose board lacks what it has seen, locked.
struct Ahead {
    _lock: File,
    files: HostFiles,
    membership: Membership,
    /// The document that it has seen last, and its hash.
    kept: Document,
    hash: [u8; 32],
    board: Box<dyn Board>,
}

impl Ahead {
    fn of(config: &Path) -> Result<Self> {
        let files = HostFiles::of(config);
        let lock = files.lock()?;
        let membership = files.membership()?.ok_or_else(|| Error::new(Kind::NotFound, "this host is in no cluster"))?;
        let kept = files.document(&membership)?.ok_or_else(|| {
            let message = "this host did not keep the document that it has seen: run it on another host of the cluster";
            Error::new(Kind::Unsupported, message)
        })?;
        let hash = membership.document()?;
        let board = match board::open(&membership.board, membership.cluster, config) {
            Err(error) if error.kind() == Kind::NotFound => {
                board::create(&membership.board, membership.cluster, config)?
            }
            opened => opened?,
        };
        match view::newest(board.as_ref(), membership.epoch, &hash, Some(&kept)) {
            Ok(view) => {
                let message =
                    format!("the board has all that this host has seen, up to document {}", view.document.epoch);
                Err(Error::new(Kind::Exists, message))
            }
            Err(error) if matches!(error.kind(), Kind::Denied | Kind::Corrupt) => {
                Ok(Self { _lock: lock, files, membership, kept, hash, board })
            }
            Err(error) => Err(error),
        }
    }
}

/// Has the admins sign that the board of this host's cluster may lack what hosts have seen. What this host has seen last holds again, so
/// that no host which was removed comes back. `open` gives the keys of admins of that document; the host is
/// not locked during that, as they may be asked for passphrases. Returns the number of the new document.
///
/// # Errors
/// `NotFound` when this host is in no cluster, `Exists` when the board lacks nothing, `Unsupported` when this host did not keep what it
/// has seen, `Denied` when too few admins sign, and those of the board.
pub fn accept_board(config: &Path, open: impl FnOnce(&Document) -> Result<Vec<SigningKey>>) -> Result<u64> {
    let seen = Ahead::of(config)?.kept;
    let admins = open(&seen)?;
    let Ahead { _lock, files, mut membership, kept, hash, board } = Ahead::of(config)?;
    let epoch = free_epoch(board.as_ref(), &kept)?;
    let document = Document { epoch, previous: hash, resumed: epoch, ..kept.clone() };
    let bytes = document.sign(&admins)?;
    let found = UnverifiedDocument::decode(&bytes)?;
    let hash = found.hash();
    let document = found.resuming(&kept)?;
    if !board.write_if_unchanged(&Key::document(epoch), None, &bytes)? {
        return Err(Error::new(Kind::Busy, "another admin changed the cluster at the same time: run it again"));
    }
    let before = board.read(&Key::resumed())?;
    board.write_if_unchanged(&Key::resumed(), before.as_deref(), &bytes)?;
    files.keep_seen(&mut membership, &View { document, hash, bytes })?;
    Ok(epoch)
}

/// A number that is later than all that hosts say that they have seen, and that no document of the board has.
fn free_epoch(board: &dyn Board, kept: &Document) -> Result<u64> {
    let mut epoch = kept.epoch;
    for member in &kept.members {
        let Some(bytes) = board.read(&Key::ack(member.host.uuid))? else { continue };
        if let Ok(ack) = Ack::decode(&bytes, kept.cluster, &member.host) {
            epoch = epoch.max(ack.epoch);
        }
    }
    for passed in 1..=MAX_PASSED {
        let Some(next) = epoch.checked_add(passed) else { break };
        if board.read(&Key::document(next))?.is_none() {
            return Ok(next);
        }
    }
    Err(Error::new(
        Kind::Denied,
        format!("the board has {MAX_PASSED} documents after document {epoch}: clear it first"),
    ))
}
