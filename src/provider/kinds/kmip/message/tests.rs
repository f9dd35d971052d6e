use proptest::prelude::*;

use super::*;
use crate::provider::{KeyState, Trouble};

const UNIQUE: [u8; ID_LEN] = *b"AAAAAAAA";

fn batch(operations: &[Operation]) -> Batch {
    Batch::new(Version::OLDEST, operations.iter().map(|&operation| Request::new(operation, [])).collect(), UNIQUE)
}

fn enumeration(tag: Tag, number: u32) -> Item {
    Item::new(tag, Value::Enumeration(number))
}

/// An answer, field by field; a test leaves out or changes what it is about.
fn answer(operation: Operation, id: &[u8], status: u32) -> Vec<Item> {
    vec![
        enumeration(tag::OPERATION, operation as u32),
        Item::new(tag::UNIQUE_BATCH_ITEM_ID, Value::Bytes(Zeroizing::new(id.to_vec()))),
        enumeration(tag::RESULT_STATUS, status),
        Item::structure(tag::RESPONSE_PAYLOAD, [Item::text(tag::UNIQUE_IDENTIFIER, "7")]),
    ]
}

fn response(count: i32, answers: Vec<Vec<Item>>) -> Zeroizing<Vec<u8>> {
    let count = Item::new(tag::BATCH_COUNT, Value::Integer(count));
    let header = Item::structure(tag::RESPONSE_HEADER, [Version::OLDEST.item(), count]);
    let answers = answers.into_iter().map(|answer| Item::structure(tag::BATCH_ITEM, answer));
    Item::structure(tag::RESPONSE_MESSAGE, std::iter::once(header).chain(answers).collect::<Vec<_>>()).encode()
}

fn trouble(answers: Result<Vec<Result<Item, Failure>>, Failure>) -> Trouble {
    answers.unwrap_err().trouble()
}

#[test]
fn versions_are_ordered_and_named() {
    assert!(Version::ALL.is_sorted_by(|better, worse| better > worse));
    for version in Version::ALL {
        assert_eq!(version.to_string().parse(), Ok(version));
        assert_eq!(Version::of(&version.item()), Some(version));
    }
    assert_eq!("2.0".parse::<Version>(), Err("KMIP version \"2.0\", expected one of 2.1, 1.4, 1.3, 1.2, 1.1".into()));
}

#[test]
fn a_request_is_what_a_server_was_seen_to_accept() {
    let activate = Request::new(Operation::Activate, [Item::text(tag::UNIQUE_IDENTIFIER, "1")]);
    let sent = ttlv::decode(Batch::new("1.4".parse().unwrap(), vec![activate], UNIQUE).message()).unwrap();
    let header = sent.find(tag::REQUEST_HEADER).unwrap();
    assert_eq!(header.find(tag::PROTOCOL_VERSION).and_then(Version::of).unwrap().to_string(), "1.4");
    assert_eq!(header.integer_of(tag::BATCH_COUNT), Some(1));
    assert!(header.find(tag::BATCH_ERROR_CONTINUATION_OPTION).is_none());
    let item = sent.find(tag::BATCH_ITEM).unwrap();
    assert_eq!(
        (item.enumeration_of(tag::OPERATION), item.bytes_of(tag::UNIQUE_BATCH_ITEM_ID)),
        (Some(0x12), Some(&UNIQUE[..]))
    );
    assert_eq!(item.find(tag::REQUEST_PAYLOAD).unwrap().text_of(tag::UNIQUE_IDENTIFIER).as_deref(), Some("1"));
}

#[test]
fn answers_find_their_requests_in_any_order() {
    let operations = [Operation::Get, Operation::GetAttributes];
    let batch = batch(&operations);
    let ids: Vec<&[u8]> = batch.requests.iter().map(|(_, id)| &id[..]).collect();
    let mut refused = answer(operations[1], ids[1], tag::OPERATION_FAILED);
    refused.push(enumeration(tag::RESULT_REASON, 1));
    let answers = batch.answers(&response(2, vec![refused, answer(operations[0], ids[0], tag::SUCCESS)])).unwrap();
    assert_eq!(answers[0].as_ref().unwrap().text_of(tag::UNIQUE_IDENTIFIER).as_deref(), Some("7"));
    assert_eq!(answers[1].as_ref().unwrap_err().trouble(), Trouble::Missing);
}

#[test]
fn answers_to_other_requests_are_refused() {
    let good = || answer(Operation::Get, &UNIQUE, tag::SUCCESS);
    let without = |tag: Tag| good().into_iter().filter(|item| item.tag != tag).collect::<Vec<_>>();
    let batch = batch(&[Operation::Get]);
    assert!(batch.answers(&response(1, vec![good()])).is_ok());
    let wrong = [
        ("operation", response(1, vec![answer(Operation::Destroy, &UNIQUE, tag::SUCCESS)])),
        ("no operation", response(1, vec![without(tag::OPERATION)])),
        ("id", response(1, vec![answer(Operation::Get, b"AAAAAAAB", tag::SUCCESS)])),
        ("no id", response(1, vec![without(tag::UNIQUE_BATCH_ITEM_ID)])),
        ("no status", response(1, vec![without(tag::RESULT_STATUS)])),
        ("pending", response(1, vec![answer(Operation::Get, &UNIQUE, 2)])),
        ("count", response(2, vec![good()])),
        ("two answers", response(2, vec![good(), good()])),
        ("no answer", response(0, vec![])),
        ("a request", batch.message.clone()),
        ("nothing", Zeroizing::new(Vec::new())),
    ];
    for (what, response) in wrong {
        assert_eq!(trouble(batch.answers(&response)), Trouble::Garbled, "{what}");
    }
}

#[test]
fn a_server_that_cannot_read_the_message_refuses_all_of_it() {
    // PyKMIP answers three requests to add custom attributes with one refusal that names none of them.
    let batch = batch(&[Operation::AddAttribute; 3]);
    let refusal = vec![
        enumeration(tag::RESULT_STATUS, tag::OPERATION_FAILED),
        enumeration(tag::RESULT_REASON, 4),
        Item::text(tag::RESULT_MESSAGE, "Error parsing request message."),
    ];
    let refused = batch.answers(&response(1, vec![refusal])).unwrap_err();
    assert_eq!(refused.trouble(), Trouble::Unsupported);
    assert!(refused.to_string().contains("Error parsing"), "{refused}");
}

#[test]
fn a_refusal_for_a_key_state_is_reported() {
    let mut refused = answer(Operation::Get, &UNIQUE, tag::OPERATION_FAILED);
    refused.push(enumeration(tag::RESULT_REASON, 0x43));
    let answers = batch(&[Operation::Get]).answers(&response(1, vec![refused])).unwrap();
    assert_eq!(answers[0].as_ref().unwrap_err().trouble(), Trouble::State(KeyState::Unknown));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_answers_are_refused_or_still_have_the_id(
        at in 0_usize..400, bit in 0_u32..8, cut in 0_usize..400,
    ) {
        let batch = batch(&[Operation::Get]);
        let mut message = response(1, vec![answer(Operation::Get, &UNIQUE, tag::SUCCESS)]);
        let len = message.len();
        message[at % len] ^= 1 << bit;
        batch.answers(&message).ok();
        batch.answers(&message[..cut % len]).unwrap_err();
    }
}
