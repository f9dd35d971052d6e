//! Where KEKs come from: the seam to key providers, and the table of those that the administrator configured.
//!
//! A provider is set up when it is first asked for, so one that cannot be does not stop the others.

pub mod agent;
pub mod backup;
pub mod config;
pub mod fetches;
pub mod generations;
pub mod kek_share;
pub mod kind;
pub mod kinds;
mod pem;
pub mod primary_key;
pub mod private_file;
pub mod rename;
mod seal;
pub mod sealed_share;
mod secret_file;
pub mod shared_key;
pub mod shared_memories;
pub mod timed;
pub mod tls_files;
pub mod tpm;
pub mod tpm_key;
mod trouble;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, fs, thread};

use parking_lot::Mutex;

pub use kind::Arguments;
pub use seal::{Sealed, seal_share};
pub use tpm::Pcrs;
pub use trouble::{Failure, Trouble, reword};

use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::key::{Kek, KeyId, ProviderName};
use crate::sys::thread::side_by_side;
use crate::text::Show;
use crate::timestamp::Timestamp;
use config::Config;
use kek_share::KekShare;
use kind::{Configured, Settings};
use kinds::KINDS;
use primary_key::PrimaryKey;
use shared_memories::SharedMemories;

/// What a new KEK is for; providers that keep labels tell their administrator.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Name of the VM.
    pub vm_name: String,
    /// UUID of the VM's home.
    pub vm_uuid: uuid::Uuid,
}

/// The host that a host key is for; providers that keep labels tell their administrator.
#[derive(Clone, Debug)]
pub struct KeyHost {
    /// Its name.
    pub name: String,
    /// The UUID of its hardware.
    pub hardware: uuid::Uuid,
}

/// What a provider says of a KEK's life (NIST SP 800-57 part 1, section 7). Whatever can be fetched unwraps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyState {
    /// Made, and not in use yet.
    PreActive,
    /// In use: the only state in which a key wraps.
    Active,
    /// Out of use.
    Deactivated,
    /// Others may know it.
    Compromised,
    /// Gone.
    Destroyed,
    /// The provider does not say, or not in terms that are known here.
    Unknown,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
            Self::Unknown => "in an unknown state",
        })
    }
}

/// Why a KEK is taken out of use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Revocation {
    /// Others may know it.
    Compromised,
    /// Another took its place.
    Superseded,
    /// What it wrapped is gone.
    Ended,
}

/// A source of KEKs. Every call may take as long as the provider's own deadlines say, and no longer.
pub trait KeyProvider: Send + Sync {
    /// Makes a KEK and names it.
    ///
    /// # Errors
    /// `KeyUnavailable` when the provider cannot make one now.
    fn create_key(&self, purpose: &NewKey) -> Result<(KeyId, Arc<dyn Kek>)>;

    /// Makes the KEK of a host, which wraps what only this host needs. A provider without labels makes it as any other one.
    ///
    /// # Errors
    /// As [`create_key`](Self::create_key).
    fn create_host_key(&self, host: &KeyHost) -> Result<(KeyId, Arc<dyn Kek>)> {
        self.create_key(&NewKey { vm_name: host.name.clone(), vm_uuid: host.hardware })
    }

    /// Fetches a KEK that was made before.
    ///
    /// # Errors
    /// `KeyUnavailable` when the provider cannot be reached or does not have the key, `Corrupt` when the key id is not
    /// one that the provider gives, `KeyRejected` when what it has is not this key.
    fn fetch_key(&self, key_id: &KeyId) -> Result<Arc<dyn Kek>>;

    /// What state a KEK is in. Providers whose keys have none say `Active`.
    ///
    /// # Errors
    /// As [`fetch_key`](Self::fetch_key).
    fn key_state(&self, _key_id: &KeyId) -> Result<KeyState> {
        Ok(KeyState::Active)
    }

    /// The key id as the provider itself spells it, which is what headers have. Some servers take several spellings for one key.
    ///
    /// # Errors
    /// `KeyUnavailable` when the provider cannot be reached.
    fn own_spelling(&self, key_id: &KeyId) -> Result<KeyId> {
        Ok(key_id.clone())
    }

    /// Whether the provider makes new KEKs by another primary key than the one of this KEK, which is to be replaced.
    ///
    /// # Errors
    /// Those of the provider's files.
    fn is_superseded(&self, _key_id: &KeyId) -> Result<bool> {
        Ok(false)
    }

