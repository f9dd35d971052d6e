//! What TPMs say, judged: recorded statements of two TPMs, attacks with them, and a TPM that runs in the test.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![allow(clippy::big_endian_bytes, reason = "numbers of a TPM are big-endian")]

mod attacks;
mod fuzz;
mod hosts;
mod live;
#[path = "../../../tests/fuzz/memory.rs"]
mod memory;
#[path = "../../../vmdk-layout/tests/it/mutation.rs"]
#[allow(clippy::cast_possible_truncation, dead_code, reason = "a choice among few; it is shared")]
mod mutation;
mod vectors;
mod verdict;
