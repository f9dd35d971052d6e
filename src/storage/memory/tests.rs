use super::*;
use crate::error::Result;

#[test]
fn an_image_behaves_like_a_byte_vector() {
    let storage = MemoryStorage::default();
    let mut model: Vec<u8> = Vec::new();
    for step in 0..2000_u64 {
        let mixed = (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (at, len) = (mixed >> 20 & 0xfff, mixed >> 40 & 0x7ff);
        let (start, end) = (index(at), index(at + len));
        match mixed >> 60 {
            0..8 => {
                let fill = vec![u8::try_from(step % 251).unwrap() + 1; index(len)];
                storage.write_at(at, &fill).unwrap();
                model.resize(model.len().max(end), 0);
                model[start..end].copy_from_slice(&fill);
            }
            8..12 => {
                storage.punch(at, len).unwrap();
                let end = end.min(model.len());
                model[start.min(end)..end].fill(0);
            }
            _ => {
                storage.set_len(at).unwrap();
                model.resize(start, 0);
            }
        }
        assert!(storage.image() == model, "after step {step}");
        assert!(Image::from(model.clone()).bytes() == model);
        let data = |from: usize| (from..model.len()).find(|&at| sector_of(&model, at).iter().any(|&byte| byte != 0));
        assert_eq!(storage.seek_data(at).unwrap(), data(start).map(|at| at as u64), "data after step {step}");
        let hole = |from: usize| (from..model.len()).find(|&at| sector_of(&model, at).iter().all(|&byte| byte == 0));
        let hole = hole(start).or((start < model.len()).then_some(model.len()));
        assert_eq!(storage.seek_hole(at).unwrap(), hole.map(|at| at as u64), "a hole after step {step}");
    }
}

fn sector_of(model: &[u8], at: usize) -> &[u8] {
    let start = at - at % SECTOR;
    &model[start..model.len().min(start + SECTOR)]
}

/// Two sectors written, then a sync, then one: four images and two, and no others.
#[test]
fn crash_images_are_all_subsets_of_each_time_between_syncs() {
    let storage = CrashStorage::new(vec![1; 1024]);
    storage.write_at(0, &[2; 1024]).unwrap();
    storage.sync().unwrap();
    storage.punch(512, 512).unwrap();
    let halves = |image: Image| {
        let bytes = image.bytes();
        (bytes[0], bytes[1023])
    };
    let seen: Vec<_> = storage.crash_images().map(halves).collect();
    assert_eq!(seen, [(1, 1), (2, 1), (1, 2), (2, 2), (2, 2), (2, 0)]);
    storage.forget_past();
    assert_eq!(storage.crash_images().map(halves).collect::<Vec<_>>(), [(2, 2), (2, 0)]);
}

#[test]
fn a_length_is_overtaken_only_where_file_systems_allow_it() {
    let lengths = |storage: CrashStorage| -> Vec<u64> {
        storage.set_len(100).unwrap();
        storage.write_at(0, b"x").unwrap();
        storage.crash_images().map(|image| image.len).collect()
    };
    assert_eq!(lengths(CrashStorage::new(vec![0; 10])), [10, 100, 10, 100]);
    assert_eq!(lengths(CrashStorage::new(vec![0; 10]).with_lengths_in_order()), [10, 100, 100, 100]);
}

#[test]
fn each_fault_happens_once_and_in_its_way() {
    let after = |fault: Fault, call: &dyn Fn(&FaultStorage<MemoryStorage>) -> Result<()>| {
        let storage = FaultStorage::with(MemoryStorage::new(vec![1; 2048]), fault);
        storage.fail_after(0);
        let failed = call(&storage).is_err();
        assert!(storage.has_failed());
        storage.sync().unwrap();
        (failed, storage.inner().image())
    };
    let write = |storage: &FaultStorage<MemoryStorage>| storage.write_at(0, &[2; 2048]);
    assert_eq!(after(Fault::Refused(libc::EIO), &write), (true, vec![1; 2048]));
    assert_eq!(after(Fault::Torn(libc::EIO), &write), (true, [[2; 1024], [1; 1024]].concat()));
    assert_eq!(after(Fault::Late(libc::EIO), &write), (true, vec![2; 2048]));
    let read = |storage: &FaultStorage<MemoryStorage>| {
        assert_eq!(storage.read_at(0, &mut [0; 100])?, 50);
        assert_eq!(storage.read_at(0, &mut [0; 100])?, 100);
        Ok(())
    };
    assert!(!after(Fault::ShortRead, &read).0);
}
