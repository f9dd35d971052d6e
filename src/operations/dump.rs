//! Dumps of this host's processes: what they are encrypted to, taking one, opening and removing them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::provider::Passphrase;
use crate::dump::kernel::{self, CORE_PATTERN, CORE_PIPE_LIMIT, Handler, HostState, SYSCTL_FILE};
use crate::dump::refusals::{self, Told};
use crate::dump::{DumpFolder, KeyFile, LockedDump, Opened, Process, Taken, make, opened_by, take};
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::dump::{DumpKey, DumpKeyFile};
use crate::gate::{Object, Operation, Trail};
use crate::key::{KeyId, ProviderName};
use crate::progress::OnProgress;
use crate::provider::backup::{COST, refuse_existing};
use crate::provider::config::Config;
use crate::provider::primary_key::primary_of;
use crate::provider::{Providers, private_file};
use crate::sys::SecretBytes;
use crate::text::{self, Show, quoted};
use crate::timestamp::Timestamp;

/// What the kernel does with dumps now.
///
/// # Errors
/// `Io`.
pub fn core_pattern() -> Result<String> {
    fs::read_to_string(CORE_PATTERN).context(|| format!("reading {CORE_PATTERN}"))
}

/// Where a host stands with its dumps.
pub struct HostDumps {
    /// In vSphere's words.
    pub state: HostState,
    /// Why it is not better.
    pub reason: Option<String>,
    /// What dumps are encrypted to, if this host has such a key.
    pub key: Option<DumpKeyFile>,
    /// The kernel's line.
    pub pattern: String,
}

impl HostDumps {
    /// That of a host with this configuration.
    ///
    /// # Errors
    /// Those of the dump key's file, and `Io`.
    pub fn of(config: &Path) -> Result<Self> {
        let (key, pattern) = (KeyFile::of(config).load()?, core_pattern()?);
        let (mut state, mut reason) = kernel::state(&pattern, config, key.is_some());
        if let (HostState::Safe, Some(file)) = (state, &key)
            && let Err(error) = check_host_key(&file.key, config)
        {
            (state, reason) = (HostState::Prepared, Some(error.chain()));
        }
        Ok(Self { state, reason, key, pattern })
    }
}

/// Refuses a host key of which it is known here that dumps are lost with it, or soon will be. Asks no key server.
fn check_host_key(key: &DumpKey, config: &Path) -> Result<()> {
    let host_key = &key.host_key;
    if primary_of(host_key).is_err() {
        return Ok(()); // a key server has it
    }
    let renew = "`vmcryptfs dump setup --renew` makes another one";
    let providers = Providers::load(config)?;
    let opened = providers.fetch(host_key).and_then(|kek| key.unwrap(kek.as_ref()));
    opened.context(|| format!("dumps are lost: this host does not have its host key {host_key}; {renew}"))?;
    if providers.provider(host_key.provider())?.is_superseded(host_key)? {
        let message =
            format!("dumps are lost when a former primary key is retired, by which the host key was made; {renew}");
        return Err(Error::new(Kind::KeyUnavailable, message));
    }
    Ok(())
}

/// Refuses keys that this host, or a dump in its folder, needs to open dumps. Providers of two names may be one, so only ids are compared.
///
/// # Errors
/// `Denied`, and those of reading them.
pub fn refuse_host_keys(keys: &[KeyId], config: &Path) -> Result<()> {
    let needs = |host_key: &KeyId| keys.iter().find(|key| host_key.may_be_called(key.id()));
    refuse_needed(config, &|host_key| needs(host_key).map(|key| format!("key {key}")))
}

/// Refuses primary keys whose KEKs this host, or a dump in its folder, needs to open dumps.
///
/// # Errors
/// `Denied`, and those of reading them.
pub fn refuse_host_primaries(primaries: &[Uuid], config: &Path) -> Result<()> {
    let needs = |host_key: &KeyId| primary_of(host_key).ok().filter(|primary| primaries.contains(primary));
    refuse_needed(config, &|host_key| needs(host_key).map(|primary| format!("primary key {primary}")))
}

