//! The command line of the authority.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use vmcryptfs::cli;

use super::verbs;

/// The trust authority: attests hosts by their TPMs, and releases keys to them only.
#[derive(Parser)]
#[command(name = "vmcryptfs-authority", version, propagate_version = true, arg_required_else_help = true)]
struct Options {
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
pub(super) enum Verb {
    /// Make an authority on this machine
    Init(InitArgs),
    /// Run it until SIGTERM or SIGINT
    Start,
    /// Show how it is
    Status(JsonArgs),
    /// Let hosts in, and remove them
    #[command(subcommand)]
    Host(HostVerb),
    /// Say what hosts have to prove
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Look into its log
    #[command(subcommand)]
    Log(LogVerb),
}

/// Make an authority on this machine. A provider of the configuration has the top-level key, under which the keys of VMs are wrapped.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs provider add native top\n  \
    vmcryptfs-authority init top --url https://authority.example:6843\n\n\
    docs/TRUST.md says how an authority is set up.")]
pub(super) struct InitArgs {
    /// Provider of the top-level key: a native one without a kek-share, or a KMIP one
    #[arg(value_name = "PROVIDER")]
    pub(super) provider: String,
    /// Where hosts reach it; repeatable
    #[arg(long = "url", value_name = "URL", required = true)]
    pub(super) urls: Vec<String>,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:6843")]
    pub(super) listen: SocketAddr,
    /// Number of a user who may administer it, beside root
    #[arg(long, value_name = "UID")]
    pub(super) admin_user: Option<u32>,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

#[derive(Args)]
pub(super) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(super) enum HostVerb {
    /// List the hosts
    List(JsonArgs),
    /// Approve a host that has enrolled
    Approve(OneHost),
    /// Remove a host: its tokens are void at once
    Remove(OneHost),
    /// Make a token, by which one host enrols
    Token(TokenArgs),
}

#[derive(Args)]
pub(super) struct OneHost {
    /// Name or UUID of the host
    #[arg(value_name = "HOST")]
    pub(super) host: String,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

#[derive(Subcommand)]
pub(super) enum PolicyVerb {
    /// Show the policy that is in force
    List(JsonArgs),
    /// Put a policy in force
    Approve(PolicyFile),
    /// Say which hosts a policy would refuse, by what they last attested with
    Test(PolicyFile),
}

#[derive(Args)]
pub(super) struct PolicyFile {
    /// The policy (docs/ATTESTATION.md, "Policies")
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

/// Make a token, by which one host enrols. It is printed as one line, which is a secret.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs-authority host token kvm1 >token")]
pub(super) struct TokenArgs {
    /// Name of the host, by which policies know it
    #[arg(value_name = "HOST")]
    pub(super) host: String,
    /// Let the host in without approval
    #[arg(long)]
    pub(super) approve: bool,
    /// How long it is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(super) life: std::time::Duration,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

#[derive(Subcommand)]
pub(super) enum LogVerb {
    /// Verify the log in the authority's folder; the authority must not run
    Verify(JsonArgs),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let Options { config, verbose, verb } = Options::parse();
    cli::daemon("vmcryptfs-authority", verbose, config.as_deref(), |config| verbs::run(verb, config))
}

#[cfg(test)]
#[path = "../../../tests/testkit/advice.rs"]
mod advice;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::{Options, advice};

    #[test]
    fn each_advised_command_runs_as_it_is_printed() {
        let found = advice::advised(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "vmcryptfs-authority");
        let runs = |words: &Vec<String>| Options::try_parse_from(words).is_ok();
        let wrong: Vec<String> = found
            .iter()
            .filter(|found| !advice::filled(&found.command).iter().any(runs))
            .map(|found| format!("{}: {}", found.place, found.command))
            .collect();
        assert!(found.iter().any(|found| found.is_help) && wrong.is_empty(), "{wrong:?} of {}", found.len());
    }
}
