use data_encoding::HEXLOWER_PERMISSIVE;
use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(hex.replace(' ', "").as_bytes()).unwrap()
}

fn item(value: Value) -> Item {
    Item::new(Tag(0x42_0020), value)
}

#[test]
fn the_examples_of_the_specification_are_read_and_written() {
    let examples = [
        ("02 00000004 00000008 00000000", Value::Integer(8)),
        ("03 00000008 01B69B4BA5749200", Value::LongInteger(123_456_789_000_000_000)),
        (
            "04 00000010 0000000003FD35EB6BC2DF4618080000",
            Value::BigInteger(Zeroizing::new(bytes("0000000003FD35EB6BC2DF4618080000"))),
        ),
        ("05 00000004 000000FF 00000000", Value::Enumeration(255)),
        ("06 00000008 0000000000000001", Value::Boolean(true)),
        ("07 0000000B 48656C6C6F20576F726C64 0000000000", Value::Text(b"Hello World".to_vec())),
        ("08 00000003 010203 0000000000", Value::Bytes(Zeroizing::new(vec![1, 2, 3]))),
        ("09 00000008 0000000047DA67F8", Value::DateTime(0x47da_67f8)),
        ("0A 00000004 000D2F00 00000000", Value::Interval(10 * 24 * 60 * 60)),
        (
            "01 00000020 420004 05 00000004 000000FE 00000000 420005 02 00000004 000000FF 00000000",
            Value::Structure(vec![
                Item::new(Tag(0x42_0004), Value::Enumeration(254)),
                Item::new(Tag(0x42_0005), Value::Integer(255)),
            ]),
        ),
    ];
    for (hex, value) in examples {
        let message = bytes(&format!("420020 {hex}"));
        assert_eq!(decode(&message), Ok(item(value.clone())), "{hex}");
        assert_eq!(*item(value).encode(), message, "{hex}");
    }
}

#[test]
fn what_later_versions_may_add_is_kept() {
    for hex in ["540001 0B 00000008 0000000000000007", "420FFF 7E 00000003 AABBCC0000000000", "000000 00 00000000"] {
        let message = bytes(hex);
        assert_eq!(*decode(&message).unwrap().encode(), message, "{hex}");
    }
}

#[test]
fn malformed_messages_are_refused_with_the_reason() {
    let cases = [
        ("", "0 bytes left, expected 8"),
        ("420020 02 00000004", "0 bytes left, expected 4"),
        ("420020 02 00000004 00000008", "0 bytes left, expected 4"),
        ("420020 02 00000008 0000000000000008", "420020 of 8 bytes, expected 4"),
        ("420020 03 00000004 00000008 00000000", "420020 of 4 bytes, expected 8"),
        ("420020 06 00000008 0000000000000002", "a boolean 420020, expected 0 or 1"),
        ("420020 08 00000003 010203 0000000001", "padding of 420020 is not zero"),
        ("420020 08 FFFFFFFF 01", "1 bytes left, expected 4294967295"),
        ("420020 01 00000008 420021 02 00000004", "0 bytes left, expected 4"),
        ("420020 01 00000004 42002102", "4 bytes left, expected 8"),
        ("420020 01 00000000 00", "1 bytes after the message"),
    ];
    for (hex, expected) in cases {
        assert_eq!(decode(&bytes(hex)).unwrap_err().0, expected, "{hex}");
    }
}

fn nested(depth: usize) -> Item {
    (1..depth).fold(item(Value::Structure(vec![])), |inner, _| item(Value::Structure(vec![inner])))
}

#[test]
fn depth_items_and_length_are_bounded() {
    assert!(decode(&nested(MAX_DEPTH).encode()).is_ok());
    assert_eq!(decode(&nested(MAX_DEPTH + 1).encode()).unwrap_err().0, "items nested deeper than 16");
    // As deep as a message can be, so that unbounded recursion would not survive.
    let deepest = MAX_MESSAGE / HEADER_LEN;
    let bottomless: Vec<u8> = (0..deepest)
        .rev()
        .flat_map(|inner| {
            let len = u32::try_from(inner * HEADER_LEN).unwrap().to_be_bytes();
            [[0x42, 0, 0x20, STRUCTURE], len].concat()
        })
        .collect();
    assert_eq!(decode(&bottomless).unwrap_err().0, "items nested deeper than 16");

    let many = |count: usize| item(Value::Structure(vec![item(Value::Structure(vec![])); count]));
    assert!(decode(&many(MAX_ITEMS - 1).encode()).is_ok());
    assert_eq!(decode(&many(MAX_ITEMS).encode()).unwrap_err().0, "more than 16384 items");

    let long = |len: usize| item(Value::Bytes(Zeroizing::new(vec![0; len]))).encode();
    assert!(decode(&long(MAX_MESSAGE - HEADER_LEN)).is_ok());
    assert!(decode(&long(MAX_MESSAGE)).is_err());
}

