//! VMware virtual disks and VM folders, understood without any I/O of its own.
#![forbid(unsafe_code)]

mod descriptor;
mod encoding;
mod encryption;
mod error;
mod key_locator;
pub mod limits;
mod name;

pub use descriptor::{Access, Adapter, Cid, CreateType, Descriptor, Extent, ExtentType, NewDisk, Parent};
pub use encoding::Encoding;
pub use encryption::Encryption;
pub use error::{Error, Kind, Position, Result};
pub use key_locator::{KeyLocator, KeyRef};
pub use name::FileName;

#[doc(hidden)]
pub trait Source {}
