//! Requests whose I/O somebody else carries out: these tests do, in full, in part, or not at all.

use std::io;
use std::os::unix::fs::FileExt;

use super::*;
use crate::storage::FileStorage;
use crate::store::transfer::Direction;

/// A disk on a file that has a way past the page cache; `None` where there is none.
fn disk_with_a_way(keys: &Keys) -> Option<SectorStore<FileStorage>> {
    let mut storage = FileStorage::new(tempfile::tempfile().unwrap());
    create(&storage, &keys.header, &keys.dek).unwrap();
    storage.bypass_cache();
    if let Some(why) = storage.why_cached() {
        not_run(&format!("no way past the page cache: {why}"));
        return None;
    }
    Some(open(storage, keys))
}

/// How well the I/O goes.
#[derive(Clone, Copy, Debug)]
enum Luck {
    /// So many sectors at most.
    Sectors(usize),
    /// The system wants it done another way.
    Errno(i32),
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        3 => Just(Luck::Sectors(usize::MAX >> 9)),
        2 => (0..20_usize).prop_map(Luck::Sectors),
        1 => prop::sample::select(vec![libc::EINVAL, libc::EAGAIN, libc::EINTR, libc::EOPNOTSUPP]).prop_map(Luck::Errno),
    ]
}

fn carry_out(transfer: &Transfer, luck: Luck, buffer: &mut [u8]) -> io::Result<usize> {
    let memory = &mut buffer[transfer.memory()];
    match luck {
        Luck::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
        Luck::Sectors(count) => {
            let len = memory.len().min(count << 9);
            match transfer.direction() {
                Direction::Read => transfer.file().read_at(&mut memory[..len], transfer.offset()),
                Direction::Write => transfer.file().write_at(&memory[..len], transfer.offset()),
            }
        }
    }
}

/// What a request came to: its length, and whether its I/O was left to us. `None`: it would have had to wait.
fn finish(
    disk: &SectorStore<FileStorage>,
    begun: Result<Begun<Transfer>>,
    luck: Luck,
    buffer: &mut [u8],
) -> Option<(usize, bool)> {
    match begun.unwrap() {
        Begun::Done(len) => Some((len, false)),
        Begun::UnderWay(transfer) => {
            let moved = carry_out(&transfer, luck, buffer);
            Some((disk.end_transfer(transfer, moved, buffer).unwrap(), true))
        }
        Begun::MustWait => None,
    }
}

