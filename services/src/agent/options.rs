//! The command line of the agent.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use vmcryptfs::cli;
use vmcryptfs::provider::agent::socket_of;

/// The agent of a host: holds the keys that the cluster of this host shares, and gives KEKs to the programs of this host.
#[derive(Parser)]
#[command(
    name = "vmcryptfs-agent",
    version,
    after_help = "Example:\n  vmcryptfs-agent --config /etc/vmcryptfs/config.toml\n\n\
    It runs until SIGTERM or SIGINT. docs/CLUSTER.md says what it does, and dist/systemd has a unit."
)]
struct Options {
    /// Configuration file [default: /etc/vmcryptfs/config.toml for root, else ~/.config/vmcryptfs/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its socket [default: `socket` of `[agent]` in the configuration, else /run/vmcryptfs/agent.sock]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Log more; twice for every detail
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let Options { config, socket, verbose } = Options::parse();
    cli::daemon("vmcryptfs-agent", verbose, config.as_deref(), |config| {
        let socket = socket.map_or_else(|| socket_of(config), Ok)?;
        super::run(config, &socket)
    })
}
