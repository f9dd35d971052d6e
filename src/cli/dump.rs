//! `vmcryptfs dump`: dumps of processes, encrypted when they are taken.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use crate::cli::progress::perform;
use crate::cli::provider::passphrase::{PassphraseSource, Purpose};
use crate::cli::provider::provider_name;
use crate::cli::{out, size, table};
use crate::dump::kernel::{self, HostState};
use crate::dump::{DumpFolder, Opened, Process, StoredDump, has_guest_data, opened_by};
use crate::error::{Context, Error, Kind, Result};
use crate::key::{KeyName, ProviderName};
use crate::operations::dump::{
    DecryptDump, HostDumps, RecryptDump, RemoveDump, RenewHostKey, SetUpDumps, TakeDump, core_pattern,
};
use crate::provider::config::Config;
use crate::text::{self, Show};
use crate::timestamp::Timestamp;

/// Verbs of `dump`.
#[derive(Subcommand)]
pub(super) enum DumpCommand {
    /// Make the keys that dumps are encrypted to, and say how the kernel gives dumps to vmcryptfs
    Setup(SetupArgs),
    /// Show whether dumps of this host are encrypted
    Status(StatusArgs),
    /// List the dumps of this host
    List(ListArgs),
    /// Decrypt a dump into a new file
    Decrypt(DecryptArgs),
    /// Encrypt a dump again under a passphrase, for people who do not have this host's keys
    Recrypt(RecryptArgs),
    /// Remove dumps
    Remove(RemoveArgs),
    /// Encrypt a dump that the kernel gives
    #[command(hide = true)]
    Take(TakeArgs),
}

/// Arguments of `dump setup`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs dump setup\n  vmcryptfs dump setup --install\n  vmcryptfs dump setup --renew --provider corp\n\n\
    Dumps of QEMU and of programs that read through a mount have data of guests in them. A provider makes the host key, which wraps the \
    private half of a key pair; dumps are encrypted to the public half, so that taking one needs neither a secret nor a key server. \
    The keys are made once; --renew makes them again, and older dumps open as long as the provider has the former host key.\n\n\
    Without --install nothing of the kernel is changed: the line for core_pattern is printed."
)]
pub(super) struct SetupArgs {
    /// The provider of the host key [default: that of new VMs]
    #[arg(long, value_name = "NAME", value_parser = provider_name)]
    provider: Option<ProviderName>,
    /// Make new keys
    #[arg(long)]
    renew: bool,
    /// Set core_pattern, and write a file of sysctl.d that sets it when this host starts
    #[arg(long)]
    install: bool,
    /// Give dumps of programs that are not QEMU, swtpm or vmcryptfs to the program that core_pattern names now
    #[arg(long)]
    pass_others_on: bool,
}

/// Arguments of `dump status`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs dump status\n\n\
    The states are those of vSphere. incapable: dumps may reach this host's disks in the clear. prepared: none does, but there is no \
    host key that will open them. safe: dumps are encrypted.")]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `dump list`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs dump list\n\nNo key is needed: what is listed is in the clear, and proved only by `dump decrypt`."
)]
pub(super) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `dump decrypt`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs dump decrypt qemu-system-x86_64-4242-0d3f4c1e-6a57-4c2e-9a47-3f1d2b8c5e60.dump /root/core\n\n\
    The new file is in the clear: put it where data of guests may lie, as in a mount."
)]
pub(super) struct DecryptArgs {
    /// The dump: a name of `dump list`, or a file
    dump: PathBuf,
    /// The file to make; it must not exist
    output: PathBuf,
    /// Of a dump that is cut off or damaged, write what comes before
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

/// Arguments of `dump recrypt`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs dump recrypt qemu-system-x86_64-4242-0d3f4c1e-6a57-4c2e-9a47-3f1d2b8c5e60.dump /media/usb/qemu.dump\n\n\
    `vmcryptfs dump decrypt` opens it on any machine, with the passphrase."
)]
pub(super) struct RecryptArgs {
    /// The dump: a name of `dump list`, or a file
    dump: PathBuf,
    /// The file to make; it must not exist
    output: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

/// Arguments of `dump remove`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs dump remove qemu-system-x86_64-4242-0d3f4c1e-6a57-4c2e-9a47-3f1d2b8c5e60.dump"
)]
pub(super) struct RemoveArgs {
    /// Names of `dump list`
    #[arg(required = true)]
    dumps: Vec<PathBuf>,
}

