//! What tells one state of a home file from every other: its lengths, and what is read of each of its blocks.

use crate::crypto::derive::Sha256;
use crate::error::{Kind, Result};
use crate::format::home_file::{BLOCK_LEN, BlockIndex, Entry, Pair, Place, block_end};
use crate::format::manifest::ManifestVersion;
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::home_file::unsynced::Blocks;
use crate::store::plain_file::PlainFile;

impl<S: Storage> HomeFile<S> {
    /// SHA-256 over what docs/FORMAT.md, section 17, calls the state of a file. Two states that have the same have the same content,
    /// but for what is damaged: the tag of the version that is read stands for it. No block is read as a whole but those that have two
    /// versions, of which a reader takes the older one where the newer one is damaged, those that a killed process left with a
    /// successor, and those that may be holes by their content. Groups without any data are passed over: a length costs nothing.
    ///
    /// # Errors
    /// `Corrupt` where entries are missing, or `Io`.
    pub fn state_digest(&self, version: ManifestVersion) -> Result<[u8; 32]> {
        let len = self.plain_len();
        let mut state = Sha256::new();
        state.add(len.to_le_bytes());
        if version != ManifestVersion::First {
            self.known_lengths.recorded().into_iter().for_each(|len| state.add(len.to_le_bytes()));
        }
        let mut at = 0;
        while let Some(blocks) = self.next_piece(at, block_end(len))? {
            at = blocks.end;
            let mut piece = self.read_pairs(blocks)?;
            self.follow_successors(&mut piece, Blocks::default())?;
            for (block, pair) in piece.iter() {
                if let Some(entry) = self.counting(version, block, &pair)? {
                    state.add(block.0.to_le_bytes());
                    state.add(entry.version.to_le_bytes());
                    state.add(entry.seal.nonce);
                    state.add(entry.seal.tag);
                }
            }
        }
        Ok(state.finish())
    }

    /// The entry that stands for what is read of a block; `None` for a hole.
    fn counting(&self, version: ManifestVersion, block: BlockIndex, pair: &Pair) -> Result<Option<Entry>> {
        let Some((place, newest)) = pair.newest() else { return Ok(None) };
        let knows_holes = version != ManifestVersion::First;
        if !pair.is_double() {
            let is_hole = knows_holes && !self.known_lengths.is_filled(block) && self.is_zero(block, place)?;
            return Ok((!is_hole).then_some(newest));
        }
        match self.read_block(&mut self.cipher.blocks.opener(), block, pair, &mut [0; BLOCK_LEN]) {
            Ok(Some(place)) => Ok(pair.at(place)),
            Ok(None) if knows_holes => Ok(None),
            Ok(None) => Ok(Some(newest)),
            Err(error) if error.kind() == Kind::Corrupt => Ok(Some(newest)),
            Err(error) => Err(error),
        }
    }

    /// Whether a place holds nothing but zeros. Ciphertext is told from them by its first bytes.
    fn is_zero(&self, block: BlockIndex, place: Place) -> Result<bool> {
        const BEGIN_LEN: usize = 16;
        let mut cipher = [0; BLOCK_LEN];
        let offset = block.cipher_offset(place);
        self.storage.read_at(offset, &mut cipher[..BEGIN_LEN])?;
        if cipher == [0; BLOCK_LEN] {
            self.storage.read_at(offset, &mut cipher)?;
        }
        Ok(cipher == [0; BLOCK_LEN])
    }
}
