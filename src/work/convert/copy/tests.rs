use proptest::prelude::*;

use super::*;
use crate::crypto::random;
use crate::progress::Progress;
use crate::storage::Storage;
use crate::storage::memory::{FaultStorage, MemoryStorage};
use crate::store::clear_file::ClearFile;
use crate::store::home_file::{HomeFile, HomeKeys};

const LEN: u64 = (2 << 20) + 777;

fn copy_all(from: &dyn PlainFile, to: &dyn PlainFile) -> Result<()> {
    copy(from, to, &ProgressCounter::new(0, &mut |_| Ok(())))
}

fn compare_all(from: &dyn PlainFile, to: &dyn PlainFile) -> Result<()> {
    compare(from, to, &ProgressCounter::new(0, &mut |_| Ok(())))
}

/// A file with data at both ends, across a piece's border, and in a few places between; holes elsewhere.
fn original() -> ClearFile<MemoryStorage> {
    let mut image = vec![0; usize::try_from(LEN).unwrap()];
    for (start, len) in [(0, 5), (70_000, 9000), ((1 << 20) - 3000, 6000), (1_500_000, 1), (2 << 20, 777)] {
        random::fill(&mut image[start..start + len]).unwrap();
        image[start] |= 1;
    }
    ClearFile::open(MemoryStorage::new(image)).unwrap()
}

fn content(file: &dyn PlainFile) -> Vec<u8> {
    let mut buffer = request_buffer();
    let mut all = Vec::new();
    while all.len() as u64 != file.plain_len() {
        let piece = file.read_at(all.len() as u64, MAX_REQUEST, &mut buffer).unwrap();
        all.extend_from_slice(piece);
    }
    all
}

/// Ranges of data, as seeking finds them.
fn data_ranges(file: &dyn PlainFile) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(start) = file.seek_data(at).unwrap() {
        at = file.seek_hole(start).unwrap().unwrap();
        ranges.push((start, at));
    }
    ranges
}

#[test]
fn data_and_holes_survive_both_directions() {
    let keys = HomeKeys::new(&random::home_dek().unwrap()).unwrap();
    let clear = original();
    let sealed = HomeFile::open(MemoryStorage::default(), &keys).unwrap();
    copy_all(&clear, &sealed).unwrap();
    compare_all(&clear, &sealed).unwrap();
    assert_eq!(content(&sealed), content(&clear));
    let taken: u64 = data_ranges(&sealed).iter().map(|(start, end)| end - start).sum();
    assert!(taken < 50_000, "{taken} bytes of data where 16 KiB are");
    let back = ClearFile::open(MemoryStorage::default()).unwrap();
    copy_all(&sealed, &back).unwrap();
    compare_all(&sealed, &back).unwrap();
    assert_eq!(content(&back), content(&clear));
    let taken: u64 = data_ranges(&back).iter().map(|(start, end)| end - start).sum();
    assert!(taken < 50_000, "{taken} bytes of data where 16 KiB are");
}

#[test]
fn any_other_byte_or_length_is_noticed() {
    let clear = original();
    for at in [0, 4, 5, 70_000, 78_999, 1 << 20, 1_499_999, 1_500_000, LEN - 1] {
        let copied = ClearFile::open(MemoryStorage::new(content(&clear))).unwrap();
        let mut byte = [0];
        copied.storage().read_at(at, &mut byte).unwrap();
        copied.storage().write_at(at, &[byte[0] ^ 1]).unwrap();
        let error = compare_all(&clear, &copied).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.chain().contains(&format!("byte {at} ")), "{}", error.chain());
    }
    let longer = ClearFile::open(MemoryStorage::new([content(&clear), vec![0]].concat())).unwrap();
    assert_eq!(compare_all(&clear, &longer).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn no_failed_call_passes_for_a_copy() {
    let whole = content(&original());
    let mut failed = 0;
    for calls in 0.. {
        let from = ClearFile::open(FaultStorage::new(MemoryStorage::new(whole.clone()), libc::EIO)).unwrap();
        let to = ClearFile::open(FaultStorage::new(MemoryStorage::default(), libc::ENOSPC)).unwrap();
        let faulty = if calls % 2 == 0 { from.storage() } else { to.storage() };
        faulty.fail_after(calls / 2);
        let copied = copy_all(&from, &to).and_then(|()| compare_all(&from, &to));
        if !faulty.has_failed() {
            copied.unwrap();
            if failed > 0 && calls % 2 == 1 {
                break;
            }
            continue;
        }
        failed += 1;
        assert!(copied.is_err(), "call {} of the {}", calls / 2, if calls % 2 == 0 { "original" } else { "copy" });
    }
    assert!(failed > 20, "{failed} faults are too few to prove anything");
}

#[test]
fn a_stop_is_obeyed() {
    let to = ClearFile::open(MemoryStorage::default()).unwrap();
    let stop = &mut |_: &Progress| Err(Error::new(Kind::Stopped, "enough"));
    assert_eq!(copy(&original(), &to, &ProgressCounter::new(0, stop)).unwrap_err().kind(), Kind::Stopped);
    let error = compare_all(&original(), &to).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "what was not copied is not there");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_pattern_of_data_and_holes_is_copied(
        len in 0_u64..3_000_000,
        runs in prop::collection::vec((0_u64..3_000_000, 1_usize..20_000), 0..8),
    ) {
        let mut image = vec![0; usize::try_from(len).unwrap()];
        for (start, run) in runs {
            let start = usize::try_from(start.min(len)).unwrap();
            let end = (start + run).min(image.len());
            image[start..end].fill(0x5a);
        }
        let keys = HomeKeys::new(&random::home_dek().unwrap()).unwrap();
        let from = ClearFile::open(MemoryStorage::new(image.clone())).unwrap();
        let to = HomeFile::open(MemoryStorage::default(), &keys).unwrap();
            copy_all(&from, &to).unwrap();
        compare_all(&from, &to).unwrap();
        prop_assert_eq!(content(&to), image);
    }
}
