//! The header of a home file, and the entries that describe its blocks (docs/FORMAT.md, section 9).

mod layout;

pub use layout::{
    BLOCK, BLOCK_LEN, BlockIndex, GROUP_BLOCKS, GROUP_BLOCKS_LEN, GroupIndex, MAX_PLAIN_LEN, PAIR_LEN, Place,
    SUCCESSOR_LEN, block_end, cipher_len, group_at, groups, plain_len,
};

use crate::crypto::derive;
use crate::crypto::xaes::{self, NONCE_LEN, Seal};
use crate::error::{Error, Kind, Result};
use crate::format::Reader;

/// Bytes of a header: what a medium writes at once, so it is never torn.
pub const HEADER_LEN: usize = 512;
/// Bytes of a file id.
pub const FILE_ID_LEN: usize = 16;

/// What a home file begins with, unless it is a hole.
pub const MAGIC: [u8; 8] = *b"VMCRYPTH";
const VERSION: u16 = 3;
/// The version before there was a filled length.
const WITHOUT_FILLED_LEN: u16 = 2;
/// The version before there was a known length.
const WITHOUT_KNOWN_LEN: u16 = 1;
const AUTHENTICATED_LEN: usize = 32;
const TAG_LEN: usize = 32;
const KNOWN_LEN_AT: usize = AUTHENTICATED_LEN + TAG_LEN;
const KNOWN_TAG_AT: usize = KNOWN_LEN_AT + 8;
const FILLED_LEN_AT: usize = KNOWN_TAG_AT + TAG_LEN;
const END: usize = FILLED_LEN_AT + 8;
const ENTRY_LEN: usize = PAIR_LEN / 2;
const ENTRY_TAG_LEN: usize = xaes::TAG_LEN;

/// Names one home file permanently, whatever it is called; random.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileId(pub [u8; FILE_ID_LEN]);

/// A header whose fields are well-formed, but which anyone could have written.
#[derive(Clone, Debug)]
pub struct UnverifiedHeader {
    id: FileId,
    authenticated: [u8; AUTHENTICATED_LEN],
    tag: [u8; TAG_LEN],
    /// Not in the first version.
    known: Option<(Known, [u8; TAG_LEN])>,
}

/// A header that is genuine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The file's id.
    pub id: FileId,
    /// What the file has at least; `None` in a file that does not keep this.
    pub known: Option<Known>,
}

/// What a file is known to have at least, in bytes of plaintext.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Known {
    /// Its length.
    pub len: u64,
    /// No block that begins below this is a hole; `None` in a file that does not keep this.
    pub filled: Option<u64>,
}

impl Known {
    /// Of a file of which nothing is known.
    pub const NOTHING: Self = Self { len: 0, filled: Some(0) };
}

/// The header of file `id`, of which so much is known; `key` is its authentication key.
pub fn encode_header(id: FileId, known: Known, key: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (fields, rest) = header.split_at_mut(AUTHENTICATED_LEN);
    let version = if known.filled.is_some() { VERSION } else { WITHOUT_FILLED_LEN };
    fields[..8].copy_from_slice(&MAGIC);
    fields[8..10].copy_from_slice(&version.to_le_bytes());
    fields[16..].copy_from_slice(&id.0);
    rest[..TAG_LEN].copy_from_slice(&derive::hmac(key, fields));
    let tag = derive::hmac(key, &bound(fields, known));
    header[KNOWN_LEN_AT..KNOWN_TAG_AT].copy_from_slice(&known.len.to_le_bytes());
    header[KNOWN_TAG_AT..FILLED_LEN_AT].copy_from_slice(&tag);
    header[FILLED_LEN_AT..END].copy_from_slice(&known.filled.unwrap_or_default().to_le_bytes());
    header
}

/// What the tag of the known length authenticates.
fn bound(authenticated: &[u8], known: Known) -> Vec<u8> {
    let filled = known.filled.map(u64::to_le_bytes);
    [authenticated, &known.len.to_le_bytes(), filled.as_ref().map_or(&[], |filled| filled)].concat()
}

