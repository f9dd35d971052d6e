use super::*;
use crate::key::{KeyCheck, KeyId, ProviderName, WrappedDek};
use crate::sector::SectorSize;
use crate::sys::SecretBytes;

fn dek(shape: Shape, seed: u8) -> Dek {
    let mut bytes = SecretBytes::zeroed(shape.kind().dek_len());
    for (byte, value) in bytes.iter_mut().zip(seed..) {
        *byte = value;
    }
    Dek::new(bytes).unwrap()
}

const DISK: Shape = Shape::Disk(DiskShape::new(SectorSize::DEFAULT));

fn sample(shape: Shape) -> Header {
    let slot = |id: &str| Slot {
        key_id: KeyId::new(ProviderName::new("corp").unwrap(), id).unwrap(),
        check: KeyCheck([7; 8]),
        wrapped: WrappedDek(vec![0x5a; shape.kind().dek_len() + KWP_OVERHEAD]),
    };
    Header {
        sequence: 41,
        uuid: Uuid::from_bytes([0x11; 16]),
        shape,
        dek_generation: 3,
        label: "Web server, Köln".into(),
        disk_names: DiskNames::new(if shape == Shape::Home { vec!["*.dsk".into()] } else { vec![] }).unwrap(),
        slots: Slots::new(vec![slot("4711"), slot("escrow")]).unwrap(),
        transition: None,
        owner: None,
        binds_disks: false,
        lists_disks: false,
        state: None,
    }
}

