//! What tests need of a host: providers, VM folders, mounts, key servers' clients, vectors, snapshots, and a way to say that this
//! machine cannot run them.
//!
//! Every test crate includes all of it as a module. Unit tests of `src` include single files of it.

#![allow(dead_code, reason = "no test crate uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod datastore;
pub(crate) mod host;
pub(crate) mod not_run;
pub(crate) mod page_cache;
pub(crate) mod snapshot;
pub(crate) mod tpm;
pub(crate) mod vector_file;
