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
    /// Remove a host: its tokens are void at once. Names the keys that it got
    Remove(OneHost),
    /// Make a token, by which a host enrols again with another TPM
    Replace(TokenArgs),
    /// List the keys that a host ever got
    Keys(OneHost),
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
    /// Print the text of the policy, or of a proposal
    Show(ShowArgs),
    /// Put a policy in force, or add a set to it
    Approve(ApproveArgs),
    /// Say which hosts would be refused, by what they sent last
    Test(ApproveArgs),
    /// Propose a set, which counts once it is approved
    Propose(ProposeArgs),
    /// Reject a proposal
    Reject(OneProposal),
    /// Say why a host was refused
    Explain(OneHost),
}

#[derive(Args)]
pub(super) struct ShowArgs {
    /// Name of the proposal, as `policy list` has it
    #[arg(long, value_name = "ID")]
    pub(super) proposal: Option<String>,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

/// Where a policy or a set comes from. A file is a whole policy; a host or a proposal is a set that is added to the one in force.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs-authority policy approve kvm.toml\n  \
    vmcryptfs-authority policy approve kvm1 --pcr 4,7,11,12\n  \
    vmcryptfs-authority policy test --proposal 3f0c9a1be5d2470c")]
pub(super) struct ApproveArgs {
    /// A policy (docs/ATTESTATION.md, "Policies"); or a host: what it measured when it attested last
    #[arg(value_name = "FILE|HOST", required_unless_present = "proposal")]
    pub(super) what: Option<String>,
    /// A set that waits, as `policy list` has it
    #[arg(long, value_name = "ID", conflicts_with_all = ["what", "pcrs"])]
    pub(super) proposal: Option<String>,
    /// Registers of the host; all that it was quoted if not given
    #[arg(long = "pcr", value_name = "N", value_delimiter = ',')]
    pub(super) pcrs: Option<Vec<u8>>,
    /// What the host measured there, as its refusal names it: refused if it has sent something else since
    #[arg(long, value_name = "ID", requires = "pcrs")]
    pub(super) measured: Option<String>,
    /// Name of the set
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// What its class demands from then on: identity, secureboot, measured or pinned
    #[arg(long, value_name = "LEVEL")]
    pub(super) level: Option<String>,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

/// Propose a set, which counts once it is approved.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs-authority policy propose kvm1 --pcr 0,2,7 --name firmware-2.1\n  \
    vmcryptfs-authority policy propose next.toml --class compute")]
pub(super) struct ProposeArgs {
    /// A host: what it measured when it attested last; or with --class, a file with a set
    #[arg(value_name = "HOST|FILE")]
    pub(super) what: String,
    /// The class that the file's set is for
    #[arg(long, value_name = "CLASS", conflicts_with = "pcrs")]
    pub(super) class: Option<String>,
    /// Registers of the host; all that it was quoted if not given
    #[arg(long = "pcr", value_name = "N", value_delimiter = ',')]
    pub(super) pcrs: Option<Vec<u8>>,
    /// Name of the set
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

#[derive(Args)]
pub(super) struct OneProposal {
    /// Name of the proposal, as `policy list` has it
    #[arg(value_name = "ID")]
    pub(super) proposal: String,
    #[command(flatten)]
    pub(super) output: JsonArgs,
}

/// Make a token, by which one host enrols. It is printed as one line, which is a secret.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs-authority host token kvm1 >token\n  \
    vmcryptfs-authority host replace kvm1 >token")]
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
