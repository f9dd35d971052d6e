//! What a power cut leaves: every synced block is whole, with its synced content or a later one.

use parking_lot::Mutex;

use super::*;
use crate::storage::memory::CrashStorage;

/// Unsynced changes in the order they were made.
#[derive(Default)]
struct Log {
    durable: Vec<u8>,
    changes: Vec<Change>,
}

enum Change {
    /// At most one sector of 512 bytes.
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    SetLen(u64),
}

/// As [`CrashStorage`], for any number of changes, of which random subsets survive. A change of length is not overtaken
/// by what was written after it: file systems keep that order.
#[derive(Default)]
struct PowerCut {
    live: MemoryStorage,
    log: Mutex<Log>,
}

impl PowerCut {
    fn new(image: Vec<u8>) -> Self {
        let log = Log { durable: image.clone(), changes: Vec::new() };
        Self { live: MemoryStorage::new(image), log: Mutex::new(log) }
    }

    fn image(&self, survives: impl Fn(usize) -> bool) -> Vec<u8> {
        let log = self.log.lock();
        let last = (0..log.changes.len()).rev().find(|&number| survives(number));
        let storage = MemoryStorage::new(log.durable.clone());
        for (number, change) in log.changes.iter().enumerate() {
            match change {
                Change::Write(offset, data) if survives(number) => storage.write_at(*offset, data).unwrap(),
                Change::Zero(offset, len) if survives(number) => storage.punch(*offset, *len).unwrap(),
                Change::SetLen(len) if last >= Some(number) => storage.set_len(*len).unwrap(),
                Change::Write(..) | Change::Zero(..) | Change::SetLen(_) => {}
            }
        }
        storage.image()
    }

    /// Nothing, everything, every beginning, all but one, and random subsets.
    fn images(&self, seed: u64) -> Vec<Vec<u8>> {
        let len = self.log.lock().changes.len();
        let mut images: Vec<Vec<u8>> = (0..=len).step_by(3).map(|kept| self.image(|number| number < kept)).collect();
        images.extend((0..len).step_by(5).map(|lost| self.image(|number| number != lost)));
        for round in 0..20_u64 {
            images.push(self.image(|number| {
                let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_add(round);
                mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 1
            }));
        }
        images
    }
}

impl Storage for PowerCut {
    fn len(&self) -> Result<u64> {
        self.live.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.log.lock().changes.push(Change::SetLen(len));
        self.live.set_len(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.live.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut log = self.log.lock();
        let mut at = 0;
        while at < data.len() {
            let start = offset + at as u64;
            let end = data.len().min(at + 512 - index(start % 512));
            log.changes.push(Change::Write(start, data[at..end].to_vec()));
            at = end;
        }
        self.live.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        let mut log = self.log.lock();
        log.durable = self.live.image();
        log.changes.clear();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.log.lock().changes.push(Change::Zero(offset, len));
        self.live.punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.live.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.live.seek_hole(offset)
    }
}

/// Contents since the last sync, the synced one first.
type History = Vec<Vec<u8>>;

/// A block of one state of a file, with zeros behind its end.
fn block_of(model: &[u8], number: usize) -> Vec<u8> {
    let mut block = model.get(number * BLOCK_LEN..).unwrap_or_default().to_vec();
    block.resize(BLOCK_LEN, 0);
    block
}

/// The promise. Growing shows whatever a crash might have left behind the end.
fn keeps_what_was_synced(image: Vec<u8>, history: &History, keys: &HomeKeys) {
    let file = open(MemoryStorage::new(image), keys);
    let len = index(file.plain_len());
    let lengths = history.iter().flat_map(|model| [model.len(), model.len().next_multiple_of(BLOCK_LEN)]);
    assert!(lengths.clone().any(|allowed| allowed == len), "length {len} of {:?}", lengths.collect::<Vec<_>>());
    let mut buffer = request_buffer();
    file.set_len(ceil(file.plain_len(), BLOCK) + BLOCK).unwrap();
    for number in 0..len.div_ceil(BLOCK_LEN) + 1 {
        match file.read_at(number as u64 * BLOCK, BLOCK_LEN, &mut buffer) {
            Ok(seen) => {
                // Cut where the file ended: a growing write that was lost may have left its length, or the reverse.
                let cut = |model: &Vec<u8>, end: usize| block_of(&model[..model.len().min(end)], number);
                let ends = || history.iter().map(Vec::len).chain([len]);
                let known = history.iter().any(|model| ends().any(|end| cut(model, end) == seen));
                assert!(known || seen.iter().all(|&byte| byte == 0), "block {number} is none that it ever was");
                let freed = history.iter().any(|model| block_of(model, number) == [0; BLOCK_LEN]);
                assert!(known || freed, "block {number} lost what was synced");
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt);
                let freed = history.iter().any(|model| block_of(model, number) == [0; BLOCK_LEN]);
                assert!(freed, "block {number} was synced and is damaged");
            }
        }
    }
}

