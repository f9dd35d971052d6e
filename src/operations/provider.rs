//! Key providers of this host: added, tested, chosen, backed up, restored, and their keys taken out of use.

use std::path::{Path, PathBuf};

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::cluster::host::HostFiles;
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::cluster::PushedProvider;
use crate::gate::{Object, Operation, Trail};
use crate::key::{KeyId, ProviderName};
use crate::progress::OnProgress;
use crate::provider::backup::{self, Backup, SealedBackup};
use crate::provider::config::{self, Config};
use crate::provider::kind::{Arguments, Configured, Tested};
use crate::provider::rename::rename;
use crate::provider::{self, Added, KeyProvider, KeyState, Pcrs, Revocation, Sealed};
use crate::text::Show;

/// Where a passphrase comes from, when it is needed.
pub type Passphrase<'a> = &'a dyn Fn() -> Result<Zeroizing<Vec<u8>>>;

/// Adds a provider.
pub struct AddProvider<'a> {
    /// The name that it gets.
    pub name: &'a ProviderName,
    /// The name of its kind.
    pub kind: &'a str,
    /// Its settings.
    pub arguments: &'a Arguments,
    /// Whether new VMs get their keys from it.
    pub default: bool,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for AddProvider<'_> {
    const NAME: EventName = EventName::ProviderAdd;
    type Outcome = Added;

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let add = if self.becomes_keeper()? { Config::add_own } else { Config::add };
        provider::add_by(add, self.config, self.name, self.kind, self.arguments, self.default)
    }
}

impl AddProvider<'_> {
    /// Whether this host gets keys of that provider from keepers of its cluster, and is now given credentials of its own.
    fn becomes_keeper(&self) -> Result<bool> {
        let files = HostFiles::of(self.config);
        let Some(membership) = files.membership()? else { return Ok(false) };
        let Some(document) = files.document(&membership)? else { return Ok(false) };
        let is_it = |pushed: &PushedProvider| pushed.name == *self.name && pushed.kind.as_str() == self.kind;
        Ok(document.pushed.iter().any(is_it))
    }
}

/// Proves that a provider works.
pub struct TestProvider<'a> {
    /// Its name.
    pub name: &'a ProviderName,
    /// Configuration file.
    pub config: &'a Path,
    /// Shows what was found, also if that is a failure.
    pub show: &'a dyn Fn(&Tested),
}

impl Operation for TestProvider<'_> {
    const NAME: EventName = EventName::ProviderTest;
    type Outcome = ();

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<()> {
        let Self { name, config, show } = self;
        let configured = Config::load(config)?;
        let provider = Configured { name, settings: configured.settings(name)?, config };
        let tested = provider.settings.kind().test(&provider).context(|| format!("testing key provider {name}"))?;
        show(&tested);
        tested.outcome
    }
}

/// Gives a provider another name.
pub struct RenameProvider<'a> {
    /// Its name.
    pub name: &'a ProviderName,
    /// The name that it gets.
    pub new: &'a ProviderName,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RenameProvider<'_> {
    const NAME: EventName = EventName::ProviderRename;
    type Outcome = ();

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<()> {
        let Self { name, new, config } = self;
        refuse_shared(config, name)?;
        rename(config, name, new)?;
        trail.event().reason(format!("its name is {new} now"));
        Ok(())
    }
}

/// Refuses a provider that the cluster of this host shares under its name, with the same primary key.
fn refuse_shared(config: &Path, name: &ProviderName) -> Result<()> {
    let files = HostFiles::of(config);
    let Some(membership) = files.membership()? else { return Ok(()) };
    let Some(document) = files.document(&membership)? else { return Ok(()) };
    let Some(shared) = document.providers.iter().find(|shared| shared.name == *name) else { return Ok(()) };
    let own = Configured { name, settings: Config::load(config)?.settings(name)?, config }.examine()?;
    match own.is_some_and(|own| shared.number(own).is_some()) {
        true => Err(Error::new(
            Kind::Denied,
            format!("the cluster {} shares provider {name} under this name", document.name),
        )),
        false => Ok(()),
    }
}