    /// Takes a KEK out of use, which cannot be undone. Some providers do not give it out any more: nothing may need it.
    ///
    /// # Errors
    /// `Unsupported` when the provider's keys have no states, `KeyUnavailable`.
    fn revoke_key(&self, key_id: &KeyId, _reason: Revocation) -> Result<()> {
        Err(Error::new(Kind::Unsupported, format!("key {key_id} has no state: its provider keeps no keys")))
    }

    /// A KEK as a keeper gives it to another host of its cluster, or a trust authority to one that it has attested: its bytes leave
    /// this process.
    ///
    /// # Errors
    /// `Unsupported` for a provider whose keys never leave its host, and those of [`fetch_key`](Self::fetch_key).
    fn export_key(&self, key_id: &KeyId) -> Result<ExportedKek> {
        Err(Error::new(Kind::Unsupported, format!("key {key_id} is of a provider whose keys do not leave its host")))
    }

    /// Makes a KEK for another host. A provider that keeps keys gives the same one to the same request, however often it comes.
    ///
    /// # Errors
    /// As [`export_key`](Self::export_key) and [`create_key`](Self::create_key).
    fn create_exported(&self, request: uuid::Uuid, _purpose: &NewKey) -> Result<(KeyId, LocalKek)> {
        let message = format!("request {request} is for a provider whose keys do not leave its host");
        Err(Error::new(Kind::Unsupported, message))
    }

    /// Says that these keys will be fetched, so that they can be asked for together.
    fn prepare(&self, _key_ids: &[KeyId]) {}

    /// Destroys a KEK, which cannot be undone. Active ones are refused.
    ///
    /// # Errors
    /// `Unsupported` when there is nothing to destroy, `KeyUnavailable`.
    fn destroy_key(&self, key_id: &KeyId) -> Result<()> {
        Err(Error::new(Kind::Unsupported, format!("key {key_id} cannot be destroyed: its provider keeps no keys")))
    }

    /// What an administrator should know although nothing failed, since it was last asked for.
    fn take_notices(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A KEK for another host.
#[derive(Debug)]
pub struct ExportedKek {
    /// The KEK.
    pub kek: LocalKek,
    /// Whether it may wrap.
    pub wraps: bool,
}

/// Refuses a key id that the provider takes, but spells otherwise: headers are searched by its own spelling.
///
/// # Errors
/// `Invalid`, or as [`KeyProvider::own_spelling`].
pub fn require_own_spelling(provider: &dyn KeyProvider, key_id: &KeyId) -> Result<()> {
    let own = provider.own_spelling(key_id)?;
    match own == *key_id {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Invalid, format!("key {key_id} is {own} in the words of its provider: name it so")))
        }
    }
}

/// Something worth reporting although nothing failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// When it was reported.
    pub time: Timestamp,
    /// The provider.
    pub provider: ProviderName,
    /// For people.
    pub text: String,
}

/// KEKs by name, or why one is unavailable.
pub type FetchedKeks = HashMap<KeyId, Result<Arc<dyn Kek>>>;

/// Takes what was fetched.
type Receiver<'r> = dyn Fn(KeyId, Result<Arc<dyn Kek>>) + Sync + 'r;

/// Calls to one provider that may wait side by side.
const FETCHES_AT_ONCE: usize = 8;

/// The configured providers, each set up when it is first asked for.
pub struct Providers {
    path: PathBuf,
    config: Config,
    /// Those that were set up. Failures are not kept: the next attempt may succeed.
    ready: BTreeMap<ProviderName, Mutex<Option<Arc<dyn KeyProvider>>>>,
    shared_memories: Arc<SharedMemories>,
}

impl Providers {
    /// Reads the configuration file; a missing one configures no provider.
    ///
    /// # Errors
    /// Those of [`Config::load`]. A provider that cannot be set up is not an error until it is asked for.
    pub fn load(config: &Path) -> Result<Self> {
        let path = config.to_path_buf();
        let config = Config::load(&path)?;
        let ready = config.providers().keys().map(|name| (name.clone(), Mutex::new(None))).collect();
        Ok(Self { path, config, ready, shared_memories: Arc::default() })
    }

