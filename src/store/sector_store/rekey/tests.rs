use proptest::prelude::*;

use super::torn_storage::{Image, TornStorage};
use super::*;
use crate::crypto::wrap::LocalKek;
use crate::format::header::{DEFAULT_DATA_OFFSET, Slot};
use crate::key::{Kek, KeyId, ProviderName};
use crate::sector::{SectorSize, UNIT_LEN};
use crate::storage::memory::FaultStorage;
use crate::store::buffer::request_buffer;
use crate::store::disk::create;
use crate::store::sector_store::tests::{
    Keys, LIMIT, Op, apply, apply_to_model, contents, keys, op, open, pattern, unlock,
};

const CHUNKS: [u64; 3] = [4096, 8192, MAX_CHUNK_LEN];

/// The keys after the rekey, of the same disk.
struct NewKeys {
    dek: Dek,
    slots: Slots,
}

fn new_keys() -> NewKeys {
    let kek = LocalKek::random().unwrap();
    let dek = random::disk_dek().unwrap();
    let key_id = KeyId::new(ProviderName::new("test").unwrap(), "2").unwrap();
    let slot = Slot { key_id, check: kek.check().unwrap(), wrapped: kek.wrap(&dek).unwrap() };
    NewKeys { dek, slots: slot.into() }
}

fn disk_with(keys: &Keys, ops: &[Op]) -> (SectorStore<TornStorage>, Vec<u8>) {
    let storage = TornStorage::default();
    create(&storage, &keys.header, &keys.dek).unwrap();
    let disk = open(storage, keys);
    let mut model = Vec::new();
    for op in ops {
        apply(&disk, op, &mut request_buffer()).unwrap();
        apply_to_model(&mut model, op);
    }
    disk.sync().unwrap();
    (disk, model)
}

/// Opens what is in transition, or was before, or is no more.
fn reopen<S: Storage>(storage: S, old: &Keys, new: &NewKeys) -> SectorStore<S> {
    let by_new = header_area::load(&storage, ComponentKind::Disk).unwrap().header.verify(&new.dek).is_ok();
    unlock(storage, if by_new { &new.dek } else { &old.dek }).unwrap()
}

/// Begins where that is not done yet, and continues to the end.
fn finish<S: Storage>(disk: &SectorStore<S>, old: &Keys, new: &NewKeys, chunk_len: u64) -> Result<()> {
    let stored = header_area::load(&disk.storage, ComponentKind::Disk)?;
    match stored.header.clone().verify(&new.dek) {
        Ok(header) if header.transition.is_none() => return Ok(()),
        Ok(_) => disk.resume_deep_rekey(&new.dek)?,
        Err(_) => disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone())?,
    }
    disk.deep_rekey(&new.dek, chunk_len, &mut |_| true).map(|done| assert!(done))
}

/// All that must hold after the end.
fn assert_rekeyed(image: &Image, old: &Keys, new: &NewKeys, model: &[u8]) {
    let storage = TornStorage::new(image.clone());
    let header = header_area::load(&storage, ComponentKind::Disk).unwrap().header.verify(&new.dek).unwrap();
    assert_eq!((header.transition, &header.slots), (None, &new.slots));
    assert_eq!((header.uuid, header.shape), (old.header.uuid, old.header.shape));
    assert!(contents(&unlock(storage, &new.dek).unwrap()) == model, "another content");
    assert!(!image.holds(&old.header.slots[0].wrapped.0), "the old wrapped DEK is still there");
    assert!(!image.holds(b"VMCRYPTJ"), "the journal is still there");
    let between = image.data().into_iter().filter(|at| (8192..4 << 20).contains(at) || (4 << 20) + 8192 <= *at);
    let between: Vec<u64> = between.filter(|&at| at < DEFAULT_DATA_OFFSET).collect();
    assert_eq!(between, [0; 0], "data between the header copies");
}

