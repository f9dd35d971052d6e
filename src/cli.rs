//! The command line: one verb a file. Only this layer prints, and decides exit codes.

#[macro_use]
mod out;

mod accept_rollback;
#[cfg(test)]
mod advice_tests;
mod bind;
mod check;
mod clone;
mod cluster;
mod confirm;
mod convert;
mod create;
mod disk_names;
mod dump;
mod encrypt;
mod erase;
mod events;
mod exit;
mod header;
mod info;
mod key;
mod lock;
mod log;
mod manual;
mod metrics;
mod mount;
mod other_names;
mod place;
mod plan;
mod progress;
pub mod provider;
mod rekey;
mod size;
mod speed;
mod status;
mod table;
mod token;
mod trust;
mod umount;
#[cfg(test)]
mod verbs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::error::{Context, Result};
use crate::event;
use crate::provider::config;
use crate::seen;
use crate::sys::process;
use crate::text;

/// Encryption at rest for the VMs of QEMU/KVM hosts, with keys from your key provider.
#[derive(Parser)]
#[command(name = "vmcryptfs", version, propagate_version = true, arg_required_else_help = true)]
struct CommandLine {
    /// Configuration file [default: /etc/vmcryptfs/config.toml for root, else ~/.config/vmcryptfs/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Log more; twice for every detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Configure where keys come from
    #[command(subcommand)]
    Provider(provider::ProviderCommand),
    /// Share native providers among hosts
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Prove to a trust authority what this host has booted
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Make an encrypted VM folder
    Create(create::CreateArgs),
    /// Make an empty encrypted disk in a VM folder
    CreateDisk(create::CreateDiskArgs),
    /// Show or change which new files of a VM become disks
    DiskNames(disk_names::DiskNamesArgs),
    /// Show a VM folder, or a datastore of VM folders, decrypted
    Mount(mount::MountArgs),
    /// Take a mount down
    Umount(umount::UmountArgs),
    /// List a mount's components, and which of them are unlocked
    Status(status::StatusArgs),
    /// Unlock what is locked in a mount
    Unlock(lock::UnlockArgs),
    /// Wipe keys of a mount's components from memory
    Lock(lock::LockArgs),
    /// Print what mounts have counted, for Prometheus
    Metrics(metrics::MetricsArgs),
    /// Show key and lock events
    Events(events::EventsArgs),
    /// Show what the headers of a VM folder or a disk say, and which disks and files a VM has
    Info(info::InfoArgs),
    /// Verify headers, and with the key their authenticity
    Check(check::CheckArgs),
    /// Accept that a VM folder or a disk is older than what this host has seen of it
    AcceptRollback(accept_rollback::AcceptRollbackArgs),
    /// Give a VM folder a new key; its data is unchanged
    Rekey(rekey::RekeyArgs),
    /// Encrypt a VM folder that is in the clear, or clear disks of an encrypted one
    Encrypt(encrypt::EncryptArgs),
    /// Decrypt disks of a VM folder, or all of it
    Decrypt(encrypt::DecryptArgs),
    /// Make a home file a disk, or a disk a home file
    Convert(convert::ConvertArgs),
    /// Bind the disks of a VM folder that an older version made to it
    Upgrade(bind::UpgradeArgs),
    /// Take a disk into the VM folder that it lies in, by the name that it has there
    Adopt(bind::AdoptArgs),
    /// Copy a VM folder under keys of its own
    Clone(clone::CloneArgs),
    /// Show and change which keys open a component
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Save a component's header, and put it back
    #[command(subcommand)]
    Header(header::HeaderCommand),
    /// Destroy a component's wrapped data keys, and with them its data
    Erase(erase::EraseArgs),
    /// Encrypt dumps of processes, and open them again
    #[command(subcommand)]
    Dump(dump::DumpCommand),
    /// Measure the cipher engines of this machine
    Speed(speed::SpeedArgs),
    /// Print the manual pages or the completions of a shell
    #[command(subcommand)]
    Manual(manual::ManualCommand),
}

