//! The manifest of a home: what its tree held, sealed in the home itself (docs/FORMAT.md, section 17).

use uuid::Uuid;

use crate::crypto::derive::sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::STATE_MARK_LEN;
use crate::format::home_file::FileId;
use crate::format::{Reader, Writer};

/// The file in the VM folder that has it.
pub const MANIFEST_FILE: &str = ".vmcryptfs-manifest";
/// The id of that file: no other file of the home opens in its place.
pub const MANIFEST_ID: FileId = FileId(*b"manifest of home");
/// Longest manifest, in bytes.
pub const MAX_MANIFEST_LEN: u64 = 64 << 20;

const MAGIC: [u8; 8] = *b"VMCRYPTT";
/// Bytes before the records.
const HEAD_LEN: usize = 96;
/// Bytes of a record before its content.
const RECORD_HEAD_LEN: usize = 5;
/// Bytes of an entry before its path.
const ENTRY_FIELDS_LEN: usize = 81;

/// SHA-256 of something; zeros where there is nothing.
pub type Digest = [u8; 32];

/// A version of manifests: they differ in what their entries say of the content of files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ManifestVersion {
    /// Zeros past a file's filled length, an older header, and the length of an empty file do not show.
    First = 1,
    /// They do.
    Second = 2,
}

impl ManifestVersion {
    /// What is made today.
    pub const NEWEST: Self = Self::Second;
}

/// What a home's tree held at some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// By which its entries are compared.
    pub version: ManifestVersion,
    /// The home's UUID: a clone with the same keys has another one.
    pub home: Uuid,
    /// From 1 on; each manifest has a larger one than that before.
    pub counter: u64,
    /// Whether the home may have been changed since, by a mount or a verb that has not ended.
    pub is_open: bool,
    /// When the tree was looked through, in seconds since 1970.
    pub time: u64,
    /// The ends of event logs then.
    pub logs: Vec<LogEnd>,
    /// What was found and is not accepted.
    pub notes: Vec<Note>,
    /// In the order of their paths.
    pub entries: Vec<Entry>,
}

/// The newest event of a chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogEnd {
    /// 1: what verbs did; 2: what was read.
    pub class: u8,
    /// The event's number.
    pub sequence: u64,
    /// SHA-256 of its line.
    pub hash: Digest,
    /// The host and the log's file, as `HOST:FILE`.
    pub log: String,
}

/// Something that was found not to be as it was left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// When, in seconds since 1970.
    pub time: u64,
    /// For people.
    pub text: String,
}

/// What a name of a home leads to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EntryKind {
    /// A folder.
    Folder = 1,
    /// A file of the home that has a header.
    File = 2,
    /// A file without content.
    Empty = 3,
    /// A disk.
    Disk = 4,
    /// A symbolic link whose target is sealed.
    Link = 5,
    /// Anything else.
    Other = 6,
}

/// A name of a home.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Below the VM folder; its own is empty.
    pub path: Vec<u8>,
    /// What it leads to.
    pub kind: EntryKind,
    /// A file's id, a disk's UUID; zeros for others.
    pub id: [u8; 16],
    /// Of a file: its lengths and what is read of each block; without a header its length. Of a link: its text.
    pub content: Digest,
    /// The `user.` extended attributes, sealed as they are.
    pub values: Digest,
}

