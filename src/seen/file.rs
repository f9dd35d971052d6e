//! The file of what was seen: all records, and an HMAC over them under a key that lies with the configuration.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | "VMCRYPTM" |
//! | 8 | 2 | version, u16, 1 |
//! | 10 | 6 | reserved |
//! | 16 | 96 × n | records: uuid (16), generation (u32), features (u32), sequence (u64), cursor (u64), state (16), dek (8), former (4 × 8) |
//! | 16 + 96 × n | 32 | HMAC-SHA-256 over all bytes before |

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::record::{FORMER, Point, Record};
use super::{GoneBack, KnownBy, shown};
use crate::crypto::{derive, random};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::provider::private_file;

/// Most components that are remembered. Of more, those go first that were never changed, and then those that were not for longest.
pub(super) const MAX_RECORDS: usize = 1 << 15;

const MAGIC: [u8; 8] = *b"VMCRYPTM";
const VERSION: u16 = 1;
const START_LEN: usize = 16;
const RECORD_LEN: usize = 96;
const HMAC_LEN: usize = 32;
const KEY_LEN: usize = 32;
const MAX_LEN: u64 = (START_LEN + MAX_RECORDS * RECORD_LEN + HMAC_LEN) as u64;

/// Where a memory is kept.
pub(super) struct Place {
    pub(super) file: PathBuf,
    /// What authenticates it.
    pub(super) key: PathBuf,
}

/// Tells a file from a later one: its device, inode and length, and when it was last changed.
pub(super) type Stamp = (u64, u64, u64, i64, i64);

impl Place {
    /// Which file is there.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let found = fs::metadata(&self.file).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
    }

    /// Keeps other processes from changing it.
    pub(super) fn lock(&self) -> Result<File> {
        private_file::create_folder(private_file::folder_of(&self.file))?;
        private_file::lock(&self.file)
    }

    /// What it says; where it is lost or damaged, nothing, and why.
    pub(super) fn load(&self) -> Result<(Table, Option<String>)> {
        let key = private_file::read_if_there(KEY_LEN as u64, &self.key)?;
        let content = private_file::read_if_there(MAX_LEN, &self.file)?;
        let (file, key_file) = (shown(&self.file), shown(&self.key));
        let lost = match (key, content) {
            (None, None) => return Ok((Table::default(), None)),
            (Some(_), None) => format!("{file} is gone"),
            (None, Some(_)) => format!("{file} cannot be verified: its key {key_file} is gone"),
            (Some(key), Some(content)) => match decode(&content, &key) {
                Ok(table) => return Ok((table, None)),
                Err(error) if error.kind() == Kind::Unsupported => return Err(error).context(|| file),
                Err(error) => format!("{file}: {}", error.chain()),
            },
        };
        Ok((
            Table::default(),
            Some(format!("what this host had seen of components is lost, and a new memory was begun: {lost}")),
        ))
    }

    /// Keeps a file that could not be read, for people.
    pub(super) fn set_aside(&self) -> Result<()> {
        match fs::rename(&self.file, private_file::beside(&self.file, ".damaged")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.context(|| format!("setting {} aside", shown(&self.file))),
        }
    }

    /// Puts a table in its place, durably. The lock must be held.
    pub(super) fn store(&self, table: &Table) -> Result<Option<Stamp>> {
        let key = match private_file::read_if_there(KEY_LEN as u64, &self.key)? {
            Some(key) => key,
            None => self.make_key()?,
        };
        let bytes = encode(table)?;
        private_file::replace(&self.file, &[&bytes, &derive::hmac(&key, &bytes)])?;
        Ok(self.stamp())
    }

    fn make_key(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut key = Zeroizing::new(vec![0; KEY_LEN]);
        random::fill(&mut key)?;
        private_file::create_folder(private_file::folder_of(&self.key))?;
        private_file::create(&self.key, &[&key])?;
        Ok(key)
    }
}

/// Records, those that changed last at the end.
#[derive(Default)]
pub(super) struct Table {
    records: Vec<Record>,
    index: HashMap<Uuid, usize>,
}

