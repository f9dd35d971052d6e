//! Pieces of directories and tables that were read already, and the grain inflated last.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::limits::PIECE_LEN;
use crate::source::{Source, check_within};

/// One file of one disk of a chain.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct FileId {
    pub(crate) link: usize,
    pub(crate) file: usize,
}

/// Memory of table pieces for one [`Chain`](crate::Chain): bounded, and worth keeping between requests.
///
/// A cache knows files only by their place in the chain, so it must not be shared between chains. Files that change
/// while a chain is open need a new cache; sparse extents and snapshots are read only, so theirs do not.
#[derive(Debug)]
pub struct Cache {
    capacity: usize,
    slots: Vec<Slot>,
    index: HashMap<(FileId, u64), usize>,
    /// Counts uses, to find the piece that was not used for longest.
    clock: u64,
    /// The piece used last, since neighbours in a table are asked for one after the other.
    last: usize,
    grain: Option<((FileId, u64), Vec<u8>)>,
}

#[derive(Debug)]
struct Slot {
    key: (FileId, u64),
    used: u64,
    bytes: Vec<u8>,
}

impl Cache {
    /// A cache of at most `pieces` pieces of [`PIECE_LEN`] bytes, at least one.
    pub fn new(pieces: usize) -> Self {
        let capacity = pieces.max(1);
        Self { capacity, slots: Vec::new(), index: HashMap::new(), clock: 0, last: 0, grain: None }
    }

    /// The `N` bytes at `offset`, a multiple of `N`, of a file of `file_len` bytes.
    pub(crate) fn entry<const N: usize, S: Source + ?Sized>(
        &mut self,
        id: FileId,
        source: &S,
        file_len: u64,
        offset: u64,
    ) -> Result<[u8; N]> {
        check_within(file_len, offset, N as u64, "table entry")?;
        let key = (id, offset / PIECE_LEN);
        let at = usize::try_from(offset % PIECE_LEN).expect("PIECE_LEN fits usize");
        let slot = match self.slots.get(self.last).filter(|slot| slot.key == key && slot.bytes.len() >= at + N) {
            Some(_) => self.last,
            None => self.slot(key, at + N, source, file_len)?,
        };
        self.last = slot;
        self.clock += 1;
        let slot = self.slots.get_mut(slot).expect("the index names slots that exist");
        slot.used = self.clock;
        let entry = slot.bytes.get(at..).and_then(<[u8]>::first_chunk);
        Ok(*entry.expect("entries are aligned to their size, which divides PIECE_LEN, and lie within the file"))
    }

    /// The bytes of the grain that `inflate` makes, unless they are here still.
    pub(crate) fn grain(
        &mut self,
        key: (FileId, u64),
        inflate: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<&[u8]> {
        let (known, mut bytes) = self.grain.take().map_or((None, Vec::new()), |(known, bytes)| (Some(known), bytes));
        if known != Some(key) {
            bytes.clear();
            inflate(&mut bytes)?;
        }
        Ok(&self.grain.insert((key, bytes)).1)
    }

    /// Where the piece is, read now if need be: also if it had fewer than `needed` bytes, because its file has grown.
    fn slot<S: Source + ?Sized>(
        &mut self,
        key: (FileId, u64),
        needed: usize,
        source: &S,
        file_len: u64,
    ) -> Result<usize> {
        let known = self.index.get(&key).copied();
        if let Some(place) = known.filter(|place| self.slots.get(*place).is_some_and(|it| it.bytes.len() >= needed)) {
            return Ok(place);
        }
        let start = key.1 * PIECE_LEN;
        let len = usize::try_from(PIECE_LEN.min(file_len - start)).expect("PIECE_LEN fits usize");
        let mut bytes = vec![0; len];
        source.read_at(start, &mut bytes).map_err(|error| Error::io(start, error))?;
        let fresh = Slot { key, used: self.clock, bytes };
        let place = match known {
            Some(place) => place,
            None if self.slots.len() < self.capacity => self.slots.len(),
            None => {
                let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.used);
                oldest.expect("capacity is at least one").0
            }
        };
        match self.slots.get_mut(place) {
            Some(slot) => {
                self.index.remove(&slot.key);
                *slot = fresh;
            }
            None => self.slots.push(fresh),
        }
        self.index.insert(key, place);
        Ok(place)
    }
}

impl Default for Cache {
    /// 1 MiB of pieces, enough for the tables of 16 GiB of hosted grains.
    fn default() -> Self {
        Self::new(256)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;

    /// Counts reads; every byte tells its own place.
    struct Counting {
        reads: Cell<usize>,
        len: u64,
    }

    impl Source for Counting {
        fn byte_len(&self) -> io::Result<u64> {
            Ok(self.len)
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.reads.set(self.reads.get() + 1);
            buf.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = (at / 4 % 251) as u8);
            Ok(())
        }
    }

    #[test]
    fn pieces_are_read_once_and_the_oldest_gives_way() {
        let source = Counting { reads: Cell::new(0), len: 10 * PIECE_LEN + 4 };
        let id = FileId { link: 0, file: 0 };
        let mut cache = Cache::new(2);
        let mut read = |piece: u64, within: u64| {
            let at = piece * PIECE_LEN + within;
            let entry: [u8; 4] = cache.entry(id, &source, source.len, at).unwrap();
            assert_eq!(entry, [(at / 4 % 251) as u8; 4]);
            source.reads.get()
        };
        assert_eq!([read(0, 0), read(0, 4092), read(1, 0), read(0, 8), read(2, 0), read(0, 0)], [1, 1, 2, 2, 3, 3]);
        assert_eq!([read(1, 4), read(10, 0)], [4, 5]);
        assert!(cache.entry::<4, _>(id, &source, source.len, 10 * PIECE_LEN + 4).is_err());
    }

    #[test]
    fn a_piece_at_the_end_of_a_file_that_grew_is_read_again() {
        let id = FileId { link: 0, file: 0 };
        let mut cache = Cache::new(2);
        let mut bytes = vec![7_u8; 8];
        assert_eq!(cache.entry::<4, _>(id, &bytes, 8, 4).unwrap(), [7; 4]);
        bytes.extend([9; 4]);
        assert!(cache.entry::<4, _>(id, &bytes, 8, 8).is_err());
        assert_eq!(cache.entry::<4, _>(id, &bytes, 12, 8).unwrap(), [9; 4]);
        assert_eq!(cache.entry::<4, _>(id, &bytes, 12, 0).unwrap(), [7; 4]);
    }

    #[test]
    fn only_the_last_grain_is_kept() {
        let mut cache = Cache::default();
        let key = |at| (FileId { link: 0, file: 0 }, at);
        let fill = |byte| {
            move |bytes: &mut Vec<u8>| {
                bytes.push(byte);
                Ok(())
            }
        };
        assert_eq!(cache.grain(key(1), fill(1)).unwrap(), [1]);
        assert_eq!(cache.grain(key(1), fill(2)).unwrap(), [1]);
        assert_eq!(cache.grain(key(2), fill(3)).unwrap(), [3]);
        assert!(cache.grain(key(3), |_| Err(crate::Error::new(crate::Kind::Corrupt, "x"))).is_err());
        assert_eq!(cache.grain(key(2), fill(4)).unwrap(), [4]);
    }
}