#[test]
fn a_transition_comes_back_and_holds_the_old_dek() {
    for shape in [Shape::Home, DISK] {
        let (old, new) = (dek(shape, 9), dek(shape, 1));
        let transition = Transition::new(TransitionId([4; TRANSITION_ID_LEN]), &old, &new).unwrap();
        let header = Header { transition: Some(transition.clone()), ..sample(shape) };
        let decoded = UnverifiedHeader::decode(&header.encode(&new).unwrap()).unwrap().verify(&new).unwrap();
        assert_eq!(decoded, header);
        assert_eq!(transition.old_dek(&new).unwrap().unwrap().bytes(), old.bytes());
        assert_eq!(transition.old_dek(&old).unwrap_err().kind(), Kind::Corrupt, "by another DEK");
        let tidying = Header { transition: Some(Transition { old: None, ..transition }), ..sample(shape) };
        let decoded = UnverifiedHeader::decode(&tidying.encode(&new).unwrap()).unwrap().verify(&new).unwrap();
        assert!(decoded.transition.unwrap().old_dek(&new).unwrap().is_none());
        assert_eq!(Transition::new(TransitionId([4; 16]), &new, &new).unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn what_is_encoded_decodes_and_verifies() {
    for shape in [Shape::Home, DISK] {
        let bytes = sample(shape).encode(&dek(shape, 1)).unwrap();
        assert_eq!(bytes.len(), COPY_LEN);
        let unverified = UnverifiedHeader::decode(&bytes).unwrap();
        assert_eq!(unverified.claims(), &sample(shape));
        assert_eq!(unverified.verify(&dek(shape, 1)).unwrap(), sample(shape));
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let good = sample(DISK).encode(&dek(DISK, 1)).unwrap();
    for at in 0..COPY_LEN {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(UnverifiedHeader::decode(&bad).is_err(), "byte {at}");
    }
}

/// Someone without the DEK can make a checksum, but not the HMAC.
#[test]
fn every_change_with_a_mended_checksum_fails_the_hmac_or_its_limits() {
    let good = sample(DISK).encode(&dek(DISK, 1)).unwrap();
    let mut past_the_limits = 0;
    for at in 0..CHECKSUM_OFFSET {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        let checksum = derive::sha256(&bad[..CHECKSUM_OFFSET]);
        bad[CHECKSUM_OFFSET..].copy_from_slice(&checksum);
        if let Ok(unverified) = UnverifiedHeader::decode(&bad) {
            past_the_limits += 1;
            assert_eq!(unverified.verify(&dek(DISK, 1)).unwrap_err().kind(), Kind::Corrupt, "byte {at}");
        }
    }
    assert!(past_the_limits > 200, "key ids, checks and wrapped DEKs are free bytes: {past_the_limits}");
}

#[test]
fn another_deks_header_does_not_verify() {
    let bytes = sample(DISK).encode(&dek(DISK, 1)).unwrap();
    let error = UnverifiedHeader::decode(&bytes).unwrap().verify(&dek(DISK, 2)).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn too_new_is_told_from_damaged() {
    let good = sample(DISK).encode(&dek(DISK, 1)).unwrap();
    for (at, what) in [(8, "format version 2"), (12, "feature flags 0x00000003")] {
        let mut newer = good.clone();
        newer[at] ^= 0x03;
        let checksum = derive::sha256(&newer[..CHECKSUM_OFFSET]);
        newer[CHECKSUM_OFFSET..].copy_from_slice(&checksum);
        let error = UnverifiedHeader::decode(&newer).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains(what), "{error}");
    }
    let mut flipped = good;
    flipped[12] ^= 0x03;
    assert_eq!(UnverifiedHeader::decode(&flipped).unwrap_err().kind(), Kind::Corrupt, "a flipped bit is no feature");
}

/// Each under a right checksum, which anyone can make.
#[test]
fn a_geometry_outside_its_limits_is_damage() {
    let read = |shape, at: usize, value: u64, len: usize| {
        let mut copy = sample(shape).encode(&dek(shape, 1)).unwrap();
        copy[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        let checksum = derive::sha256(&copy[..CHECKSUM_OFFSET]);
        copy[CHECKSUM_OFFSET..].copy_from_slice(&checksum);
        UnverifiedHeader::decode(&copy).err().map(|error| error.kind())
    };
    const MIB: u64 = 1 << 20;
    let (sector_size, data_offset, reserved) = ((40, 4), (48, 8), (HMAC_OFFSET - 1, 1));
    for (shape, (at, len), value, is_damage) in [
        (Shape::Home, sector_size, 4096, false),
        (Shape::Home, sector_size, 512, true),
        (Shape::Home, data_offset, MIB, true),
        (DISK, sector_size, 512, false),
        (DISK, sector_size, 1024, true),
        (DISK, data_offset, 1024 * MIB, false),
        (DISK, data_offset, 1025 * MIB, true),
        (DISK, data_offset, 7 * MIB, true),
        (DISK, data_offset, 8 * MIB + 4096, true),
        (DISK, reserved, 1, true),
    ] {
        let expected = is_damage.then_some(Kind::Corrupt);
        assert_eq!(read(shape, at, value, len), expected, "{shape:?}: {value} at {at}");
    }
}

#[test]
fn ciphers_are_named_generations_counted_and_copies_compared() {
    assert_eq!([Shape::Home, DISK].map(Shape::cipher), ["XAES-256-GCM", "AES-256-XTS"]);
    assert_eq!(sample(DISK).next_dek_generation().unwrap(), 4);
    let last = Header { dek_generation: u32::MAX, ..sample(DISK) };
    assert_eq!(last.next_dek_generation().unwrap_err().kind(), Kind::Denied);
    let copy = |header: Header| UnverifiedHeader::decode(&header.encode(&dek(DISK, 1)).unwrap()).unwrap();
    assert!(copy(sample(DISK)).same_bytes(&copy(sample(DISK))));
    assert!(!copy(sample(DISK)).same_bytes(&copy(Header { sequence: 42, ..sample(DISK) })));
}

#[test]
fn slots_are_found_by_key_and_kept_beside_a_new_first_one() {
    let key = |id: &str| KeyId::new(ProviderName::new("corp").unwrap(), id).unwrap();
    let slots = sample(DISK).slots;
    let ids = |slots: &mut dyn Iterator<Item = &KeyId>| slots.map(|key| key.id().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&mut slots.key_ids()), ["4711", "escrow"]);
    assert_eq!(["4711", "escrow", "other"].map(|id| slots.has(&key(id))), [true, true, false]);
    assert_eq!((slots.first_key(), slots.is_full()), (&key("4711"), false));
    let beside = |new: &str| ids(&mut slots.beside(&key(new)).map(|slot| &slot.key_id));
    assert_eq!(beside("new"), ["escrow"], "the first one is replaced");
    assert_eq!(beside("escrow"), [""; 0], "and so is the new key's former slot");
}

#[test]
fn values_outside_their_limits_are_not_written() {
    let key = dek(DISK, 1);
    let refuses = |change: fn(&mut Header)| {
        let mut header = sample(DISK);
        change(&mut header);
        header.encode(&key).unwrap_err().kind() == Kind::Invalid
    };
    assert!(refuses(|header| header.label = "x".repeat(256)));
    assert!(refuses(|header| header.label = "two\nlines".into()));
    assert!(refuses(|header| header.sequence = 0));
    assert!(refuses(|header| header.uuid = Uuid::nil()));
    assert!(refuses(|header| header.shape = Shape::Home), "a home with a disk's DEK");
    assert!(refuses(|header| header.disk_names = DiskNames::new(vec!["*.dsk".into()]).unwrap()), "on a disk");
    assert!(refuses(|header| header.slots[1].wrapped.0.truncate(40)));
    let (none, five) = (Slots::new(vec![]), Slots::new(vec![sample(DISK).slots[0].clone(); 5]));
    assert_eq!([none, five].map(|slots| slots.unwrap_err().kind()), [Kind::Invalid; 2]);
}

#[test]
fn a_dek_of_the_other_kind_is_damage() {
    let bytes = sample(DISK).encode(&dek(DISK, 1)).unwrap();
    let error = UnverifiedHeader::decode(&bytes).unwrap().verify(&dek(Shape::Home, 1)).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("32 bytes for a disk"), "{error}");
}

#[test]
fn the_fullest_header_fits() {
    let mut header = sample(DISK);
    header.label = "x".repeat(255);
    let provider = ProviderName::new("p".repeat(64)).unwrap();
    let slot = Slot { key_id: KeyId::new(provider, "i".repeat(512)).unwrap(), ..header.slots[0].clone() };
    header.slots = Slots::new(vec![slot; MAX_SLOTS]).unwrap();
    assert!(header.slots.is_full());
    let bytes = header.encode(&dek(DISK, 1)).unwrap();
    assert_eq!(UnverifiedHeader::decode(&bytes).unwrap().claims(), &header);
}

#[test]
fn the_prefix_names_the_kind() {
    let kind = |shape: Shape| {
        let bytes = sample(shape).encode(&dek(shape, 1)).unwrap();
        component_kind(bytes.first_chunk().unwrap())
    };
    assert_eq!(kind(Shape::Home), Some(ComponentKind::Home));
    assert_eq!(kind(DISK), Some(ComponentKind::Disk));
    assert_eq!(component_kind(b"QFI\xfb\0\0\0\x03\0\0\x02"), None);
}
