//! Where KEKs come from: the seam to key providers, and the table of those that the administrator configured.
//!
//! A provider is set up when it is first asked for, so one that cannot be does not stop the others.

pub mod backup;
pub mod config;
pub mod kmip;
pub mod native;
mod private_file;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use parking_lot::Mutex;

use crate::crypto::random;
use crate::error::{Error, Kind, Result};
use crate::key::{Kek, KeyId, ProviderName};
use config::{Config, Settings};
use native::{NativeProvider, PrimaryKey};

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
    /// `KeyUnavailable` when the provider cannot be reached or does not have the key, `Corrupt` when the key id is not
    /// one that the provider gives, `KeyRejected` when what it has is not this key.
    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>>;
}

/// Calls to one provider that may wait side by side.
const FETCHES_AT_ONCE: usize = 8;

/// The configured providers, each set up when it is first asked for.
pub struct Providers {
    path: PathBuf,
    config: Config,
    /// Those that were set up. Failures are not kept: the next one who asks may have more luck.
    ready: BTreeMap<ProviderName, Mutex<Option<Arc<dyn KeyProvider>>>>,
}

impl Providers {
    /// Reads the configuration file; a missing one configures no provider.
    ///
    /// # Errors
    /// Those of [`Config::load`]. A provider that cannot be set up is no error before it is asked for.
    pub fn load(config: &Path) -> Result<Self> {
        let path = config.to_path_buf();
        let config = Config::load(&path)?;
        let ready = config.providers().keys().map(|name| (name.clone(), Mutex::new(None))).collect();
        Ok(Self { path, config, ready })
    }

    /// Names of all configured providers.
    pub fn names(&self) -> impl Iterator<Item = &ProviderName> {
        self.config.providers().keys()
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// `KeyUnavailable` when none has the name, and whatever keeps the provider from being set up.
    pub fn provider(&self, name: &ProviderName) -> Result<Arc<dyn KeyProvider>> {
        let (Some(settings), Some(ready)) = (self.config.providers().get(name), self.ready.get(name)) else {
            return Err(Error::new(Kind::KeyUnavailable, self.config.missing(name)));
        };
        let mut ready = ready.lock();
        match &*ready {
            Some(provider) => Ok(Arc::clone(provider)),
            None => Ok(Arc::clone(ready.insert(set_up(name, settings, &self.path)?))),
        }
    }

    /// The provider of new VMs.
    ///
    /// # Errors
    /// `KeyUnavailable` when none was chosen, and those of [`provider`](Self::provider).
    pub fn default_provider(&self) -> Result<(ProviderName, Arc<dyn KeyProvider>)> {
        let name = self.config.default_name().ok_or_else(|| {
            let advice = match self.config.providers().is_empty() {
                true => "no key provider is configured: `vmcryptfs provider add native NAME` makes one",
                false => "no key provider is the default: `vmcryptfs provider default NAME` chooses one",
            };
            Error::new(Kind::KeyUnavailable, advice)
        })?;
        Ok((name.clone(), self.provider(name)?))
    }

    /// Fetches each KEK once, side by side; a provider that is slow or gone does not hold up another's.
    pub fn fetch_all(&self, ids: impl IntoIterator<Item = KeyId>) -> HashMap<KeyId, Result<Arc<dyn Kek>>> {
        let mut by_provider: HashMap<ProviderName, Vec<KeyId>> = HashMap::new();
        for id in HashSet::<KeyId>::from_iter(ids) {
            by_provider.entry(id.provider().clone()).or_default().push(id);
        }
        let fetched = Mutex::new(HashMap::new());
        thread::scope(|scope| {
            for (name, ids) in &by_provider {
                let fetched = &fetched;
                if self.ready.contains_key(name) {
                    scope.spawn(move || self.fetch_from(name, ids, fetched));
                } else {
                    self.fetch_from(name, ids, fetched); // names come from headers: no thread for whatever they say
                }
            }
        });
        fetched.into_inner()
    }

    fn fetch_from(&self, name: &ProviderName, ids: &[KeyId], fetched: &Mutex<HashMap<KeyId, Result<Arc<dyn Kek>>>>) {
        let provider = self.provider(name).map_err(Arc::new);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                let kek = match &provider {
                    Ok(provider) => provider.fetch_key(id),
                    Err(error) => Err(Error::with_source(
                        error.kind(),
                        format!("key provider {name} cannot be used"),
                        Arc::clone(error),
                    )),
                };
                fetched.lock().insert(id.clone(), kek);
            }
        };
        thread::scope(|scope| {
            for _ in 1..ids.len().min(FETCHES_AT_ONCE) {
                scope.spawn(work);
            }
            work();
        });
    }
}

/// The only place that knows all kinds.
fn set_up(name: &ProviderName, settings: &Settings, config: &Path) -> Result<Arc<dyn KeyProvider>> {
    match settings {
        Settings::Native(native) => {
            Ok(Arc::new(NativeProvider::new(name.clone(), PrimaryKey::load(&native.primary_key_of(config))?)))
        }
    }
}

/// Makes a native provider: a new primary key, and its entry in the configuration. The first provider becomes the
/// default in any case. Returns the primary key's file and UUID.
///
/// # Errors
/// `Exists` when the name is taken, or the file of a primary key is there that no provider is configured for.
pub fn add_native(config: &Path, name: &ProviderName, make_default: bool) -> Result<(PathBuf, uuid::Uuid)> {
    let mut made = None;
    let added = config::update(config, |configured| {
        let settings = native::Settings::of(name);
        let path = settings.primary_key_of(config);
        configured.add(name.clone(), Settings::Native(settings))?;
        if make_default {
            configured.set_default(name)?;
        }
        let primary = PrimaryKey::generate()?;
        primary.create(&path).map_err(|error| match error.kind() == Kind::Exists {
            true => leftover(name, &path, error),
            false => error,
        })?;
        made = Some(path.clone());
        Ok((path, primary.uuid()))
    });
    if let (Err(_), Some(path)) = (&added, made) {
        fs::remove_file(path).ok(); // it wrapped nothing yet, and would be in the way of the next attempt
    }
    added
}

fn leftover(name: &ProviderName, path: &Path, error: Error) -> Error {
    Error::with_source(
        Kind::Exists,
        format!(
            "{} is there already, and existing VMs may need it. To use it, write [provider.{name}] with kind = \
             \"native\" and primary-key = \"keys/{name}.key\" into the configuration file; otherwise move it away",
            path.display()
        ),
        error,
    )
}

/// Does with a provider what VMs need of it: makes a KEK, fetches it again, and sees that it unwraps what it wrapped.
///
/// # Errors
/// The provider's, and `KeyRejected` when the key that was fetched is not the one that was made.
pub fn round_trip(provider: &dyn KeyProvider) -> Result<KeyId> {
    let purpose = NewKey { vm_name: "vmcryptfs provider test".into(), vm_uuid: random::uuid()? };
    let (id, made) = provider.create_key(&purpose)?;
    let fetched = provider.fetch_key(&id)?;
    let dek = random::disk_dek()?;
    let unwrapped = fetched.unwrap(&made.wrap(&dek)?)?;
    if unwrapped.bytes() != dek.bytes() || fetched.check()? != made.check()? {
        return Err(Error::new(Kind::KeyRejected, format!("key {id} is not the one that was made under this key id")));
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
