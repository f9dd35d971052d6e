//! How far a component is, and what is remembered of it.

use data_encoding::HEXLOWER;
use uuid::Uuid;

use crate::crypto::derive;
use crate::error::Result;
use crate::format::header::{Header, LASTING_FEATURES, STATE_MARK_LEN, UnverifiedHeader};
use crate::key::{Dek, KeyId};

/// Bytes that tell one data key of a component from another.
pub(super) const DEK_MARK_LEN: usize = 8;
/// Former data keys that are remembered.
pub(super) const FORMER: usize = 4;

/// No data key that was seen.
const UNKNOWN_DEK: DekMark = [0xff; DEK_MARK_LEN];
/// Begins the texts of key servers.
const TEXT_VERSION: &str = "1";

pub(super) type DekMark = [u8; DEK_MARK_LEN];

/// How what is there of a component compares with what was seen of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Comparison {
    /// It says the same.
    Same,
    /// Another host has changed it since.
    Newer,
    /// It has gone back.
    Older,
}

/// How far a component is, by its verified header and, in a deep rekey, its journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Point {
    pub(super) uuid: Uuid,
    pub(super) generation: u32,
    pub(super) sequence: u64,
    /// Those that it does not lose.
    pub(super) features: u32,
    /// What the header says apart from its sequence.
    pub(super) state: [u8; STATE_MARK_LEN],
    pub(super) dek: DekMark,
    /// The data key that a deep rekey replaces.
    pub(super) replaced: Option<DekMark>,
    /// How far a disk's deep rekey is, in bytes, if that is known.
    pub(super) cursor: Option<u64>,
    /// The keys that open it.
    pub(super) keys: Vec<KeyId>,
    /// Whether it is the list of a home's disks.
    pub(super) is_list: bool,
}

impl Point {
    /// That of a header that `dek` verified.
    ///
    /// # Errors
    /// `Corrupt` for a transition whose former data key is damaged.
    pub fn of(header: &UnverifiedHeader, dek: &Dek) -> Result<Self> {
        let claims = header.claims();
        let former = claims.transition.as_ref().map(|transition| transition.old_dek(dek)).transpose()?.flatten();
        Ok(Self {
            uuid: claims.uuid,
            generation: claims.dek_generation,
            sequence: claims.sequence,
            features: claims.features() & LASTING_FEATURES,
            state: header.state_mark(),
            dek: mark(claims.uuid, dek)?,
            replaced: former.map(|former| mark(claims.uuid, &former)).transpose()?,
            cursor: None,
            keys: claims.slots.key_ids().cloned().collect(),
            is_list: false,
        })
    }

    /// That of a header that was written, durably.
    ///
    /// # Errors
    /// `Invalid` for fields outside their limits.
    pub fn written(header: &Header, dek: &Dek) -> Result<Self> {
        Self::of(&UnverifiedHeader::decode(&header.encode(dek)?)?, dek)
    }

    /// That of a home's manifest, which has a record of its own beside the home's: `counter` is its number, `mark` tells it from every
    /// other one.
    pub fn of_manifest(home: Uuid, counter: u64, mark: [u8; STATE_MARK_LEN]) -> Self {
        Self::counted(manifest_uuid(home), counter, mark) // key servers remember none
    }

    /// That of the list of a home's disks, which has a record of its own as well, by its sequence and a mark of what it says.
    pub fn of_list(home: &Header, sequence: u64, mark: [u8; STATE_MARK_LEN]) -> Self {
        let keys = home.slots.key_ids().cloned().collect();
        Self { keys, is_list: true, ..Self::counted(list_uuid(home.uuid), sequence, mark) }
    }

    fn counted(uuid: Uuid, sequence: u64, state: [u8; STATE_MARK_LEN]) -> Self {
        Self {
            uuid,
            generation: 0,
            sequence,
            features: 0,
            state,
            dek: DekMark::default(),
            replaced: None,
            cursor: None,
            keys: Vec::new(),
            is_list: false,
        }
    }

    /// The same, with the progress of a disk's deep rekey.
    #[must_use]
    pub fn at(self, cursor: Option<u64>) -> Self {
        Self { cursor, ..self }
    }

    /// The component's.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self.is_list {
            true => format!("sequence {}", self.sequence),
            false => describe(self.generation, self.sequence, self.cursor.unwrap_or(0)),
        }
    }

    /// What a record of the same component says, for people.
    pub(super) fn describe_record(&self, seen: &Record) -> String {
        if self.is_list { format!("sequence {}", seen.sequence) } else { seen.describe() }
    }
}

/// Under which UUID a home's manifest is remembered.
pub(super) fn manifest_uuid(home: Uuid) -> Uuid {
    beside(b"vmcryptfs v1 seen manifest", home)
}

/// Under which UUID the list of a home's disks is remembered.
fn list_uuid(home: Uuid) -> Uuid {
    beside(b"vmcryptfs v1 seen list of disks", home)
}

fn beside(what: &[u8], home: Uuid) -> Uuid {
    let digest = derive::sha256(&[what, home.as_bytes()].concat());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(bytes)
}

