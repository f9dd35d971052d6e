//! The end of a disk, and the seams within a request.

use super::*;
use crate::storage::FileStorage;

#[test]
fn the_last_unit_becomes_a_hole_though_the_disk_ends_inside_it() {
    let keys = keys(SectorSize::DEFAULT);
    for zero in [false, true] {
        let disk = new_disk(&keys);
        let mut buffer = request_buffer();
        disk.write_at(0, &pattern(1000, 1), &mut buffer).unwrap();
        assert_eq!(disk.seek_hole(0).unwrap(), Some(1000), "the mark of the length is not data");
        let done = if zero { disk.zero(512, 488, &mut buffer) } else { disk.punch(512, 9000, &mut buffer) };
        done.unwrap();
        assert_eq!((disk.seek_hole(0).unwrap(), disk.seek_data(512).unwrap()), (Some(512), None), "zero: {zero}");
        let disk = open(MemoryStorage::new(disk.storage.snapshot()), &keys);
        assert_eq!(disk.plain_len(), 1000);
        assert_eq!(contents(&disk), [&pattern(1000, 1)[..512], &[0; 488]].concat());
    }
}

/// Long reads through the page cache are decrypted piece by piece, each while it is in the cache of the CPU.
#[test]
fn a_read_of_several_pieces_is_as_one_of_one_piece() {
    for sector_size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        let keys = keys(sector_size);
        let storage = FileStorage::new(tempfile::tempfile().unwrap());
        create(&storage, &keys.header, &keys.dek).unwrap();
        let disk = open(storage, &keys);
        let piece = disk.storage.read_piece_len();
        let (data, mut buffer) = (pattern(3 * piece - 100, 5), request_buffer());
        assert!(data.len() < MAX_REQUEST, "or it is not one request");
        disk.write_at(300, &data, &mut buffer).unwrap();
        for at in [0, 1, 212, 4096, piece - 300, 2 * piece] {
            let read = disk.read_at(300 + at as u64, data.len() - at, &mut buffer).unwrap();
            assert!(read == &data[at..], "{at} bytes into what was written");
        }
        // Cut off within the second piece.
        let left = piece as u64 + 8192;
        disk.storage.set_len(DEFAULT_DATA_OFFSET + left).unwrap();
        let error = disk.read_at(300, data.len(), &mut buffer).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.chain().contains(&format!("ends at byte {left} of the disk's data")), "{}", error.chain());
        let whole = index(left) - 300;
        assert!(disk.read_at(300, whole, &mut buffer).unwrap() == &data[..whole], "what is before stays readable");
    }
}

#[test]
fn the_length_that_others_gave_the_file_is_taken_over_within_the_limit() {
    let disk = new_disk(&keys(SectorSize::DEFAULT));
    for (backing, plain) in [
        (DEFAULT_DATA_OFFSET + 4096, 4096),
        (DEFAULT_DATA_OFFSET + MAX_PLAIN_LEN, MAX_PLAIN_LEN),
        (DEFAULT_DATA_OFFSET + MAX_PLAIN_LEN + BLOCK, MAX_PLAIN_LEN),
        (DEFAULT_DATA_OFFSET - 1, 0),
    ] {
        disk.storage.set_len(backing).unwrap();
        disk.read_len().unwrap();
        assert_eq!(disk.plain_len(), plain, "of a backing file of {backing} bytes");
    }
}