/// Data with a hole of a unit, of a sector and of many, and an end within a block.
fn sample(len: u64) -> Vec<Op> {
    let ops = [Op::SetLen(len), Op::Punch(512, 512), Op::Punch(4096, 4096), Op::Punch(9216, 1024)];
    [Op::Write(0, index(len), 5)].into_iter().chain(ops).collect()
}

#[test]
fn every_length_and_chunk_gives_the_same_content_under_the_new_dek_alone() {
    for size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        for (len, chunk) in [0, 5, 16, 100, 512, 4095, 4096, 5003, 8192, 13_000, 20_000]
            .into_iter()
            .flat_map(|len| CHUNKS.map(|chunk| (len, chunk)))
        {
            let (old, new) = (keys(size), new_keys());
            let (disk, model) = disk_with(&old, &sample(len));
            let holes = disk.storage.image().data();
            finish(&disk, &old, &new, chunk).unwrap();
            assert!(contents(&disk) == model, "the open disk, {len} bytes in chunks of {chunk}");
            let image = disk.storage.image();
            assert_rekeyed(&image, &old, &new, &model);
            assert_eq!(image.data(), holes, "{len} bytes: what was a hole is one");
            assert_ne!(old.dek.bytes(), new.dek.bytes());
        }
    }
}

#[test]
fn a_hole_of_any_length_is_one_step() {
    let (old, new) = (keys(SectorSize::DEFAULT), new_keys());
    let (disk, _) = disk_with(&old, &[]);
    disk.set_len(1 << 48).unwrap();
    disk.write_at(1 << 47, &pattern(4096, 3), &mut request_buffer()).unwrap();
    disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
    let mut steps = Vec::new();
    let done = disk.deep_rekey(&new.dek, 4096, &mut |progress| {
        steps.push(progress.done);
        true
    });
    assert!(done.unwrap());
    assert_eq!(steps, [0, 1 << 47, (1 << 47) + 4096]);
    assert_eq!(disk.read_at(1 << 47, 4096, &mut request_buffer()).unwrap(), pattern(4096, 3));
}

