//! What a killed process leaves: all that was written before, and of what it was writing each block as it was or as it should be.

use super::*;
use crate::format::manifest::ManifestVersion;
use crate::storage::memory::{CrashStorage, Fault, FaultStorage, Image, StopStorage};

/// What a program may have done before.
const PASTS: [Op; 6] = [
    Op::Write(0, BLOCK_LEN, 1),
    Op::Write(50, 900, 2),
    Op::Write(BLOCK - 700, 1500, 3),
    Op::SetLen(9000),
    Op::Punch(0, BLOCK),
    Op::Sync,
];

/// What it is killed in.
const ENDS: [Op; 11] = [
    Op::Write(0, BLOCK_LEN, 4),
    Op::Write(100, 700, 5),
    Op::Write(BLOCK - 700, 1500, 6),
    Op::Write(0, 2 * BLOCK_LEN, 7),
    Op::Write(5000, 4000, 8),
    Op::SetLen(700),
    Op::SetLen(10_000),
    Op::BeginAnew,
    Op::Punch(0, BLOCK),
    Op::Zero(100, 6000),
    Op::Sync,
];

/// A file that is open, and what is in it.
struct Life<'a> {
    keys: &'a HomeKeys,
    file: HomeFile<StopStorage>,
    content: Vec<u8>,
    past: String,
}

impl<'a> Life<'a> {
    fn begin(image: impl Into<Image>, content: &[u8], past: &str, keys: &'a HomeKeys) -> Self {
        Self { keys, file: open(StopStorage::new(image), keys), content: content.to_vec(), past: past.to_owned() }
    }

    /// Does this as well, and returns every state in which the process could have been killed meanwhile.
    fn go(&mut self, op: &Op) -> Vec<Image> {
        self.past.push_str(&format!("{op:?}, "));
        apply_to_model(&mut self.content, op);
        self.file.storage.take_stops();
        apply(&self.file, op, &mut request_buffer()).unwrap();
        self.file.storage.take_stops()
    }

    /// Does this, and looks at what the next mount would read, whenever the process is killed. Returns that, too.
    fn end(mut self, op: &Op) -> Vec<(Image, Vec<u8>)> {
        let former = self.content.clone();
        let stops = self.go(op);
        let left: Vec<_> = (0..)
            .zip(stops)
            .map(|(stop, image)| {
                let after = format!("{}killed at stop {stop}", self.past);
                let left = left_by(&image, self.keys, &after);
                assert_old_or_new(&left, &[&former, &self.content], &after);
                (image, left)
            })
            .collect();
        assert_same(&left.last().unwrap().1, &self.content, &self.past);
        left
    }
}

/// What the next mount reads.
fn left_by(image: &Image, keys: &HomeKeys, after: &str) -> Vec<u8> {
    let file = open(MemoryStorage::new(image.clone()), keys);
    let len = index(file.plain_len());
    let mut buffer = request_buffer();
    let read = file.read_at(0, len, &mut buffer);
    read.unwrap_or_else(|error| panic!("after {after}: {}", error.chain())).to_vec()
}

/// The length is one of these states', and so is each block.
fn assert_old_or_new(left: &[u8], states: &[&Vec<u8>], after: &str) {
    assert!(states.iter().any(|state| state.len() == left.len()), "{} bytes after {after}", left.len());
    for (number, seen) in left.chunks(BLOCK_LEN).enumerate() {
        let is_of = |state: &&Vec<u8>| {
            let mut block = state.get(number * BLOCK_LEN..).unwrap_or_default().to_vec();
            block.resize(seen.len(), 0);
            block == seen
        };
        assert!(states.iter().any(is_of), "block {number} was never so, after {after}");
    }
}

/// Every file that two operations leave.
fn pasts(keys: &HomeKeys) -> impl Iterator<Item = Life<'_>> {
    PASTS.iter().flat_map(|first| PASTS.iter().map(move |second| [first, second])).map(|ops| {
        let mut life = Life::begin(Image::default(), &[], "", keys);
        ops.iter().for_each(|op| drop(life.go(op)));
        life
    })
}