impl Manifest {
    /// Its bytes.
    ///
    /// # Errors
    /// `Invalid` when it is longer than [`MAX_MANIFEST_LEN`], or a text is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let records = self.records()?;
        let body_len: u64 = records.iter().map(|record| record.len() as u64).sum();
        if HEAD_LEN as u64 + body_len > MAX_MANIFEST_LEN {
            let message = format!("a manifest of {body_len} bytes, at most {MAX_MANIFEST_LEN} can be sealed");
            return Err(Error::new(Kind::Invalid, message));
        }
        let count = u32::try_from(records.len()).map_err(|_| Error::new(Kind::Invalid, "too many records"))?;
        let leaves: Vec<Digest> = records.iter().map(|record| leaf(record)).collect();
        let mut w = Writer::default();
        w.put(MAGIC);
        w.put((self.version as u16).to_le_bytes());
        w.put([if self.is_open { 2 } else { 1 }]);
        w.put([0; 5]); // reserved
        w.put(self.counter.to_le_bytes());
        w.put(self.time.to_le_bytes());
        w.put(self.home.as_bytes());
        w.put(root(&leaves));
        w.put(count.to_le_bytes());
        w.put([0; 4]); // reserved
        w.put(body_len.to_le_bytes());
        records.iter().for_each(|record| w.put(record));
        Ok(w.bytes().to_vec())
    }

    /// Reads one, which must be that of the home `home`.
    ///
    /// # Errors
    /// `Corrupt` for anything that [`encode`](Self::encode) does not make, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8], home: Uuid) -> Result<Self> {
        let mut r = Reader::new(bytes);
        if r.array()? != MAGIC {
            return Err(Error::new(Kind::Corrupt, "not a manifest"));
        }
        let version = match r.u16()? {
            1 => ManifestVersion::First,
            2 => ManifestVersion::Second,
            other => {
                return Err(Error::new(Kind::Unsupported, format!("manifest version {other}, expected 1 or 2")));
            }
        };
        let is_open = match r.u8()? {
            1 => false,
            2 => true,
            other => return Err(Error::new(Kind::Corrupt, format!("manifest state {other}, expected 1 or 2"))),
        };
        r.reserved(5)?;
        let (counter, time, uuid) = (r.u64()?, r.u64()?, Uuid::from_bytes(r.array()?));
        if counter == 0 {
            return Err(Error::new(Kind::Corrupt, "manifest number 0, expected 1 or more"));
        }
        if uuid != home {
            return Err(Error::new(Kind::Corrupt, format!("the manifest of home {uuid}, expected that of {home}")));
        }
        let (expected, count) = (r.array()?, r.u32()?);
        r.reserved(4)?;
        let body = r.u64()?;
        if body != (bytes.len() - HEAD_LEN) as u64 {
            return Err(Error::new(
                Kind::Corrupt,
                format!("records of {body} bytes, and {} follow", bytes.len() - HEAD_LEN),
            ));
        }
        let mut manifest =
            Self { version, home, counter, is_open, time, logs: Vec::new(), notes: Vec::new(), entries: Vec::new() };
        let (mut leaves, mut rest) = (Vec::new(), &bytes[HEAD_LEN..]);
        for number in 0..count {
            let mut r = Reader::new(rest);
            let (kind, len) = (r.u8()?, r.u32()? as usize);
            let content = r.bytes(len)?;
            manifest.take(kind, content).context(|| format!("record {number} of the manifest"))?;
            leaves.push(leaf(&rest[..RECORD_HEAD_LEN + len]));
            rest = &rest[RECORD_HEAD_LEN + len..];
        }
        Reader::new(rest).end()?;
        if root(&leaves) != expected {
            return Err(Error::new(Kind::Corrupt, "the manifest's records are not those that its root was made of"));
        }
        Ok(manifest)
    }

    /// What tells it from every other manifest of its home, for the host's memory.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn mark(&self) -> Result<[u8; STATE_MARK_LEN]> {
        let digest = sha256(&self.encode()?[..HEAD_LEN]);
        let mut mark = [0; STATE_MARK_LEN];
        mark.copy_from_slice(&digest[..STATE_MARK_LEN]);
        Ok(mark)
    }

    fn records(&self) -> Result<Vec<Vec<u8>>> {
        let mut records = Vec::with_capacity(self.logs.len() + self.notes.len() + self.entries.len());
        for LogEnd { class, sequence, hash, log } in &self.logs {
            let fields = [&[*class], sequence.to_le_bytes().as_slice(), hash, log.as_bytes()].concat();
            records.push(record(1, &fields)?);
        }
        for Note { time, text } in &self.notes {
            records.push(record(2, &[time.to_le_bytes().as_slice(), text.as_bytes()].concat())?);
        }
        for Entry { path, kind, id, content, values } in &self.entries {
            records.push(record(3, &[&[*kind as u8], id.as_slice(), content, values, path].concat())?);
        }
        Ok(records)
    }

    /// Takes a record: those of a smaller kind come first.
    fn take(&mut self, kind: u8, content: &[u8]) -> Result<()> {
        let mut r = Reader::new(content);
        let disorder = || Error::new(Kind::Corrupt, "out of order");
        match kind {
            1 if self.notes.is_empty() && self.entries.is_empty() => {
                let (class, sequence, hash) = (r.u8()?, r.u64()?, r.array()?);
                let log = r.text(content.len() - 41, "a log")?.to_owned();
                self.logs.push(LogEnd { class, sequence, hash, log });
            }
            2 if self.entries.is_empty() => {
                let time = r.u64()?;
                self.notes.push(Note { time, text: r.text(content.len() - 8, "a note")?.to_owned() });
            }
            3 => {
                let kind = EntryKind::of(r.u8()?)?;
                let (id, digest, values) = (r.array()?, r.array()?, r.array()?);
                let path = r.bytes(content.len() - ENTRY_FIELDS_LEN)?.to_vec();
                if self.entries.last().is_some_and(|last| last.path >= path) {
                    return Err(disorder());
                }
                self.entries.push(Entry { path, kind, id, content: digest, values });
            }
            1 | 2 => return Err(disorder()),
            other => return Err(Error::new(Kind::Corrupt, format!("of type {other}, expected 1 to 3"))),
        }
        Ok(())
    }
}

