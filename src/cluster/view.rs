//! The newest document of a cluster, as far as a host may believe it.

use super::board::{Board, Key};
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Document, UnverifiedDocument};

/// A document that is proven, and its hash.
pub(super) struct View {
    pub(super) document: Document,
    pub(super) hash: [u8; 32],
}

/// The document that is known by number and hash, and all that follow it, up to the newest one.
///
/// Each of them must be signed by the admins and continue the one before, so a board that was rolled back or rewritten is
/// noticed by each host that has seen more.
///
/// # Errors
/// `Denied` when the known document is gone or another one, or when one that follows is not proven; those of the board.
pub(super) fn newest(board: &dyn Board, epoch: u64, hash: &[u8; 32]) -> Result<View> {
    let reading = |epoch: u64| move || format!("document {epoch} of the board");
    let known = board.read(&Key::document(epoch))?.ok_or_else(|| {
        Error::new(
            Kind::Denied,
            format!(
                "the board lacks document {epoch}, which this host has seen: an older state of the board was put back, or it is \
                 another board"
            ),
        )
    })?;
    let document =
        UnverifiedDocument::decode(&known).and_then(|found| found.known(epoch, hash)).context(reading(epoch))?;
    let mut view = View { document, hash: *hash };
    while let Some(next) = view.document.epoch.checked_add(1) {
        let Some(bytes) = board.read(&Key::document(next))? else { break };
        let found = UnverifiedDocument::decode(&bytes).context(reading(next))?;
        let hash = found.hash();
        let document = found.following(&view.document, &view.hash).context(reading(next))?;
        view = View { document, hash };
    }
    Ok(view)
}
