//! `vmcryptfs trust`: this host at trust authorities.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::cli::progress::perform;
use crate::cli::{out, token};
use crate::error::{Context, Error, Kind, Result};
use crate::operations::cluster::kernel_name;
use crate::operations::trust::{self, AttestHost, EnrolHost, ProposeSet};
use crate::provider::agent::trust::{BootPaths, Proposed, TrustCall, TrustStatus};
use crate::text::Show;
use clap::{Args, Subcommand};

const COMMAND_LINE: &str = "/proc/cmdline";

/// Verbs of `trust`.
#[derive(Subcommand)]
pub(super) enum TrustCommand {
    /// Enrol this host at an authority, with a token
    Enrol(EnrolArgs),
    /// Prove now what this host has booted
    Attest(JsonArgs),
    /// Show where this host has enrolled, and what it has proved
    Status(JsonArgs),
    /// Say what this host will measure when it boots another kernel
    Predict(PredictArgs),
    /// Propose that to the authority, so that an administrator approves it before this host reboots
    Propose(ProposeArgs),
}

/// Arguments of `trust enrol`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs trust enrol --token-file token\n\n\
    `vmcryptfs-authority host token` on the authority makes the token, for a host of this name. vmcryptfs-agent must run here: it has \
    the TPM. docs/TRUST.md says how to go on.")]
pub(super) struct EnrolArgs {
    /// Read the token from a file, or from standard input for "-"; on the command line other users would see it
    #[arg(long, value_name = "FILE", default_value = "-")]
    token_file: PathBuf,
    /// Name of this host at the authority, which the token is for [default: its host name]
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// Certificate of the TPM's endorsement key in DER, where its vendor has not put it into the TPM
    #[arg(long, value_name = "FILE")]
    ek_certificate: Option<PathBuf>,
    #[command(flatten)]
    output: JsonArgs,
}

/// Whether JSON is printed.
#[derive(Args)]
pub(super) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `trust predict`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  vmcryptfs trust predict debian-6.1.0-58 --running-uki /boot/efi/EFI/Linux/old.efi \
    --uki /boot/efi/EFI/Linux/new.efi >set.toml\n\n\
    The set goes into a policy (docs/ATTESTATION.md), beside the one of the running kernel, before this host reboots."
)]
pub(super) struct PredictArgs {
    /// Name of the set that is printed
    set: String,
    /// Unified kernel image that runs
    #[arg(long, value_name = "FILE", requires = "uki", conflicts_with_all = ["running_kernel", "kernel"])]
    running_uki: Option<PathBuf>,
    /// Unified kernel image that will run
    #[arg(long, value_name = "FILE", requires = "running_uki")]
    uki: Option<PathBuf>,
    /// Kernel that runs
    #[arg(long, value_name = "FILE", required_unless_present = "running_uki", requires = "kernel")]
    running_kernel: Option<PathBuf>,
    /// Its initrd
    #[arg(long, value_name = "FILE", requires = "running_kernel")]
    running_initrd: Option<PathBuf>,
    /// Kernel that will run
    #[arg(long, value_name = "FILE", requires = "running_kernel")]
    kernel: Option<PathBuf>,
    /// Its initrd
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line [default: that of the running kernel]
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    command_line: Option<String>,
    #[command(flatten)]
    output: JsonArgs,
}

/// Arguments of `trust propose`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs trust propose set.toml\n\n\
    An administrator of the authority sees it by `vmcryptfs-authority policy list`, and approves it by `vmcryptfs-authority policy approve \
    --proposal ID`. Until then it counts for nothing.")]
pub(super) struct ProposeArgs {
    /// The set that `trust predict` has printed; "-" is standard input
    file: PathBuf,
    #[command(flatten)]
    output: JsonArgs,
}

/// Longest set that is read, in bytes; authorities take shorter ones.
const MAX_SET: u64 = 1 << 20;

pub(super) fn run(command: TrustCommand, config: &Path) -> Result<()> {
    match command {
        TrustCommand::Enrol(args) => enrol(args, config),
        TrustCommand::Attest(JsonArgs { json }) => show(&perform(AttestHost { config })?, json),
        TrustCommand::Status(JsonArgs { json }) => show(&trust::status(config)?, json),
        TrustCommand::Predict(args) => predict(args, config),
        TrustCommand::Propose(args) => propose(&args, config),
    }
}