    /// Reads the configuration file again.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn reload(&self) -> Result<Self> {
        Ok(Self { shared_memories: Arc::clone(&self.shared_memories), ..Self::load(&self.path)? })
    }

    /// What the holders of the KEKs that were fetched keep of components.
    pub fn shared_memories(&self) -> &Arc<SharedMemories> {
        &self.shared_memories
    }

    /// The configuration file that they were read from.
    pub fn config_path(&self) -> &Path {
        &self.path
    }

    /// Which new files become disks in VM folders that are made.
    pub fn disk_names(&self) -> &DiskNames {
        &self.config.defaults().disk_names
    }

    /// Where what this host has seen of components is kept, if not in the usual place.
    pub fn memory_file(&self) -> Option<&Path> {
        self.config.memory().file.as_deref()
    }

    /// Names of all configured providers.
    pub fn names(&self) -> impl Iterator<Item = &ProviderName> {
        self.config.providers().keys()
    }

    /// The names under which the keys of a provider may be known here: its own, and those of providers with the same primary key or
    /// with a key server in common.
    pub fn names_of_same(&self, name: &ProviderName) -> BTreeSet<ProviderName> {
        let all = self.config.providers();
        let places = |settings| Configured { name, settings, config: &self.path }.key_places();
        let wanted = all.get(name).map(places).unwrap_or_default();
        let is_same = |settings| !places(settings).is_disjoint(&wanted);
        let same = all.iter().filter(|(_, settings)| is_same(settings));
        let formers = same.clone().filter_map(|(_, settings)| settings.primary_key().ok().flatten());
        let formers = formers.flat_map(|primary| primary.former_names).filter_map(|name| ProviderName::new(name).ok());
        same.map(|(name, _)| name.clone()).chain(formers).chain([name.clone()]).collect()
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
            None => {
                let configured = Configured { name, settings, config: &self.path };
                Ok(Arc::clone(ready.insert(configured.open()?)))
            }
        }
    }

    /// The provider that somebody names, as an option does, rather than a header.
    ///
    /// # Errors
    /// `NotFound`, with what is configured; otherwise as [`provider`](Self::provider).
    pub fn chosen(&self, name: &ProviderName) -> Result<Arc<dyn KeyProvider>> {
        if !self.config.providers().contains_key(name) {
            return Err(Error::new(Kind::NotFound, self.config.missing(name)));
        }
        self.provider(name)
    }

    /// The present name of the provider of a key, which a header may have under a former one.
    pub fn present_name(&self, id: &KeyId) -> ProviderName {
        self.renamed(id).unwrap_or_else(|| id.provider().clone())
    }

    /// The present name of the provider of a key, if a header has it under a former one.
    fn renamed(&self, id: &KeyId) -> Option<ProviderName> {
        let (primary, _) = primary_key::parse_id(id.id()).ok()?;
        rename::present_name(&self.path, &self.config, id.provider(), primary)
    }

    /// The provider of a key that a header names, with the key's present name.
    ///
    /// # Errors
    /// As [`provider`](Self::provider).
    pub fn provider_of(&self, id: &KeyId) -> Result<(KeyId, Arc<dyn KeyProvider>)> {
        let name = self.present_name(id);
        let provider = self.provider(&name)?;
        Ok((KeyId::new(name, id.id())?, provider))
    }

    /// The provider that somebody names, or else this one, which a header names.
    ///
    /// # Errors
    /// Those of [`chosen`](Self::chosen) or [`provider`](Self::provider).
    pub fn chosen_or(&self, name: Option<&ProviderName>, otherwise: &ProviderName) -> Result<Arc<dyn KeyProvider>> {
        name.map_or_else(|| self.provider(otherwise), |name| self.chosen(name))
    }

    /// The provider that somebody names, or the default one, with its name.
    ///
    /// # Errors
    /// `Invalid` for a name that is none, and those of [`chosen`](Self::chosen) or [`default_provider`](Self::default_provider).
    pub fn chosen_or_default(&self, name: Option<&str>) -> Result<(ProviderName, Arc<dyn KeyProvider>)> {
        let Some(name) = name else { return self.default_provider() };
        let name = ProviderName::new(name)?;
        let provider = self.chosen(&name)?;
        Ok((name, provider))
    }

    /// The provider of new VMs.
    ///
    /// # Errors
    /// `KeyUnavailable` when none was chosen, and those of [`provider`](Self::provider).
    pub fn default_provider(&self) -> Result<(ProviderName, Arc<dyn KeyProvider>)> {
        let name = self.config.default_name().ok_or_else(|| {
            let advice = match self.config.providers().is_empty() {
                true => {
                    let kind = KINDS[0].name();
                    format!("no key provider is configured: `vmcryptfs provider add {kind} NAME` makes one")
                }
                false => "no key provider is the default: `vmcryptfs provider default NAME` chooses one".into(),
            };
            Error::new(Kind::KeyUnavailable, advice)
        })?;
        Ok((name.clone(), self.provider(name)?))
    }

    /// Whether asking the provider of this name may take longer than a guest should have to wait. One that is not configured
    /// is told at once.
    pub fn may_wait(&self, name: &ProviderName) -> bool {
        self.config.providers().get(name).is_some_and(|settings| settings.kind().may_wait(settings))
    }

    /// What the providers have to tell since this was last asked.
    pub fn take_notices(&self) -> Vec<Notice> {
        let time = Timestamp::now();
        let of_one = |(name, ready): (&ProviderName, &Mutex<Option<Arc<dyn KeyProvider>>>)| {
            // Skips a provider that is being set up: its files may hang.
            let ready = ready.try_lock();
            let texts =
                ready.and_then(|ready| ready.as_ref().map(|provider| provider.take_notices())).unwrap_or_default();
            texts.into_iter().map(|text| Notice { time, provider: name.clone(), text }).collect::<Vec<_>>()
        };
        self.ready.iter().flat_map(of_one).collect()
    }

    /// Fetches each KEK once, side by side; a provider that is slow or gone does not hold up another's.
    pub fn fetch_all(&self, ids: impl IntoIterator<Item = KeyId>) -> FetchedKeks {
        let fetched = Mutex::new(HashMap::new());
        self.fetch_each(ids, &|id, kek| drop(fetched.lock().insert(id, kek)));
        fetched.into_inner()
    }

    /// As [`fetch_all`](Self::fetch_all), and gives `each` what was fetched as soon as it is there. Of one provider, those that
    /// come first are asked for first.
    pub fn fetch_each(&self, ids: impl IntoIterator<Item = KeyId>, each: &Receiver<'_>) {
        let mut by_provider: HashMap<ProviderName, Vec<KeyId>> = HashMap::new();
        let mut seen = HashSet::new();
        for id in ids.into_iter().filter(|id| seen.insert(id.clone())) {
            by_provider.entry(id.provider().clone()).or_default().push(id);
        }
        thread::scope(|scope| {
            for (name, ids) in &by_provider {
                let work = move || self.fetch_from(name, ids, each);
                // Names come from headers: no thread for whatever they say. Without a thread, the work is done here.
                let is_known = self.ready.contains_key(name);
                if !is_known || thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    work();
                }
            }
        });
    }

    /// Fetches one KEK.
    ///
    /// # Errors
    /// Those of [`KeyProvider::fetch_key`], and whatever keeps the provider from being set up.
    pub fn fetch(&self, id: &KeyId) -> Result<Arc<dyn Kek>> {
        self.fetch_through(&self.provider(id.provider()).map_err(Arc::new), id)
    }

    fn fetch_from(&self, name: &ProviderName, ids: &[KeyId], each: &Receiver<'_>) {
        let provider = self.provider(name).map_err(Arc::new);
        if let Ok(provider) = &provider
            && ids.len() > 1
        {
            provider.prepare(ids);
        }
        side_by_side(ids, FETCHES_AT_ONCE, |id| each(id.clone(), self.fetch_through(&provider, id)));
    }

    /// The one way to a KEK that a component needs, for every caller and every kind of provider: what is to be known of every
    /// fetch, or decided over it, belongs here.
    fn fetch_through(
        &self,
        provider: &std::result::Result<Arc<dyn KeyProvider>, Arc<Error>>,
        id: &KeyId,
    ) -> Result<Arc<dyn Kek>> {
        let begun = Instant::now();
        let fetched = match provider {
            Ok(provider) => provider.fetch_key(id),
            Err(error) => Err(Error::with_source(
                error.kind(),
                format!("key provider {} cannot be used", id.provider()),
                Arc::clone(error),
            )),
        };
        // Only what is not found under its name may be known under a former one.
        let fetched = match fetched {
            Err(error) if error.kind() == Kind::KeyUnavailable && self.renamed(id).is_some() => {
                self.provider_of(id).and_then(|(id, provider)| provider.fetch_key(&id))
            }
            fetched => fetched,
        };
        fetches::add(id.provider(), fetched.as_ref().err().map(Error::kind), begun.elapsed());
        if let Ok(kek) = &fetched {
            self.shared_memories.add(id, kek.as_ref());
        }
        fetched
    }
}

