//! A real mount, used as QEMU, cp and people use it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod advice;
mod at_once;
mod attacks;
mod bound;
mod bytes;
mod cluster;
mod concurrency;
mod convert;
mod crowd;
mod datastore;
mod deep_rekey;
mod direct;
mod disk_names;
mod dumps;
mod either_side;
mod errors;
mod events;
mod files;
mod first_write;
mod found;
mod hang;
mod home;
mod identity;
#[path = "../../vmdk-layout/tests/it/images.rs"]
#[allow(dead_code, clippy::cast_possible_truncation, reason = "vmdk-layout's own tests use the rest of it")]
mod images;
mod inventory;
mod itself;
mod json;
mod keys;
mod listing;
mod metrics;
mod mounting;
mod names;
mod nested;
mod own_place;
mod raw;
mod read_only;
mod rollback;
mod space;
#[path = "../testkit/mod.rs"]
mod testkit;
mod transport;

use testkit::{host, not_run, page_cache, snapshot};
