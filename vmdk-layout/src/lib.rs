//! VMware virtual disks and VM folders, understood without any I/O of its own.
//!
//! The caller hands in bytes and learns positions: which file of a VM folder is what, what a disk descriptor says, and
//! where, in which file, the bytes of a virtual disk are. Nothing here opens a file, follows a path, logs or blocks;
//! [`Source`] is all that a caller implements.
//!
//! | to find out | use |
//! |---|---|
//! | what one `.vmdk` file is | [`DiskFile::read`] |
//! | what a descriptor says, or to change it | [`Descriptor`] |
//! | the descriptor of a new disk | [`NewDisk`] |
//! | where a range of a disk is | [`Layout`], and [`Chain`] where there are snapshots |
//! | whether parents are the right ones | [`Ancestry`] |
//! | who encrypted a disk or VM, and with which key | [`Encryption`], [`KeyLocator`] |
//! | a VM's settings and the disks it attaches | [`Vmx`] |
//! | which files of a folder are the VM's, and what they are | [`vm_files`], [`Role`] |
//!
//! # Example
//!
//! Two extents, one of which is nowhere; files are byte vectors here.
//!
//! ```
//! use vmdk_layout::{Cache, Chain, DiskFile, Layout, Target};
//!
//! let text = b"# Disk DescriptorFile\nversion=1\nCID=00c0ffee\nparentCID=ffffffff\ncreateType=\"custom\"\n\
//!     RW 2 FLAT \"web 01-flat.vmdk\" 0\nRDONLY 6 ZERO\n".to_vec();
//! let DiskFile::Descriptor(descriptor) = DiskFile::read(&text)? else { panic!("not a descriptor") };
//!
//! // One source for each file that the disk needs, in this order. The names are checked: none leaves the folder.
//! assert_eq!(descriptor.files()?[0].as_str(), "web 01-flat.vmdk");
//! let files = vec![vec![7_u8; 1024]];
//!
//! let layout = Layout::open(&descriptor, &files)?;
//! let mut cache = Cache::default();
//! let runs = layout.runs(512..4096, &files, &mut cache).collect::<Result<Vec<_>, _>>()?;
//! assert_eq!((runs[0].len, runs[0].target), (512, Target::Data { file: 0, offset: 512 }));
//! assert_eq!((runs[1].len, runs[1].target), (3072, Target::Zero));
//!
//! // Or simply read, through the sources.
//! let chain = Chain::new(vec![layout])?;
//! let mut bytes = [0; 4];
//! chain.read_at(1022, &mut bytes, &[files], &mut cache)?;
//! assert_eq!(bytes, [7, 7, 0, 0]);
//! # Ok::<(), vmdk_layout::Error>(())
//! ```
//!
//! # Hostile input
//!
//! Descriptors, headers and tables may come from anyone. Names that lead out of the VM folder, loops, tables beyond
//! their file, sizes that overflow and grains that inflate too far are refused with an [`Error`] that names the line or
//! the offset, what was found and what was expected. Nothing panics, and memory is bounded by [`limits`] or by the
//! bytes really handed in, never by a number in them.
//!
//! # Not here
//!
//! Writing grains (sparse extents and snapshots are read only; flat extents are written at the offsets given),
//! replaying seSparse journals, and decrypting what VMware encrypted.
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
pub use name::{FileName, Meant};
pub use source::Source;
pub use sparse::{GrainMarker, Marker, MarkerKind, Sparse, SparseFormat, Usage, inflate_grain};
pub use vmx::{AttachedDevice, Bus, DeviceKind, Vmx};