#[test]
fn a_length_that_is_announced_is_bounded_before_it_is_read() {
    assert_eq!(message_len([0x42, 0, 0x7b, 1, 0, 0, 0, 8]), Ok(16));
    assert_eq!(message_len([0x42, 0, 0x7b, 1, 0, 0x0f, 0xff, 0xf8]), Ok(MAX_MESSAGE));
    for header in [[0x42, 0, 0x7b, 1, 0, 0x0f, 0xff, 0xf9], [0x42, 0, 0x7b, 1, 0xff, 0xff, 0xff, 0xff], *b"HTTP/1.1"] {
        assert!(message_len(header).is_err(), "{header:?}");
    }
}

#[test]
fn values_do_not_print() {
    let secret = item(Value::Structure(vec![
        item(Value::Bytes(Zeroizing::new(vec![0xab; 32]))),
        item(Value::BigInteger(Zeroizing::new(vec![0xab; 8]))),
        item(Value::Other(0x55, Zeroizing::new(vec![0xab; 8]))),
    ]));
    let shown = format!("{secret:?}");
    assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    assert!(shown.contains("type 8 of 32 bytes"), "{shown}");
}

/// Replies of a PyKMIP server, one a line: name and hex.
fn recorded() -> Vec<Vec<u8>> {
    let lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(_, hex)| bytes(hex)).collect()
}

#[test]
fn recorded_replies_are_read_and_written() {
    assert!(recorded().len() > 5);
    for message in recorded() {
        let (header, _) = message.split_first_chunk().unwrap();
        assert_eq!(message_len(*header), Ok(message.len()));
        assert_eq!(*decode(&message).unwrap().encode(), message);
    }
}

fn any_item() -> impl Strategy<Value = Item> {
    let secret = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Zeroizing::new);
    let scalar = prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        any::<i64>().prop_map(Value::LongInteger),
        secret().prop_map(Value::BigInteger),
        any::<u32>().prop_map(Value::Enumeration),
        any::<bool>().prop_map(Value::Boolean),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Text),
        secret().prop_map(Value::Bytes),
        any::<i64>().prop_map(Value::DateTime),
        any::<u32>().prop_map(Value::Interval),
        (11_u8.., secret()).prop_map(|(kind, bytes)| Value::Other(kind, bytes)),
    ];
    let tag = || (0..1_u32 << 24).prop_map(Tag);
    let leaf = (tag(), scalar).prop_map(|(tag, value)| Item::new(tag, value));
    leaf.prop_recursive(6, 60, 8, move |inner| {
        (tag(), proptest::collection::vec(inner, 0..8)).prop_map(|(tag, items)| Item::structure(tag, items))
    })
}

/// One change to a message, as damage or malice would make it.
fn change(message: &mut Vec<u8>, at: usize, byte: u8, how: u8) {
    let at = at % message.len();
    match how % 4 {
        0 => message[at] ^= byte,
        1 => message.truncate(at),
        2 => message.insert(at, byte),
        _ => drop(message.splice(at..at, message.clone())),
    }
    if message.is_empty() {
        message.push(byte);
    }
}

/// What no input may break: it is refused, or it is read and encodes to what it was.
fn read_or_refuse(message: &[u8]) {
    if let Ok(item) = decode(message) {
        assert_eq!(*item.encode(), message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_was_encoded_is_read_again(item in any_item()) {
        prop_assert_eq!(decode(&item.encode()), Ok(item));
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_or_refuse(&message);
    }

    #[test]
    fn arbitrary_bytes_behind_a_plausible_start_are_read_or_refused(
        kind in 0_u8..12, len in 0_u8..48, rest in proptest::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..64),
    ) {
        read_or_refuse(&[&[0x42, 0, 0x7b, kind, 0, 0, 0, len], rest.as_slice()].concat());
    }

    #[test]
    fn damaged_replies_are_read_or_refused(
        which in any::<usize>(), changes in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..4),
    ) {
        let recorded = recorded();
        let mut message = recorded[which % recorded.len()].clone();
        for (at, byte, how) in changes {
            change(&mut message, at, byte, how);
        }
        read_or_refuse(&message);
    }
}
