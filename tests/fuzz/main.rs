//! Fuzzing of every reader of bytes from outside: no panic, no hang, bounded memory, and what was read prints as it was.
//!
//! Readers of VMware's formats are fuzzed in `vmdk-layout`. The corpora are the vectors of `tests/vectors`, recorded answers of
//! a key server, what the tests make themselves, and the files in `tests/fuzz/corpus`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod home_file;
mod memory;
#[path = "../../vmdk-layout/tests/it/mutation.rs"]
#[allow(clippy::cast_possible_truncation, reason = "a choice among few")]
mod mutation;
mod stored;
#[path = "../testkit/mod.rs"]
mod testkit;
mod texts;
mod wire;

use std::path::{Path, PathBuf};

use memory::bound_memory;

/// Seconds of each target where nobody asks for more.
const SECONDS: u64 = 3;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name)
}