impl Table {
    pub(super) fn get(&self, uuid: Uuid) -> Option<&Record> {
        self.index.get(&uuid).map(|&at| &self.records[at])
    }

    /// What was seen of a component, if that was further.
    pub(super) fn compare(&self, there: &Point) -> Option<GoneBack> {
        let seen = self.get(there.uuid).filter(|seen| seen.is_ahead_of(there))?;
        Some(GoneBack { there: there.clone(), seen: seen.clone(), known_by: KnownBy::Host })
    }

    /// Takes over a point that nothing is ahead of; whether that changes anything.
    pub(super) fn follow(&mut self, there: &Point) -> bool {
        match self.index.get(&there.uuid) {
            Some(&at) => self.records[at].follow(there),
            None => {
                self.add(Record::of(there));
                true
            }
        }
    }

    /// Takes over points, but for those that another process has seen further.
    pub(super) fn follow_all(&mut self, met: &[Point]) {
        let mut changed = HashSet::new();
        for there in met {
            if self.compare(there).is_none() && self.follow(there) {
                changed.insert(there.uuid);
            }
        }
        self.records.sort_by_key(|record| changed.contains(&record.uuid)); // stable: the others stay in their order
        self.number();
    }

    /// Takes a point for the newest, whatever was seen.
    pub(super) fn replace(&mut self, there: &Point) {
        let former = self.remove(there.uuid).map(|seen| seen.former).unwrap_or_default();
        let former = former.map(|former| if former == there.dek { Default::default() } else { former });
        self.add(Record { former, ..Record::of(there) });
    }

    pub(super) fn remove(&mut self, uuid: Uuid) -> Option<Record> {
        let removed = self.index.remove(&uuid).map(|at| self.records.remove(at));
        self.number();
        removed
    }

    fn add(&mut self, record: Record) {
        if self.records.len() >= MAX_RECORDS {
            let least = self.records.iter().position(Record::is_new).unwrap_or(0);
            self.records.remove(least);
            self.number();
        }
        self.index.insert(record.uuid, self.records.len());
        self.records.push(record);
    }

    fn number(&mut self) {
        self.index = self.records.iter().enumerate().map(|(at, record)| (record.uuid, at)).collect();
    }
}

fn encode(table: &Table) -> Result<Vec<u8>> {
    let mut w = Writer::default();
    w.put(MAGIC);
    w.put(VERSION.to_le_bytes());
    w.put([0; 6]); // reserved
    for record in &table.records {
        w.put(record.uuid.as_bytes());
        w.put(record.generation.to_le_bytes());
        w.put(record.features.to_le_bytes());
        w.put(record.sequence.to_le_bytes());
        w.put(record.cursor.to_le_bytes());
        w.put(record.state);
        w.put(record.dek);
        record.former.iter().for_each(|former| w.put(former));
    }
    Ok(w.bytes().to_vec())
}

fn decode(bytes: &[u8], key: &[u8]) -> Result<Table> {
    let damaged = || Error::new(Kind::Corrupt, "it is damaged, or was changed without its key");
    let (content, hmac) = bytes.split_last_chunk::<HMAC_LEN>().ok_or_else(damaged)?;
    if !derive::hmac_verifies(key, content, hmac) {
        return Err(damaged());
    }
    let mut r = Reader::new(content);
    let (magic, version) = (r.array()?, r.u16()?);
    if magic != MAGIC || version != VERSION {
        return Err(Error::new(Kind::Unsupported, format!("version {version} of it, this program knows {VERSION}")));
    }
    r.reserved(6)?;
    let mut table = Table::default();
    for _ in 0..content.len().saturating_sub(START_LEN) / RECORD_LEN {
        let (uuid, generation, features) = (Uuid::from_bytes(r.array()?), r.u32()?, r.u32()?);
        let (sequence, cursor, state, dek) = (r.u64()?, r.u64()?, r.array()?, r.array()?);
        let mut former = [[0; 8]; FORMER];
        for mark in &mut former {
            *mark = r.array()?;
        }
        table.add(Record { uuid, generation, sequence, features, cursor, state, dek, former });
    }
    r.end()?;
    Ok(table)
}