/// Refuses what is needed by this host or a dump in its folder. `needs` names what a host key needs of it.
fn refuse_needed(config: &Path, needs: &dyn Fn(&KeyId) -> Option<String>) -> Result<()> {
    let refuse = |key: String, by: &str| Err(Error::new(Kind::Denied, format!("{key} is in use: {by}")));
    if let Some(file) = KeyFile::of(config).load()?
        && let Some(key) = needs(&file.key.host_key)
    {
        return refuse(key, "the host key of this host needs it, and `vmcryptfs dump setup --renew` makes another one");
    }
    for dump in DumpFolder::of(config, Config::load(config)?.dumps()).list()? {
        if !dump.is_finished && dump.len == 0 {
            continue; // its writer was stopped before anything was encrypted
        }
        let path = dump.path.shown();
        let header = dump
            .header
            .context(|| format!("a dump may need the key; if not, `vmcryptfs dump remove {path}` takes it away"))?;
        if let Some(key) = opened_by(&header).and_then(needs) {
            let word = quoted(&dump.path);
            let ways = format!(
                "`vmcryptfs dump recrypt {word} FILE` or `vmcryptfs dump decrypt {word} FILE`, then `vmcryptfs dump remove {word}`"
            );
            return refuse(key, &format!("the dump {path} opens by nothing else: {ways}"));
        }
    }
    Ok(())
}

/// Makes this host's host key and dump key, unless they are there. Has the kernel give dumps to this program, if that is wanted.
pub struct SetUpDumps<'a> {
    /// The provider of the host key; the default one if none is named.
    pub provider: Option<&'a ProviderName>,
    /// The line of `core_pattern` that is set, now and when the host starts.
    pub install: Option<&'a str>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for SetUpDumps<'_> {
    const NAME: EventName = EventName::DumpSetup;
    /// The dump key, and whether it was made now.
    type Outcome = (DumpKey, bool);

    fn object(&self) -> Object {
        Object::Host
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let file = KeyFile::of(self.config);
        let _lock = file.lock()?;
        let (key, is_new) = match file.load()? {
            Some(there) => {
                if let Some(wanted) = self.provider {
                    Config::load(self.config)?.settings(wanted)?;
                    refuse_other(&there.key, wanted)?;
                }
                (there.key, false)
            }
            None => (new_key(&file, self.config, self.provider, trail)?, true),
        };
        trail.event().key(&key.host_key);
        if let Some(line) = self.install {
            let [pattern, pipe_limit, sysctl] = [CORE_PATTERN, CORE_PIPE_LIMIT, SYSCTL_FILE].map(Path::new);
            install(line, &Places { pattern, pipe_limit, sysctl })?;
        }
        Ok((key, is_new))
    }
}

fn refuse_other(key: &DumpKey, wanted: &ProviderName) -> Result<()> {
    let there = key.host_key.provider();
    if wanted == there {
        return Ok(());
    }
    let found = format!("this host has a host key of provider {there}: --renew makes one of {wanted}");
    Err(Error::new(Kind::Exists, found))
}

fn new_key(file: &KeyFile, config: &Path, provider: Option<&ProviderName>, trail: &mut Trail) -> Result<DumpKey> {
    let providers = Providers::load(config)?;
    let provider = match provider {
        Some(name) => providers.chosen(name).map(|_| name.clone())?,
        None => providers.default_provider()?.0,
    };
    trail.event().provider(&provider);
    let made = make(&providers, &provider)?;
    file.keep(&made)?;
    Ok(made.key)
}

/// The files that give dumps to us: the kernel's two, and the one that sets them when the host starts.
struct Places<'a> {
    pattern: &'a Path,
    pipe_limit: &'a Path,
    sysctl: &'a Path,
}

/// Sets the line in a file of sysctl.d first, so that no restart forgets it, then in the kernel's file. What is as it should be stays.
fn install(line: &str, places: &Places<'_>) -> Result<()> {
    let read = |path: &Path| fs::read_to_string(path).context(|| format!("reading {}", path.shown()));
    let write = |path: &Path, text: &str| fs::write(path, text).context(|| format!("writing {}", path.shown()));
    let former = read(places.pattern)?;
    let former = former.trim();
    // One that was ours is not what was there before.
    let there = fs::read_to_string(places.sysctl).ok();
    let recorded = there.as_deref().filter(|_| Handler::of(former).is_some()).and_then(kernel::former_of);
    let content = kernel::sysctl_file(line, recorded.unwrap_or(former));
    if there.as_deref() != Some(content.as_str()) {
        private_file::replace(places.sysctl, &[content.as_bytes()])?;
    }
    if former != line {
        write(places.pattern, line)?;
    }
    // With 0 the kernel begins any number of dumps at once.
    if read(places.pipe_limit)?.trim() == "0" {
        write(places.pipe_limit, kernel::PIPE_LIMIT)?;
    }
    Ok(())
}