impl Verb {
    /// Whether it makes the configuration file, or works without one: what a person named for it need not be there.
    fn may_lack_config(&self) -> bool {
        if let Self::Provider(command) = self {
            command.makes_config()
        } else if let Self::Dump(command) = self {
            command.is_of_the_kernel()
        } else if let Self::Mount(args) = self {
            args.reports() // the process that it reports to has looked
        } else {
            // A host gets the providers of its cluster by `sync`. What ends the use of keys works whatever else is missing.
            matches!(self, Self::Cluster(_) | Self::Umount(_) | Self::Lock(_))
        }
    }

    /// The VM folder, datastore or component that it was given.
    fn place(&self) -> Option<&Path> {
        Some(match self {
            Self::Create(args) => &args.folder,
            Self::CreateDisk(args) => &args.disk,
            Self::DiskNames(args) => &args.folder,
            Self::Mount(args) => &args.folder,
            Self::Info(args) => &args.path,
            Self::Check(args) => &args.path,
            Self::AcceptRollback(args) => &args.component,
            Self::Rekey(args) => &args.folder,
            Self::Encrypt(args) => &args.folder,
            Self::Decrypt(args) => &args.folder,
            Self::Convert(args) => &args.file,
            Self::Upgrade(args) => &args.folder,
            Self::Adopt(args) => &args.disk,
            Self::Clone(args) => &args.source,
            Self::Key(command) => command.component()?,
            Self::Header(command) => command.component(),
            Self::Erase(args) => &args.component,
            Self::Provider(_)
            | Self::Cluster(_)
            | Self::Trust(_)
            | Self::Umount(_)
            | Self::Status(_)
            | Self::Unlock(_)
            | Self::Lock(_)
            | Self::Metrics(_)
            | Self::Events(_)
            | Self::Dump(_)
            | Self::Speed(_)
            | Self::Manual(_) => return None,
        })
    }

    fn teller(&self) -> log::Teller {
        if matches!(self, Self::Mount(args) if args.serves()) { log::Teller::Daemon } else { log::Teller::Verb }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let Some(arguments) = mount::helper::with_verb(std::env::args_os()) else { return ExitCode::SUCCESS };
    let line = CommandLine::try_parse_from(arguments).unwrap_or_else(|error| without_harm(error).exit());
    process::ignore_signals(&[libc::SIGXFSZ]); // a write beyond a limit then fails as one that finds no space
    log::start(line.verbose, line.verb.teller());
    let named = line.verb.place().map(Path::to_path_buf);
    let advised = |error| match &named {
        Some(named) => place::advised_error(named, error),
        None => error,
    };
    let code = match run(line).and_then(|()| out::failure()).map_err(advised) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmcryptfs: {}", error.chain());
            exit::code(error.kind())
        }
    };
    if let Some(trouble) = seen::trouble() {
        eprintln!("vmcryptfs: {trouble}");
    }
    log::finish();
    code
}

/// Runs a daemon of this host: no core dump of it is written, its log is on standard error, its events are where the configuration
/// says. Returns its exit code.
pub fn daemon(name: &str, verbose: u8, config: Option<&Path>, work: impl FnOnce(&Path) -> Result<()>) -> ExitCode {
    log::start(verbose, log::Teller::Daemon);
    let work = || {
        process::forbid_dumps().context(|| "forbidding core dumps".into())?;
        let config = config::locate(config)?;
        event::use_config(&config);
        work(&config)
    };
    let code = work().map_or_else(
        |error| {
            eprintln!("{name}: {}", error.chain());
            exit::code(error.kind())
        },
        |()| ExitCode::SUCCESS,
    );
    log::finish();
    code
}

/// Prints what a verb of another program has found, as a line of JSON or as text.
///
/// # Errors
/// `Invalid` for a value that has no JSON form, `Io`.
pub fn result(json: bool, value: &impl Serialize, text: &str) -> Result<()> {
    match json {
        true => out::json(value)?,
        false => out::results(format_args!("{text}")),
    }
    out::failure()
}