fn enrol(args: EnrolArgs, config: &Path) -> Result<()> {
    let name = args.name.map_or_else(|| kernel_name().map(|name| name.to_string()), Ok)?;
    let ek_certificate = args.ek_certificate.map(absolute).transpose()?;
    let text = || token::read(&args.token_file);
    let enrolled = perform(EnrolHost { token: &text, name: &name, ek_certificate, config })?;
    if args.output.json {
        return out::json(&enrolled);
    }
    let TrustStatus { authority, urls, pin, host, name, enrolled, endorsement_key, .. } = enrolled;
    println!("enrolled at authority {authority} as host {name} ({host}): {enrolled}");
    println!("endorsement key {endorsement_key}");
    if enrolled == "pending" {
        eprintln!(
            "An administrator compares the endorsement key with what `vmcryptfs-authority host list` shows there, then:"
        );
        eprintln!("  vmcryptfs-authority host approve {name}");
    }
    eprintln!("Its keys are used by a provider:");
    eprintln!("  vmcryptfs provider add trusted NAME --authority {} --pin {pin}", urls.join(","));
    Ok(())
}

fn show(all: &[TrustStatus], json: bool) -> Result<()> {
    if json {
        return out::json(&all);
    }
    if all.is_empty() {
        eprintln!("This host has not enrolled at an authority: `vmcryptfs trust enrol`.");
    }
    for status in all {
        let TrustStatus { authority, urls, pin, host, name, endorsement_key, log_entries, attested, trouble, .. } =
            status;
        println!("authority        {authority}\naddresses        {}\npin              {pin}", urls.join(", "));
        println!("host             {name} ({host})\nendorsement key  {endorsement_key}");
        if let Some(entries) = log_entries {
            println!("log              {entries} entries seen");
        }
        match attested {
            Some(now) => {
                let sets = if now.sets.is_empty() { String::new() } else { format!(", sets {}", now.sets.join(", ")) };
                println!(
                    "attested         level {}, policy {}{sets}, good for {} s",
                    now.level, now.policy, now.seconds
                );
            }
            None => println!("attested         no; this host does when it needs a key"),
        }
        if let Some(trouble) = trouble {
            println!("TROUBLE          {trouble}");
        }
    }
    Ok(())
}

fn predict(args: PredictArgs, config: &Path) -> Result<()> {
    let PredictArgs { set, running_uki, uki, running_kernel, running_initrd, kernel, initrd, command_line, output } =
        args;
    let (running, next) = match (running_uki, uki, running_kernel, kernel) {
        (Some(running), Some(next), _, _) => (BootPaths::Uki(absolute(running)?), BootPaths::Uki(absolute(next)?)),
        (_, _, Some(running), Some(next)) => {
            let now = std::fs::read_to_string(COMMAND_LINE).context(|| format!("reading {COMMAND_LINE}"))?;
            let now = now.trim_end_matches('\n').to_owned();
            let next_line = command_line.unwrap_or_else(|| now.clone());
            (of_kernel(running, running_initrd, now)?, of_kernel(next, initrd, next_line)?)
        }
        _ => {
            return Err(Error::new(
                Kind::Invalid,
                "expected --running-uki and --uki, or --running-kernel and --kernel",
            ));
        }
    };
    let predicted = trust::predict(config, TrustCall::Predict { running, next, set })?;
    if output.json {
        return out::json(&predicted);
    }
    print!("{}", predicted.set);
    for register in &predicted.changes {
        eprintln!("PCR {register} changes");
    }
    for (register, why) in &predicted.unpredicted {
        eprintln!("PCR {register} cannot be predicted: {why}");
    }
    Ok(())
}

fn propose(args: &ProposeArgs, config: &Path) -> Result<()> {
    let reading = || format!("reading the set from {}", args.file.shown());
    let mut set = String::new();
    match args.file == Path::new("-") {
        true => std::io::stdin().take(MAX_SET).read_to_string(&mut set),
        false => File::open(&args.file).and_then(|file| file.take(MAX_SET).read_to_string(&mut set)),
    }
    .context(reading)?;
    let proposed = perform(ProposeSet { set, config })?;
    if args.output.json {
        return out::json(&proposed);
    }
    for Proposed { authority, is_approved, name } in &proposed {
        match is_approved {
            true => println!("authority {authority} has approved it already, as set {name}"),
            false => println!(
                "proposal {name} waits at authority {authority}: `vmcryptfs-authority policy approve --proposal {name}` there approves it"
            ),
        }
    }
    Ok(())
}

fn of_kernel(kernel: PathBuf, initrd: Option<PathBuf>, command_line: String) -> Result<BootPaths> {
    Ok(BootPaths::Kernel { kernel: absolute(kernel)?, initrd: initrd.map(absolute).transpose()?, command_line })
}

/// The agent has another working directory.
fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).context(|| format!("finding {}", path.shown()))
}
