//! Key providers as an administrator meets them: several hosts, lost keys, wrong passphrases, two shells at once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod testkit;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use clap::{Command, FromArgMatches, Subcommand};
use testkit::datastore::Datastore;
use vmcryptfs::cli::provider::{ProviderCommand, run};
use vmcryptfs::crypto::passphrase::Cost;
use vmcryptfs::error::{Kind, Result};
use vmcryptfs::key::{Dek, ProviderName};
use vmcryptfs::provider::backup::Backup;
use vmcryptfs::provider::config::Config;
use vmcryptfs::provider::{Arguments, NewKey, Providers, add};
use vmcryptfs::sys::SecretBytes;

/// A machine with removable media and an administrator's shell.
impl Datastore {
    fn key(&self, provider: &str) -> PathBuf {
        self.beside(&format!("keys/{provider}.key"))
    }

    /// A file of this host that holds `text`.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.beside(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `vmcryptfs provider ARGUMENTS`, as typed.
    fn provider(&self, arguments: &str) -> Result<()> {
        run(parse(arguments.split_whitespace()).unwrap(), &self.config())
    }

    /// A backup under "correct horse" that costs next to nothing to open, unlike those of `provider backup`.
    fn cheap_backup(&self, provider: &str) -> PathBuf {
        let file = self.beside(&format!("{provider}.backup"));
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let backup = Backup::of(&self.config(), &name(provider)).unwrap();
        backup.write(&self.config(), &file, b"correct horse", cost).unwrap();
        file
    }

    fn backed_up(&self, provider: &str) -> bool {
        let config = Config::load(&self.config()).unwrap();
        config.settings(&name(provider)).unwrap().primary_key().unwrap().unwrap().backed_up
    }
}

/// A host without any provider.
fn bare_host() -> Datastore {
    Datastore::with_providers(&[])
}

fn command() -> Command {
    ProviderCommand::augment_subcommands(Command::new("provider"))
}

fn parse<'a>(arguments: impl Iterator<Item = &'a str>) -> std::result::Result<ProviderCommand, clap::Error> {
    let matches = command().try_get_matches_from(std::iter::once("provider").chain(arguments))?;
    ProviderCommand::from_arg_matches(&matches)
}

fn name(name: &str) -> ProviderName {
    ProviderName::new(name).unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_one_host_wrapped_another_unwraps_after_a_restore() {
    let (old, new) = (bare_host(), bare_host());
    let file = old.beside("local.backup");
    let passphrase = old.file("passphrase", "correct horse\nbattery\n");
    old.provider("add native local").unwrap();
    let (_, provider) = Providers::load(&old.config()).unwrap().default_provider().unwrap();
    let purpose = NewKey { vm_name: "web01".into(), vm_uuid: uuid::Uuid::nil() };
    let (id, kek) = provider.create_key(&purpose).unwrap();
    let mut dek = SecretBytes::zeroed(64);
    dek[..32].fill(0x77);
    let wrapped = kek.wrap(&Dek::new(dek).unwrap()).unwrap();

    assert!(!old.backed_up("local"));
    old.provider(&format!("backup local {} --passphrase-file {passphrase}", file.display())).unwrap();
    assert!(old.backed_up("local"));

    // The other host gets two files, and its administrator saved the passphrase with another line end.
    let same = new.file("passphrase", "correct horse\r\n");
    new.provider(&format!("restore local {} --passphrase-file {same}", file.display())).unwrap();
    assert!(new.backed_up("local"));
    new.provider("test local").unwrap();
    let (default, provider) = Providers::load(&new.config()).unwrap().default_provider().unwrap();
    assert_eq!(default, name("local"));
    assert_eq!(provider.fetch_key(&id).unwrap().unwrap(&wrapped).unwrap().bytes(), [[0x77; 32], [0; 32]].concat());
    assert_eq!(fs::read(new.key("local")).unwrap(), fs::read(old.key("local")).unwrap());
}

#[test]
fn wrong_passphrase_restores_nothing_and_differs_from_damage() {
    let host = bare_host();
    let good = host.file("good", "correct horse\n");
    let wrong = host.file("wrong", "correct house\n");
    host.provider("add native local").unwrap();
    let file = host.cheap_backup("local");
    let other = bare_host();
    let restore =
        |passphrase: &str| other.provider(&format!("restore local {} --passphrase-file {passphrase}", file.display()));
    let error = restore(&wrong).unwrap_err();
    assert_eq!(error.kind(), Kind::KeyRejected);
    assert!(error.chain().contains("passphrase is wrong"), "{}", error.chain());

    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..100]).unwrap();
    assert_eq!(restore(&good).unwrap_err().kind(), Kind::Corrupt);
    assert!(!other.config().exists() && !other.key("local").exists());
    fs::write(&file, whole).unwrap();
    restore(&good).unwrap();
}

#[test]
fn a_backup_under_another_name_is_refused_before_its_passphrase_is_asked_for() {
    let (host, other) = (bare_host(), bare_host());
    host.provider("add native local").unwrap();
    let file = host.cheap_backup("local");
    let error = other.provider(&format!("restore lab {} --passphrase-file /nowhere", file.display())).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("restored as local"), "{error}");
}

#[test]
fn a_short_passphrase_makes_no_backup() {
    let host = bare_host();
    let short = host.file("passphrase", "7 chars\n12345678\n");
    let file = host.beside("local.backup");
    host.provider("add native local").unwrap();
    let error = host.provider(&format!("backup local {} --passphrase-file {short}", file.display())).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(!file.exists() && !host.backed_up("local"));
}