/// Verbs that must not be suggested for a name that is similar.
const DESTRUCTIVE: [&str; 4] = ["erase", "decrypt", "remove", "retire"];

/// What clap says of words that it does not know, without advice to destroy something, and fit for a terminal.
fn without_harm(mut error: clap::Error) -> clap::Error {
    let one_line = |word: &String| text::one_line(word).into_owned();
    let shown = |(kind, value): (ContextKind, &ContextValue)| {
        let shown = if let ContextValue::String(word) = value {
            ContextValue::String(one_line(word))
        } else if let ContextValue::Strings(words) = value {
            ContextValue::Strings(words.iter().map(one_line).collect())
        } else {
            return None;
        };
        (shown != *value).then_some((kind, shown))
    };
    for (kind, value) in error.context().filter_map(shown).collect::<Vec<_>>() {
        error.insert(kind, value);
        error.remove(ContextKind::Suggested); // a tip, which repeats the word
    }
    // A flag that is not known would hardly be the value of something; a path that begins with "-" is given as "./-".
    if error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    let advice = ContextKind::SuggestedSubcommand;
    let harmless = |verb: &String| !DESTRUCTIVE.contains(&verb.as_str());
    match error.remove(advice) {
        Some(ContextValue::Strings(verbs)) => {
            let verbs: Vec<String> = verbs.into_iter().filter(harmless).collect();
            if !verbs.is_empty() {
                error.insert(advice, ContextValue::Strings(verbs));
            }
        }
        Some(ContextValue::String(verb)) if harmless(&verb) => {
            error.insert(advice, ContextValue::String(verb));
        }
        _ => {}
    }
    other_names::advise(&mut error);
    error
}

fn run(line: CommandLine) -> Result<()> {
    // Nearly all verbs have keys in memory at some time.
    process::forbid_dumps().context(|| "forbidding core dumps".into())?;
    if let Some(named) = line.config.as_deref().filter(|_| !line.verb.may_lack_config()) {
        config::refuse_missing(named)?;
    }
    if let Ok(config) = config::locate(line.config.as_deref()) {
        event::use_config(&config);
    }
    run_verb(line)
}

