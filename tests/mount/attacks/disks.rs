//! Data of a disk that was changed on the medium. XTS authenticates nothing: the guest reads garbage where it was changed, zeros
//! where zeros end a unit, an older content where that was put back, and never what it did not write itself.

use std::collections::HashSet;
use std::fs;

use super::edit;
use crate::host::Host;

const DATA: usize = 8 << 20;
const SECTOR: usize = 4096;
const UNIT: usize = 512;

/// What the guest wrote: no 16 bytes of it occur twice.
fn content(seed: u32) -> Vec<u8> {
    let words = (0..8 * 1024_u32).map(|word| word.wrapping_mul(2_654_435_761) ^ seed);
    words.flat_map(u32::to_le_bytes).collect()
}

fn write(host: &Host, name: &str, content: &[u8]) {
    let mount = host.mount("web01", &[]);
    fs::write(mount.path(name), content).unwrap();
    mount.unmount();
}

fn read(host: &Host) -> Vec<u8> {
    let mount = host.mount("web01", &[]);
    let seen = fs::read(mount.path("root.raw")).unwrap();
    mount.unmount();
    seen
}

/// The first and the last byte that differ, rounded to the 16 bytes that they lie in.
fn changed(seen: &[u8], expected: &[u8]) -> Option<std::ops::Range<usize>> {
    assert_eq!(seen.len(), expected.len());
    let differs = |at: &usize| seen[*at] != expected[*at];
    let (first, last) = ((0..seen.len()).find(differs)?, (0..seen.len()).rfind(differs)?);
    Some(first / 16 * 16..(last / 16 + 1) * 16)
}

#[test]
fn changes_on_the_medium_of_a_disk_are_garbage_zeros_or_the_past_and_nothing_else() {
    let host = Host::with_vm();
    let (disk, other) = (host.path("web01/root.raw"), host.path("web01/other.raw"));
    let (old, new, of_other) = (content(1), content(2), content(3));
    fs::remove_file(disk).unwrap();
    write(&host, "root.raw", &old);
    write(&host, "other.raw", &of_other);
    let (was, foreign) = (fs::read(disk).unwrap(), fs::read(other).unwrap());
    let mount = host.mount("web01", &[]);
    let file = fs::File::options().write(true).open(mount.path("root.raw")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &new, 0).unwrap();
    drop(file);
    mount.unmount();
    let genuine = fs::read(disk).unwrap();
    let clear = [&was, &foreign].map(|image| image[DATA..].to_vec());
    assert!(!clear.iter().any(|data| data.windows(16).any(|window| window == &old[..16])), "this proves nothing");

    let texts = [&old[..], &new, &of_other, &[0; 64], &[b'A'; 64]];
    let known: HashSet<&[u8]> = texts.iter().flat_map(|text| text.windows(16)).collect();
    type Change<'c> = &'c dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>, std::ops::Range<usize>); 4] = [
        ("a bit", &|image| image[DATA + 5000] ^= 1, 4992..5008),
        ("the next sector", &|image| image.copy_within(DATA + SECTOR..DATA + 2 * SECTOR, DATA), 0..SECTOR),
        (
            "another disk's sector",
            &|image| image[DATA..][..SECTOR].copy_from_slice(&foreign[DATA..][..SECTOR]),
            0..SECTOR,
        ),
        ("what the attacker chose", &|image| image[DATA..][..SECTOR].fill(b'A'), 0..SECTOR),
    ];
    for (what, change, range) in cases {
        edit(disk, |image| change(image));
        let seen = read(&host);
        assert_eq!(changed(&seen, &new), Some(range.clone()), "{what}");
        let garbage = &seen[range];
        assert!(!garbage.chunks(16).any(|block| known.contains(block)), "{what}: bytes that somebody chose");
        fs::write(disk, &genuine).unwrap();
    }

    // What docs/THREAT-MODEL.md says of zeros and of the past.
    for (what, zeroed) in [("a unit", UNIT..2 * UNIT), ("the end of a unit", 2 * UNIT - 48..2 * UNIT)] {
        edit(disk, |image| image[DATA + zeroed.start..DATA + zeroed.end].fill(0));
        let seen = read(&host);
        assert_eq!(changed(&seen, &new), Some(zeroed.clone()), "{what}");
        assert!(seen[zeroed].iter().all(|&byte| byte == 0), "{what}");
        fs::write(disk, &genuine).unwrap();
    }
    edit(disk, |image| image[DATA + SECTOR..DATA + SECTOR + 16].copy_from_slice(&was[DATA + SECTOR..][..16]));
    let seen = read(&host);
    assert_eq!(changed(&seen, &new), Some(SECTOR..SECTOR + 16));
    assert_eq!(seen[SECTOR..][..16], old[SECTOR..][..16], "what was there before");
}
