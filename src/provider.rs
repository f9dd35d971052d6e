//! Where KEKs come from: the seam to key providers, and the table of those that the administrator configured.

use std::sync::Arc;

use crate::error::Result;
use crate::key::{Kek, KeyId};

/// What a new KEK is for; providers that keep labels tell their administrator.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Name of the VM.
    pub vm_name: String,
    /// UUID of the VM's home.
    pub vm_uuid: uuid::Uuid,
}

/// A source of KEKs. Every call may take as long as the provider's own deadlines say, and no longer.
pub trait KeyProvider: Send + Sync {
    /// Makes a KEK and names it.
    ///
    /// # Errors
    /// `KeyUnavailable` when the provider cannot make one now.
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)>;

    /// Fetches a KEK that was made before.
    ///
    /// # Errors
    /// `KeyUnavailable` when the provider cannot be reached or does not have the key, `KeyRejected` when what it has is
    /// not this key.
    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>>;
}