/// Arguments of `dump take`, as the kernel gives them (core(5)).
#[derive(Args)]
pub(super) struct TakeArgs {
    /// %P
    pid: u32,
    /// %u
    uid: u32,
    /// %g
    gid: u32,
    /// %s
    signal: u32,
    /// %t
    time: u64,
    /// %c
    limit: u64,
    /// %h
    #[arg(allow_hyphen_values = true)]
    host: OsString,
    /// %E
    #[arg(allow_hyphen_values = true)]
    program: OsString,
    /// What takes dumps of programs without data of guests
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    others: Vec<OsString>,
}

impl DumpCommand {
    /// Whether the kernel runs it: a dump would be lost with an error.
    pub(super) fn is_of_the_kernel(&self) -> bool {
        matches!(self, Self::Take(_))
    }
}

pub(super) fn run(command: &DumpCommand, config: &Path) -> Result<()> {
    match command {
        DumpCommand::Setup(args) => setup(args, config),
        DumpCommand::Status(args) => status(args, config),
        DumpCommand::List(args) => list(args, config),
        DumpCommand::Decrypt(args) => decrypt(args, config),
        DumpCommand::Recrypt(args) => recrypt(args, config),
        DumpCommand::Remove(args) => remove(args, config),
        DumpCommand::Take(args) => take(args, config),
    }
}

fn setup(args: &SetupArgs, config: &Path) -> Result<()> {
    // Before keys are made: what is to be installed has to be possible.
    let to_install = if args.install { Some(line_to_install(args, config)?) } else { None };
    let provider = args.provider.as_ref();
    if args.renew {
        let key = perform(RenewHostKey { provider, config })?;
        println!("made host key {} and dump key {}", key.host_key, key.uuid);
    }
    // A renewal alone leaves the kernel as it is.
    if args.renew && !args.install {
        return Ok(());
    }
    let (key, is_new) = perform(SetUpDumps { provider, install: to_install.as_deref(), config })?;
    match is_new {
        true => println!("made host key {} and dump key {}", key.host_key, key.uuid),
        false => println!("this host has host key {} and dump key {}", key.host_key, key.uuid),
    }
    if args.install {
        println!("core_pattern is set, now and when this host starts ({})", kernel::SYSCTL_FILE);
        return Ok(());
    }
    match line(args, config) {
        Ok(line) => {
            eprintln!("To encrypt dumps from now on, as root (or use --install):");
            eprintln!("  echo '{line}' > {}", kernel::CORE_PATTERN);
            eprintln!("and when this host starts, in {}:", kernel::SYSCTL_FILE);
            eprintln!("  kernel.core_pattern = {line}\n  kernel.core_pipe_limit = {}", kernel::PIPE_LIMIT);
        }
        Err(error) => eprintln!("The kernel cannot give dumps to vmcryptfs: {}", error.chain()),
    }
    Ok(())
}

fn line_to_install(args: &SetupArgs, config: &Path) -> Result<String> {
    kernel::refuse_replaceable(&this_program()?)?;
    line(args, config)
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context(|| "finding this program".into())
}

/// The line for this host. Where ours is set already, what it passes on to stays known.
fn line(args: &SetupArgs, config: &Path) -> Result<String> {
    let program = this_program()?;
    let now = core_pattern()?;
    let others = match kernel::Handler::of(&now) {
        Some(ours) => ours.others.map(|others| format!("|{others}")),
        None => Some(now.trim().to_owned()),
    };
    if args.pass_others_on && !others.as_deref().is_some_and(|others| others.starts_with('|')) {
        let message =
            format!("core_pattern is {:?}, which names no program that dumps could be passed on to", now.trim());
        return Err(Error::new(Kind::Invalid, message));
    }
    kernel::pattern(&program, config, others.as_deref().filter(|_| args.pass_others_on))
}

