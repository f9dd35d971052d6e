//! The header of a home file, and the entries that describe its blocks (docs/FORMAT.md, section 9).

mod layout;

pub use layout::{
    BLOCK, BLOCK_LEN, BlockIndex, GROUP_BLOCKS, GROUP_BLOCKS_LEN, GroupIndex, MAX_PLAIN_LEN, PAIR_LEN, Place,
    block_end, cipher_len, group_at, groups, plain_len,
};

use crate::crypto::derive;
use crate::crypto::xaes::Seal;
use crate::error::{Error, Kind, Result};
use crate::format::Reader;

/// Bytes of a header: what a medium writes at once, so it is never torn.
pub const HEADER_LEN: usize = 512;
/// Bytes of a file id.
pub const FILE_ID_LEN: usize = 16;

/// What a home file begins with, unless it is a hole.
pub const MAGIC: [u8; 8] = *b"VMCRYPTH";
const VERSION: u16 = 2;
/// The version before there was a known length.
const WITHOUT_KNOWN_LEN: u16 = 1;
const AUTHENTICATED_LEN: usize = 32;
const TAG_LEN: usize = 32;
/// Where a header of that version ends.
const FIRST_END: usize = AUTHENTICATED_LEN + TAG_LEN;
const END: usize = FIRST_END + 8 + TAG_LEN;
const ENTRY_LEN: usize = PAIR_LEN / 2;

/// Names one home file for ever, whatever it is called; random.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileId(pub [u8; FILE_ID_LEN]);

/// A header whose fields are well-formed, but which anyone could have written.
#[derive(Clone, Debug)]
pub struct UnverifiedHeader {
    id: FileId,
    authenticated: [u8; AUTHENTICATED_LEN],
    tag: [u8; TAG_LEN],
    /// Not in the first version.
    known_len: Option<(u64, [u8; TAG_LEN])>,
}

/// A header that is genuine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The file's id.
    pub id: FileId,
    /// As many bytes the file has at least; `None` in a file that does not keep this.
    pub known_len: Option<u64>,
}

/// The header of file `id`, which is known to have at least `known_len` bytes; `key` is its authentication key.
pub fn encode_header(id: FileId, known_len: u64, key: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (fields, rest) = header.split_at_mut(AUTHENTICATED_LEN);
    fields[..8].copy_from_slice(&MAGIC);
    fields[8..10].copy_from_slice(&VERSION.to_le_bytes());
    fields[16..].copy_from_slice(&id.0);
    rest[..TAG_LEN].copy_from_slice(&derive::hmac(key, fields));
    rest[TAG_LEN..][..8].copy_from_slice(&known_len.to_le_bytes());
    rest[TAG_LEN + 8..][..TAG_LEN].copy_from_slice(&derive::hmac(key, &bound_len(fields, known_len)));
    header
}

/// What the tag of a known length is of.
fn bound_len(authenticated: &[u8], len: u64) -> Vec<u8> {
    [authenticated, &len.to_le_bytes()].concat()
}

/// Reads a header. `None`: nothing but zeros, which a crash leaves in place of a header that was not yet written.
///
/// # Errors
/// `Corrupt` for what is no header of a home file, `Unsupported` for one of a later version.
pub fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<Option<UnverifiedHeader>> {
    if *bytes == [0; HEADER_LEN] {
        return Ok(None);
    }
    let mut fields = Reader::new(bytes);
    if fields.array()? != MAGIC {
        return Err(Error::new(Kind::Corrupt, "not a home file: it was not written through a mount of this home"));
    }
    let version = fields.u16()?;
    if ![WITHOUT_KNOWN_LEN, VERSION].contains(&version) {
        let message = format!("home file version {version}, expected {WITHOUT_KNOWN_LEN} or {VERSION}");
        return Err(Error::new(Kind::Unsupported, message));
    }
    fields.reserved(6)?;
    let id = FileId(fields.array()?);
    let tag = fields.array()?;
    let known_len = if version == VERSION { Some((fields.u64()?, fields.array()?)) } else { None };
    fields.reserved(HEADER_LEN - known_len.map_or(FIRST_END, |_| END))?;
    let mut authenticated = [0; AUTHENTICATED_LEN];
    authenticated.copy_from_slice(&bytes[..AUTHENTICATED_LEN]);
    Ok(Some(UnverifiedHeader { id, authenticated, tag, known_len }))
}

/// Whether a file that begins so is a home file, of whatever home, version and state.
pub fn is_home_file(prefix: &[u8]) -> bool {
    prefix.starts_with(&MAGIC)
}

impl UnverifiedHeader {
    /// What the header claims to be the id: enough to derive the file's keys from.
    pub fn claimed_id(&self) -> FileId {
        self.id
    }

