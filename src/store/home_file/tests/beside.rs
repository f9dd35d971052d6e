//! A reader beside a writer that has the same file open elsewhere.

use std::sync::atomic::AtomicI64;

use super::*;
use crate::storage::memory::{Image, StopStorage};

/// A file that another process writes: it goes through these states, one further at each read from a certain one on.
struct Written {
    states: Vec<MemoryStorage>,
    /// Reads that are still before the first change; below zero, how many states further it is.
    before: AtomicI64,
    is_claimed: bool,
}

impl Written {
    fn new(states: &[Image], is_claimed: bool) -> Self {
        let states = states.iter().map(|image| MemoryStorage::new(image.clone())).collect();
        Self { states, before: AtomicI64::new(i64::MAX), is_claimed }
    }

    fn now(&self) -> &MemoryStorage {
        let further = usize::try_from(-self.before.load(Ordering::SeqCst)).unwrap_or(0);
        &self.states[further.min(self.states.len() - 1)]
    }
}

impl Storage for Written {
    fn len(&self) -> Result<u64> {
        self.now().len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.now().set_len(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let read = self.now().read_at(offset, buffer);
        self.before.fetch_sub(1, Ordering::SeqCst);
        read
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.now().write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.now().sync()
    }

    fn is_claimed_elsewhere(&self) -> bool {
        self.is_claimed
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.now().punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.now().zero(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.now().allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.now().seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.now().seek_hole(offset)
    }
}

/// The states that a writer goes through, and the content before the first of its writes and after each.
fn writing(keys: &HomeKeys, ops: &[Op]) -> (Vec<Image>, Vec<Vec<u8>>) {
    let mut buffer = request_buffer();
    let writer = open(StopStorage::new(Image::default()), keys);
    let mut model = Vec::new();
    for op in [Op::Write(0, BLOCK_LEN, 1), Op::Sync, Op::Write(0, BLOCK_LEN, 2)] {
        apply(&writer, &op, &mut buffer).unwrap();
        apply_to_model(&mut model, &op);
    }
    writer.storage.take_stops();
    let mut contents = vec![model.clone()];
    for op in ops {
        apply(&writer, op, &mut buffer).unwrap();
        apply_to_model(&mut model, op);
        contents.push(model.clone());
    }
    (writer.storage.take_stops(), contents)
}

fn read(file: &HomeFile<Written>) -> Result<Vec<u8>> {
    file.read_at(0, BLOCK_LEN, &mut request_buffer()).map(<[u8]>::to_vec)
}

/// What was synced last is older than what a read could have found when it began, if that was written since.
#[test]
fn a_reader_never_goes_back_to_what_was_synced_last() {
    let keys = keys();
    let next = |seed| Op::Write(0, BLOCK_LEN, seed);
    let part = |seed| Op::Write(100, 700, seed);
    let writers = [
        vec![next(3), next(4), next(5)],
        vec![next(3), Op::Sync, next(4)],
        vec![part(3), part(4), Op::Sync, part(5), part(6)],
        vec![Op::Sync, next(3), Op::Sync, next(4), next(5)],
    ];
    for ops in writers {
        let (states, contents) = writing(&keys, &ops);
        // The first read of each try finds pairs; those after it, blocks and successors.
        for before in 1..6 {
            for skipped in 0..states.len() {
                let file = open(Written::new(&states[skipped..], true), &keys);
                file.follow_others(true);
                file.storage.before.store(before, Ordering::SeqCst);
                let seen = read(&file).unwrap();
                assert!(contents.contains(&seen), "{ops:?}, from state {skipped} on, after {before} reads");
                file.storage.before.store(i64::MIN / 2, Ordering::SeqCst);
                assert_same(&read(&file).unwrap(), contents.last().unwrap(), &"all is written");
            }
        }
    }
}

/// Nobody writes any more, so what the newest version left when the power failed stays: the one before it counts.
#[test]
fn a_reader_takes_the_older_version_where_the_newer_one_never_opens() {
    let keys = keys();
    let (states, _) = writing(&keys, &[]);
    let torn = MemoryStorage::new(states[0].clone());
    torn.write_at(BlockIndex(0).cipher_offset(Place::Spare), &[7; 512]).unwrap();
    for is_claimed in [false, true] {
        let file = open(Written::new(&[torn.snapshot()], is_claimed), &keys);
        file.follow_others(true);
        assert_same(&read(&file).unwrap(), &pattern(BLOCK_LEN, 1), &"the older version");
    }
}
