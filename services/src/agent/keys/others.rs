//! Keys that came from the cluster and that its document does not have any longer.

use std::collections::BTreeMap;

use uuid::Uuid;
use vmcryptfs::cluster::kept::KeptEnvelope;
use vmcryptfs::error::Error;
use vmcryptfs::format::cluster::Document;
use vmcryptfs::key::ProviderName;

use super::{Held, Keys, tell_forgotten};

const WHY: &str = "the cluster does not share it any longer";

impl Keys {
    /// Wipes those keys, from memory first: no program gets another KEK of them. Returns a provider whose envelopes are still on disk.
    pub(super) fn wipe_others(&self, document: &Document) -> Vec<(ProviderName, Error)> {
        let gone = self.take_others(document);
        tell_forgotten(&gone, WHY);
        let (pushed, unwiped) = self.pushed.wipe_others(document, WHY);
        let whole: Vec<ProviderName> = {
            let held = self.held.read();
            gone.into_keys().filter(|name| !held.contains_key(name)).collect()
        };
        self.forgotten.lock().extend(whole.into_iter().chain(pushed));
        let found = self.kept.lock().iter().find(|kept| is_other(document, kept)).map(KeptEnvelope::provider);
        let Some(Ok(name)) = found else { return unwiped.into_iter().collect() };
        let wiped = self.store(|kept| kept.retain(|kept| !is_other(document, kept))).and_then(|()| self.wipe_left());
        wiped.err().map(|error| (name, error)).into_iter().chain(unwiped).collect()
    }

    fn take_others(&self, document: &Document) -> BTreeMap<ProviderName, Held> {
        let mut gone = BTreeMap::new();
        self.held.write().retain(|name, held| {
            let keys = std::mem::take(&mut held.keys).into_iter();
            let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
                keys.partition(|(primary, _)| has_generation(document, name, *primary));
            held.current = held.current.filter(|current| stay.contains_key(current));
            held.keys = stay;
            if !go.is_empty() {
                gone.insert(name.clone(), Held { keys: go, current: None });
            }
            !held.keys.is_empty()
        });
        gone
    }
}

/// What was opened has the name of a provider.
fn is_other(document: &Document, kept: &KeptEnvelope) -> bool {
    kept.provider().is_ok_and(|name| !has_generation(document, &name, kept.primary))
}

fn has_generation(document: &Document, name: &ProviderName, primary: Uuid) -> bool {
    let mut of_name = document.providers.iter().filter(|shared| shared.name == *name);
    of_name.any(|shared| shared.generations.iter().any(|generation| generation.primary == primary))
}