    /// What the header says, once the file's authentication key says that it is genuine.
    ///
    /// # Errors
    /// `Corrupt` when it is not.
    pub fn verify(self, key: &[u8]) -> Result<Header> {
        if !derive::hmac_verifies(key, &self.authenticated, &self.tag) {
            return Err(Error::new(
                Kind::Corrupt,
                "the header does not authenticate: damaged, or a file of another home",
            ));
        }
        match self.known_len {
            Some((len, tag)) if !derive::hmac_verifies(key, &bound_len(&self.authenticated, len), &tag) => {
                Err(Error::new(Kind::Corrupt, "the header's length does not authenticate: damaged or forged"))
            }
            known_len => Ok(Header { id: self.id, known_len: known_len.map(|(len, _)| len) }),
        }
    }
}

/// Describes one sealed version of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Of two versions the larger is the newer one.
    pub version: u64,
    /// Opens the block's ciphertext.
    pub seal: Seal,
}

/// The versions of a block that its file holds, by [`Place`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pair([Option<Entry>; 2]);

impl Pair {
    /// Reads a pair. Any bytes are one; what is not genuine does not authenticate.
    pub fn decode(bytes: &[u8; PAIR_LEN]) -> Self {
        let (main, spare) = bytes.split_at(ENTRY_LEN);
        Self([main, spare].map(decode_entry))
    }

    /// The bytes of a pair.
    pub fn encode(&self) -> [u8; PAIR_LEN] {
        let mut bytes = [0; PAIR_LEN];
        for (entry, bytes) in self.0.iter().zip(bytes.chunks_exact_mut(ENTRY_LEN)) {
            if let Some(Entry { version, seal }) = entry {
                bytes[..8].copy_from_slice(&version.to_le_bytes());
                bytes[8..32].copy_from_slice(&seal.nonce);
                bytes[32..48].copy_from_slice(&seal.tag);
            }
        }
        bytes
    }

    /// The version at a place.
    pub fn at(&self, place: Place) -> Option<Entry> {
        self.0[place as usize]
    }

    /// Records, or forgets, the version at a place.
    pub fn put(&mut self, place: Place, entry: Option<Entry>) {
        self.0[place as usize] = entry;
    }

    /// Whether there is no version: the block is a hole.
    pub fn is_hole(&self) -> bool {
        self.0 == [None; 2]
    }

    /// Whether there are two versions.
    pub fn is_double(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// The newest version and its place.
    pub fn newest(&self) -> Option<(Place, Entry)> {
        let main = self.at(Place::Main).map(|entry| (Place::Main, entry));
        let spare = self.at(Place::Spare).map(|entry| (Place::Spare, entry));
        main.into_iter().chain(spare).max_by_key(|(_, entry)| entry.version)
    }
}

/// Only zeros are no entry, so that no single change turns an entry into none. Reserved bytes that are set become a
/// version that was never sealed.
fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    if bytes.iter().all(|&byte| byte == 0) {
        return None;
    }
    let mut fields = Reader::new(bytes);
    let version = fields.u64().ok()?;
    let nonce = fields.array().ok()?;
    let tag = fields.array().ok()?;
    let genuine = fields.reserved(ENTRY_LEN - 48).is_ok();
    Some(Entry { version: if genuine { version } else { 0 }, seal: Seal { nonce, tag } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = FileId([5; 16]);
    const KEY: [u8; 32] = [6; 32];

    #[test]
    fn every_flipped_byte_of_a_header_is_refused() {
        let good = encode_header(ID, 7, &KEY);
        let verified = decode_header(&good).unwrap().unwrap().verify(&KEY).unwrap();
        assert_eq!(verified, Header { id: ID, known_len: Some(7) });
        for at in 0..HEADER_LEN {
            let mut bad = good;
            bad[at] ^= 0x40;
            let verified = decode_header(&bad).and_then(|header| header.unwrap().verify(&KEY));
            let expected = if (8..10).contains(&at) { Kind::Unsupported } else { Kind::Corrupt };
            assert_eq!(verified.unwrap_err().kind(), expected, "byte {at}");
        }
        assert!(decode_header(&good).unwrap().unwrap().verify(&[7; 32]).is_err(), "another home's key");
        assert!(decode_header(&[0; HEADER_LEN]).unwrap().is_none());
    }

    #[test]
    fn a_pair_comes_back() {
        let entry = |version, fill| Some(Entry { version, seal: Seal { nonce: [fill; 24], tag: [fill; 16] } });
        for pair in
            [Pair::default(), Pair([entry(1, 2), None]), Pair([None, entry(3, 0)]), Pair([entry(4, 1), entry(5, 9)])]
        {
            assert_eq!(Pair::decode(&pair.encode()), pair);
        }
        assert_eq!(Pair([entry(4, 1), entry(5, 9)]).newest(), Some((Place::Spare, entry(5, 9).unwrap())));
    }

    #[test]
    fn no_single_change_makes_an_entry_vanish() {
        let mut bytes = [0; PAIR_LEN];
        bytes[0] = 1; // version 1, and a nonce and a tag of zeros
        assert!(!Pair::decode(&bytes).is_hole());
        for at in 0..PAIR_LEN {
            let mut bytes = [0; PAIR_LEN];
            bytes[at] = 1;
            assert!(!Pair::decode(&bytes).is_hole(), "byte {at}");
        }
    }
}