#[test]
fn whenever_a_process_is_killed_what_it_wrote_before_is_there() {
    let keys = keys();
    let mut stops = 0;
    for end in &ENDS {
        stops += pasts(&keys).map(|life| life.end(end).len()).sum::<usize>();
    }
    assert!(stops > 1000, "{stops} moments to be killed in");
}

/// Each write of a second process, whatever a first one left, whenever that was killed.
#[test]
fn a_second_process_may_be_killed_as_well() {
    let keys = keys();
    let writes = &ENDS[..4];
    let mut stops = 0;
    for first in &writes[1..3] {
        for (image, left) in pasts(&keys).step_by(7).flat_map(|life| life.end(first)) {
            for ops in [[&writes[0], &writes[1]], [&Op::Sync, &writes[3]], [&writes[2], &Op::Punch(0, BLOCK)]] {
                let mut life = Life::begin(image.clone(), &left, "a killed process, ", &keys);
                life.go(ops[0]);
                stops += life.end(ops[1]).len();
            }
        }
    }
    assert!(stops > 300, "{stops} moments to be killed in");
}

/// What a killed process left was synced later: it survives a power cut in the midst of what overwrites it.
#[test]
fn what_a_killed_process_left_is_durable_once_it_is_synced() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = pasts(&keys).next().unwrap();
    for (image, left) in base.end(&ENDS[1]) {
        for ops in
            [[Op::Write(0, BLOCK_LEN, 7), Op::Write(0, BLOCK_LEN, 8)], [Op::Write(9, 90, 7), Op::Write(0, 70, 8)]]
        {
            let file = open(CrashStorage::new(image.clone()), &keys);
            let mut history = vec![left.clone()];
            for op in &ops {
                apply(&file, op, &mut buffer).unwrap();
                history.push(history.last().unwrap().clone());
                apply_to_model(history.last_mut().unwrap(), op);
            }
            for image in (0..20).flat_map(|seed| file.storage.sampled_crash_images(1000 * seed)) {
                let seen = left_by(&image, &keys, "a kill, and a power cut");
                assert!(history.contains(&seen), "neither what was synced nor what was written after that");
            }
        }
    }
}

/// Two threads write to blocks of their own, side by side in a group, and one of them to a block that both share.
#[test]
fn writers_side_by_side_may_be_killed_at_any_moment() {
    let keys = keys();
    let mut content = Vec::new();
    let before = [Op::Write(0, 3 * BLOCK_LEN, 1), Op::Write(10, 3 * BLOCK_LEN - 20, 2)];
    let writes = [Op::Write(50, 5000, 3), Op::Write(2 * BLOCK, 3000, 4)];
    let mut stops = 0;
    for order in (0..64_u64).filter(|order| order.count_ones() == 3) {
        let mut life = Life::begin(Image::default(), &[], "", &keys);
        before.iter().for_each(|op| drop(life.go(op)));
        content.clone_from(&life.content);
        life.file.storage.take_stops();
        let write = |op: &Op| apply(&life.file, op, &mut request_buffer()).unwrap();
        life.file.storage.side_by_side(order, [&|| write(&writes[0]), &|| write(&writes[1])]);
        let states: Vec<Vec<u8>> = [vec![0], vec![1], vec![0, 1]]
            .into_iter()
            .map(|done| {
                let mut state = content.clone();
                done.into_iter().for_each(|number: usize| apply_to_model(&mut state, &writes[number]));
                state
            })
            .collect();
        let after_all = life.file.storage.take_stops();
        stops += after_all.len();
        let allowed: Vec<&Vec<u8>> = states.iter().chain([&content]).collect();
        for image in &after_all {
            assert_old_or_new(&left_by(image, &keys, "two writers"), &allowed, "two writers");
        }
        assert_same(&left_by(after_all.last().unwrap(), &keys, "two writers"), &states[2], &order);
    }
    assert!(stops > 150, "{stops} moments to be killed in");
}

