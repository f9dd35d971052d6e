//! Encrypted dumps of the processes that had data of guests in memory (docs/DUMPS.md): encrypted when they are taken, to a
//! key whose private half only a key provider opens.
//!
//! Taking a dump needs no secret and asks no key server. Opening one needs the host key.

mod folder;
pub mod kernel;
mod key_file;
mod open;
pub mod refusals;
pub mod stream;
mod take;

pub use folder::{DumpFolder, StoredDump};
pub use key_file::{KeyFile, make};
pub use open::{LockedDump, Opened, opened_by};
pub use take::{Process, Taken, has_guest_data, take};