/// Reads a header. `None`: nothing but zeros, which a crash leaves in place of a header that was not yet written.
///
/// # Errors
/// `Corrupt` for what is not a header of a home file, `Unsupported` for one of a later version.
pub fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<Option<UnverifiedHeader>> {
    if *bytes == [0; HEADER_LEN] {
        return Ok(None);
    }
    let mut fields = Reader::new(bytes);
    if fields.array()? != MAGIC {
        return Err(Error::new(Kind::Corrupt, "not a home file: it was not written through a mount of this home"));
    }
    let version = fields.u16()?;
    if !(WITHOUT_KNOWN_LEN..=VERSION).contains(&version) {
        let message = format!("home file version {version}, expected {WITHOUT_KNOWN_LEN} to {VERSION}");
        return Err(Error::new(Kind::Unsupported, message));
    }
    fields.reserved(6)?;
    let id = FileId(fields.array()?);
    let tag = fields.array()?;
    let (known, end) = if version == WITHOUT_KNOWN_LEN {
        (None, KNOWN_LEN_AT)
    } else {
        let (len, tag) = (fields.u64()?, fields.array()?);
        let filled = if version == VERSION { Some(fields.u64()?) } else { None };
        (Some((Known { len, filled }, tag)), if version == VERSION { END } else { FILLED_LEN_AT })
    };
    fields.reserved(HEADER_LEN - end)?;
    let mut authenticated = [0; AUTHENTICATED_LEN];
    authenticated.copy_from_slice(&bytes[..AUTHENTICATED_LEN]);
    Ok(Some(UnverifiedHeader { id, authenticated, tag, known }))
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
        match self.known {
            Some((known, tag)) if !derive::hmac_verifies(key, &bound(&self.authenticated, known), &tag) => {
                Err(Error::new(Kind::Corrupt, "the header's length does not authenticate: damaged or forged"))
            }
            known => Ok(Header { id: self.id, known: known.map(|(known, _)| known) }),
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

/// What an entry becomes whose place is being overwritten: said before that begins, so that whoever finds the place overwritten
/// and the entry not knows how to open it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Successor {
    of: [u8; ENTRY_TAG_LEN],
    seal: Seal,
}

impl Successor {
    /// Says that `entry` becomes one of the same version with this seal.
    pub fn new(entry: &Entry, seal: Seal) -> Self {
        Self { of: entry.seal.tag, seal }
    }

    /// Reads a successor. Any bytes are one; what is not genuine does not authenticate.
    pub fn decode(bytes: &[u8; SUCCESSOR_LEN]) -> Self {
        let mut successor =
            Self { of: [0; ENTRY_TAG_LEN], seal: Seal { nonce: [0; NONCE_LEN], tag: [0; ENTRY_TAG_LEN] } };
        let (of, seal) = bytes.split_at(ENTRY_TAG_LEN);
        let (nonce, tag) = seal.split_at(NONCE_LEN);
        successor.of.copy_from_slice(of);
        successor.seal.nonce.copy_from_slice(nonce);
        successor.seal.tag.copy_from_slice(tag);
        successor
    }

    /// The bytes of a successor.
    pub fn encode(&self) -> [u8; SUCCESSOR_LEN] {
        let mut bytes = [0; SUCCESSOR_LEN];
        let (of, seal) = bytes.split_at_mut(ENTRY_TAG_LEN);
        let (nonce, tag) = seal.split_at_mut(NONCE_LEN);
        of.copy_from_slice(&self.of);
        nonce.copy_from_slice(&self.seal.nonce);
        tag.copy_from_slice(&self.seal.tag);
        bytes
    }

    /// What `entry` becomes, if this says so.
    pub fn following(&self, entry: &Entry) -> Option<Entry> {
        (self.of == entry.seal.tag).then_some(Entry { version: entry.version, seal: self.seal })
    }
}

/// Only zeros mean no entry, so that no single change turns an entry into none. Reserved bytes that are set become a
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
        for known in [Known { len: 7, filled: Some(5) }, Known { len: 7, filled: None }] {
            let good = encode_header(ID, known, &KEY);
            let verified = decode_header(&good).unwrap().unwrap().verify(&KEY).unwrap();
            assert_eq!(verified, Header { id: ID, known: Some(known) });
            for at in 0..HEADER_LEN {
                let mut bad = good;
                bad[at] ^= 0x40;
                let verified = decode_header(&bad).and_then(|header| header.unwrap().verify(&KEY));
                let expected = if (8..10).contains(&at) { Kind::Unsupported } else { Kind::Corrupt };
                assert_eq!(verified.unwrap_err().kind(), expected, "byte {at}");
            }
            assert!(decode_header(&good).unwrap().unwrap().verify(&[7; 32]).is_err(), "another home's key");
        }
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
    fn a_successor_comes_back_and_says_something_of_its_own_entry_alone() {
        let seal = |fill| Seal { nonce: [fill; 24], tag: [fill + 1; 16] };
        let entry = |fill| Entry { version: 7, seal: seal(fill) };
        let successor = Successor::new(&entry(3), seal(5));
        assert_eq!(Successor::decode(&successor.encode()), successor);
        assert_eq!(successor.encode()[..16], entry(3).seal.tag);
        assert_eq!(successor.following(&entry(3)), Some(entry(5)));
        assert_eq!(successor.following(&entry(5)), None);
        assert_eq!(Successor::decode(&[0; SUCCESSOR_LEN]).following(&entry(3)), None);
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
