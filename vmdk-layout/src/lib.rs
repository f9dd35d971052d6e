//! VMware virtual disks and VM folders, understood without any I/O of its own.
#![forbid(unsafe_code)]

mod cache;
mod chain;
mod descriptor;
mod disk_file;
mod encoding;
mod encryption;
mod error;
mod field;
mod folder;
mod key_locator;
mod layout;
pub mod limits;
mod name;
mod source;
mod sparse;
mod vmx;

pub use cache::Cache;
pub use chain::{Ancestry, Chain, ChainRun};
pub use descriptor::{Access, Adapter, Cid, CreateType, Descriptor, Extent, ExtentType, NewDisk, Parent};
pub use disk_file::DiskFile;
pub use encoding::Encoding;
pub use encryption::Encryption;
pub use error::{Error, Kind, Position, Result};
pub use folder::{Belongs, Role, Side, VmFile, vm_files};
pub use key_locator::{KeyLocator, KeyRef};
pub use layout::{CompressedGrain, Layout, Run, Target};
pub use name::FileName;
pub use source::Source;
pub use sparse::{GrainMarker, Marker, MarkerKind, Sparse, SparseFormat, Usage, inflate_grain};
pub use vmx::{AttachedDevice, Bus, DeviceKind, Vmx};
