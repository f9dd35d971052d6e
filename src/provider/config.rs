//! Which providers an administrator configured: one TOML file, its place, and its changes.
//!
//! ```toml
//! default = "local"
//!
//! [provider.local]
//! kind = "native"
//! primary-key = "keys/local.key"   # relative to the folder of this file, or absolute
//! backed-up = true
//!
//! [provider.corp]
//! kind = "kmip"                    # see `kinds::kmip::settings`
//! servers = ["kms1:5696", "kms2:5696"]
//! ca = "corp/ca.pem"
//! cert = "corp/host.pem"
//! key = "corp/host.key"
//!
//! [events]                         # all of it optional
//! file = "/srv/audit/vmcryptfs.jsonl"
//! max-mib = 16                     # how long the file gets; four full ones are kept
//! journal = true                   # a copy to systemd's journal, where it runs
//!
//! [agent]                          # of this host, if it has one; see `agent`; optional
//! socket = "/run/vmcryptfs/agent.sock"
//! tpm = "/dev/tpmrm0"              # what pushed keys are sealed by that may be kept over a restart
//! tpm-pcrs = "7"                   # PCRs that must not have changed then; none if nothing is said
//!
//! [board]                          # files of TLS with the cluster's etcd, if it has one
//! ca = "etcd/ca.pem"               # relative to the folder of this file, or absolute
//! cert = "etcd/host.pem"
//! key = "etcd/host.key"
//!
//! [memory]                         # what this host has seen of components, against rollback; optional
//! file = "/srv/vmcryptfs/seen"
//!
//! [dumps]                          # of processes; docs/DUMPS.md; all of it optional
//! folder = "/srv/dumps"
//! max-files = 32                   # how many are kept, and of one user other than root half of them
//! max-mib = 65536                  # how long one gets
//! max-total-mib = 131072           # how long all get
//! keep-free-mib = 1024             # what is left to others on that file system
//!
//! [defaults]                       # of new VM folders; all of it optional
//! disk-names = ["*.qcow2", "vm#"]  # which new files become disks; docs/FORMAT.md, section 6
//! ```
//!
//! Knows names and settings; what a provider makes of its settings is the provider's affair.

mod text;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::agent::AgentSettings;
use super::kind::Settings;
use super::private_file::{self, MAX_CONFIG_LEN};
use super::tls_files::TlsFiles;
use crate::error::{Context, Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::key::ProviderName;
use crate::sys::process::effective_uid;
use crate::text::{Show, quoted};

/// The configured providers and which of them is the default; names are unique and the default is one of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    default: Option<ProviderName>,
    providers: BTreeMap<ProviderName, Settings>,
    events: EventSettings,
    memory: MemorySettings,
    agent: AgentSettings,
    board: Option<TlsFiles>,
    dumps: DumpSettings,
    defaults: Defaults,
}

/// Where it is kept what this host has seen of components; see [`seen`](crate::seen).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MemorySettings {
    /// The file, absolute; the usual place of the user if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub file: Option<PathBuf>,
}

/// Where encrypted dumps lie, and how many; see [`dump`](crate::dump).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DumpSettings {
    /// Their folder, absolute; the usual place if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub folder: Option<PathBuf>,
    /// How many are kept. All users that are not of the system get half of them together.
    pub max_files: NonZeroU32,
    /// MiB of one dump, in the clear and encrypted.
    pub max_mib: NonZeroU32,
    /// MiB of all of them, encrypted, of which users get half in the same way.
    pub max_total_mib: NonZeroU32,
    /// MiB of their file system that they leave free.
    pub keep_free_mib: u32,
}

impl Default for DumpSettings {
    fn default() -> Self {
        const FILES: NonZeroU32 = NonZeroU32::new(32).expect("32 is not zero");
        const MIB: NonZeroU32 = NonZeroU32::new(64 << 10).expect("64 Ki is not zero");
        const TOTAL_MIB: NonZeroU32 = NonZeroU32::new(128 << 10).expect("128 Ki is not zero");
        Self { folder: None, max_files: FILES, max_mib: MIB, max_total_mib: TOTAL_MIB, keep_free_mib: 1024 }
    }
}

