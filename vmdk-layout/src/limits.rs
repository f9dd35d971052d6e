//! Every limit that this crate sets on its input, with the reason.
//!
//! Whatever a file claims, memory and work stay within these, or within the length of the bytes really handed in.

/// Bytes in a disk sector, the unit of every VMDK field (Virtual Disk Format 5.0, "Terminology").
pub const SECTOR_LEN: u64 = 512;

/// Longest descriptor or `.vmx` text, in bytes. VMware reserves 20 sectors for embedded descriptors; a 62 TB disk
/// split into 2 GB extents, the longest that its products can make, needs about 1.5 MB.
pub const MAX_TEXT_LEN: usize = 4 << 20;

/// Most extents of one disk: 62 TB (the largest disk of vSphere) in extents of 2 GB are 31,000.
pub const MAX_EXTENTS: usize = 1 << 16;

/// Most lines of one text: every extent has one, and all else that VMware writes are some hundreds.
pub const MAX_LINES: usize = MAX_EXTENTS + 4096;

/// Largest disk in disk sectors: beyond it a byte offset no longer fits a signed 64-bit file offset.
pub const MAX_DISK_SECTORS: u64 = (i64::MAX as u64) / SECTOR_LEN;

/// Largest grain in disk sectors, 16 MiB. VMware's tools write 64 KiB (hosted) and at most 1 MiB (COWD); a compressed
/// grain must be held in memory whole, so this bounds a buffer.
pub const MAX_GRAIN_SECTORS: u64 = 1 << 15;

/// Most entries of a hosted grain table ("numGTEsPerGT" is 512 in every version of the format).
pub const MAX_TABLE_ENTRIES: u64 = 512;

/// Most disks in a snapshot chain. VMware allows 32 snapshots; linked clones add theirs on top.
pub const MAX_CHAIN: usize = 256;

/// Longest file name in bytes, as on every file system of Linux and VMFS.
pub const MAX_NAME_LEN: usize = 255;

/// Deepest nesting of a key locator. VMware writes list/pair/fqid, three deep.
pub const MAX_KEY_LOCATOR_DEPTH: usize = 8;

/// Most elements in one key locator. VMware writes one for each key that may unlock, a handful.
pub const MAX_KEY_LOCATOR_ELEMENTS: usize = 1024;

/// Bytes of directories and tables read at once. It divides neither unevenly: entries are 4 or 8 bytes on sector
/// starts.
pub const PIECE_LEN: u64 = 4096;
