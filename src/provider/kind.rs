//! What a kind of key provider says about itself, and a provider as it is configured: its kind and that kind's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Serialize, Serializer};
use toml::Table;
use toml::de::ValueDeserializer;
use uuid::Uuid;

use super::generations::Generations;
use super::kek_share::KekShare;
use super::primary_key;
use super::sealed_share::SealedShare;
use super::{KeyProvider, private_file, round_trip};
use crate::error::{Context, Error, Kind, Result};
use crate::key::ProviderName;
use crate::text::Show;

/// A kind of key provider.
pub trait ProviderKind: fmt::Debug + Sync {
    /// Its name: `kind` in the configuration file, and the word after `provider add`.
    fn name(&self) -> &'static str;

    /// What `provider add` says about it and takes for it.
    fn usage(&self) -> &'static Usage;

    /// Reads its settings from a section of the configuration file, without `kind`, and returns them as they are written.
    ///
    /// # Errors
    /// What is wrong, and where.
    fn parse(&self, section: ValueDeserializer<'_>) -> std::result::Result<Table, toml::de::Error>;

    /// The settings of a new provider.
    ///
    /// # Errors
    /// `Invalid` when the arguments do not fit each other.
    fn settings(&self, name: &ProviderName, arguments: &Arguments) -> Result<Table>;

    /// Sets up a configured provider. Its files are read, but a server is not asked.
    ///
    /// # Errors
    /// Those of its files, and `Invalid`.
    fn open(&self, provider: &Configured<'_>) -> Result<Arc<dyn KeyProvider>>;

    /// Proves that a configured provider works, by doing with it what VMs need.
    ///
    /// # Errors
    /// Whatever keeps the proof from being tried.
    fn test(&self, provider: &Configured<'_>) -> Result<Tested> {
        round_trip(&*provider.open()?)?;
        let report =
            format!("{}: works. A key was made, fetched again, and unwrapped what it had wrapped\n", provider.name);
        Ok(Tested { report, notices: Vec::new(), outcome: Ok(()) })
    }

    /// Whether it keeps a primary key on this host, which is then made with it and can be backed up. Its settings are those
    /// of [`primary_key`](mod@super::primary_key).
    fn keeps_primary_key(&self) -> bool {
        false
    }

    /// Whether its keys are those of a provider that the host's cluster shares, and its primary key is in the memory of the host's agent.
    fn has_keys_from_agent(&self) -> bool {
        false
    }

    /// Whether a host that has it can give its KEKs to others which have no way to it, as the keeper of a cluster.
    fn can_be_pushed(&self) -> bool {
        false
    }

    /// Where the keys of a configured provider are, each place in one spelling. Two providers of this kind with a place in
    /// common have the same keys, whatever their names.
    fn key_places(&self, provider: &Configured<'_>) -> Vec<String>;

    /// Whether fetching a key may take longer than a guest should have to wait for it.
    fn may_wait(&self, _settings: &Settings) -> bool {
        true
    }
}

/// What a test of a provider found.
pub struct Tested {
    /// What was tried, and how it went: whole lines.
    pub report: String,
    /// What an administrator should know although nothing failed.
    pub notices: Vec<String>,
    /// Whether all of it works.
    pub outcome: Result<()>,
}

/// What `provider add` says about a kind, and takes for it besides a provider's name.
#[derive(Debug)]
pub struct Usage {
    /// The kind in one line.
    pub about: &'static str,
    /// The kind at length.
    pub details: &'static str,
    /// Commands that add a provider of this kind, one a line.
    pub example: &'static str,
    /// Its arguments.
    pub arguments: &'static [Argument],
}

/// One argument of `provider add`.
#[derive(Debug)]
pub struct Argument {
    /// What follows `--`.
    pub name: &'static str,
    /// What the help calls its value.
    pub value_name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// What its value is.
    pub value: Value,
    /// Whether it must be given.
    pub required: bool,
    /// Whether it may be given more than once.
    pub repeatable: bool,
}

/// The argument of each kind whose KEKs a share can complete.
pub(super) const KEK_SHARE: Argument = Argument {
    name: "kek-share",
    value_name: "FILE",
    help: "Half of each key, kept in this file of the host or cluster; it is made if it is not there. `provider seal` seals it \
           to the TPM",
    value: Value::SecretFile,
    required: false,
    repeatable: false,
};

/// The value of `kek-share` for a share that is sealed to the TPM, and the setting that says which one.
const TPM: &str = "tpm";
/// The kernel's device, which several programs can use at once.
pub(super) const TPM_DEVICE: &str = "/dev/tpmrm0";

/// What the value of an argument is.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A text that this function accepts, or says what is wrong with.
    Text(fn(&str) -> std::result::Result<(), String>),
    /// The same of letters in base64url, the first of which may be a hyphen.
    Base64Url(fn(&str) -> std::result::Result<(), String>),
    /// Name of a file.
    File,
    /// Name of a file that holds a secret. The secret itself, given by mistake, is not repeated in a message.
    SecretFile,
}

/// Arguments as they were given, by name.
#[derive(Clone, Debug, Default)]
pub struct Arguments(BTreeMap<&'static str, Vec<OsString>>);

impl Arguments {
    /// Adds the values of an argument.
    pub fn insert(&mut self, name: &'static str, values: Vec<OsString>) {
        self.0.insert(name, values);
    }

    pub(super) fn values(&self, name: &'static str) -> impl Iterator<Item = &OsStr> {
        self.0.get(name).into_iter().flatten().map(OsString::as_os_str)
    }

    /// The file that an argument names, absolute.
    pub(super) fn file(&self, name: &'static str) -> Result<PathBuf> {
        self.optional_file(name)?.ok_or_else(|| Error::new(Kind::Invalid, format!("missing argument --{name}")))
    }

    /// The file of a share of KEKs, absolute, if it was given.
    pub(super) fn kek_share(&self) -> Result<Option<PathBuf>> {
        if self.values(KEK_SHARE.name).any(|value| value == TPM) {
            return Err(Error::new(
                Kind::Invalid,
                "a share that only the TPM has would be lost with it: give a file with --kek-share, which becomes the copy, and \
                 then use `vmcryptfs provider seal NAME` (for a file of that name: ./tpm)",
            ));
        }
        self.optional_file(KEK_SHARE.name)
    }

    /// The file that an argument names, absolute, if it was given.
    pub(super) fn optional_file(&self, name: &'static str) -> Result<Option<PathBuf>> {
        let file = self.values(name).next().map(Path::new);
        file.map(|file| std::path::absolute(file).context(|| format!("finding {}", file.shown()))).transpose()
    }
}

/// A section `[provider.NAME]` of the configuration file, which its kind has understood.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    #[serde(serialize_with = "name_of")]
    kind: &'static dyn ProviderKind,
    #[serde(flatten)]
    values: Table,
}

fn name_of<S: Serializer>(kind: &&'static dyn ProviderKind, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.kind.name() == other.kind.name() && self.values == other.values
    }
}

impl Settings {
    /// Values that a provider of this kind has understood.
    pub(super) fn new(kind: &'static dyn ProviderKind, values: Table) -> Self {
        Self { kind, values }
    }