/// What new VM folders get.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Defaults {
    /// Which new files become disks; the usual ones if there is no pattern.
    #[serde(deserialize_with = "disk_names", serialize_with = "stored_names", skip_serializing_if = "is_usual")]
    pub disk_names: DiskNames,
}

fn disk_names<'d, D: Deserializer<'d>>(deserializer: D) -> std::result::Result<DiskNames, D::Error> {
    DiskNames::new(Vec::deserialize(deserializer)?).map_err(|error| serde::de::Error::custom(error.to_string()))
}

fn stored_names<S: Serializer>(names: &DiskNames, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    names.stored().serialize(serializer)
}

fn is_usual(names: &DiskNames) -> bool {
    names.stored().is_empty()
}

/// Where key and lock events go; see [`event`](crate::event).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct EventSettings {
    /// The file, absolute; the usual place of the user if there is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "private_file::absolute")]
    pub file: Option<PathBuf>,
    /// MiB from which on a file is full, and another one begun.
    pub max_mib: NonZeroU32,
    /// Whether systemd's journal gets a copy.
    pub journal: bool,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { file: None, max_mib: DEFAULT_EVENT_MIB, journal: true }
    }
}

const DEFAULT_EVENT_MIB: NonZeroU32 = NonZeroU32::new(16).expect("16 is not zero");

impl Config {
    /// Reads a configuration file. One that does not exist configures nothing.
    ///
    /// # Errors
    /// `Denied` when others than its owner can read or change the file, `Invalid` with file and line when its content is
    /// not understood, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        parse(path, &private_file::read_text(MAX_CONFIG_LEN, path)?)
    }

    /// The default provider, if one was chosen.
    pub fn default_name(&self) -> Option<&ProviderName> {
        self.default.as_ref()
    }

    /// All providers, by name.
    pub fn providers(&self) -> &BTreeMap<ProviderName, Settings> {
        &self.providers
    }

    /// What new VM folders get.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Where encrypted dumps lie, and how many.
    pub fn dumps(&self) -> &DumpSettings {
        &self.dumps
    }

    /// Where events go.
    pub fn events(&self) -> &EventSettings {
        &self.events
    }

    /// One provider's settings.
    ///
    /// # Errors
    /// `NotFound`, naming those that are configured.
    pub fn settings(&self, name: &ProviderName) -> Result<&Settings> {
        self.providers.get(name).ok_or_else(|| Error::new(Kind::NotFound, self.missing(name)))
    }

    /// Where it is kept what this host has seen of components.
    pub fn memory(&self) -> &MemorySettings {
        &self.memory
    }

    /// Where the agent of this host is found.
    pub fn agent(&self) -> &AgentSettings {
        &self.agent
    }

    /// The files of TLS with the board of this host's cluster, if they are named.
    pub fn board(&self) -> Option<&TlsFiles> {
        self.board.as_ref()
    }

    /// Adds a provider. The first one becomes the default.
    ///
    /// # Errors
    /// `Exists` when the name is taken.
    pub fn add(&mut self, name: ProviderName, settings: Settings) -> Result<()> {
        if self.providers.contains_key(&name) {
            return Err(Error::new(Kind::Exists, format!("a key provider {name} is configured already")));
        }
        if self.providers.is_empty() {
            self.default = Some(name.clone());
        }
        self.providers.insert(name, settings);
        Ok(())
    }

    /// As [`add`](Self::add), and in the place of one of that name whose keys come from the agent: it has nothing of its own here.
    ///
    /// # Errors
    /// `Exists` when another provider has the name.
    pub fn add_own(&mut self, name: ProviderName, settings: Settings) -> Result<()> {
        match self.providers.get(&name) {
            Some(former) if former.kind().has_keys_from_agent() => {
                self.providers.insert(name, settings);
                Ok(())
            }
            _ => self.add(name, settings),
        }
    }

    /// Changes one provider's settings.
    ///
    /// # Errors
    /// `NotFound`, naming those that are configured.
    pub fn set(&mut self, name: &ProviderName, settings: Settings) -> Result<()> {
        self.settings(name)?;
        self.providers.insert(name.clone(), settings);
        Ok(())
    }

    /// Gives a provider another name, under which it is configured as `settings` say.
    ///
    /// # Errors
    /// `NotFound`, naming those that are configured.
    pub(super) fn rename(&mut self, old: &ProviderName, new: &ProviderName, settings: Settings) -> Result<()> {
        self.settings(old)?;
        self.providers.remove(old);
        self.providers.insert(new.clone(), settings);
        if self.default.as_ref() == Some(old) {
            self.default = Some(new.clone());
        }
        Ok(())
    }

    /// Chooses the default provider.
    ///
    /// # Errors
    /// `NotFound`, naming those that are configured.
    pub fn set_default(&mut self, name: &ProviderName) -> Result<()> {
        self.settings(name)?;
        self.default = Some(name.clone());
        Ok(())
    }

    /// Says that `name` is not configured, and what is.
    pub(super) fn missing(&self, name: &ProviderName) -> String {
        let configured: Vec<&str> = self.providers.keys().map(ProviderName::as_str).collect();
        match configured.as_slice() {
            [] => format!("no key provider {name}: none is configured"),
            names => format!("no key provider {name}; configured: {}", names.join(", ")),
        }
    }
}

