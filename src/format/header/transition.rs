//! What a header says of a deep rekey that is under way (docs/FORMAT.md, section 10).
//!
//! The slots hold the new DEK, and the old one is wrapped by the new one: so opening the component takes one KEK.

use zeroize::Zeroizing;

use super::{KWP_OVERHEAD, Shape, as_damage};
use crate::crypto::derive;
use crate::crypto::wrap::LocalKek;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::{Dek, KEK_LEN, WrappedDek};
use crate::sys::SecretBytes;

/// Bytes of a transition's id.
pub const TRANSITION_ID_LEN: usize = 16;
/// The feature flag of a component in transition.
pub(super) const IN_TRANSITION: u32 = 1;

const OLD_DEK_INFO: &str = "vmcryptfs v1 old DEK";
const JOURNAL_INFO: &str = "vmcryptfs v1 journal";

/// Names one deep rekey of one component; random.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransitionId(pub [u8; TRANSITION_ID_LEN]);

/// A deep rekey that is under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// Which one.
    pub id: TransitionId,
    /// The DEK that some of the data is still under, wrapped by the one in the slots. `None`: none is, and what is left
    /// to do is tidying up.
    pub old: Option<WrappedDek>,
}

impl Transition {
    /// The start of transition `id`, from the DEK `old` to `new`.
    ///
    /// # Errors
    /// `Invalid` when they are the same, or not DEKs of one kind.
    pub fn new(id: TransitionId, old: &Dek, new: &Dek) -> Result<Self> {
        if old.bytes() == new.bytes() || old.bytes().len() != new.bytes().len() {
            return Err(Error::new(Kind::Invalid, "a transition to the same DEK, or to one of another kind"));
        }
        Ok(Self { id, old: Some(WrappedDek(wrapping_key(id, new)?.wrap_key(old.bytes())?)) })
    }

    /// The old DEK, if anything is under it. The header must have been verified with `new`.
    ///
    /// # Errors
    /// `Corrupt` when it does not unwrap, or is the new one.
    pub fn old_dek(&self, new: &Dek) -> Result<Option<Dek>> {
        let Some(wrapped) = &self.old else { return Ok(None) };
        let damaged = |error| Error::with_source(Kind::Corrupt, "the wrapped old DEK is damaged", error);
        let old = wrapping_key(self.id, new)?.unwrap_key(&wrapped.0).and_then(Dek::new).map_err(damaged)?;
        if old.bytes() == new.bytes() || old.bytes().len() != new.bytes().len() {
            return Err(Error::new(Kind::Corrupt, "the old DEK is the new one, or of another kind"));
        }
        Ok(Some(old))
    }

    /// The key that authenticates the journal's records.
    ///
    /// # Errors
    /// Those of the cipher library.
    pub fn journal_key(&self, new: &Dek) -> Result<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        derive::hkdf(&self.id.0, new.bytes(), JOURNAL_INFO, key.as_mut())?;
        Ok(key)
    }

    pub(super) fn encode(&self, w: &mut Writer) -> Result<()> {
        w.put(self.id.0);
        let old = self.old.as_ref().map_or(&[][..], |old| &old.0);
        w.count_u8(old.len(), "bytes of the wrapped old DEK")?;
        w.put(old);
        Ok(())
    }

    pub(super) fn decode(shape: Shape, body: &mut Reader<'_>) -> Result<Self> {
        let id = TransitionId(body.array()?);
        if id.0 == [0; TRANSITION_ID_LEN] {
            return Err(as_damage(Error::new(Kind::Invalid, "a transition without an id")));
        }
        let len = usize::from(body.u8()?);
        let expected = shape.kind().dek_len() + KWP_OVERHEAD;
        if len != 0 && len != expected {
            return Err(Error::new(
                Kind::Corrupt,
                format!("wrapped old DEK of {len} bytes, expected {expected}, or none"),
            ));
        }
        let old = body.bytes(len).context(|| "wrapped old DEK".into())?;
        Ok(Self { id, old: (len > 0).then(|| WrappedDek(old.to_vec())) })
    }
}

fn wrapping_key(id: TransitionId, new: &Dek) -> Result<LocalKek> {
    let mut key = SecretBytes::zeroed(KEK_LEN);
    derive::hkdf(&id.0, new.bytes(), OLD_DEK_INFO, &mut key)?;
    LocalKek::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;

    #[test]
    fn an_old_dek_that_is_the_new_one_or_of_another_kind_is_damage() {
        let (id, new) = (TransitionId([4; TRANSITION_ID_LEN]), random::disk_dek().unwrap());
        for (old, is_damage) in
            [(&new, true), (&random::home_dek().unwrap(), true), (&random::disk_dek().unwrap(), false)]
        {
            let wrapped = wrapping_key(id, &new).unwrap().wrap_key(old.bytes()).unwrap();
            let found = Transition { id, old: Some(WrappedDek(wrapped)) }.old_dek(&new);
            assert_eq!(found.err().map(|error| error.kind()), is_damage.then_some(Kind::Corrupt));
        }
    }
}
