//! Exit codes (docs/CLI.md). The one place that maps them.

use std::process::ExitCode;

use crate::error::Kind;

/// Exhaustive on purpose: a new kind must choose its code here. 0 is success; 2 is also what clap gives for a wrong flag.
pub(super) fn code(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Io => 1,
        Kind::Invalid => 2,
        Kind::Corrupt => 3,
        Kind::KeyUnavailable => 4,
        Kind::KeyRejected => 5,
        Kind::Busy => 6,
        Kind::Denied => 7,
        Kind::NotFound => 8,
        Kind::Exists => 9,
        Kind::ReadOnly => 10,
        Kind::Unsupported => 11,
        Kind::Stopped => 12,
    })
}
