//! Backup of a native provider's primary key, sealed under a passphrase (docs/FORMAT.md, section 5).
//!
//! The way back is in stages: [`SealedBackup`] is bytes that have the form of a backup, [`Backup`] one whose passphrase
//! was right. The provider's name is sealed with the key, since it is part of the identity of every KEK.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::config::{self, Config};
use super::generations::Generations;
use super::kind::{Arguments, Settings};
use super::kinds::{KINDS, one_of};
use super::primary_key::{self, PrimaryKey};
use super::private_file;
use crate::crypto::derive::sha256;
use crate::crypto::passphrase::{self, Cost};
use crate::crypto::{aead, random};
use crate::error::{Context, Error, Kind, Result};
use crate::key::{KEK_LEN, MAX_PROVIDER_LEN, ProviderName};
use crate::sys::SecretBytes;
use crate::text::Show;

/// The cost of each guess at a passphrase: 256 MiB and about a second.
pub const COST: Cost = Cost { memory_kib: 262_144, passes: 3, lanes: 4 };

const MAGIC: [u8; 8] = *b"VMCRYPTB";
const VERSION: u16 = 1;
const FIXED_LEN: usize = 68;
const SALT_LEN: usize = 16;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const SEALED_LEN: usize = KEK_LEN + TAG_LEN;
const CHECKSUM_LEN: usize = 32;
const MAX_LEN: usize = FIXED_LEN + MAX_PROVIDER_LEN + SEALED_LEN + CHECKSUM_LEN;

/// A primary key and the name of its provider: what a backup holds.
pub struct Backup {
    provider: ProviderName,
    primary: PrimaryKey,
}

impl Backup {
    /// Takes the primary key of a configured provider, to be backed up.
    ///
    /// # Errors
    /// `NotFound` when no such provider is configured; those of [`Generations::current`].
    pub fn of(config: &Path, provider: &ProviderName) -> Result<Self> {
        let configured = Config::load(config)?;
        let settings = primary_key_of(configured.settings(provider)?)?;
        let primary = Generations::of(settings.primary_key_of(config)).current()?;
        Ok(Self { provider: provider.clone(), primary })
    }

    /// UUID of the primary key.
    pub fn primary_uuid(&self) -> Uuid {
        self.primary.uuid()
    }

    /// Makes a backup file, reads it back, opens it, and only then says in the configuration that there is one.
    ///
    /// # Errors
    /// `Exists` when `file` does, `Corrupt` when what was read back is not what was written, `Io`.
    pub fn write(&self, config: &Path, file: &Path, passphrase: &[u8], cost: Cost) -> Result<()> {
        private_file::create(file, &[&self.seal(passphrase, cost)?])?;
        let verified = SealedBackup::read(file).and_then(|sealed| sealed.open(passphrase));
        match verified.context(|| format!("reading back {}", file.shown()))? {
            same if same == *self => {}
            _ => return Err(Error::new(Kind::Corrupt, format!("{} holds another key than written", file.shown()))),
        }
        config::update(config, |config| {
            let settings = config.settings(&self.provider)?.backed_up()?;
            config.set(&self.provider, settings)
        })
    }

    /// The bytes of a backup file.
    ///
    /// # Errors
    /// `Invalid` when `cost` is not one that Argon2 or the format has, `Io` when the system has no random bytes.
    pub fn seal(&self, passphrase: &[u8], cost: Cost) -> Result<Vec<u8>> {
        let (mut salt, mut nonce) = ([0; SALT_LEN], [0; NONCE_LEN]);
        random::fill(&mut salt)?;
        random::fill(&mut nonce)?;
        let name = self.provider.as_str().as_bytes();
        let name_len = u8::try_from(name.len()).expect("a provider name has at most 64 bytes");
        let mut bytes = Vec::with_capacity(MAX_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[name_len, 0]);
        for parameter in [cost.memory_kib, cost.passes, cost.lanes] {
            bytes.extend_from_slice(&parameter.to_le_bytes());
        }
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(self.primary.uuid().as_bytes());
        bytes.extend_from_slice(name);
        let key = passphrase::derive(passphrase, &salt, &cost)?;
        let sealed = aead::seal(&key, &nonce, &bytes, self.primary.bytes())?;
        bytes.extend_from_slice(&sealed);
        bytes.extend_from_slice(&sha256(&bytes));
        Ok(bytes)
    }