/// `dump status --json`. Fields may be added, not changed or removed.
#[derive(Serialize)]
struct StatusJson {
    state: HostState,
    reason: Option<String>,
    host_key: Option<KeyName>,
    dump_key: Option<Uuid>,
    made: Option<String>,
    age_days: Option<u64>,
    core_pattern: String,
    passes_on_to: Option<String>,
}

fn status(args: &StatusArgs, config: &Path) -> Result<()> {
    let HostDumps { state, reason, key, pattern } = HostDumps::of(config)?;
    let shown = StatusJson {
        state,
        reason,
        host_key: key.as_ref().map(|file| KeyName::of(&file.key.host_key)),
        dump_key: key.as_ref().map(|file| file.key.uuid),
        made: key.as_ref().map(|file| file.made.to_millis()),
        age_days: key.as_ref().map(|file| days_since(file.made)),
        passes_on_to: kernel::Handler::of(&pattern).and_then(|handler| handler.others),
        core_pattern: pattern.trim().to_owned(),
    };
    if args.json {
        return out::json(&shown);
    }
    println!("{state}{}", shown.reason.map(|reason| format!(": {reason}")).unwrap_or_default());
    if let (Some(host_key), Some(dump_key), Some(made)) = (shown.host_key, shown.dump_key, shown.made) {
        let age = text::count(shown.age_days.unwrap_or_default(), "day", "days");
        println!("host key {host_key}, dump key {dump_key}, made {made}, {age} ago");
        println!(
            "They are used until `vmcryptfs dump setup --renew` makes others; dumps that are there open as before."
        );
    }
    if let Some(others) = shown.passes_on_to {
        println!("dumps of other programs than QEMU, swtpm and vmcryptfs go to {others}, in the clear");
    }
    Ok(())
}

/// Whole days by this host's clock; none of one that lies ahead.
fn days_since(made: Timestamp) -> u64 {
    Timestamp::now().since_1970().saturating_sub(made.since_1970()).as_secs() / (24 * 60 * 60)
}

/// A line of `dump list --json`. Fields may be added, not changed or removed.
#[derive(Serialize)]
struct DumpJson {
    #[serde(with = "crate::text::path")]
    file: PathBuf,
    bytes: u64,
    finished: bool,
    uuid: Option<Uuid>,
    time: Option<String>,
    pid: Option<u32>,
    uid: Option<u32>,
    signal: Option<u32>,
    program: Option<String>,
    host: Option<String>,
    host_key: Option<KeyName>,
    error: Option<String>,
}

impl DumpJson {
    fn of(dump: StoredDump) -> Self {
        let about = dump.header.as_ref().ok().map(|header| &header.about);
        Self {
            bytes: dump.len,
            finished: dump.is_finished,
            uuid: about.map(|about| about.uuid),
            time: about.map(|about| about.time.to_millis()),
            pid: about.map(|about| about.pid),
            uid: about.map(|about| about.uid),
            signal: about.map(|about| about.signal),
            program: about.map(|about| about.program.clone()),
            host: about.map(|about| about.host.clone()),
            host_key: dump.header.as_ref().ok().and_then(opened_by).map(KeyName::of),
            error: dump.header.as_ref().err().map(Error::chain),
            file: dump.path,
        }
    }
}

fn list(args: &ListArgs, config: &Path) -> Result<()> {
    let folder = DumpFolder::of(config, Config::load(config)?.dumps());
    let dumps: Vec<DumpJson> = folder.list()?.into_iter().map(DumpJson::of).collect();
    if args.json {
        return out::json(&dumps);
    }
    if dumps.is_empty() {
        eprintln!("No dumps in {}.", folder.path().shown());
        return Ok(());
    }
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let row = |dump: &DumpJson| {
        let name = dump.file.file_name().unwrap_or_default().shown().to_string();
        let number = |number: Option<u32>| or_none(number.map(|number| number.to_string()));
        [
            or_none(dump.time.clone()),
            number(dump.uid),
            number(dump.signal),
            size::show(dump.bytes),
            if dump.finished { "whole" } else { "unfinished" }.to_owned(),
            name,
        ]
    };
    let rows: Vec<[String; 6]> = dumps.iter().map(row).collect();
    table::print(["TIME", "USER", "SIGNAL", "SIZE", "STATE", "NAME"], &rows);
    for dump in &dumps {
        if let Some(error) = &dump.error {
            eprintln!("{error}");
        }
    }
    Ok(())
}

