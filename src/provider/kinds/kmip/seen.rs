//! What hosts have seen of the components that a key opens, as custom attributes of the key: one for each component.
//!
//! Each component has an attribute of its own, `x-vmcryptfs-seen-UUID`, so that hosts which update different components of one
//! key overwrite nothing of each other's. docs/CLI.md, "Several hosts", describes the value, which is opaque here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::cluster::Cluster;
use super::session::Session;
use crate::error::Result;
use crate::key::{KeyId, SharedMemory};
use crate::provider::{Failure, Trouble};

const PREFIX: &str = "x-vmcryptfs-seen-";
/// Components of one key whose attributes are looked at.
const MAX_COMPONENTS: usize = 4096;
/// How long one call waits: nobody needs the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Texts by component.
pub(super) type Seen = HashMap<Uuid, String>;

/// Of one key.
pub(super) struct KmipSeen {
    id: KeyId,
    cluster: Arc<Cluster>,
    known: Mutex<Seen>,
}

impl KmipSeen {
    pub(super) fn new(id: KeyId, cluster: Arc<Cluster>, known: Seen) -> Self {
        Self { id, cluster, known: Mutex::new(known) }
    }

    fn failed(&self, failure: Failure) -> crate::error::Error {
        failure.into_error(format!("what hosts have seen of components is not in reach at key {}", self.id))
    }
}

/// What is there. A server that does not say it keeps nothing: opening a component never fails for that.
pub(super) fn read(session: &mut Session, uid: &str) -> Seen {
    try_read(session, uid).unwrap_or_default()
}

fn try_read(session: &mut Session, uid: &str) -> std::result::Result<Seen, Failure> {
    let attributes = session.custom_attributes(uid)?;
    let of_component = |(name, text): (String, String)| Some((name.strip_prefix(PREFIX)?.parse().ok()?, text));
    Ok(attributes.into_iter().filter_map(of_component).take(MAX_COMPONENTS).collect())
}

/// Whether a refusal is of the server, whatever the key.
fn is_of_all_keys(refusal: &Failure) -> bool {
    matches!(refusal.trouble(), Trouble::Unsupported | Trouble::Faulty)
}

impl SharedMemory for KmipSeen {
    fn get(&self, uuid: Uuid) -> Option<String> {
        self.known.lock().get(&uuid).cloned()
    }

    fn assume(&self, uuid: Uuid, text: String) {
        self.known.lock().insert(uuid, text);
    }

    fn refresh(&self) -> Result<()> {
        let uid = self.id.id().to_owned();
        let seen = self.cluster.read_within(TIMEOUT, move |session| try_read(session, &uid));
        *self.known.lock() = seen.map_err(|failure| self.failed(failure))?;
        Ok(())
    }

    fn store(&self, uuid: Uuid, text: &str, replaces: &dyn Fn(&str) -> bool) -> Result<()> {
        if !self.cluster.keeps_seen() {
            return Ok(());
        }
        let (uid, name) = (self.id.id(), format!("{PREFIX}{uuid}"));
        let mut refused = None;
        // KMIP has no comparing exchange for all its versions: what is there is read just before.
        let stored = self.cluster.call_within(TIMEOUT, |session| {
            let there = try_read(session, uid)?.remove(&uuid);
            let written = match there {
                Some(there) if there == text || !replaces(&there) => return Ok(there),
                Some(_) => session.set_attribute(uid, &name, text),
                None => session.add_attributes(uid, &[(name.clone(), text.to_owned())]),
            };
            match written {
                Ok(()) => Ok(text.to_owned()),
                // Another host may have been first; else asking again would not help.
                Err(refusal) if is_of_all_keys(&refusal) && session.is_usable() => {
                    try_read(session, uid)?.remove(&uuid).ok_or_else(|| {
                        refused = Some(refusal);
                        Failure::new(Trouble::Unsupported, "custom attributes are refused")
                    })
                }
                Err(failure) => Err(failure),
            }
        });
        match stored {
            Ok(there) => {
                self.known.lock().insert(uuid, there);
                Ok(())
            }
            Err(failure) if failure.trouble() == Trouble::Unsupported => {
                self.cluster.keeps_no_seen(&refused.unwrap_or(failure));
                Ok(())
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }
}