/// Place of the configuration file: `chosen` if given, else `/etc/vmcryptfs/config.toml` for root and
/// `vmcryptfs/config.toml` in the XDG configuration folder for others.
///
/// # Errors
/// `NotFound` when a user has no home folder to look in, `Io` when the current folder of a relative path is gone.
pub fn locate(chosen: Option<&Path>) -> Result<PathBuf> {
    let path = match chosen {
        Some(path) => path.to_path_buf(),
        None => standard_place(effective_uid(), env::var_os("XDG_CONFIG_HOME"), env::var_os("HOME"))?,
    };
    std::path::absolute(&path).context(|| format!("finding {}", path.shown()))
}

/// Refuses a configuration file that a person named and that is not there: a name that is mistyped would count as a host without providers.
///
/// # Errors
/// `NotFound`.
pub fn refuse_missing(named: &Path) -> Result<()> {
    match std::fs::symlink_metadata(named) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::new(
            Kind::NotFound,
            format!(
                "the configuration file {} does not exist: `vmcryptfs --config {} provider add native NAME` makes it, if that is its name",
                named.shown(),
                quoted(named)
            ),
        )),
        _ => Ok(()), // reading it says what else there is to say
    }
}

fn standard_place(user: u32, xdg: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    // An XDG folder that is not absolute is to be ignored (XDG Base Directory Specification).
    let absolute = |folder: OsString| Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute());
    let configs = match user {
        0 => Some(PathBuf::from("/etc")),
        _ => xdg.and_then(absolute).or_else(|| home.and_then(absolute).map(|home| home.join(".config"))),
    };
    configs.map(|folder| folder.join("vmcryptfs/config.toml")).ok_or_else(|| {
        Error::new(Kind::NotFound, "no place for the configuration file: neither XDG_CONFIG_HOME nor HOME is set")
    })
}

