//! The Merkle tree over a log's entries (RFC 9162, section 2.1; the hashes are those of RFC 6962), and its proofs.
//!
//! A node that has all its leaves never changes, so it is kept: a root and a proof cost a number of hashes that grows with the
//! logarithm of the log.

use vmcryptfs::crypto::derive::Sha256;

/// A node of the tree.
pub type Hash = [u8; 32];

const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// The hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.add(LEAF);
    hash.add(entry);
    hash.finish()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.add(NODE);
    hash.add(left);
    hash.add(right);
    hash.finish()
}

/// The tree of a log that grows.
#[derive(Default)]
pub(crate) struct Tree {
    /// Complete nodes, by height: one of height h has 2^h leaves.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Leaves so far.
    pub(crate) fn len(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Adds a leaf.
    pub(crate) fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for height in 0.. {
            if self.levels.len() == height {
                self.levels.push(Vec::new());
            }
            let level = &mut self.levels[height];
            level.push(hash);
            let [.., left, right] = level.as_slice() else { return };
            if !level.len().is_multiple_of(2) {
                return;
            }
            hash = node_hash(left, right);
        }
    }

    /// The root over all leaves.
    pub(crate) fn hash_of_all(&self) -> Hash {
        self.hash(0, self.len())
    }

    /// The root over the first `size` leaves; `None` where there are fewer.
    pub(crate) fn root(&self, size: usize) -> Option<Hash> {
        (size <= self.len()).then(|| self.hash(0, size))
    }

    /// MTH of RFC 9162 over `len` leaves from `start` on, which a split of the tree has led to.
    fn hash(&self, start: usize, len: usize) -> Hash {
        if len == 0 {
            return Sha256::new().finish();
        }
        if len.is_power_of_two() {
            return self.levels[len.trailing_zeros() as usize][start / len];
        }
        let left = split(len);
        node_hash(&self.hash(start, left), &self.hash(start + left, len - left))
    }

    /// The nodes that prove that a leaf is in the tree of the first `size`; `None` where there is no such leaf.
    pub(crate) fn inclusion(&self, index: usize, size: usize) -> Option<Vec<Hash>> {
        if index >= size || size > self.len() {
            return None;
        }
        let (mut start, mut len, mut path) = (0, size, Vec::new());
        while len > 1 {
            let left = split(len);
            if index - start < left {
                path.push(self.hash(start + left, len - left));
                len = left;
            } else {
                path.push(self.hash(start, left));
                start += left;
                len -= left;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The nodes that prove that the tree of the first `size` leaves begins with that of the first `old`; `None` where there are fewer.
    pub(crate) fn consistency(&self, old: usize, size: usize) -> Option<Vec<Hash>> {
        if old > size || size > self.len() {
            return None;
        }
        let (mut start, mut len, mut rest, mut path) = (0, size, old, Vec::new());
        // The caller knows the old tree's root: a proof leaves it out where it is a node of this tree.
        let mut is_known = true;
        while rest != 0 && rest != len {
            let left = split(len);
            if rest <= left {
                path.push(self.hash(start + left, len - left));
                len = left;
            } else {
                path.push(self.hash(start, left));
                start += left;
                len -= left;
                rest -= left;
                is_known = false;
            }
        }
        if rest != 0 && !is_known {
            path.push(self.hash(start, len));
        }
        path.reverse();
        Some(path)
    }
}

/// The largest power of two below `len`, which is 2 or more.
fn split(len: usize) -> usize {
    len.next_power_of_two() / 2
}

/// Which of two siblings the next node of a proof is.
enum Sibling {
    Left,
    Right,
}

/// The way that a proof leads from a node to the root: both algorithms of RFC 9162 take it.
struct Climb {
    /// Number of the node on its level.
    at: usize,
    /// Number of the last node of that level.
    last: usize,
}

impl Climb {
    fn is_at_root(&self) -> bool {
        self.last == 0
    }

    /// Goes to the parent; `None` at the root. The last node of a level may have no sibling: it goes up to where it has one first.
    fn step(&mut self) -> Option<Sibling> {
        if self.is_at_root() {
            return None;
        }
        let (sibling, lonely) = match self.at & 1 == 1 || self.at == self.last {
            true => (Sibling::Left, self.at.trailing_zeros()),
            false => (Sibling::Right, 0),
        };
        (self.at, self.last) = (self.at >> lonely >> 1, self.last >> lonely >> 1);
        Some(sibling)
    }
}

/// Whether `path` proves that an entry with this hash is at `index` of the log with this root and size (RFC 9162, 2.1.3.2).
pub fn includes(root: &Hash, size: usize, index: usize, leaf: Hash, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut climb, mut hash) = (Climb { at: index, last: size - 1 }, leaf);
    for node in path {
        hash = match climb.step() {
            Some(Sibling::Left) => node_hash(node, &hash),
            Some(Sibling::Right) => node_hash(&hash, node),
            None => return false,
        };
    }
    climb.is_at_root() && hash == *root
}

/// Whether `path` proves that the log with the first root and size is how the one with the second began (RFC 9162, 2.1.4.2).
pub fn extends((old_root, old): (&Hash, usize), (root, size): (&Hash, usize), path: &[Hash]) -> bool {
    if old == size {
        return path.is_empty() && old_root == root;
    }
    if old == 0 {
        return path.is_empty() && *old_root == Sha256::new().finish();
    }
    if old > size {
        return false;
    }
    let mut nodes = path.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { nodes.next() };
    let Some(first) = first else { return false };
    let levels = (old - 1).trailing_ones(); // up to there the old log's last node has all its leaves
    let mut climb = Climb { at: (old - 1) >> levels, last: (size - 1) >> levels };
    let (mut of_old, mut of_new) = (*first, *first);
    for node in nodes {
        match climb.step() {
            Some(Sibling::Left) => {
                of_old = node_hash(node, &of_old);
                of_new = node_hash(node, &of_new);
            }
            Some(Sibling::Right) => of_new = node_hash(&of_new, node),
            None => return false,
        }
    }
    climb.is_at_root() && of_old == *old_root && of_new == *root
}

#[cfg(test)]
mod tests;
