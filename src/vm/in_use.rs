//! Which components a key opens, and which would be lost without it.

use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::Result;
use crate::key::{KeyId, KeyName};
use crate::vm::scan::{self, FoundComponent};

/// Keys to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of this provider, if given.
    pub provider: Option<String>,
    /// With this key id, if given.
    pub key_id: Option<String>,
}

/// Where keys are in use. Field names are part of the stable JSON output.
#[derive(Debug, Serialize)]
pub struct InUse {
    /// Components with a slot of such a key.
    pub components: Vec<User>,
    /// Components whose header cannot be read, so that nobody can tell.
    pub unreadable: Vec<Unreadable>,
}

/// A component that a key opens.
#[derive(Debug, Serialize)]
pub struct User {
    /// Below the datastore; a home's is its VM folder's.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// `home` or `disk`.
    pub kind: &'static str,
    /// The component's UUID.
    pub uuid: uuid::Uuid,
    /// The keys in question that open it.
    pub keys: Vec<KeyName>,
    /// Other keys that open it.
    pub other_keys: Vec<KeyName>,
    /// Whether it would be lost without the keys in question.
    pub lost: bool,
}

/// A component whose header cannot be read.
#[derive(Debug, Serialize)]
pub struct Unreadable {
    /// As a user's.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Wanted {
    fn matches(&self, key: &KeyId) -> bool {
        self.provider.as_ref().is_none_or(|name| key.provider().as_str() == name)
            && self.key_id.as_ref().is_none_or(|id| key.id() == id)
    }

    /// Looks at every component of a datastore or VM folder. Needs no key, so what headers say is not proven.
    ///
    /// # Errors
    /// `Io`.
    pub fn search(&self, datastore: &File) -> Result<InUse> {
        let mut in_use = InUse { components: Vec::new(), unreadable: Vec::new() };
        for found in scan::scan(datastore)? {
            match &found.header {
                Ok(_) => in_use.components.extend(self.user(&found)),
                Err(error) => in_use.unreadable.push(Unreadable { path: found.path, reason: error.chain() }),
            }
        }
        Ok(in_use)
    }

    fn user(&self, found: &FoundComponent) -> Option<User> {
        let claims = found.unverified()?.claims();
        let ids = claims.slots.iter().map(|slot| &slot.key_id);
        let (keys, other): (Vec<&KeyId>, Vec<&KeyId>) = ids.partition(|key| self.matches(key));
        let names = |keys: &[&KeyId]| keys.iter().map(|key| KeyName::of(key)).collect();
        (!keys.is_empty()).then(|| User {
            path: found.path.clone(),
            kind: found.kind.word(),
            uuid: claims.uuid,
            keys: names(&keys),
            other_keys: names(&other),
            lost: other.is_empty(),
        })
    }
}