/// A guest works between the steps, and the disk is closed and opened again at any of them.
fn behaves_like_a_byte_vector(size: SectorSize, before: &[Op], during: &[Op], chunk: u64) {
    let (old, new) = (keys(size), new_keys());
    let (mut disk, mut model) = disk_with(&old, before);
    let mut ops = during.iter();
    disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
    loop {
        let mut stop = false;
        let done = disk.deep_rekey(&new.dek, chunk, &mut |_| {
            if let Some(op) = ops.next() {
                apply(&disk, op, &mut request_buffer()).unwrap();
                apply_to_model(&mut model, op);
                assert!(contents(&disk) == model, "after {op:?}");
                stop = matches!(op, Op::Reopen);
            }
            !stop
        });
        if done.unwrap() {
            break;
        }
        disk = reopen(TornStorage::new(disk.storage.image()), &old, &new);
        disk.prepare_writes().unwrap();
        assert!(contents(&disk) == model, "opened again");
        disk.resume_deep_rekey(&new.dek).unwrap();
    }
    assert!(contents(&disk) == model);
    for op in ops {
        apply(&disk, op, &mut request_buffer()).unwrap();
        apply_to_model(&mut model, op);
    }
    assert_rekeyed(&disk.storage.image(), &old, &new, &model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_disk_in_transition_behaves_like_a_byte_vector(
        small in any::<bool>(),
        before in prop::collection::vec(op(), 1..6),
        during in prop::collection::vec(op(), 1..12),
        chunk in prop::sample::select(&CHUNKS[..]),
    ) {
        behaves_like_a_byte_vector(if small { SectorSize::SMALL } else { SectorSize::DEFAULT }, &before, &during, chunk);
    }
}

/// What the disk's content may be after a power cut: that of the last sync, or of any state since, unit by unit.
#[derive(Default)]
struct Allowed {
    states: Vec<Vec<u8>>,
    images: usize,
}

impl Allowed {
    fn check(&mut self, images: &[Image], old: &Keys, new: &NewKeys) {
        for image in images {
            self.images += 1;
            let untouched = reopen(TornStorage::new(image.clone()), old, new);
            let read_only = contents(&untouched);
            self.check_content(&read_only);
            assert!(untouched.storage.image().data() == image.data(), "opening for reading wrote");
            if !self.images.is_multiple_of(7) {
                continue; // going on from each would take long
            }
            let disk = reopen(TornStorage::new(image.clone()), old, new);
            disk.prepare_writes().unwrap();
            assert!(contents(&disk) == read_only, "completing the chunk changed the content");
            finish(&disk, old, new, 4096).unwrap();
            assert_rekeyed(&disk.storage.image(), old, new, &read_only);
        }
    }

    fn check_content(&self, seen: &[u8]) {
        let of = |state: &[u8], number: usize, len: usize| -> Vec<u8> {
            let rest = state.get(number * UNIT_LEN..).unwrap_or_default();
            (0..len).map(|at| rest.get(at).copied().unwrap_or(0)).collect()
        };
        for (number, unit) in seen.chunks(UNIT_LEN).enumerate() {
            let known = self.states.iter().any(|state| of(state, number, unit.len()) == unit);
            assert!(known, "unit {number} is neither old nor new");
        }
        assert!(self.states.iter().any(|state| state.len() <= seen.len()), "cut off");
    }
}

/// Every image that a power cut could leave, at each sync of a whole deep rekey, with a guest's writes before each chunk
/// that no sync of its own made durable.
#[test]
fn every_crash_leaves_each_unit_readable() {
    for size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        let (old, new) = (Arc::new(keys(size)), Arc::new(new_keys()));
        let (disk, mut model) = disk_with(&old, &sample(13_000));
        let allowed = Arc::new(parking_lot::Mutex::new(Allowed { states: vec![model.clone()], images: 0 }));
        disk.storage.watch({
            let (old, new, allowed) = (Arc::clone(&old), Arc::clone(&new), Arc::clone(&allowed));
            Box::new(move |images| {
                let mut allowed = allowed.lock();
                allowed.check(images, &old, &new);
                let last = allowed.states.pop();
                allowed.states = last.into_iter().collect(); // it is durable now
            })
        });
        let guest = [
            Op::Write(700, 900, 31),
            Op::Punch(0, 512),
            Op::Write(4000, 300, 32),
            Op::Write(8192, 512, 33),
            Op::Write(512, 512, 34),
            Op::Write(12_288, 712, 35),
        ];
        let mut ops = guest.iter();
        disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
        let done = disk.deep_rekey(&new.dek, 4096, &mut |_| {
            for op in ops.by_ref().take(2) {
                apply(&disk, op, &mut request_buffer()).unwrap();
                apply_to_model(&mut model, op);
                allowed.lock().states.push(model.clone());
            }
            true
        });
        assert!(done.unwrap() && ops.next().is_none());
        assert!(allowed.lock().images > 1000, "{} images", allowed.lock().images);
        assert_rekeyed(&disk.storage.image(), &old, &new, &model);
    }
}

/// Each storage call fails once: an error, the same content, and doing it again finishes, in this opening or the next.
#[test]
fn every_storage_call_may_fail() {
    let (old, new) = (keys(SectorSize::DEFAULT), new_keys());
    let (base, model) = disk_with(&old, &sample(13_000));
    for fault in 0.. {
        let disk = open(FaultStorage::new(TornStorage::new(base.storage.image()), libc::EIO), &old);
        disk.storage.fail_after(fault);
        let result = finish(&disk, &old, &new, 8192);
        if !disk.storage.has_failed() {
            assert!(result.is_ok() && fault > 40, "{fault} calls");
            break;
        }
        let error = result.expect_err("a failed call is reported");
        assert_eq!(error.os_error(), Some(libc::EIO), "{}", error.chain());
        assert!(contents(&disk) == model, "fault {fault}");
        if disk.sync().is_ok() {
            finish(&disk, &old, &new, 8192).unwrap();
            assert!(contents(&disk) == model, "again after fault {fault}");
        }
        let disk = reopen(TornStorage::new(disk.storage.inner().image()), &old, &new);
        disk.prepare_writes().unwrap();
        assert!(contents(&disk) == model, "opened again after fault {fault}");
        finish(&disk, &old, &new, 4096).unwrap();
        assert_rekeyed(&disk.storage.image(), &old, &new, &model);
    }
}

