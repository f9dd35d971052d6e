//! Putting a saved header back, without putting it where it does not belong, or keys back that were taken away, by accident.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{Header, Shape, UnverifiedHeader};
use crate::format::saved_header::SavedHeader;
use crate::key::{KeyId, KeyName};
use crate::storage::Storage;
use crate::store::header_area::{self, OtherCopy, StoredHeader};
use crate::vm::keyed::refuse_transition;
use crate::vm::keyring::{self, FetchedKeks};
use crate::vm::workplace::Workplace;

/// Puts a saved header back.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RestoreHeader {
    /// Below the VM folder; empty for the home.
    #[serde(with = "crate::text::path")]
    pub component: PathBuf,
    /// The file of the saved header.
    pub saved: Vec<u8>,
    /// Whether to do what may be wrong; what that would be is said when it is refused.
    pub force: bool,
}

/// What restoring did.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Restored {
    /// The component's UUID.
    pub uuid: uuid::Uuid,
    /// Whether anything had to be written.
    pub changed: bool,
    /// Why the saved header could not be verified with its key; absent when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
    /// Keys that open the component again and had been taken away.
    pub keys_back: Vec<KeyName>,
    /// Keys that do not open it any more.
    pub keys_gone: Vec<KeyName>,
}

impl RestoreHeader {
    /// Overwrites both header copies of a component that nothing uses.
    ///
    /// # Errors
    /// `Denied` for another component's header, for one of before a deep rekey, and, unless forced, when keys would come back
    /// or nothing tells whether the header belongs here; `Corrupt` for a damaged file or a header that its key does not verify; `Busy`, or `Io`.
    pub fn run(&self, place: &dyn Workplace) -> Result<Restored> {
        let saved = SavedHeader::decode(&self.saved)?.header;
        refuse_transition(saved.claims())?;
        let kind = saved.claims().shape.kind();
        let claimed = place.claim_unused(&self.component, kind)?;
        let storage = claimed.storage();
        refuse_short_file(storage, saved.claims())?;
        let present = self.present(storage, &saved)?;
        let ids = [Some(saved.claims()), present.as_ref().map(|stored| stored.header.claims())];
        let ids = ids.into_iter().flatten().flat_map(|header| header.slots.iter().map(|slot| slot.key_id.clone()));
        let keks = place.providers().fetch_all(ids);
        let unverified = verify(&saved, &keks)?;
        if let Some(stored) = &present {
            self.refuse_former_keys(stored, &saved)?;
        }
        let (keys_back, keys_gone) = match &present {
            Some(stored) => (missing(&saved, &stored.header), missing(&stored.header, &saved)),
            None => (Vec::new(), Vec::new()),
        };
        let changed = !present
            .as_ref()
            .is_some_and(|stored| stored.header.same_bytes(&saved) && matches!(stored.other, OtherCopy::Same));
        if changed {
            // The copy in use last: until then it still counts.
            let last = present.map_or(1, |stored| stored.in_use);
            for copy in [1 - last, last] {
                storage.write_at(kind.copy_offsets()[copy], &saved.bytes())?;
                claimed.sync()?;
            }
        }
        Ok(Restored { uuid: saved.claims().uuid, changed, unverified, keys_back, keys_gone })
    }

    /// The header that is there. `None`, only if forced, when no copy tells whose it is.
    fn present(&self, storage: &dyn Storage, saved: &UnverifiedHeader) -> Result<Option<StoredHeader>> {
        let claims = saved.claims();
        for copy in header_area::copies(storage, claims.shape.kind())? {
            match copy {
                Ok(copy) if copy.claims().uuid != claims.uuid => {
                    return Err(Error::new(
                        Kind::Denied,
                        format!("this is component {}, but the saved header is of {}", copy.claims().uuid, claims.uuid),
                    ));
                }
                Ok(copy) if copy.claims().shape != claims.shape => {
                    return Err(Error::new(
                        Kind::Denied,
                        "the saved header has the UUID of this component, but its data would lie elsewhere",
                    ));
                }
                // It would take the only DEK of the data away, which no force can want.
                Ok(copy) if copy.claims().dek_generation != claims.dek_generation => {
                    refuse_transition(copy.claims())?;
                    return Err(Error::new(
                        Kind::Denied,
                        format!(
                            "the data were encrypted anew since this header was saved: it has their data key of generation \
                             {}, they are under generation {}. It would make noise of them, and the key that reads them would \
                             be lost with the header that is there",
                            claims.dek_generation,
                            copy.claims().dek_generation
                        ),
                    ));
                }
                Err(error) if error.kind() == Kind::Unsupported => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        match header_area::load(storage, claims.shape.kind()) {
            Ok(stored) if stored.header.claims().transition.is_some() => {
                refuse_transition(stored.header.claims()).map(|()| None)
            }
            Ok(stored) => Ok(Some(stored)),
            Err(_) if self.force => Ok(None),
            Err(error) => Err(Error::with_source(
                Kind::Denied,
                format!(
                    "no header copy is left that tells whether these data belong to the saved header of {}, and XTS would \
                     not tell either: a wrong one makes noise of them. If you are certain, say --force",
                    claims.uuid
                ),
                error,
            )),
        }
    }

    fn refuse_former_keys(&self, stored: &StoredHeader, saved: &UnverifiedHeader) -> Result<()> {
        let (now, then) = (stored.header.claims(), saved.claims());
        if self.force || now.slots == then.slots || now.sequence < then.sequence {
            return Ok(());
        }
        let list = |keys: Vec<KeyName>| match keys.is_empty() {
            true => "none".to_owned(),
            false => keys.iter().map(KeyName::to_string).collect::<Vec<_>>().join(", "),
        };
        Err(Error::new(
            Kind::Denied,
            format!(
                "the keys were changed since this header was saved (its sequence is {}, now it is {}). Restoring it would \
                 undo that: keys that would open it again: {}; keys that would not any more: {}; and slots of the same key \
                 would be as they were. If that is wanted, say --force",
                then.sequence,
                now.sequence,
                list(missing(saved, &stored.header)),
                list(missing(&stored.header, saved))
            ),
        ))
    }
}

/// Why the saved header could not be verified, if its keys cannot be had.
fn verify(saved: &UnverifiedHeader, keks: &FetchedKeks) -> Result<Option<String>> {
    match keyring::unlock(saved, keks) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == Kind::KeyUnavailable => Ok(Some(error.chain())),
        Err(error) => Err(error).context(|| "the saved header is not genuine".into()),
    }
}

/// Keys that open by one header and not by another.
fn missing(from: &UnverifiedHeader, than: &UnverifiedHeader) -> Vec<KeyName> {
    let has = |key: &KeyId| than.claims().slots.iter().any(|slot| slot.key_id == *key);
    from.claims().slots.iter().map(|slot| &slot.key_id).filter(|key| !has(key)).map(KeyName::of).collect()
}

fn refuse_short_file(storage: &dyn Storage, saved: &Header) -> Result<()> {
    let Shape::Disk { data_offset, .. } = saved.shape else { return Ok(()) };
    let len = storage.len()?;
    if len >= data_offset {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!("the file ends at byte {len}, but the data of the saved header's disk begin at {data_offset}"),
    ))
}

#[cfg(test)]
mod tests;
