//! The list of a home's disks: one copy of it, as bytes (docs/FORMAT.md, section 16).

mod list;

pub use list::{Member, MemberList, There, home_file_for_disk};

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use uuid::Uuid;

use crate::crypto::derive;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::STATE_MARK_LEN;
use crate::format::{Reader, Writer};
use crate::key::Dek;
use crate::sys::SecretBytes;

/// What a copy begins with.
pub const MAGIC: [u8; 8] = *b"VMCRYPTL";
/// Beginning of the name of the file that has a home's list; the home's UUID follows.
pub const MEMBERS_PREFIX: &str = ".vmcryptfs-members-";
/// Where the two copies lie.
pub const COPY_OFFSETS: [u64; 2] = [0, 1 << 20];
/// Bytes of the longest copy.
pub const MAX_COPY_LEN: usize = 1 << 20;

const VERSION: u16 = 1;
/// Bytes before the disks.
pub const FIXED_LEN: usize = 48;
const TAG_LEN: usize = 32;
const SETTLED: u8 = 0;
const CHANGING: u8 = 1;

/// Name of the file that has a home's list.
pub fn file_name(home: Uuid) -> String {
    format!("{MEMBERS_PREFIX}{home}")
}

/// How long the copy is that begins with these bytes, as far as they say: enough to read it.
pub fn copy_len(begin: &[u8; FIXED_LEN]) -> usize {
    let [.., a, b, c, d] = *begin;
    let body_len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    body_len.saturating_add(FIXED_LEN + TAG_LEN).min(MAX_COPY_LEN)
}

/// What authenticates the list of one home.
pub struct MembersKey {
    home: Uuid,
    key: SecretBytes,
}

impl MembersKey {
    /// Derives it from the home's DEK.
    ///
    /// # Errors
    /// `Invalid`, which a key of a home never gives.
    pub fn new(home: Uuid, dek: &Dek) -> Result<Self> {
        let mut key = SecretBytes::zeroed(TAG_LEN);
        derive::hkdf(home.as_bytes(), dek.bytes(), "vmcryptfs v1 members", &mut key)?;
        Ok(Self { home, key })
    }

    /// The bytes of a copy.
    ///
    /// # Errors
    /// `Invalid` for a list that is longer than a copy may be.
    pub fn encode(&self, list: &MemberList) -> Result<Vec<u8>> {
        let body = encode_body(list)?;
        let body_len = u32::try_from(body.bytes().len()).ok();
        let body_len = body_len.filter(|_| FIXED_LEN + body.bytes().len() + TAG_LEN <= MAX_COPY_LEN);
        let body_len = body_len.ok_or_else(|| too_long(list.disks.len()))?;
        let count = u32::try_from(list.disks.len()).map_err(|_| too_long(list.disks.len()))?;
        let mut w = Writer::default();
        w.put(MAGIC);
        w.put(VERSION.to_le_bytes());
        w.put([0; 6]); // reserved
        w.put(self.home.as_bytes());
        w.put(list.sequence.to_le_bytes());
        w.put(count.to_le_bytes());
        w.put(body_len.to_le_bytes());
        w.put(body.bytes());
        w.put(derive::hmac(&self.key, w.bytes()));
        Ok(w.bytes().to_vec())
    }

    /// Reads what begins with a copy.
    ///
    /// # Errors
    /// `Unsupported` for one of a later version, `Corrupt` for one that is damaged, torn, or of another home.
    pub fn decode(&self, bytes: &[u8]) -> Result<MemberList> {
        let mut r = Reader::new(bytes);
        if r.array()? != MAGIC {
            return Err(Error::new(Kind::Corrupt, "not a list of disks: it does not begin with \"VMCRYPTL\""));
        }
        let version = r.u16()?;
        if version != VERSION {
            let message = format!("a list of disks of version {version}, this program knows {VERSION}");
            return Err(Error::new(Kind::Unsupported, message));
        }
        r.reserved(6)?;
        let home = Uuid::from_bytes(r.array()?);
        if home != self.home {
            return Err(Error::new(Kind::Corrupt, format!("a list of disks of the VM {home}, expected {}", self.home)));
        }
        let (sequence, count, body_len) = (r.u64()?, r.u32()?, r.u32()?);
        let end = usize::try_from(body_len).ok().and_then(|len| len.checked_add(FIXED_LEN));
        let end = end.filter(|end| end + TAG_LEN <= bytes.len().min(MAX_COPY_LEN)).ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("a list of disks of {body_len} bytes, which are not there"))
        })?;
        if !derive::hmac_verifies(&self.key, &bytes[..end], &bytes[end..end + TAG_LEN]) {
            return Err(Error::new(Kind::Corrupt, "the list of disks does not authenticate: damaged or forged"));
        }
        if sequence == 0 {
            return Err(Error::new(Kind::Corrupt, "a list of disks of sequence 0, expected at least 1"));
        }
        let mut body = Reader::new(&bytes[FIXED_LEN..end]);
        let mut list = MemberList { sequence, ..MemberList::default() };
        for _ in 0..count {
            let (uuid, member) = decode_member(&mut body)?;
            if list.disks.last_key_value().is_some_and(|(last, _)| *last >= uuid) {
                return Err(Error::new(Kind::Corrupt, "a list of disks that are not in order"));
            }
            list.disks.insert(uuid, member);
        }
        body.end().context(|| "list of disks".into())?;
        Ok(list)
    }
}