    /// The kind.
    pub fn kind(&self) -> &'static dyn ProviderKind {
        self.kind
    }

    /// What the configuration file says, by name.
    pub(super) fn values(&self) -> &Table {
        &self.values
    }

    /// What the configuration file says, as the kind's own type.
    ///
    /// # Errors
    /// `Invalid` when the type is that of another kind.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.values.clone().try_into().map_err(|error| {
            Error::with_source(Kind::Invalid, format!("settings of a provider of kind {}", self.kind.name()), error)
        })
    }

    /// The settings of its primary key, if the provider keeps one.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn primary_key(&self) -> Result<Option<primary_key::Settings>> {
        if self.kind.keeps_primary_key() { self.read().map(Some) } else { Ok(None) }
    }

    /// What the configuration file says of the share that completes its KEKs, if it has one.
    fn kek_share(&self) -> Option<&str> {
        self.values.get(KEK_SHARE.name)?.as_str()
    }

    /// Whether its KEKs are completed by a share.
    pub fn has_kek_share(&self) -> bool {
        self.kek_share().is_some()
    }

    /// Whether that share is sealed to this host's TPM.
    pub fn uses_tpm(&self) -> bool {
        self.kek_share() == Some(TPM)
    }

    /// The file of the share, unless it is sealed to the TPM, given the configuration file.
    pub(super) fn kek_share_file(&self, config: &Path) -> Option<PathBuf> {
        let file = self.kek_share().filter(|_| !self.uses_tpm())?;
        Some(private_file::folder_of(config).join(file))
    }

    /// The way to the TPM, given the configuration file.
    pub(super) fn tpm_of(&self, config: &Path) -> PathBuf {
        let path = self.values.get(TPM).and_then(toml::Value::as_str).unwrap_or(TPM_DEVICE);
        private_file::folder_of(config).join(path)
    }

    /// The same settings, with the share sealed to the TPM at `tpm`.
    pub(super) fn sealed_to(&self, tpm: &Path) -> Result<Self> {
        let mut values = self.values.clone();
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let path = text(tpm).ok_or_else(|| Error::new(Kind::Invalid, format!("{} is not UTF-8", tpm.shown())))?;
        values.insert(KEK_SHARE.name.into(), TPM.into());
        if path == TPM_DEVICE {
            values.remove(TPM)
        } else {
            values.insert(TPM.into(), path.into())
        };
        Ok(Self { values, ..self.clone() })
    }

    /// The same settings, which say that the primary key is backed up.
    pub(crate) fn backed_up(&self) -> Result<Self> {
        self.with_backed_up(true)
    }

    /// The same settings, which say that the primary key is not backed up.
    pub(super) fn not_backed_up(&self) -> Result<Self> {
        self.with_backed_up(false)
    }

    fn with_backed_up(&self, backed_up: bool) -> Result<Self> {
        match self.primary_key()? {
            Some(former) => Ok(Self { values: table(&primary_key::Settings { backed_up, ..former })?, ..self.clone() }),
            None => Ok(self.clone()),
        }
    }
}