/// An error in the midst of a chunk leaves it under two DEKs: it reads, it is not written, and the rest works.
#[test]
fn a_chunk_that_an_error_left_behind_reads_and_refuses_writes() {
    let (old, new) = (keys(SectorSize::DEFAULT), new_keys());
    let (base, model) = disk_with(&old, &[Op::Write(0, 16_384, 5)]);
    let storage = FaultStorage::new(TornStorage::new(base.storage.image()), libc::ENOSPC);
    let disk = open(storage, &old);
    disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
    let calls_before_the_chunk_is_written = 6; // seek, length and data, two records, sync
    disk.storage.fail_after(calls_before_the_chunk_is_written - 1);
    let error = disk.deep_rekey(&new.dek, 8192, &mut |_| true).unwrap_err();
    assert_eq!(error.os_error(), Some(libc::ENOSPC), "{}", error.chain());
    assert!(contents(&disk) == model);
    let mut buffer = request_buffer();
    assert_eq!(disk.write_at(4096, &[1; 512], &mut buffer).unwrap_err().kind(), Kind::Io);
    // The next process that opens it for writing completes the chunk first.
    let next = unlock(TornStorage::new(disk.storage.inner().image()), &new.dek).unwrap();
    assert_eq!(next.write_at(4096, &[1; 512], &mut buffer).unwrap_err().kind(), Kind::Io);
    next.prepare_writes().unwrap();
    next.write_at(4096, &model[4096..4608], &mut buffer).unwrap();
    assert!(contents(&next) == model);
    disk.write_at(8192, &pattern(512, 6), &mut buffer).unwrap();
    disk.set_len(4096).unwrap();
    assert!(disk.deep_rekey(&new.dek, 8192, &mut |_| true).unwrap());
    assert!(contents(&disk) == model[..4096]);
}

#[test]
fn a_damaged_place_of_the_journal_does_no_harm_and_none_at_all_is_refused() {
    let (old, new) = (keys(SectorSize::DEFAULT), new_keys());
    let (disk, model) = disk_with(&old, &sample(20_000));
    disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
    let mut steps = 0;
    let stopped = disk.deep_rekey(&new.dek, 4096, &mut |_| {
        steps += 1;
        steps < 4
    });
    assert!(!stopped.unwrap());
    let places = crate::format::journal::PLACES;
    for place in places {
        let damaged = TornStorage::new(disk.storage.image());
        damaged.write_at(place + 100, &[0xff]).unwrap();
        assert!(contents(&reopen(damaged, &old, &new)) == model, "place at {place}");
    }
    let damaged = TornStorage::new(disk.storage.image());
    places.into_iter().for_each(|place| damaged.write_at(place, &[0]).unwrap());
    let error = unlock(damaged, &new.dek).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.chain().contains("no record"), "{}", error.chain());
}