/// Changes the configuration file, which is made when it does not exist. Concurrent changes wait for each other; an
/// error of `change` changes nothing. Comments of the administrator stay.
///
/// # Errors
/// As [`Config::load`], and what `change` returns.
pub fn update<T>(path: &Path, change: impl FnOnce(&mut Config) -> Result<T>) -> Result<T> {
    private_file::create_folder(private_file::folder_of(path))?;
    let _lock = private_file::lock(path)?;
    let text = private_file::read_text(MAX_CONFIG_LEN, path)?;
    let before = parse(path, &text)?;
    let mut after = before.clone();
    let result = change(&mut after)?;
    if after != before {
        private_file::replace(path, &[text::rewrite(&text, &after)?.as_bytes()])?;
    }
    Ok(result)
}

fn parse(path: &Path, text: &str) -> Result<Config> {
    text::parse(text)
        .map_err(|flaw| Error::new(Kind::Invalid, format!("{}:{}: {}", path.shown(), flaw.line(text), flaw.message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{kind, kinds, primary_key};

    fn name(name: &str) -> ProviderName {
        ProviderName::new(name).unwrap()
    }

    fn native() -> Settings {
        let primary_key = primary_key::Settings::of(&name("x"));
        Settings::new(kinds::named("native").unwrap(), kind::table(&primary_key).unwrap())
    }

    #[test]
    fn the_place_of_the_file_depends_on_the_user() {
        let place = |user, xdg: Option<&str>, home: Option<&str>| {
            standard_place(user, xdg.map(Into::into), home.map(Into::into)).ok()
        };
        let system = Some(PathBuf::from("/etc/vmcryptfs/config.toml"));
        assert_eq!(place(0, Some("/x"), Some("/root")), system);
        assert_eq!(place(1, Some("/x"), Some("/home/u")), Some("/x/vmcryptfs/config.toml".into()));
        assert_eq!(place(1, Some("x"), Some("/home/u")), Some("/home/u/.config/vmcryptfs/config.toml".into()));
        assert_eq!(place(1, Some(""), Some("/home/u")), Some("/home/u/.config/vmcryptfs/config.toml".into()));
        assert_eq!(place(1, None, None), None);
    }

    #[test]
    fn a_chosen_file_wins() {
        assert_eq!(locate(Some(Path::new("/a/b.toml"))).unwrap(), Path::new("/a/b.toml"));
        assert!(locate(Some(Path::new("b.toml"))).unwrap().is_absolute());
    }

    #[test]
    fn the_first_provider_is_the_default_until_another_is_chosen() {
        let mut config = Config::default();
        config.add(name("a"), native()).unwrap();
        config.add(name("b"), native()).unwrap();
        assert_eq!(config.default_name(), Some(&name("a")));
        config.set_default(&name("b")).unwrap();
        assert_eq!(config.default_name(), Some(&name("b")));
        assert_eq!(config.add(name("b"), native()).unwrap_err().kind(), Kind::Exists);
        let error = config.set_default(&name("c")).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::NotFound, "no key provider c; configured: a, b"));
    }

    #[test]
    fn a_missing_file_configures_nothing_and_a_change_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/config.toml");
        assert_eq!(Config::load(&path).unwrap(), Config::default());
        update(&path, |config| config.add(name("a"), native())).unwrap();
        assert!(Config::load(&path).unwrap().settings(&name("a")).is_ok());
    }

    #[test]
    fn a_change_that_fails_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        update(&path, |config| config.add(name("a"), native())).unwrap();
        let before = std::fs::read(&path).unwrap();
        let failed = update(&path, |config| {
            config.add(name("b"), native())?;
            config.add(name("a"), native())
        });
        assert_eq!(failed.unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    #[test]
    fn files_that_are_not_a_configuration_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        update(&path, |config| config.add(name("a"), native())).unwrap();
        let deep = format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        let huge = vec![b'#'; usize::try_from(MAX_CONFIG_LEN).unwrap() + 1];
        for (content, reason) in [
            (huge.as_slice(), "has 1048577 bytes, expected at most 1048576"),
            (b"\xff".as_slice(), "is not UTF-8 text"),
            (deep.as_bytes(), "config.toml:1: "),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Config::load(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
    }
}