/// A provider of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Configured<'c> {
    /// Its name.
    pub name: &'c ProviderName,
    /// Its section.
    pub settings: &'c Settings,
    /// The configuration file: its folder is where relative paths begin.
    pub config: &'c Path,
}

impl Configured<'_> {
    /// Sets up the provider.
    ///
    /// # Errors
    /// Those of [`ProviderKind::open`].
    pub fn open(&self) -> Result<Arc<dyn KeyProvider>> {
        self.settings.kind.open(self)
    }

    /// The share that completes its KEKs, if it has one.
    ///
    /// # Errors
    /// Those of [`KekShare::load`], or of [`SealedShare::load`] and [`SealedShare::unseal`].
    pub fn kek_share(&self) -> Result<Option<KekShare>> {
        if self.settings.uses_tpm() {
            let unsealed = SealedShare::load(&self.sealed_share())?.unseal(&self.settings.tpm_of(self.config));
            return unsealed.map(Some).context(|| {
                format!(
                    "unsealing the kek-share; for another TPM or other PCRs, `vmcryptfs provider seal {} --share FILE` seals a copy of \
                     it again",
                    self.name
                )
            });
        }
        self.settings.kek_share_file(self.config).map(|path| KekShare::load(&path)).transpose()
    }

    /// The file of the share that is sealed to the TPM, be it there or not.
    pub(super) fn sealed_share(&self) -> PathBuf {
        private_file::folder_of(self.config).join(format!("keys/{}.kek-share", self.name))
    }

    /// Reads the files of the provider. Returns the UUID of its primary key, if it keeps one.
    ///
    /// # Errors
    /// Those of its files.
    pub fn examine(&self) -> Result<Option<Uuid>> {
        match self.settings.primary_key()? {
            Some(settings) => {
                self.kek_share()?;
                Generations::of(settings.primary_key_of(self.config)).current().map(|primary| Some(primary.uuid()))
            }
            None => self.open().map(|_| None),
        }
    }

    /// Where its keys are, each place with the name of its kind: providers with a place in common have the same keys.
    pub(super) fn key_places(&self) -> BTreeSet<(&'static str, String)> {
        let kind = self.settings.kind;
        kind.key_places(self).into_iter().map(|place| (kind.name(), place)).collect()
    }
}

/// [`ProviderKind::parse`] for settings of this type.
pub(super) fn parse<T: DeserializeOwned + Serialize>(
    section: ValueDeserializer<'_>,
) -> std::result::Result<Table, toml::de::Error> {
    Table::try_from(T::deserialize(section)?).map_err(toml::de::Error::custom)
}

/// Settings as they are written.
pub(super) fn table(settings: &impl Serialize) -> Result<Table> {
    Table::try_from(settings).map_err(|error| Error::with_source(Kind::Invalid, "writing the configuration", error))
}