/// Makes both keys again, perhaps of another provider. Dumps that are there open as before.
pub struct RenewHostKey<'a> {
    /// The provider of the new host key; that of the former one if none is named.
    pub provider: Option<&'a ProviderName>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RenewHostKey<'_> {
    const NAME: EventName = EventName::DumpRenew;
    type Outcome = DumpKey;

    fn object(&self) -> Object {
        Object::Host
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<DumpKey> {
        let file = KeyFile::of(self.config);
        let _lock = file.lock()?;
        // One that is damaged is what a renewal mends.
        let former = file.load().ok().flatten().map(|former| former.key.host_key.provider().clone());
        let key = new_key(&file, self.config, self.provider.or(former.as_ref()), trail)?;
        trail.event().key(&key.host_key);
        Ok(key)
    }
}

/// Takes a dump that the kernel gives.
pub struct TakeDump<'a> {
    /// Of which process.
    pub process: &'a Process,
    /// The dump.
    pub source: &'a mut dyn Read,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for TakeDump<'_> {
    const NAME: EventName = EventName::DumpTake;
    type Outcome = Taken;

    fn object(&self) -> Object {
        Object::Host
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Taken> {
        let Process { pid, uid, signal, program, .. } = self.process;
        let process = format!("{program}, process {pid} of user id {uid}, ended by signal {signal}");
        let taken = take(self.config, self.process, self.source).context(|| format!("the dump of {process}"));
        let taken = taken.map_err(|error| counted(error, self.config, trail))?;
        let cut =
            taken.ended.cut.as_ref().map(|why| format!(", cut after {} bytes: {}", taken.ended.plain_len, why.chain()));
        trail.event().component(&taken.path).reason(process + &cut.unwrap_or_default());
        Ok(taken)
    }
}

/// Counts a refusal, and tells of those before it that had no event. A host that cannot count leaves an event of each.
fn counted(error: Error, config: &Path, trail: &mut Trail) -> Error {
    match refusals::count(config, Timestamp::now()) {
        Ok(Told::Counted) => trail.counted(),
        Ok(Told::WithOthers(others)) if others > 0 => {
            let others = text::count(others, "other dump was", "other dumps were");
            return Error::with_source(error.kind(), format!("{others} refused before this one"), error);
        }
        Ok(Told::WithOthers(_)) | Err(_) => {}
    }
    error
}

/// Opens a dump: by its host key, or by a passphrase that is asked for if it has to be.
fn open(dump: &LockedDump, passphrase: Passphrase<'_>, config: &Path, trail: &mut Trail) -> Result<SecretBytes> {
    let header = dump.header();
    trail.event().uuid(header.about.uuid);
    match opened_by(header) {
        None => header.open_by_passphrase(&passphrase()?),
        Some(host_key) => {
            trail.event().key(host_key);
            let kek = Providers::load(config)?.fetch(host_key)?;
            header.open_by_host_key(kek.as_ref())
        }
    }
}

/// Decrypts a dump into a new file.
pub struct DecryptDump<'a> {
    /// The dump.
    pub file: &'a Path,
    /// The new file.
    pub output: &'a Path,
    /// Whether what is authentic of a damaged one is wanted.
    pub partial: bool,
    /// Of a dump that has one.
    pub passphrase: Passphrase<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for DecryptDump<'_> {
    const NAME: EventName = EventName::DumpDecrypt;
    type Outcome = Opened;

    fn object(&self) -> Object {
        Object::Dump(self.file.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Opened> {
        let dump = locked(self.file, self.output)?;
        let dek = open(&dump, self.passphrase, self.config, trail)?;
        dump.decrypt(&dek, self.output, self.partial)
    }
}

/// A dump that is to be opened into a new file.
fn locked(file: &Path, output: &Path) -> Result<LockedDump> {
    refuse_existing(output, "what is opened")?;
    LockedDump::read(file)
}

/// Encrypts a dump of this host again, under a passphrase that its reader knows.
pub struct RecryptDump<'a> {
    /// The dump.
    pub file: &'a Path,
    /// The new file.
    pub output: &'a Path,
    /// That of the new file.
    pub passphrase: Passphrase<'a>,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RecryptDump<'_> {
    const NAME: EventName = EventName::DumpRecrypt;
    type Outcome = Opened;

    fn object(&self) -> Object {
        Object::Dump(self.file.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Opened> {
        let dump = locked(self.file, self.output)?;
        let encrypted = || {
            let message = format!("{} is encrypted under a passphrase already", self.file.shown());
            Err(Error::new(Kind::Invalid, message))
        };
        let dek = open(&dump, &encrypted, self.config, trail)?;
        dump.encrypt_again(&dek, self.output, &(self.passphrase)()?, COST)
    }
}

/// Removes dumps of this host.
pub struct RemoveDump<'a> {
    /// One of the folder of dumps, by its name or its path.
    pub dump: &'a Path,
    /// Configuration file.
    pub config: &'a Path,
}

impl Operation for RemoveDump<'_> {
    const NAME: EventName = EventName::DumpRemove;
    /// Its path.
    type Outcome = PathBuf;

    fn object(&self) -> Object {
        Object::Dump(self.dump.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<PathBuf> {
        let path = DumpFolder::of(self.config, Config::load(self.config)?.dumps()).remove(self.dump)?;
        trail.event().component(&path);
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::generations::Generations;
    use crate::provider::kind::Arguments;
    use crate::provider::primary_key::PrimaryKey;
    use crate::provider::{self, kinds::KINDS};

    #[test]
    fn a_host_key_of_a_former_or_lost_primary_key_is_noticed_and_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let name = ProviderName::new("shared").unwrap();
        provider::add(&config, &name, KINDS[0].name(), &Arguments::default(), false).unwrap();
        let made = make(&Providers::load(&config).unwrap(), &name).unwrap();
        let (file, primary) = (KeyFile::of(&config), primary_of(&made.key.host_key).unwrap());
        let _lock = file.lock().unwrap();
        file.keep(&made).unwrap();
        check_host_key(&made.key, &config).unwrap();
        let refusal = refuse_host_primaries(&[primary], &config).unwrap_err();
        assert!(refusal.kind() == Kind::Denied && refusal.to_string().contains("dump setup --renew"), "{refusal}");
        refuse_host_primaries(&[Uuid::nil()], &config).unwrap();
        let part = dir.path().join("dumps/qemu-1.part");
        fs::create_dir(dir.path().join("dumps")).unwrap();
        fs::write(&part, "").unwrap();
        refuse_host_primaries(&[Uuid::nil()], &config).unwrap();
        fs::write(&part, "VMC").unwrap();
        let refusal = refuse_host_primaries(&[Uuid::nil()], &config).unwrap_err().to_string();
        assert!(refusal.contains(&format!("`vmcryptfs dump remove {}`", part.shown())), "{refusal}");
        fs::remove_file(&part).unwrap();

        let generations = Generations::of(dir.path().join("keys/shared.key"));
        let next = PrimaryKey::generate().unwrap();
        generations.keep_coming(&next).unwrap();
        generations.make_current(next.uuid()).unwrap();
        let said = |key| check_host_key(key, &config).unwrap_err().chain();
        assert!(said(&made.key).contains("a former primary key"), "{}", said(&made.key));
        generations.wipe(primary).unwrap();
        assert!(said(&made.key).contains("this host does not have its host key"), "{}", said(&made.key));
    }

    #[test]
    fn the_line_is_set_now_and_at_the_start_and_what_was_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let [pattern, pipe_limit, sysctl] = ["core_pattern", "limit", "60.conf"].map(|name| dir.path().join(name));
        let places = Places { pattern: &pattern, pipe_limit: &pipe_limit, sysctl: &sysctl };
        fs::write(&pipe_limit, "0\n").unwrap();
        fs::write(&pattern, "|/usr/lib/systemd/systemd-coredump %P\n").unwrap();
        let lines = ["/usr/bin/vmcryptfs", "/usr/local/bin/vmcryptfs"]
            .map(|program| kernel::pattern(Path::new(program), Path::new("/c.toml"), None).unwrap());
        for line in &lines {
            install(line, &places).unwrap();
            assert_eq!(fs::read_to_string(&pattern).unwrap(), *line);
            let content = fs::read_to_string(&sysctl).unwrap();
            assert!(content.contains(&format!("\nkernel.core_pattern = {line}\n")), "{content}");
            assert_eq!(kernel::former_of(&content), Some("|/usr/lib/systemd/systemd-coredump %P"));
        }
        let before = fs::metadata(&sysctl).unwrap().modified().unwrap();
        install(&lines[1], &places).unwrap();
        assert_eq!(fs::metadata(&sysctl).unwrap().modified().unwrap(), before, "nothing was to be done");
        assert_eq!(fs::read_to_string(&pipe_limit).unwrap(), kernel::PIPE_LIMIT);
        // One that an admin has chosen stays, and a file that does not set the line is mended.
        fs::write(&pipe_limit, "4\n").unwrap();
        let content = fs::read_to_string(&sysctl).unwrap();
        fs::write(&sysctl, content.replace("kernel.core_pattern", "# kernel.core_pattern")).unwrap();
        install(&lines[1], &places).unwrap();
        assert_eq!(fs::read_to_string(&pipe_limit).unwrap(), "4\n");
        assert_eq!(fs::read_to_string(&sysctl).unwrap(), content);
    }
}