    /// Brings the primary key to this host, and the provider into its configuration when it is not there.
    ///
    /// An intact primary key of the same UUID stays as it is, a damaged one is replaced. Returns the primary key's file.
    ///
    /// # Errors
    /// `Invalid` when the backup is of another provider, `Exists` when this host's provider has another primary key or
    /// the file of its primary key is not recognised as one, `Io`.
    pub fn restore(&self, config: &Path, provider: &ProviderName) -> Result<PathBuf> {
        let known = Config::load(config)?.providers().get(provider).and_then(|own| primary_key_of(own).ok());
        // A backup of before a rename.
        if known.is_none_or(|own| !own.former_names.iter().any(|name| name == self.provider.as_str())) {
            check_name(&self.provider, provider)?;
        }
        install(config, provider, &self.primary, Settings::backed_up)
    }
}

/// Brings a primary key to this host, and its provider into the configuration when it is not there. `mark` changes the
/// provider's settings.
///
/// # Errors
/// Those of [`Backup::restore`].
pub(super) fn install(
    config: &Path,
    provider: &ProviderName,
    primary: &PrimaryKey,
    mark: impl FnOnce(&Settings) -> Result<Settings>,
) -> Result<PathBuf> {
    config::update(config, |configured| {
        if !configured.providers().contains_key(provider) {
            configured.add(provider.clone(), settings_of_restored(provider)?)?;
        }
        let settings = configured.settings(provider)?;
        let (path, marked) = (primary_key_of(settings)?.primary_key_of(config), mark(settings)?);
        install_file(primary, &path)?;
        Generations::of(path.clone()).forget_wiped()?;
        configured.set(provider, marked)?;
        Ok(path)
    })
}

fn install_file(primary: &PrimaryKey, path: &Path) -> Result<()> {
    let there = match PrimaryKey::load(path) {
        Ok(there) => there,
        Err(error) if error.kind() == Kind::KeyUnavailable => return primary.create(path),
        Err(error) if error.kind() == Kind::Corrupt => return replace_damaged(primary, path, error),
        Err(error) => return Err(error),
    };
    if there.uuid() != primary.uuid() {
        return Err(Error::new(
            Kind::Exists,
            format!(
                "{} holds primary key {}, the backup {}: KEKs of the one do not open with the other. Move the file \
                 away to use the backup's",
                path.shown(),
                there.uuid(),
                primary.uuid()
            ),
        ));
    }
    if there.bytes() != primary.bytes() {
        return Err(Error::new(
            Kind::Exists,
            format!("{} and the backup have the same uuid and different keys: one was forged", path.shown()),
        ));
    }
    Ok(())
}

/// Only over a file that still says it is this primary key: a file that is not recognised may hold the only copy of a key.
fn replace_damaged(primary: &PrimaryKey, path: &Path, damage: Error) -> Result<()> {
    match PrimaryKey::claimed_uuid(path)? {
        Some(uuid) if uuid == primary.uuid() => primary.replace(path),
        _ => Err(Error::with_source(
            Kind::Exists,
            format!("{} is damaged and cannot be compared with the backup's key: move it away", path.shown()),
            damage,
        )),
    }
}

impl PartialEq for Backup {
    fn eq(&self, other: &Self) -> bool {
        self.provider == other.provider
            && self.primary.uuid() == other.primary.uuid()
            && self.primary.bytes() == other.primary.bytes()
    }
}

/// A whole backup whose passphrase was not tried yet. Nothing in it is proven: any program can make such a file.
pub struct SealedBackup {
    associated: Vec<u8>,
    sealed: Vec<u8>,
    provider: ProviderName,
    primary_uuid: Uuid,
    cost: Cost,
    salt: [u8; SALT_LEN],
    nonce: [u8; NONCE_LEN],
}