#[test]
fn lost_key_is_reported_when_it_is_asked_for_and_stops_no_other() {
    let host = bare_host();
    host.provider("add native local").unwrap();
    host.provider("add native lab").unwrap();
    fs::remove_file(host.key("local")).unwrap();
    assert_eq!(host.provider("test local").unwrap_err().kind(), Kind::KeyUnavailable);
    host.provider("test lab").unwrap();
    host.provider("list").unwrap();
    host.provider("list --json").unwrap();
}

#[test]
fn files_that_others_can_read_or_change_are_refused() {
    let host = bare_host();
    host.provider("add native local").unwrap();
    for (file, mode) in [(host.config(), 0o644), (host.config(), 0o620), (host.key("local"), 0o640)] {
        set_mode(&file, mode);
        let error = host.provider("test local").unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{} {mode:o}", file.display());
        assert!(error.chain().contains(&format!("chmod 600 {}", file.display())), "{}", error.chain());
        set_mode(&file, 0o600);
        host.provider("test local").unwrap();
    }
    set_mode(&host.config(), 0o644);
    assert_eq!(host.provider("add native second").unwrap_err().kind(), Kind::Denied);
}

#[test]
fn providers_added_at_the_same_time_do_not_lose_each_other() {
    let host = bare_host();
    let names: Vec<String> = (0..16).map(|number| format!("host-{number:02}")).collect();
    thread::scope(|scope| {
        for added in &names {
            scope.spawn(|| add(&host.config(), &name(added), "native", &Arguments::default(), false).unwrap());
        }
    });
    let providers = Providers::load(&host.config()).unwrap();
    assert_eq!(providers.names().map(ProviderName::as_str).collect::<Vec<_>>(), names);
    assert!(providers.default_provider().is_ok());
    for added in &names {
        assert!(providers.provider(&name(added)).is_ok(), "{added}");
    }
}

#[test]
fn of_two_providers_with_the_same_name_one_is_refused_and_the_key_stays_whole() {
    let host = bare_host();
    let results: Vec<_> = thread::scope(|scope| {
        let again = || add(&host.config(), &name("local"), "native", &Arguments::default(), false);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(again)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|error| error.kind() == Kind::Exists));
    host.provider("test local").unwrap();
}

#[test]
fn a_taken_name_keeps_its_key() {
    let host = bare_host();
    host.provider("add native local").unwrap();
    let key = fs::read(host.key("local")).unwrap();
    assert_eq!(host.provider("add native local --default").unwrap_err().kind(), Kind::Exists);
    assert_eq!(fs::read(host.key("local")).unwrap(), key);
}

#[test]
fn first_provider_is_the_default_until_another_is_chosen() {
    let host = bare_host();
    let default = || Providers::load(&host.config()).unwrap().default_provider().unwrap().0;
    host.provider("add native a").unwrap();
    host.provider("add native b").unwrap();
    assert_eq!(default(), name("a"));
    host.provider("default b").unwrap();
    assert_eq!(default(), name("b"));
    host.provider("add native c --default").unwrap();
    assert_eq!(default(), name("c"));
    let error = host.provider("default d").unwrap_err();
    assert_eq!((error.kind(), default()), (Kind::NotFound, name("c")));
}

#[test]
fn mistyped_configuration_is_reported_with_file_and_line() {
    let host = bare_host();
    host.provider("add native local").unwrap();
    let text = fs::read_to_string(host.config()).unwrap();
    let mistyped = text.replace("backed-up", "backed_up");
    fs::write(host.config(), &mistyped).unwrap();
    let line = 1 + mistyped.lines().position(|line| line.contains("backed_up")).unwrap();
    for arguments in ["list", "test local", "default local", "add native second"] {
        let error = host.provider(arguments).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().starts_with(&format!("{}:{line}: ", host.config().display())), "{error}");
        assert!(
            error.to_string().contains("expected one of `primary-key`, `backed-up`, `kek-share`, `tpm`"),
            "{error}"
        );
    }
    assert_eq!(fs::read_to_string(host.config()).unwrap(), mistyped);
}

#[test]
fn a_key_may_lie_elsewhere() {
    let host = bare_host();
    host.provider("add native local").unwrap();
    let elsewhere = host.beside("mirrored.key");
    fs::rename(host.key("local"), &elsewhere).unwrap();
    let text = fs::read_to_string(host.config()).unwrap();
    fs::write(host.config(), text.replace("keys/local.key", elsewhere.to_str().unwrap())).unwrap();
    host.provider("test local").unwrap();
}

#[test]
fn every_verb_has_examples_and_they_parse() {
    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().unwrap_or_else(|| panic!("{} has no example", command.get_name()));
        let help = help.to_string();
        let own = help.lines().filter_map(|line| line.strip_prefix("  vmcryptfs provider ")).map(Into::into);
        own.chain(command.get_subcommands().flat_map(examples)).collect()
    }
    let all: Vec<String> = command().get_subcommands().flat_map(examples).collect();
    for verb in ["add", "list", "test", "default", "backup", "restore"] {
        assert!(all.iter().any(|example| example.starts_with(verb)), "{verb}");
    }
    for example in &all {
        assert!(parse(example.split_whitespace()).is_ok(), "{example}");
    }
    command().debug_assert();
}

#[test]
fn names_that_no_key_could_belong_to_are_refused_at_once() {
    for arguments in ["add native a/b", "add native .a", "test a%b", "restore ../x file", "add kmip corp", "add"] {
        assert!(parse(arguments.split_whitespace()).is_err(), "{arguments}");
    }
}