fn found(config: &Path, dump: &Path) -> Result<PathBuf> {
    Ok(DumpFolder::of(config, Config::load(config)?.dumps()).find(dump))
}

fn decrypt(args: &DecryptArgs, config: &Path) -> Result<()> {
    let file = found(config, &args.dump)?;
    let passphrase = || args.passphrase.read(Purpose::Enter);
    let (output, partial) = (args.output.as_path(), args.partial);
    let opened = perform(DecryptDump { file: &file, output, partial, passphrase: &passphrase, config })?;
    println!("decrypted {} to {}, {}", file.shown(), output.shown(), size::show(opened.len));
    say_cut(&opened);
    opened.damaged.map_or(Ok(()), Err).context(|| format!("{} has only what comes before", output.shown()))
}

fn recrypt(args: &RecryptArgs, config: &Path) -> Result<()> {
    let file = found(config, &args.dump)?;
    let passphrase = || args.passphrase.read(Purpose::Choose);
    let opened = perform(RecryptDump { file: &file, output: &args.output, passphrase: &passphrase, config })?;
    println!("encrypted {} to {} under the passphrase, {}", file.shown(), args.output.shown(), size::show(opened.len));
    say_cut(&opened);
    Ok(())
}

fn say_cut(opened: &Opened) {
    if opened.is_cut {
        eprintln!("It is not all of the dump: its writer had to stop. `vmcryptfs events` says why.");
    }
}

fn remove(args: &RemoveArgs, config: &Path) -> Result<()> {
    for dump in &args.dumps {
        let path = perform(RemoveDump { dump, config })?;
        println!("removed {}", path.shown());
    }
    Ok(())
}

/// What the kernel has of a program's path: its slashes are exclamation marks.
fn program_path(name: &OsString) -> String {
    name.to_string_lossy().replace('!', "/")
}

fn take(args: &TakeArgs, config: &Path) -> Result<()> {
    let program = program_path(&args.program);
    if let [others, rest @ ..] = args.others.as_slice()
        && !has_guest_data(&program)
    {
        let failure = Command::new(others).args(rest).exec();
        return Err(Error::io(format!("passing a dump of {program} on to {}", others.shown()), failure));
    }
    let process = Process {
        pid: args.pid,
        uid: args.uid,
        gid: args.gid,
        signal: args.signal,
        time: Timestamp::from_secs(args.time),
        limit: args.limit,
        host: args.host.to_string_lossy().into_owned(),
        program,
    };
    process.refuse_unwanted()?; // that is nothing that went wrong, so no event
    // Its events say what became of it: what the kernel starts has no other place to say so.
    perform(TakeDump { process: &process, source: &mut io::stdin().lock(), config }).map(drop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Verbs {
        #[command(subcommand)]
        verb: DumpCommand,
    }

    /// A process in its own UTS namespace chooses the host's name.
    #[test]
    fn no_name_that_a_process_chooses_is_an_option() {
        let line =
            kernel::pattern(Path::new("/usr/bin/vmcryptfs"), Path::new("/c.toml"), Some("|/bin/tee -a")).unwrap();
        let (_, line) = line.split_once(" dump ").unwrap();
        for name in ["--help", "-V", "--config=x", "--", "-", "web01"] {
            let expand = |word: &str| match word {
                "%h" | "%E" => name.to_owned(),
                word if word.starts_with('%') => "7".to_owned(),
                word => word.to_owned(),
            };
            let words = std::iter::once("dump".to_owned()).chain(line.split(' ').map(expand));
            let Ok(Verbs { verb: DumpCommand::Take(take) }) = Verbs::try_parse_from(words) else { panic!("{name}") };
            assert_eq!((take.host.as_os_str(), take.program.as_os_str()), (name.as_ref(), name.as_ref()));
            assert_eq!((take.pid, take.others), (7, vec!["/bin/tee".into(), "-a".into()]));
        }
    }
}