/// Adds a provider of the kind with this name. One that keeps a primary key gets a new one, whose file and UUID are returned; of
/// any other one the files are read, but a server is not asked: it may be out of reach while a host is set up. A share of its keys
/// is made if it is not there. The first provider becomes the default in any case.
///
/// # Errors
/// `Exists` when the name is taken, or the file of a primary key is there that no provider is configured for; those of
/// [`ProviderKind::settings`](kind::ProviderKind::settings) and [`ProviderKind::open`](kind::ProviderKind::open).
pub fn add(config: &Path, name: &ProviderName, kind: &str, arguments: &Arguments, make_default: bool) -> Result<Added> {
    add_by(Config::add, config, name, kind, arguments, make_default)
}

/// How a provider comes into the configuration: [`Config::add`], or [`Config::add_own`].
pub type AddTo = fn(&mut Config, ProviderName, Settings) -> Result<()>;

/// As [`add`], by `add`.
///
/// # Errors
/// Those of [`add`], and of `add`.
pub fn add_by(
    add: AddTo,
    config: &Path,
    name: &ProviderName,
    kind: &str,
    arguments: &Arguments,
    make_default: bool,
) -> Result<Added> {
    let kind = kinds::named(kind)?;
    let settings = Settings::new(kind, kind.settings(name, arguments)?);
    let provider = Configured { name, settings: &settings, config };
    let primary_key = settings.primary_key()?.map(|settings| settings.primary_key_of(config));
    let new_share = settings.kek_share_file(config).filter(|path| !path.exists());
    let made_share = new_share.as_deref().map(KekShare::create).transpose()?.map(|share| share.uuid());
    let kek_share = new_share.zip(made_share);
    let added = add_configured(add, &provider, primary_key, make_default);
    if let (Err(_), Some((path, _))) = (&added, &kek_share) {
        fs::remove_file(path).ok(); // it completed no key yet
    }
    added.map(|primary_key| Added { primary_key, kek_share })
}

