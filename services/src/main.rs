//! The agent of a host.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmcryptfs_services::agent::options::main()
}