impl SealedBackup {
    /// Reads a backup file.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode), `NotFound`, `Io`.
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::with_capacity(MAX_LEN + 1);
        File::open(path)
            .and_then(|file| file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes))
            .context(|| format!("reading the backup {}", path.shown()))?;
        Self::decode(&bytes).context(|| format!("reading the backup {}", path.shown()))
    }

    /// Everything that can be known without the passphrase is checked here, the limits of its cost above all.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 backup has, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::new(Kind::Corrupt, format!("damaged, or not a backup: {what}"));
        if !bytes.starts_with(&MAGIC) {
            return Err(damaged("it does not begin with VMCRYPTB"));
        }
        let version = bytes[MAGIC.len()..].first_chunk().ok_or_else(|| damaged("it ends within its version"))?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(Error::new(Kind::Unsupported, format!("a backup of version {version}, expected {VERSION}")));
        }
        let bytes = match bytes.split_last_chunk::<CHECKSUM_LEN>() {
            Some((bytes, checksum)) if sha256(bytes) == *checksum => bytes,
            _ => return Err(damaged("its checksum does not match")),
        };
        let (fixed, rest) = bytes.split_first_chunk::<FIXED_LEN>().ok_or_else(|| damaged("it is too short"))?;
        let [name_len, reserved] = field(fixed, 10);
        if reserved != 0 {
            return Err(damaged("a reserved byte is set"));
        }
        let word = |at| u32::from_le_bytes(field(fixed, at));
        let cost = Cost { memory_kib: word(12), passes: word(16), lanes: word(20) };
        check_cost(cost)?;
        let (name, sealed) = rest
            .split_at_checked(usize::from(name_len))
            .filter(|(_, sealed)| sealed.len() == SEALED_LEN)
            .ok_or_else(|| damaged(&format!("{} bytes do not fit its provider's name", bytes.len())))?;
        let provider = std::str::from_utf8(name)
            .ok()
            .and_then(|name| ProviderName::new(name).ok())
            .ok_or_else(|| damaged("its provider's name is not one"))?;
        Ok(Self {
            associated: bytes[..bytes.len() - SEALED_LEN].to_vec(),
            sealed: sealed.to_vec(),
            provider,
            primary_uuid: Uuid::from_bytes(field(fixed, 52)),
            cost,
            salt: field(fixed, 24),
            nonce: field(fixed, 40),
        })
    }

    /// Refuses a backup of another provider than wanted, before a passphrase is asked for.
    ///
    /// # Errors
    /// `Invalid`, naming both.
    pub fn expect_provider(&self, wanted: &ProviderName) -> Result<()> {
        check_name(&self.provider, wanted)
    }

    /// Opens the backup.
    ///
    /// # Errors
    /// `KeyRejected` when the passphrase is wrong: the file's checksum was right.
    pub fn open(self, passphrase: &[u8]) -> Result<Backup> {
        let key: SecretBytes = passphrase::derive(passphrase, &self.salt, &self.cost)?;
        let primary = aead::open(&key, &self.nonce, &self.associated, &self.sealed)
            .map_err(|_| Error::new(Kind::KeyRejected, "the passphrase is wrong"))?;
        Ok(Backup { provider: self.provider, primary: PrimaryKey::new(self.primary_uuid, primary)? })
    }
}

/// The limits of the format, and Argon2's own: 8 KiB for each lane (RFC 9106, section 3.1). Beyond them a file could ask
/// for any amount of time and memory.
fn check_cost(cost: Cost) -> Result<()> {
    let Cost { memory_kib, passes, lanes } = cost;
    let allowed =
        (1..=64).contains(&passes) && (1..=16).contains(&lanes) && (8 * lanes..=4_194_304).contains(&memory_kib);
    if allowed {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "damaged: Argon2id with {memory_kib} KiB, {passes} passes and {lanes} lanes, expected 8 KiB a lane to 4194304 KiB, 1 \
             to 64 passes, 1 to 16 lanes"
        ),
    ))
}

/// Refuses the name of something that is there: what is `called` so, such as "a backup", is a new file.
///
/// # Errors
/// `Exists`.
pub fn refuse_existing(file: &Path, called: &str) -> Result<()> {
    match file.symlink_metadata() {
        Ok(_) => Err(Error::new(Kind::Exists, format!("{} exists already: {called} is a new file", file.shown()))),
        Err(_) => Ok(()), // making it says more
    }
}

/// The settings of a provider's primary key, which is what a backup is of.
pub(super) fn primary_key_of(settings: &Settings) -> Result<primary_key::Settings> {
    settings.primary_key()?.ok_or_else(|| {
        let kinds = KINDS.iter().filter(|kind| kind.keeps_primary_key()).map(|kind| kind.name().to_owned());
        let (found, expected) = (settings.kind().name(), one_of(kinds));
        let message = format!("a provider of kind {found} keeps no primary key on this host, expected {expected}");
        Error::new(Kind::Unsupported, message)
    })
}

/// The settings of a provider that this host does not have, and whose primary key is restored.
fn settings_of_restored(name: &ProviderName) -> Result<Settings> {
    let kind = KINDS.into_iter().find(|kind| kind.keeps_primary_key());
    let kind = kind.ok_or_else(|| Error::new(Kind::Unsupported, "no kind of provider keeps a primary key"))?;
    Ok(Settings::new(kind, kind.settings(name, &Arguments::default())?))
}

fn check_name(found: &ProviderName, wanted: &ProviderName) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!(
            "the backup is of provider {found}, not {wanted}: keys are named after their provider, so it must be \
             restored as {found}"
        ),
    ))
}

fn field<const N: usize>(bytes: &[u8; FIXED_LEN], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("fields end within the fixed part")
}

#[cfg(test)]
mod tests;
