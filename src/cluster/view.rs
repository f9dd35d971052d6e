//! The newest document of a cluster, as far as a host may believe it.

use super::board::{Board, Key};
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Document, UnverifiedDocument};

/// A document that is proven, and its hash.
pub(super) struct View {
    pub(super) document: Document,
    pub(super) hash: [u8; 32],
    pub(super) bytes: Vec<u8>,
}

/// The document that is known by number and hash, and all that follow it, up to the newest one. `kept` is that document, if the host
/// has it whole: by it the admins are known who may accept a board that lacks it.
///
/// Each of them must be signed by the admins and continue the one before, so a board that was rolled back or rewritten is
/// noticed by each host that has seen more.
///
/// # Errors
/// `Denied` when the known document is gone or another one, or when one that follows is not proven; those of the board.
pub(super) fn newest(board: &dyn Board, epoch: u64, hash: &[u8; 32], kept: Option<&Document>) -> Result<View> {
    let mut view = match known(board, epoch, hash) {
        Ok(view) => view,
        Err(error) => match kept.map(|kept| resumed(board, kept)).transpose()?.flatten() {
            Some(view) => view,
            None => return Err(error),
        },
    };
    loop {
        view = last_after(board, view)?;
        match resumed(board, &view.document)? {
            Some(next) => view = next,
            None => return Ok(view),
        }
    }
}

fn reading(epoch: u64) -> impl Fn() -> String {
    move || format!("document {epoch} of the board")
}

fn known(board: &dyn Board, epoch: u64, hash: &[u8; 32]) -> Result<View> {
    let bytes = board.read(&Key::document(epoch))?.ok_or_else(|| {
        Error::new(
            Kind::Denied,
            format!(
                "the board lacks document {epoch}, which this host has seen: an older state of the board was put back, or it is \
                 another board. Where that is meant, an admin says so with `vmcryptfs cluster accept-board --admin-key FILE`"
            ),
        )
    })?;
    let document =
        UnverifiedDocument::decode(&bytes).and_then(|found| found.known(epoch, hash)).context(reading(epoch))?;
    Ok(View { document, hash: *hash, bytes })
}

/// The last document of those that continue this one.
fn last_after(board: &dyn Board, mut view: View) -> Result<View> {
    while let Some(next) = view.document.epoch.checked_add(1) {
        let Some(bytes) = board.read(&Key::document(next))? else { break };
        let found = UnverifiedDocument::decode(&bytes).context(reading(next))?;
        let hash = found.hash();
        // One by which a board was accepted may stand where another one was before.
        let document = match found.accepts_board() {
            true => found.resuming(&view.document),
            false => found.following(&view.document, &view.hash),
        };
        let document = document.context(reading(next))?;
        view = View { document, hash, bytes };
    }
    Ok(view)
}

/// The document by which admins have accepted the board, if it is later than the one that was seen.
fn resumed(board: &dyn Board, seen: &Document) -> Result<Option<View>> {
    let reading = || "the document by which a board was accepted".to_owned();
    let Some(bytes) = board.read(&Key::resumed())? else { return Ok(None) };
    let found = UnverifiedDocument::decode(&bytes).context(reading)?;
    if found.epoch() <= seen.epoch {
        return Ok(None);
    }
    let hash = found.hash();
    let document = found.resuming(seen).context(reading)?;
    Ok(Some(View { document, hash, bytes }))
}