fn encode_body(list: &MemberList) -> Result<Writer> {
    let mut body = Writer::default();
    for (uuid, member) in &list.disks {
        body.put(uuid.as_bytes());
        body.put(member.dek_generation.to_le_bytes());
        body.put(member.sequence.to_le_bytes());
        body.count_u16(member.names.len(), "names of a disk")?;
        for (name, is_settled) in &member.names {
            body.put([if *is_settled { SETTLED } else { CHANGING }]);
            body.count_u16(name.as_os_str().len(), "bytes of a disk's path")?;
            body.put(name.as_os_str().as_bytes());
        }
    }
    Ok(body)
}

/// Tells what a list says, its sequence aside, from what another one of the same home says.
///
/// # Errors
/// `Invalid` for names that fit into no list.
pub fn state_mark(list: &MemberList) -> Result<[u8; STATE_MARK_LEN]> {
    let digest = derive::sha256(encode_body(list)?.bytes());
    Ok(*digest.first_chunk().expect("a digest is longer than a mark"))
}

fn decode_member(body: &mut Reader<'_>) -> Result<(Uuid, Member)> {
    let uuid = Uuid::from_bytes(body.array()?);
    let mut member = Member { dek_generation: body.u32()?, sequence: body.u64()?, ..Member::default() };
    for _ in 0..body.u16()? {
        let is_settled = match body.u8()? {
            SETTLED => true,
            CHANGING => false,
            other => return Err(Error::new(Kind::Corrupt, format!("a name in state {other}, expected 0 or 1"))),
        };
        let len = usize::from(body.u16()?);
        let name = PathBuf::from(OsString::from_vec(body.bytes(len)?.to_vec()));
        member.names.insert(name, is_settled);
    }
    Ok((uuid, member))
}

fn too_long(disks: usize) -> Error {
    Error::new(Kind::Invalid, format!("the VM has {disks} disks, whose names do not fit into its list of disks"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;

    fn list() -> MemberList {
        let member = |names: &[(&str, bool)]| Member {
            dek_generation: 2,
            sequence: 7,
            names: names.iter().map(|(name, settled)| (PathBuf::from(name), *settled)).collect(),
        };
        let disks = [
            (Uuid::from_u128(1), member(&[("a.raw", true), ("sub/b.raw", false)])),
            (Uuid::from_u128(9), member(&[("c.raw", true)])),
        ];
        MemberList { sequence: 5, disks: disks.into() }
    }

    #[test]
    fn a_list_comes_back_and_no_change_of_it_does() {
        let (home, dek) = (Uuid::from_u128(77), random::home_dek().unwrap());
        let key = MembersKey::new(home, &dek).unwrap();
        let good = key.encode(&list()).unwrap();
        let followed = [good.as_slice(), b"of a longer list"].concat();
        for bytes in [&good, &followed] {
            assert_eq!(key.decode(bytes).unwrap(), list());
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let kind = key.decode(&bad).unwrap_err().kind();
            assert_eq!(kind, if (8..10).contains(&at) { Kind::Unsupported } else { Kind::Corrupt }, "byte {at}");
            assert_eq!(key.decode(&good[..at]).unwrap_err().kind(), Kind::Corrupt, "{at} bytes");
        }
        for other in [MembersKey::new(Uuid::from_u128(78), &dek), MembersKey::new(home, &random::home_dek().unwrap())] {
            assert_eq!(other.unwrap().decode(&good).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_not_written() {
        let key = MembersKey::new(Uuid::from_u128(1), &random::home_dek().unwrap()).unwrap();
        let member = Member { names: [(PathBuf::from("n".repeat(4000)), true)].into(), ..Member::default() };
        let disks = (0..300).map(|number| (Uuid::from_u128(number + 1), member.clone())).collect();
        assert_eq!(key.encode(&MemberList { sequence: 1, disks }).unwrap_err().kind(), Kind::Invalid);
    }
}
