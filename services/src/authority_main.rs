//! The trust authority.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmcryptfs_services::authority::options::main()
}