/// Makes a provider the one that new VMs get their keys from.
pub struct ChooseDefault<'a> {
    /// Its name.
    pub name: &'a ProviderName,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for ChooseDefault<'_> {
    const NAME: EventName = EventName::ProviderDefault;
    type Outcome = ();

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<()> {
        config::update(self.config, |configured| configured.set_default(self.name))
    }
}

/// Saves a primary key in a new file under a passphrase.
pub struct BackUpProvider<'a> {
    /// Its provider.
    pub name: &'a ProviderName,
    /// The new file.
    pub file: &'a Path,
    /// Asked for only when everything else is right.
    pub passphrase: Passphrase<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for BackUpProvider<'_> {
    const NAME: EventName = EventName::ProviderBackup;
    type Outcome = Uuid;

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<Uuid> {
        let backup = Backup::of(self.config, self.name)?;
        backup::refuse_existing(self.file, "a backup")?; // before anyone thinks of a passphrase
        let passphrase = (self.passphrase)()?;
        backup.write(self.config, self.file, &passphrase, backup::COST)?;
        Ok(backup.primary_uuid())
    }
}

/// Brings a primary key back from a backup.
pub struct RestoreProvider<'a> {
    /// Its provider.
    pub name: &'a ProviderName,
    /// The backup.
    pub file: &'a Path,
    /// Asked for only when everything else is right.
    pub passphrase: Passphrase<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RestoreProvider<'_> {
    const NAME: EventName = EventName::ProviderRestore;
    /// The primary key, and the file that it is in now.
    type Outcome = (Uuid, PathBuf);

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<(Uuid, PathBuf)> {
        let sealed = SealedBackup::read(self.file)?;
        sealed.expect_provider(self.name)?;
        let passphrase = (self.passphrase)()?;
        let backup = sealed.open(&passphrase).context(|| format!("opening the backup {}", self.file.shown()))?;
        let key_file = backup.restore(self.config, self.name)?;
        Ok((backup.primary_uuid(), key_file))
    }
}

/// Seals the share of a provider's keys to the TPM of this host.
pub struct SealShare<'a> {
    /// The provider.
    pub name: &'a ProviderName,
    /// The file that has the share, if it is not the configured one.
    pub share: Option<&'a Path>,
    /// The way to the TPM, if it is not the configured one.
    pub tpm: Option<&'a Path>,
    /// PCRs whose values must stay what they are now.
    pub pcrs: Pcrs,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for SealShare<'_> {
    const NAME: EventName = EventName::ProviderSeal;
    type Outcome = Sealed;

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<Sealed> {
        provider::seal_share(self.config, self.name, self.share, self.tpm, self.pcrs)
    }
}

/// Takes a key out of use that nothing needs any more, or destroys it.
pub struct RetireKey<'a> {
    /// The key.
    pub key_id: &'a KeyId,
    /// What has it.
    pub provider: &'a dyn KeyProvider,
    /// Why.
    pub reason: Revocation,
    /// Whether it is destroyed, which takes one that is out of use.
    pub destroy: bool,
}

impl Operation for RetireKey<'_> {
    const NAME: EventName = EventName::ProviderRetire;
    /// What was done, for people.
    type Outcome = &'static str;

    fn object(&self) -> Object {
        Object::Key(self.key_id.clone())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<&'static str> {
        let done = self.retire()?;
        trail.event().reason(done);
        Ok(done)
    }
}

impl RetireKey<'_> {
    fn retire(&self) -> Result<&'static str> {
        let Self { key_id, provider, .. } = *self;
        let state = provider.key_state(key_id)?;
        match (state, self.destroy) {
            (KeyState::Destroyed, _) => Ok("already destroyed"),
            (KeyState::Active, true) => Err(Error::new(
                Kind::Denied,
                format!("key {key_id} is active: retire it first, and destroy it later, once it has proved unneeded"),
            )),
            (_, true) => provider.destroy_key(key_id).map(|()| "destroyed"),
            (KeyState::Deactivated | KeyState::Compromised, false) => Ok("already retired"),
            (KeyState::Active | KeyState::PreActive | KeyState::Unknown, false) => {
                provider.revoke_key(key_id, self.reason).map(|()| "retired; --destroy destroys it")
            }
        }
    }
}