/// What was made for a provider that was added.
#[derive(Debug)]
pub struct Added {
    /// File and UUID of its primary key, where it has one.
    pub primary_key: Option<(PathBuf, uuid::Uuid)>,
    /// File and UUID of the share of its keys, where that was not there.
    pub kek_share: Option<(PathBuf, uuid::Uuid)>,
}

fn add_configured(
    add: AddTo,
    provider: &Configured<'_>,
    primary_key: Option<PathBuf>,
    make_default: bool,
) -> Result<Option<(PathBuf, uuid::Uuid)>> {
    let Configured { name, settings, config } = *provider;
    match primary_key {
        Some(_) => provider.kek_share().map(drop)?,
        None => provider.open().map(drop)?,
    }
    let mut made = None;
    let added = config::update(config, |configured| {
        add(configured, name.clone(), settings.clone())?;
        if make_default {
            configured.set_default(name)?;
        }
        let Some(path) = primary_key else { return Ok(None) };
        let primary = PrimaryKey::generate()?;
        primary.create(&path).map_err(|error| match error.kind() == Kind::Exists {
            true => leftover(provider, &path, error),
            false => error,
        })?;
        made = Some(path.clone());
        Ok(Some((path, primary.uuid())))
    });
    if let (Err(_), Some(path)) = (&added, made) {
        fs::remove_file(path).ok(); // it wrapped nothing yet, and would be in the way of the next attempt
    }
    added
}

fn leftover(Configured { name, settings, .. }: &Configured<'_>, path: &Path, error: Error) -> Error {
    Error::with_source(
        Kind::Exists,
        format!(
            "{} is there already, and existing VMs may need it. To use it, write [provider.{name}] with kind = \
             {:?} and primary-key = \"keys/{name}.key\" into the configuration file; otherwise move it away",
            path.shown(),
            settings.kind().name()
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