/// A manifest says by the state of a file what is in it: of a block that was overwritten, but not said to be, too.
#[test]
fn the_state_of_a_file_is_that_of_the_block_which_a_killed_process_left() {
    let keys = keys();
    let mut life = Life::begin(Image::default(), &[], "", &keys);
    life.go(&ENDS[0]);
    let former = life.content.clone();
    let digest =
        |image: &Image| open(MemoryStorage::new(image.clone()), &keys).state_digest(ManifestVersion::NEWEST).unwrap();
    let stops = life.end(&ENDS[1]);
    let (old, new) = (digest(&stops[0].0), digest(&stops.last().unwrap().0));
    assert_ne!(old, new);
    for (image, left) in &stops {
        assert_eq!(digest(image), if *left == former { old } else { new });
    }
}

/// A write failed, and so did the second try; the process goes on, and is killed later.
#[test]
fn a_process_may_be_killed_after_a_write_that_failed() {
    let keys = keys();
    let mut buffer = request_buffer();
    let synced = Op::Write(0, 2 * BLOCK_LEN, 1);
    for (calls, failing) in (0..4).flat_map(|calls| (1..4).map(move |failing| (calls, failing))) {
        for next in [&ENDS[0], &ENDS[1], &Op::Sync] {
            let what = format!("{failing} failures after {calls} calls, and {next:?}, ");
            let storage = FaultStorage::with(StopStorage::new(Image::default()), Fault::Torn(libc::EIO));
            let file = open(storage, &keys);
            let mut model = Vec::new();
            for op in [&synced, &Op::Sync, &Op::Write(0, BLOCK_LEN, 2)] {
                apply(&file, op, &mut buffer).unwrap();
                apply_to_model(&mut model, op);
            }
            let mut states = vec![model.clone(), pattern(2 * BLOCK_LEN, 1)];
            file.storage.fail_some_after(calls, failing);
            assert!(apply(&file, &Op::Write(0, BLOCK_LEN, 3), &mut buffer).is_err() || calls > 2);
            apply_to_model(&mut model, &Op::Write(0, BLOCK_LEN, 3));
            states.push(model);
            file.storage.disarm();
            let left = left_by(&file.storage.inner().snapshot(), &keys, &what);
            assert_old_or_new(&left, &states.iter().collect::<Vec<_>>(), &what);
            let mut done = left.clone();
            apply_to_model(&mut done, next);
            file.storage.inner().take_stops();
            apply(&file, next, &mut buffer).unwrap();
            for image in file.storage.inner().take_stops() {
                assert_old_or_new(&left_by(&image, &keys, &what), &[&left, &done], &what);
            }
        }
    }
}

/// A power cut took a block that was never synced, but not its entry: that is a hole until it is written again.
#[test]
fn a_hole_that_a_power_cut_made_is_one_until_it_is_written() {
    let keys = keys();
    let mut life = Life::begin(Image::default(), &[], "", &keys);
    life.go(&Op::Write(BLOCK, BLOCK_LEN, 1));
    let lost = MemoryStorage::new(life.file.storage.snapshot());
    lost.punch(BlockIndex(1).cipher_offset(Place::Main), BLOCK).unwrap();
    for end in [Op::Write(BLOCK + 100, 700, 2), Op::Write(BLOCK, BLOCK_LEN, 3)] {
        Life::begin(lost.snapshot(), &[0; 2 * BLOCK_LEN], "a power cut, ", &keys).end(&end);
    }
}

/// Only what is overwritten where it lies has a successor, which takes a write more.
#[test]
fn a_version_in_a_place_of_its_own_has_no_successor() {
    let keys = keys();
    let mut life = Life::begin(Image::default(), &[], "", &keys);
    let write = Op::Write(0, BLOCK_LEN, 1);
    // Each of them before and after the calls that it takes.
    let calls: Vec<_> = (0..6)
        .map(|round| {
            if round % 2 == 0 {
                life.go(&Op::Sync);
            }
            life.go(&write).len() - 1
        })
        .collect();
    assert_eq!(calls[2..], [2, 3, 2, 3], "ciphertext and pair, and a successor before them");
}