fn begin_write(
    disk: &SectorStore<FileStorage>,
    offset: u64,
    data: &[u8],
    buffer: &mut [u8],
) -> Result<Begun<Transfer>> {
    buffer[HEADROOM..][..data.len()].copy_from_slice(data);
    disk.begin_write(offset, data.len(), buffer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn io_by_others_behaves_like_a_byte_vector(
        small in any::<bool>(),
        ops in prop::collection::vec((op(), luck(), position(), 0..9000_usize), 1..30),
    ) {
        let keys = keys(if small { SectorSize::SMALL } else { SectorSize::DEFAULT });
        let Some(disk) = disk_with_a_way(&keys) else { return Ok(()) };
        let (mut model, mut buffer) = (Vec::new(), request_buffer());
        for (op, luck, offset, len) in ops {
            let mut done = matches!(op, Op::Allocate(_, 0, _)); // which files refuse
            if let Op::Write(at, len, seed) = &op {
                let begun = begin_write(&disk, *at, &pattern(*len, *seed), &mut buffer);
                done = finish(&disk, begun, luck, &mut buffer).is_some();
                let grows = *len > 0 && at + *len as u64 > disk.plain_len();
                prop_assert_eq!(!done, grows, "a growing write waits, and no other one");
            }
            if !done {
                apply(&disk, &op, &mut buffer).unwrap();
            }
            if !matches!(op, Op::Allocate(_, 0, _)) {
                apply_to_model(&mut model, &op);
            }
            prop_assert_eq!(&contents(&disk), &model, "after {:?}", op);
            let begun = disk.begin_read(offset, len, &mut buffer);
            let (read, _) = finish(&disk, begun, luck, &mut buffer).unwrap();
            let expected = &model[index(offset).min(model.len())..][..read];
            prop_assert_eq!(read, len.min(model.len().saturating_sub(index(offset))));
            prop_assert_eq!(&buffer[HEADROOM..][..read], expected);
        }
    }
}

#[test]
fn what_is_aligned_is_left_to_others_and_nothing_else() {
    let Some(disk) = disk_with_a_way(&keys(SectorSize::DEFAULT)) else { return };
    let (mut buffer, all) = (request_buffer(), Luck::Sectors(1 << 20));
    disk.set_len(1 << 20).unwrap();
    for (offset, len, elsewhere) in [
        (0, 4096, true),
        (8192, 65_536, true),
        (100, 50, false),
        (4096, 4096, true),
        ((1 << 20) - 4096, 4096, true), // up to the end
    ] {
        let written = begin_write(&disk, offset, &pattern(len, 5), &mut buffer);
        assert_eq!(finish(&disk, written, all, &mut buffer), Some((len, elsewhere)), "write {len} at {offset}");
        let read = disk.begin_read(offset, len, &mut buffer);
        assert_eq!(finish(&disk, read, all, &mut buffer), Some((len, elsewhere)), "read {len} at {offset}");
        assert_eq!(buffer[HEADROOM..][..len], pattern(len, 5));
    }
}

#[test]
fn a_range_stays_locked_until_its_io_is_ended() {
    let Some(disk) = disk_with_a_way(&keys(SectorSize::DEFAULT)) else { return };
    disk.set_len(1 << 20).unwrap();
    let mut buffers = [request_buffer(), request_buffer()];
    let [first, second] = &mut buffers;
    let must_wait = |begun: Result<Begun<Transfer>>| matches!(begun.unwrap(), Begun::MustWait);
    let Begun::UnderWay(writing) = begin_write(&disk, 8192, &[1; 8192], first).unwrap() else {
        panic!("not elsewhere")
    };
    assert!(must_wait(disk.begin_read(12_288, 4096, second)));
    second[HEADROOM..][..4096].fill(2);
    assert!(must_wait(disk.begin_write(12_288, 4096, second)));
    assert!(second[HEADROOM..][..4096].iter().all(|&byte| byte == 2), "and the buffer is as it was");
    assert!(!must_wait(disk.begin_read(100, 100, second)));
    // Its file fails: the error is told, and the range is free again.
    let failed = disk.end_transfer(writing, Err(io::Error::from_raw_os_error(libc::EIO)), &mut []);
    assert_eq!(failed.unwrap_err().os_error(), Some(libc::EIO));
    let Begun::UnderWay(reading) = disk.begin_read(8192, 4096, first).unwrap() else { panic!("not elsewhere") };
    assert!(must_wait(disk.begin_write(8192, 4096, second)), "a reader is there");
    let moved = carry_out(&reading, Luck::Sectors(8), first);
    assert_eq!(disk.end_transfer(reading, moved, first).unwrap(), 4096);
    assert!(first[HEADROOM..][..4096].iter().all(|&byte| byte == 0), "nothing was written");
    assert!(!must_wait(disk.begin_read(8192, 0, second)));
}

#[test]
fn a_file_that_ends_too_early_is_damage() {
    let Some(disk) = disk_with_a_way(&keys(SectorSize::DEFAULT)) else { return };
    disk.set_len(1 << 20).unwrap();
    disk.storage.set_len(DEFAULT_DATA_OFFSET + 10_000).unwrap();
    let mut buffer = request_buffer();
    let Begun::UnderWay(reading) = disk.begin_read(8192, 4096, &mut buffer).unwrap() else { panic!("not elsewhere") };
    let moved = carry_out(&reading, Luck::Sectors(8), &mut buffer);
    assert_eq!(disk.end_transfer(reading, moved, &mut buffer).unwrap_err().kind(), Kind::Corrupt);
}
