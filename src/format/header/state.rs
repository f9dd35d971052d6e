//! How much of a home's files is sealed, as its header says under its HMAC (docs/FORMAT.md, section 11).

use crate::error::{Error, Kind, Result};
use crate::format::Reader;

/// The feature flag of a home whose header says this.
pub(super) const HAS_STATE: u32 = 2;

/// How much of a home's files is sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoredState {
    /// Each is clear or sealed: an encryption was begun.
    Encrypting,
    /// All of them.
    Encrypted,
    /// Each is clear or sealed: a decryption was begun.
    Decrypting,
    /// All of them; disks are being encrypted or decrypted, so that those in the clear are the home's own.
    ConvertingDisks,
}

impl StoredState {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Encrypting => 1,
            Self::Encrypted => 2,
            Self::Decrypting => 3,
            Self::ConvertingDisks => 4,
        }
    }

    pub(super) fn decode(body: &mut Reader<'_>) -> Result<Self> {
        let code = body.u8()?;
        let states = [Self::Encrypting, Self::Encrypted, Self::Decrypting, Self::ConvertingDisks];
        let found = states.into_iter().find(|state| state.code() == code);
        found.ok_or_else(|| Error::new(Kind::Corrupt, format!("home state {code}, expected 1 to 4")))
    }
}
