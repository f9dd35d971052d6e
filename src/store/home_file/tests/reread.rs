//! What a file takes over that another opener has changed.

use super::*;

/// A file of two openers, which the first one has written and synced.
fn opened<'a>(storage: &'a MemoryStorage, keys: &HomeKeys, content: &[u8]) -> HomeFile<&'a MemoryStorage> {
    let file = open(storage, keys);
    file.write_at(0, content, &mut request_buffer()).unwrap();
    file.sync().unwrap();
    file
}

#[test]
fn a_file_that_became_another_one_has_to_be_opened_again() {
    let (keys, storage) = (keys(), MemoryStorage::default());
    let file = opened(&storage, &keys, b"former");
    storage.set_len(0).unwrap();
    opened(&storage, &keys, b"another");
    assert_eq!(file.reread().unwrap_err().os_error(), Some(libc::ESTALE));
}

#[test]
fn a_file_that_others_cut_to_nothing_is_damage_and_one_that_they_emptied_gets_a_header_again() {
    let (keys, storage) = (keys(), MemoryStorage::default());
    let file = opened(&storage, &keys, b"former");
    storage.set_len(HEADER_LEN as u64).unwrap();
    assert!(file.reread().unwrap_err().to_string().contains("cut off"));
    storage.set_len(0).unwrap();
    file.reread().unwrap();
    assert_eq!((file.id(), file.plain_len()), (None, 0));
    file.write_at(0, b"later", &mut request_buffer()).unwrap();
    assert_same(&contents(&open(&storage, &keys)), b"later", &"the first write");
}

#[test]
fn what_others_cut_off_does_not_show_when_the_file_grows() {
    let (keys, storage) = (keys(), MemoryStorage::default());
    let file = opened(&storage, &keys, &[1; 100]);
    let other = opened(&storage, &keys, &[2; 5000]);
    other.set_len(100).unwrap();
    file.reread().unwrap();
    file.set_len(5000).unwrap();
    assert_same(&contents(&file), &[vec![2; 100], vec![0; 4900]].concat(), &"growing");
}

/// What another opener has synced must survive a power cut in the midst of the next write.
#[test]
fn what_others_synced_is_not_overwritten_where_it_lies() {
    let (keys, storage) = (keys(), MemoryStorage::default());
    let file = opened(&storage, &keys, &[1; BLOCK_LEN]);
    file.write_at(0, &[2; BLOCK_LEN], &mut request_buffer()).unwrap();
    opened(&storage, &keys, &[3; BLOCK_LEN]);
    file.reread().unwrap();
    file.write_at(0, &[4; BLOCK_LEN], &mut request_buffer()).unwrap();
    let mut seen = Vec::new();
    for place in [Place::Main, Place::Spare] {
        let torn = MemoryStorage::new(storage.snapshot());
        torn.write_at(BlockIndex(0).cipher_offset(place), &[7; 512]).unwrap();
        seen.push(contents(&open(torn, &keys))[0]);
    }
    seen.sort_unstable();
    assert_eq!(seen, [3, 4]);
}
