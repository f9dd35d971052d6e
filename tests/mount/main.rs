//! A real mount, used as QEMU, cp and people use it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod errors;
mod events;
mod files;
mod home;
mod host;
mod keys;
mod names;
