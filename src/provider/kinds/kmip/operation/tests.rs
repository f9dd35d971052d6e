use data_encoding::HEXLOWER;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::super::ttlv;
use super::*;

/// PyKMIP's answer to Get.
fn recorded() -> Item {
    let line = include_str!("../ttlv/recorded.txt").lines().find_map(|line| line.strip_prefix("get-and-state "));
    let message = ttlv::decode(&HEXLOWER.decode(line.unwrap().as_bytes()).unwrap()).unwrap();
    message.find(tag::BATCH_ITEM).and_then(|item| item.find(tag::RESPONSE_PAYLOAD)).unwrap().clone()
}

/// The answer with each item of this tag changed, or left out.
fn changed(item: &Item, tag: Tag, value: Option<&Value>) -> Item {
    let Value::Structure(items) = &item.value else { return item.clone() };
    let change = |inside: &Item| match (inside.tag == tag, value) {
        (true, value) => value.map(|value| Item::new(tag, value.clone())),
        (false, _) => Some(changed(inside, tag, value)),
    };
    Item::structure(item.tag, items.iter().filter_map(change).collect::<Vec<_>>())
}

fn refusal(answer: &Item) -> Trouble {
    aes_256(answer).map(drop).unwrap_err().trouble()
}

#[test]
fn the_key_of_a_real_answer_is_read() {
    let answer = recorded();
    let key = aes_256(&answer).unwrap();
    assert_eq!(key.len(), KEK_LEN);
    // Some servers leave out what the requester knows.
    for known in [tag::CRYPTOGRAPHIC_ALGORITHM, tag::CRYPTOGRAPHIC_LENGTH] {
        assert_eq!(*aes_256(&changed(&answer, known, None)).unwrap(), *key);
    }
}

#[test]
fn only_an_aes_256_key_is_used() {
    let answer = recorded();
    let bytes = |len: usize| Value::Bytes(Zeroizing::new(vec![7; len]));
    for (tag, value) in [
        (tag::OBJECT_TYPE, Value::Enumeration(7)),
        (tag::KEY_FORMAT_TYPE, Value::Enumeration(7)),
        (tag::CRYPTOGRAPHIC_ALGORITHM, Value::Enumeration(2)),
        (tag::CRYPTOGRAPHIC_LENGTH, Value::Integer(128)),
        (tag::KEY_MATERIAL, bytes(0)),
        (tag::KEY_MATERIAL, bytes(31)),
        (tag::KEY_MATERIAL, bytes(33)),
        (tag::KEY_MATERIAL, bytes(64)),
    ] {
        assert_eq!(refusal(&changed(&answer, tag, Some(&value))), Trouble::NotAKek, "{tag:?} {value:?}");
    }
    assert_eq!(refusal(&changed(&answer, tag::OBJECT_TYPE, None)), Trouble::NotAKek);
    assert_eq!(refusal(&changed(&answer, tag::KEY_FORMAT_TYPE, None)), Trouble::NotAKek);
    for needed in [tag::SYMMETRIC_KEY, tag::KEY_BLOCK, tag::KEY_VALUE, tag::KEY_MATERIAL] {
        assert_eq!(refusal(&changed(&answer, needed, None)), Trouble::Garbled, "{needed:?}");
    }
}

#[test]
fn attributes_are_named_in_kmip_1_and_tagged_in_kmip_2() {
    let (one, two) = ("1.4".parse().unwrap(), "2.1".parse().unwrap());
    let state = |version| STATE.item(version, Value::Enumeration(2));
    assert_eq!(state(one).text_of(tag::ATTRIBUTE_NAME).as_deref(), Some("State"));
    assert_eq!((state(two).tag, state(two).value), (tag::STATE, Value::Enumeration(2)));
    assert_eq!(STATE.reference(two).as_enumeration(), Some(tag::STATE.0));
    let name = custom(one, "x-Name", "web01");
    assert_eq!((name.tag, name.text_of(tag::ATTRIBUTE_NAME).as_deref()), (tag::ATTRIBUTE, Some("x-Name")));
    let name = custom(two, "x-Name", "web01");
    let inside = name.find(tag::ATTRIBUTE).unwrap();
    assert_eq!(name.tag, tag::NEW_ATTRIBUTE);
    assert_eq!(inside.text_of(tag::VENDOR_IDENTIFICATION).as_deref(), Some("x"));
    assert_eq!(inside.text_of(tag::ATTRIBUTE_NAME).as_deref(), Some("Name"));
}

proptest! {
    #[test]
    fn damaged_answers_give_the_key_or_none(at in 0_usize..400, bit in 0_u32..8) {
        let answer = recorded();
        let key = aes_256(&answer).unwrap();
        let mut message = answer.encode();
        let len = message.len();
        message[at % len] ^= 1 << bit;
        let damaged = ttlv::decode(&message).ok().and_then(|item| aes_256(&item).ok());
        // A changed bit of the key itself is for the key check of the header to find.
        let one_bit = |found: &[u8]| found.iter().zip(key.iter()).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() <= 1;
        prop_assert!(damaged.is_none_or(|found| one_bit(&found)));
    }
}

#[test]
fn identifiers_that_cannot_be_stored_or_sent_again_are_refused() {
    let longest = "k".repeat(MAX_KEY_ID_LEN);
    for good in ["4711", "uuid:6c1f-ü", &longest] {
        assert_eq!(identifier(good), Ok(()));
    }
    for bad in
        [String::new(), format!("{longest}k"), "k".repeat(1 << 20), "a\n".into(), "\x1b[2J".into(), "a\u{fffd}".into()]
    {
        let failure = identifier(&bad).unwrap_err();
        assert_eq!(failure.trouble(), Trouble::Garbled);
        assert!(failure.to_string().len() < 200, "{failure}");
    }
}
