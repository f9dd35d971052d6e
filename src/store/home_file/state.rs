//! What tells one state of a home file from every other: its length, and the newest version of each of its blocks.

use crate::crypto::derive::Sha256;
use crate::error::Result;
use crate::format::home_file::block_end;
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::home_file::unsynced::Blocks;
use crate::store::plain_file::PlainFile;

impl<S: Storage> HomeFile<S> {
    /// SHA-256 over what docs/FORMAT.md, section 17, calls the state of a file. Two states that have the same have the same content:
    /// the tag of the version that is read stands for it. No block is read but those that have two versions, of which a reader takes
    /// the older one where the newer one is damaged, and those that a killed process left with a successor.
    /// Groups without any data are passed over: a length costs nothing.
    ///
    /// # Errors
    /// `Corrupt` where entries are missing, or `Io`.
    pub fn state_digest(&self) -> Result<[u8; 32]> {
        let len = self.plain_len();
        let mut state = Sha256::new();
        state.add(len.to_le_bytes());
        let mut at = 0;
        while let Some(blocks) = self.next_piece(at, block_end(len))? {
            at = blocks.end;
            let mut piece = self.read_pairs(blocks)?;
            self.follow_successors(&mut piece, Blocks::default())?;
            for (block, pair) in piece.iter() {
                let read = if pair.is_double() { self.readable(block, &pair)? } else { None };
                let counts = read.and_then(|place| pair.at(place)).or(pair.newest().map(|(_, entry)| entry));
                if let Some(entry) = counts {
                    state.add(block.0.to_le_bytes());
                    state.add(entry.version.to_le_bytes());
                    state.add(entry.seal.nonce);
                    state.add(entry.seal.tag);
                }
            }
        }
        Ok(state.finish())
    }
}
