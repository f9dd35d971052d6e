//! Where the holders of KEKs keep what all hosts have seen of components: of each KEK that this process has fetched.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::key::{Kek, KeyId, SharedMemory};

/// By key. One that is fetched again has what its holder says then.
#[derive(Default)]
pub struct SharedMemories(Mutex<HashMap<KeyId, Arc<dyn SharedMemory>>>);

impl SharedMemories {
    /// Takes that of a KEK that was fetched, if it has one.
    pub fn add(&self, key_id: &KeyId, kek: &dyn Kek) {
        if let Some(memory) = kek.shared_memory() {
            self.0.lock().insert(key_id.clone(), memory);
        }
    }

    /// That of a key, if the key was fetched.
    pub fn of(&self, key_id: &KeyId) -> Option<Arc<dyn SharedMemory>> {
        self.0.lock().get(key_id).cloned()
    }

    /// Those of all keys that were fetched.
    pub fn all(&self) -> Vec<Arc<dyn SharedMemory>> {
        self.0.lock().values().cloned().collect()
    }
}