/// CVE-2021-4122 of LUKS2: an attacker that can write to the medium, but has no key, starts no transition, and ends none.
#[test]
fn a_transition_that_was_forged_is_refused() {
    let (old, new) = (keys(SectorSize::DEFAULT), new_keys());
    let (disk, _) = disk_with(&old, &sample(5000));
    let before = disk.storage.image();
    disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
    let stored = header_area::load(&disk.storage, ComponentKind::Disk).unwrap();
    let header = stored.header.verify(&new.dek).unwrap();
    let refused = |header: &Header, base: &Image| {
        let forged = TornStorage::new(base.clone());
        let attacker = random::disk_dek().unwrap(); // whatever they sign with, it is not the DEK
        for offset in ComponentKind::Disk.copy_offsets() {
            forged.write_at(offset, &header.encode(&attacker).unwrap()).unwrap();
        }
        [&old.dek, &new.dek].into_iter().all(|dek| {
            let unlocked = unlock(TornStorage::new(forged.image()), dek);
            unlocked.is_err_and(|error| error.kind() == Kind::Corrupt)
        })
    };
    let started = Header { slots: old.header.slots.clone(), ..header.clone() };
    assert!(refused(&started, &before), "a transition that was never started");
    assert!(refused(&Header { transition: None, ..header.clone() }, &disk.storage.image()), "one that was ended");
    // A journal of another transition of the same disk, and one that claims more than is done.
    let transition = header.transition.clone().unwrap();
    for id in [TransitionId([7; TRANSITION_ID_LEN]), transition.id] {
        let other = Transition { id, ..transition.clone() };
        let forged = TornStorage::new(disk.storage.image());
        let key = if id == transition.id { &old.dek } else { &new.dek };
        let (mut journal, _) = Journal::start(&forged, header.uuid, &other, key).unwrap();
        journal.append(&forged, 8192, Vec::new()).unwrap();
        journal.append(&forged, 4096, Vec::new()).unwrap();
        let unlocked = unlock(forged, &new.dek);
        assert_eq!(unlocked.err().map(|error| error.kind()), Some(Kind::Corrupt));
    }
}

#[test]
fn what_cannot_be_begun_or_resumed_is_refused() {
    let (old, new) = (keys(SectorSize::DEFAULT), new_keys());
    let (disk, model) = disk_with(&old, &sample(5000));
    let kind = |result: Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(disk.resume_deep_rekey(&old.dek)), Kind::NotFound);
    assert_eq!(kind(disk.deep_rekey(&old.dek, 4096, &mut |_| true).map(drop)), Kind::NotFound);
    assert_eq!(kind(disk.begin_deep_rekey(&new.dek, &old.dek, new.slots.clone())), Kind::Corrupt);
    assert_eq!(kind(disk.begin_deep_rekey(&old.dek, &old.dek, new.slots.clone())), Kind::Invalid);
    disk.begin_deep_rekey(&old.dek, &new.dek, new.slots.clone()).unwrap();
    assert_eq!(kind(disk.begin_deep_rekey(&new.dek, &old.dek, new.slots.clone())), Kind::Exists);
    for chunk in [0, 512, 4097, MAX_CHUNK_LEN + 4096] {
        assert_eq!(kind(disk.deep_rekey(&new.dek, chunk, &mut |_| true).map(drop)), Kind::Invalid, "{chunk}");
    }
    assert!(contents(&disk) == model);
}

/// Guests write and read in threads of their own while all is re-encrypted, again and again.
#[test]
fn guests_at_work_see_nothing_of_it() {
    const REGION: u64 = LIMIT / 4 / 512 * 512;
    let old = keys(SectorSize::DEFAULT);
    let (disk, _) = disk_with(&old, &[Op::SetLen(LIMIT)]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let load = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for guest in 0..4_u64 {
            let (disk, load) = (&disk, &load);
            scope.spawn(move || {
                let mut buffer = request_buffer();
                let mut model = vec![0; index(REGION)];
                let mut turn = guest * 7;
                while !load() {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = turn >> 33 & 0xfff;
                    let len = (turn >> 20 & 0x7ff).min(REGION - at);
                    let data = pattern(index(len), (turn >> 50 & 0xff).try_into().unwrap());
                    disk.write_at(guest * REGION + at, &data, &mut buffer).unwrap();
                    model[index(at)..index(at + len)].copy_from_slice(&data);
                    let seen = disk.read_at(guest * REGION, index(REGION), &mut buffer).unwrap();
                    assert!(seen == model, "guest {guest} does not see what it wrote");
                }
            });
        }
        let mut last = old.dek.duplicate();
        for _ in 0..20 {
            let new = new_keys();
            disk.begin_deep_rekey(&last, &new.dek, new.slots).unwrap();
            assert!(disk.deep_rekey(&new.dek, 4096, &mut |_| true).unwrap());
            last = new.dek;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