impl EntryKind {
    fn of(number: u8) -> Result<Self> {
        let kinds = [Self::Folder, Self::File, Self::Empty, Self::Disk, Self::Link, Self::Other];
        let found = kinds.into_iter().find(|kind| *kind as u8 == number);
        found.ok_or_else(|| Error::new(Kind::Corrupt, format!("an entry of kind {number}, expected 1 to 6")))
    }
}

fn record(kind: u8, content: &[u8]) -> Result<Vec<u8>> {
    let len = u32::try_from(content.len()).map_err(|_| Error::new(Kind::Invalid, "a record that is too long"))?;
    Ok([&[kind], len.to_le_bytes().as_slice(), content].concat())
}

fn leaf(record: &[u8]) -> Digest {
    sha256(&[&[0], record].concat())
}

/// The Merkle tree hash of RFC 9162, section 2.1.1.
fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => sha256(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            sha256(&[&[1], root(left).as_slice(), root(right).as_slice()].concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn manifest() -> Manifest {
        let entry = |path: &str, kind, fill| Entry {
            path: path.into(),
            kind,
            id: [fill; 16],
            content: [fill; 32],
            values: [0; 32],
        };
        Manifest {
            version: ManifestVersion::NEWEST,
            home: Uuid::from_bytes([7; 16]),
            counter: 5,
            is_open: true,
            time: 9,
            logs: vec![LogEnd { class: 1, sequence: 3, hash: [4; 32], log: "host:/log".into() }],
            notes: vec![Note { time: 8, text: "a was removed".into() }],
            entries: vec![
                entry("", EntryKind::Folder, 0),
                entry("a", EntryKind::File, 1),
                entry("b", EntryKind::Disk, 2),
            ],
        }
    }

    #[test]
    fn a_manifest_comes_back() {
        let empty = Manifest { logs: Vec::new(), notes: Vec::new(), entries: Vec::new(), ..manifest() };
        let first = Manifest { version: ManifestVersion::First, ..manifest() };
        for one in [manifest(), Manifest { is_open: false, ..manifest() }, empty, first] {
            assert_eq!(Manifest::decode(&one.encode().unwrap(), one.home).unwrap(), one);
        }
    }

    #[test]
    fn every_flipped_byte_and_every_other_length_and_home_is_refused_or_is_another_manifest() {
        let good = manifest().encode().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            // The fields of the head that its root does not cover are covered by its mark.
            match Manifest::decode(&bad, manifest().home) {
                Ok(other) => assert!(at < 32 && other.mark().unwrap() != manifest().mark().unwrap(), "byte {at}"),
                Err(error) => assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "byte {at}"),
            }
            assert!(Manifest::decode(&good[..at], manifest().home).is_err(), "cut to {at}");
        }
        assert!(Manifest::decode(&[good.as_slice(), &[0]].concat(), manifest().home).is_err());
        assert!(Manifest::decode(&good, Uuid::from_bytes([8; 16])).is_err());
    }

    #[test]
    fn records_out_of_order_are_refused() {
        let mut twice = manifest();
        twice.entries[1].path = b"b".to_vec();
        assert_eq!(Manifest::decode(&twice.encode().unwrap(), twice.home).unwrap_err().kind(), Kind::Corrupt);
    }

    /// The values of RFC 9162's own tree, as Certificate Transparency's tests publish them.
    #[test]
    fn the_tree_hash_is_that_of_rfc_9162() {
        let data: [&[u8]; 3] = [b"", b"\x00", b"\x10"];
        let leaves: Vec<Digest> = data.iter().map(|data| leaf(data)).collect();
        let expected = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        ];
        for (count, expected) in expected.iter().enumerate() {
            assert_eq!(HEXLOWER.encode(&root(&leaves[..count])), *expected, "{count} leaves");
        }
    }
}