/// Writes of one block, with every subset of their sectors.
#[test]
fn every_crash_of_one_write_leaves_the_synced_block_or_the_new_one() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    let mut synced = Vec::new();
    let seed = Op::Write(0, 2 * BLOCK_LEN + 900, 1);
    apply(&base, &seed, &mut buffer).unwrap();
    apply_to_model(&mut synced, &seed);
    let ops = [
        Op::Write(0, BLOCK_LEN, 9),
        Op::Write(BLOCK + 100, 1500, 9),
        Op::Write(2 * BLOCK + 100, 500, 9),
        Op::SetLen(1003),
        Op::SetLen(20_000),
        Op::Punch(BLOCK, BLOCK),
        Op::Punch(100, 3000),
    ];
    for op in &ops {
        let file = open(CrashStorage::new(base.storage.image()), &keys);
        apply(&file, op, &mut buffer).unwrap();
        let mut done = synced.clone();
        apply_to_model(&mut done, op);
        let history = vec![synced.clone(), done];
        for image in file.storage.crash_images() {
            keeps_what_was_synced(image, &history, &keys);
        }
    }
}

/// Two crashes one after the other: what the first one left readable survives the second one.
#[test]
fn a_block_survives_a_second_crash_after_a_torn_write() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    apply(&base, &Op::Write(0, BLOCK_LEN, 1), &mut buffer).unwrap();
    let first = open(CrashStorage::new(base.storage.image()), &keys);
    apply(&first, &Op::Write(0, BLOCK_LEN, 2), &mut buffer).unwrap();
    for image in first.storage.crash_images().into_iter().step_by(7) {
        let left = contents(&open(MemoryStorage::new(image.clone()), &keys));
        for (number, len) in [BLOCK_LEN, 700].into_iter().enumerate() {
            let second = open(PowerCut::new(image.clone()), &keys);
            let op = Op::Write(0, len, 3);
            apply(&second, &op, &mut buffer).unwrap();
            let mut done = left.clone();
            apply_to_model(&mut done, &op);
            for image in second.storage.images(number as u64) {
                keeps_what_was_synced(image, &vec![left.clone(), done.clone()], &keys);
            }
        }
    }
}

/// The daemon was killed after an unsynced write: what it left is not durable, so the synced version must stay.
#[test]
fn a_write_after_a_restart_spares_the_synced_version() {
    let keys = keys();
    let mut buffer = request_buffer();
    let file = open(PowerCut::default(), &keys);
    let mut history = vec![Vec::new()];
    let ops = [Op::Write(0, BLOCK_LEN, 1), Op::Sync, Op::Write(0, BLOCK_LEN, 2), Op::Write(0, BLOCK_LEN, 3)];
    let storage = ops[..3].iter().fold(file, |file, op| {
        apply(&file, op, &mut buffer).unwrap();
        file
    });
    let file = open(storage.storage, &keys);
    apply(&file, &ops[3], &mut buffer).unwrap();
    for op in &ops {
        let mut model = history[history.len() - 1].clone();
        apply_to_model(&mut model, op);
        history.push(model);
    }
    history.drain(..2);
    for image in file.storage.images(1) {
        keeps_what_was_synced(image, &history, &keys);
    }
}

/// As above, where the write that left something unsynced failed half-way.
#[test]
fn a_write_after_a_failed_one_spares_the_synced_version() {
    let keys = keys();
    let mut buffer = request_buffer();
    let states: History = (1..4).map(|seed| pattern(BLOCK_LEN, seed)).collect();
    for fault in 0..3 {
        let file = open(FaultStorage::new(PowerCut::default(), libc::EIO), &keys);
        file.write_at(0, &states[0], &mut buffer).unwrap();
        file.sync().unwrap();
        file.storage.fail_after(fault);
        file.write_at(0, &states[1], &mut buffer).unwrap_err();
        file.write_at(0, &states[2], &mut buffer).unwrap();
        for image in file.storage.inner().images(fault.unsigned_abs()) {
            keeps_what_was_synced(image, &states, &keys);
        }
    }
}

#[test]
fn what_was_cut_off_does_not_come_back_in_a_crash() {
    let keys = keys();
    let mut buffer = request_buffer();
    for (blocks, kept) in [(1, 100), (3, 100), (3, BLOCK), (3, BLOCK + 100)] {
        let base = new_file(&keys);
        base.write_at(0, &vec![7; blocks * BLOCK_LEN], &mut buffer).unwrap();
        let file = open(PowerCut::new(base.storage.image()), &keys);
        file.set_len(kept).unwrap();
        file.set_len(4 * BLOCK).unwrap();
        for image in file.storage.images(kept) {
            let reopened = open(MemoryStorage::new(image), &keys);
            let seen = contents(&reopened);
            let came_back = seen.len() == 4 * BLOCK_LEN && seen[index(kept)..].iter().any(|&byte| byte != 0);
            assert!(!came_back, "the file grew before what was cut off was gone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_happened_synced_blocks_are_whole(ops in prop::collection::vec(op(), 1..12), seed in any::<u64>()) {
        let keys = keys();
        let mut buffer = request_buffer();
        let mut file = open(PowerCut::default(), &keys);
        let mut history = vec![Vec::new()];
        for op in &ops {
            let mut model = history[history.len() - 1].clone();
            if let Op::Reopen = op {
                // The daemon was killed; the host goes on.
                let HomeFile { storage, .. } = file;
                file = open(storage, &keys);
            }
            apply(&file, op, &mut buffer).unwrap();
            apply_to_model(&mut model, op);
            if let Op::Sync = op {
                history.clear();
            }
            history.push(model);
            for image in file.storage.images(seed) {
                keeps_what_was_synced(image, &history, &keys);
            }
        }
    }
}
