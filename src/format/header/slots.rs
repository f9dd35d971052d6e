//! The key slots of a component: each holds its DEK, wrapped by one KEK.

use std::ops::{Deref, DerefMut};

use crate::error::{Error, Kind, Result};
use crate::key::{KeyCheck, KeyId, WrappedDek};

/// Maximum number of slots of a component.
pub const MAX_SLOTS: usize = 4;

/// One way to the DEK: which KEK wraps it, and the result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// The KEK's name.
    pub key_id: KeyId,
    /// Recognises the KEK.
    pub check: KeyCheck,
    /// The DEK, wrapped by the KEK with AES-256-KWP.
    pub wrapped: WrappedDek,
}

/// One to four slots. The first one's KEK is that of new components of the VM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// These slots.
    ///
    /// # Errors
    /// `Invalid` for none, or for more than four.
    pub fn new(slots: Vec<Slot>) -> Result<Self> {
        check_count(slots.len()).map(|()| Self(slots))
    }

    /// The key of the first slot.
    pub fn first_key(&self) -> &KeyId {
        &self.0[0].key_id
    }

    /// The keys that open the component, by slot.
    pub fn key_ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.iter().map(|slot| &slot.key_id)
    }

    /// Whether this key has a slot.
    pub fn has(&self, key: &KeyId) -> bool {
        self.key_ids().any(|id| id == key)
    }

    /// Whether there is no room for another slot.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_SLOTS
    }

    /// The slots that are kept when `new` replaces the first key.
    pub fn beside(&self, new: &KeyId) -> impl Iterator<Item = &Slot> {
        self.0.iter().filter(move |slot| slot.key_id != *self.first_key() && slot.key_id != *new)
    }

    /// These slots and one more.
    ///
    /// # Errors
    /// `Invalid` when there is no room for it.
    pub fn with(&self, slot: Slot) -> Result<Self> {
        Self::new(self.0.iter().cloned().chain([slot]).collect())
    }
}

impl From<Slot> for Slots {
    fn from(slot: Slot) -> Self {
        Self(vec![slot])
    }
}

impl Deref for Slots {
    type Target = [Slot];

    fn deref(&self) -> &[Slot] {
        &self.0
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut [Slot] {
        &mut self.0
    }
}

/// Whether a component may have this many slots.
pub(super) fn check_count(count: usize) -> Result<()> {
    match count {
        1..=MAX_SLOTS => Ok(()),
        _ => Err(Error::new(Kind::Invalid, format!("{count} key slots, expected 1 to {MAX_SLOTS}"))),
    }
}
