//! Tests of the whole library: images of all formats, made here or by other tools, read back byte for byte.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that panics has failed, as it should")]

mod disks;
mod dissect;
mod fuzz_smoke;
mod images;
mod mutation;
mod properties;
mod qemu;
mod reader;
mod refusals;