fn mark(uuid: Uuid, dek: &Dek) -> Result<DekMark> {
    let mut mark = [0; DEK_MARK_LEN];
    derive::hkdf(uuid.as_bytes(), dek.bytes(), "vmcryptfs v1 seen data key", &mut mark)?;
    Ok(mark)
}

fn describe(generation: u32, sequence: u64, cursor: u64) -> String {
    let cursor = match cursor {
        0 => String::new(),
        u64::MAX => ", its deep rekey at the end".to_owned(),
        cursor => format!(", its deep rekey at byte {cursor}"),
    };
    format!("generation {generation}, sequence {sequence}{cursor}")
}

/// What is remembered of a component.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) uuid: Uuid,
    pub(super) generation: u32,
    pub(super) sequence: u64,
    pub(super) features: u32,
    pub(super) cursor: u64,
    pub(super) state: [u8; STATE_MARK_LEN],
    pub(super) dek: DekMark,
    /// Data keys that a deep rekey replaced, the latest first; zeros where there is none.
    pub(super) former: [DekMark; FORMER],
}

impl Record {
    pub(super) fn of(there: &Point) -> Self {
        let mut record = Self { uuid: there.uuid, dek: there.dek, ..Self::default() };
        record.follow(there);
        record
    }

    /// What is known of a component of which only the least generation and sequence are.
    pub(super) fn of_least(there: &Point, (generation, sequence): (u32, u64)) -> Self {
        Self { uuid: there.uuid, generation, sequence, features: there.features, ..Self::default() }
    }

    pub(super) fn describe(&self) -> String {
        describe(self.generation, self.sequence, self.cursor)
    }

    /// As a key server keeps it, for all hosts: without what only this host needs.
    pub(super) fn to_text(&self) -> String {
        let (state, dek) = (HEXLOWER.encode(&self.state), HEXLOWER.encode(&self.dek));
        format!("{TEXT_VERSION}:{}:{}:{}:{state}:{dek}", self.generation, self.sequence, self.features)
    }

    /// That of a text; `None` for one that this program does not know.
    pub(super) fn from_text(uuid: Uuid, text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        let [TEXT_VERSION, generation, sequence, features, state, dek] = fields[..] else { return None };
        let (state, dek) = (HEXLOWER.decode(state.as_bytes()).ok()?, HEXLOWER.decode(dek.as_bytes()).ok()?);
        Some(Self {
            uuid,
            generation: generation.parse().ok()?,
            sequence: sequence.parse().ok()?,
            features: features.parse().ok()?,
            state: state.try_into().ok()?,
            dek: dek.try_into().ok()?,
            ..Self::default()
        })
    }

    /// Whether the component was further than this. A holder of a former data key can make a header of any generation and
    /// sequence: so former keys count, too.
    pub(super) fn is_ahead_of(&self, there: &Point) -> bool {
        // Also in a header that counts further: it may descend from one of before `upgrade`, which another host took for the newest.
        if self.features & !there.features != 0 {
            return true;
        }
        if there.generation != self.generation {
            return there.generation < self.generation || self.former.contains(&there.dek) || there.dek == self.dek;
        }
        if there.dek != self.dek {
            return true;
        }
        match there.state == self.state {
            // The copy before the last update says the same, where that was made twice: it is used if the last one is damaged.
            true => {
                there.sequence.saturating_add(1) < self.sequence
                    || there.cursor.is_some_and(|cursor| cursor < self.cursor)
            }
            false => there.sequence <= self.sequence,
        }
    }

    /// How a header that is not verified compares, as far as that is known without its data key.
    pub(super) fn compare_unverified(&self, header: &UnverifiedHeader) -> Comparison {
        let claims = header.claims();
        let there = Point {
            uuid: claims.uuid,
            generation: claims.dek_generation,
            sequence: claims.sequence,
            features: claims.features() & LASTING_FEATURES,
            state: header.state_mark(),
            dek: if claims.dek_generation == self.generation { self.dek } else { UNKNOWN_DEK },
            replaced: None,
            cursor: None,
            keys: Vec::new(),
            is_list: false,
        };
        match (self.is_ahead_of(&there), there.state == self.state) {
            (true, _) => Comparison::Older,
            (false, true) => Comparison::Same,
            (false, false) => Comparison::Newer,
        }
    }

    /// Takes over a point that this is not ahead of; whether that changes anything.
    pub(super) fn follow(&mut self, there: &Point) -> bool {
        let before = self.clone();
        if there.dek != self.dek {
            self.add_former(self.dek);
        }
        if let Some(former) = there.replaced {
            self.add_former(former);
        }
        let cursor = there.cursor.unwrap_or(0);
        self.cursor = if there.state == self.state { cursor.max(self.cursor) } else { cursor };
        // Also one less: the next update counts from what is there.
        (self.generation, self.sequence, self.features, self.state, self.dek) =
            (there.generation, there.sequence, there.features, there.state, there.dek);
        *self != before
    }

    fn add_former(&mut self, former: DekMark) {
        if !self.former.contains(&former) {
            self.former.rotate_right(1);
            self.former[0] = former;
        }
    }

    /// Whether all that is remembered is how the component was made.
    pub(super) fn is_new(&self) -> bool {
        self.sequence == 1 && self.generation == 0
    }
}
