//! Numbers of nodes.

/// Number of a node. Where possible it is the backing inode's number, so that it survives remounts.
pub type NodeNumber = u64;

/// The root's number, as FUSE has it.
pub const ROOT: NodeNumber = 1;

/// Numbers of nodes whose backing inode's number is taken begin here; file systems hand theirs out from below.
pub(super) const FIRST_OWN_NUMBER: u64 = 1 << 63;