fn run_verb(line: CommandLine) -> Result<()> {
    let config = || config::locate(line.config.as_deref());
    match line.verb {
        Verb::Provider(command) => provider::run(command, &config()?),
        Verb::Cluster(command) => cluster::run(&command, &config()?),
        Verb::Trust(command) => trust::run(command, &config()?),
        Verb::Create(args) => create::vm_folder(&args, &config()?),
        Verb::CreateDisk(args) => create::disk(&args, &config()?),
        Verb::DiskNames(args) => disk_names::run(&args, &config()?),
        Verb::Mount(args) => mount::mount(args, line.config.as_deref(), line.verbose),
        Verb::Umount(args) => umount::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Unlock(args) => lock::unlock(&args),
        Verb::Lock(args) => lock::lock(&args),
        Verb::Metrics(args) => metrics::run(&args),
        Verb::Events(args) => events::run(&args, &config),
        Verb::Info(args) => info::run(&args, &config),
        Verb::Check(args) => check::run(&args, &config()?),
        Verb::AcceptRollback(args) => accept_rollback::run(&args, &config()?),
        Verb::Rekey(args) => rekey::run(&args, &config()?),
        Verb::Encrypt(args) => encrypt::encrypt(&args, &config()?),
        Verb::Decrypt(args) => encrypt::decrypt(&args, &config()?),
        Verb::Convert(args) => convert::run(&args, &config()?),
        Verb::Upgrade(args) => bind::upgrade(&args, &config()?),
        Verb::Adopt(args) => bind::adopt(&args, &config()?),
        Verb::Clone(args) => clone::run(&args, &config()?),
        Verb::Key(command) => key::run(&command, &config()?),
        Verb::Header(command) => header::run(&command, &config()?),
        Verb::Erase(args) => erase::run(&args, &config()?),
        Verb::Dump(command) => dump::run(&command, &config()?),
        Verb::Speed(args) => speed::run(&args),
        Verb::Manual(command) => manual::run(&command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_not_understood_control_no_terminal() {
        const WORD: &str = "--a\x1b[2J\n2026-01-01T00:00:00Z ERROR forged\u{202e}\u{2028}\u{9b}";
        let value = WORD.trim_start_matches('-');
        for words in [
            &[WORD][..],
            &[value],
            &["key", value],
            &["info", WORD],
            &["info", "a", value],
            &["create-disk", "v/d.raw", "--size", value],
            &["events", "--since", value],
            &["mount", "a", "b", "--engine", value],
            &["mount", "a", "b", "--transport", value],
            &["provider", "add", "native", value],
            &["provider", "add", value],
        ] {
            let error = CommandLine::try_parse_from([&["vmcryptfs"], words].concat()).err().unwrap();
            let said = without_harm(error).to_string();
            assert_eq!(text::lines(&said), said, "{words:?}");
            assert!(said.contains("forged") && !said.lines().any(|line| line.starts_with("2026")), "{said}");
        }
    }

    #[test]
    fn verbs_that_make_the_configuration_file_or_need_none_do_without() {
        let may_lack = |words: &str| {
            let line = [&["vmcryptfs"], words.split(' ').collect::<Vec<_>>().as_slice()].concat();
            CommandLine::try_parse_from(line).unwrap().verb.may_lack_config()
        };
        for words in ["provider add native local", "provider restore local file", "cluster sync", "umount m", "lock m"]
        {
            assert!(may_lack(words), "{words}");
        }
        for words in ["provider list", "create v", "mount v m", "dump setup", "unlock m"] {
            assert!(!may_lack(words), "{words}");
        }
    }

    #[test]
    fn no_advice_destroys_anything() {
        let said = |words: &[&str]| {
            let error = CommandLine::try_parse_from([&["vmcryptfs"], words].concat()).err().unwrap();
            without_harm(error).to_string()
        };
        for words in [&["resize"][..], &["earse"], &["decrpt"], &["key", "remov"], &["provider", "retir"]] {
            let said = said(words);
            assert!(
                said.contains("unrecognized") && !DESTRUCTIVE.iter().any(|verb| said.contains(&format!("'{verb}'"))),
                "{said}"
            );
        }
        assert!(said(&["statis"]).contains("'status'"));
    }

    #[test]
    fn a_flag_that_is_not_known_is_not_taken_for_a_value() {
        for words in [&["rekey", "v", "--dry-run"][..], &["erase", "v", "--dry-run"], &["create", "--dryrun"]] {
            let error = CommandLine::try_parse_from([&["vmcryptfs"], words].concat()).err().unwrap();
            let said = without_harm(error).to_string();
            assert!(said.contains("unexpected argument") && !said.contains("-- --"), "{said}");
        }
        let error = CommandLine::try_parse_from(["vmcryptfs", "encrypt", "v", "--dry-rum"]).err().unwrap();
        assert!(without_harm(error).to_string().contains("'--dry-run'"), "what is meant is still said");
    }

    #[test]
    fn verbs_of_other_programs_are_told_what_does_it_here() {
        let said = |words: &[&str]| {
            let error = CommandLine::try_parse_from([&["vmcryptfs"], words].concat()).err().unwrap();
            without_harm(error).to_string()
        };
        for (word, advice) in [
            ("list", "vmcryptfs info "),
            ("version", "vmcryptfs --version"),
            ("resize", "truncate -s"),
            ("luksOpen", "vmcryptfs mount "),
            ("unmount", "vmcryptfs umount "),
        ] {
            let said = said(&[word]);
            assert!(said.contains(advice) && said.contains("tip: ") && !said.contains("similar"), "{word}: {said}");
        }
        assert!(said(&["help", "list"]).contains("vmcryptfs info "), "{}", said(&["help", "list"]));
        assert!(!said(&["key", "version"]).contains("--version'"), "a verb of `key` is another matter");
    }
}
