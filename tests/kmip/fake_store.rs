//! The keys of a KMIP server for tests, and what its operations do with them. Shared by the members of a cluster.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use vmcryptfs::provider::kinds::kmip::tag::{self, Operation};
use vmcryptfs::provider::kinds::kmip::ttlv::{Item, Tag, Value};
use zeroize::Zeroizing;

const PRE_ACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
const DEACTIVATED: u32 = 3;
const COMPROMISED: u32 = 4;

const NOT_FOUND: u32 = 0x37;
const DESTROYED: u32 = 0x36;
const WRONG_STATE: u32 = 0x43;
const NOT_SUPPORTED: u32 = 0x05;
const INVALID_FIELD: u32 = 0x07;

/// A key as the server has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) state: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) custom: BTreeMap<String, String>,
    pub(crate) destroyed: bool,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) keys: Mutex<Vec<Key>>,
    /// Ids that Get asked for.
    pub(crate) gets: Mutex<Vec<String>>,
}

/// The payload of an answer, or the reason of a refusal.
type Answer = Result<Vec<Item>, u32>;

pub(crate) fn text(tag: Tag, text: &str) -> Item {
    Item::text(tag, text)
}

pub(crate) fn number(tag: Tag, number: u32) -> Item {
    Item::new(tag, Value::Enumeration(number))
}

impl Store {
    /// Keys that were not destroyed.
    pub(crate) fn count(&self) -> usize {
        self.keys.lock().iter().filter(|key| !key.destroyed).count()
    }

    /// Does what a request asks for. `tagged` is whether it is one of KMIP 2.
    pub(crate) fn perform(&self, operation: u32, payload: &Item, tagged: bool) -> Answer {
        let mut keys = self.keys.lock();
        if operation == Operation::Create as u32 {
            return create(&mut keys, payload, tagged);
        }
        if operation == Operation::Locate as u32 {
            let wanted = name_in(payload, tagged).ok_or(INVALID_FIELD)?;
            let found = keys.iter().enumerate().filter(|(_, key)| key.name == wanted && !key.destroyed);
            return Ok(found.map(|(index, _)| text(tag::UNIQUE_IDENTIFIER, &uid_of(index))).collect());
        }
        // As a real server does it, `key-07` is taken for `key-7`, and answered with the spelling of the question.
        let uid = payload.text_of(tag::UNIQUE_IDENTIFIER).ok_or(INVALID_FIELD)?;
        if operation == Operation::Get as u32 {
            self.gets.lock().push(uid.clone());
        }
        let index = uid.strip_prefix("key-").and_then(|index| index.trim_end_matches('\x07').parse::<usize>().ok());
        let (index, key) = index.and_then(|index| Some((index, keys.get_mut(index)?))).ok_or(NOT_FOUND)?;
        if key.destroyed {
            return Err(DESTROYED);
        }
        let rest = change_or_read(key, &uid_of(index), operation, payload, tagged)?;
        Ok(std::iter::once(text(tag::UNIQUE_IDENTIFIER, &uid)).chain(rest).collect())
    }
}

fn uid_of(index: usize) -> String {
    format!("key-{index}")
}

fn create(keys: &mut Vec<Key>, payload: &Item, tagged: bool) -> Answer {
    let attributes =
        payload.find(if tagged { tag::ATTRIBUTES } else { tag::TEMPLATE_ATTRIBUTE }).ok_or(INVALID_FIELD)?;
    let value = |name: &str, tag: Tag| if tagged { attributes.find(tag) } else { named(attributes, name) };
    let algorithm = value("Cryptographic Algorithm", tag::CRYPTOGRAPHIC_ALGORITHM).ok_or(INVALID_FIELD)?;
    let length = value("Cryptographic Length", tag::CRYPTOGRAPHIC_LENGTH).ok_or(INVALID_FIELD)?;
    let usage = value("Cryptographic Usage Mask", tag::CRYPTOGRAPHIC_USAGE_MASK).ok_or(INVALID_FIELD)?;
    let expected = (Value::Enumeration(tag::AES), Value::Integer(256), Value::Integer(12));
    if (&algorithm.value, &length.value, &usage.value) != (&expected.0, &expected.1, &expected.2) {
        return Err(INVALID_FIELD);
    }
    let name = value("Name", tag::NAME).and_then(|name| name.text_of(tag::NAME_VALUE)).ok_or(INVALID_FIELD)?;
    let mut bytes = vec![0; 32];
    vmcryptfs::crypto::random::fill(&mut bytes).unwrap();
    keys.push(Key { name, state: PRE_ACTIVE, bytes, ..Key::default() });
    let uid = text(tag::UNIQUE_IDENTIFIER, &uid_of(keys.len() - 1));
    Ok(vec![number(tag::OBJECT_TYPE, tag::SYMMETRIC), uid])
}

fn change_or_read(key: &mut Key, own_uid: &str, operation: u32, payload: &Item, tagged: bool) -> Answer {
    let is = |wanted: Operation| operation == wanted as u32;
    if is(Operation::Get) {
        // As one real server does it: the keys that are out of use are not given out.
        return if key.state == DEACTIVATED { Err(WRONG_STATE) } else { Ok(key_block(&key.bytes)) };
    }
    if is(Operation::GetAttributes) {
        return Ok(attributes_of(key, own_uid, tagged));
    }
    if is(Operation::Activate) {
        return if key.state == PRE_ACTIVE { change_state(key, ACTIVE) } else { Err(WRONG_STATE) };
    }
    if is(Operation::Revoke) {
        let reason = payload.find(tag::REVOCATION_REASON).ok_or(INVALID_FIELD)?;
        let compromised = reason.enumeration_of(tag::REVOCATION_REASON_CODE) == Some(2);
        return change_state(key, if compromised { COMPROMISED } else { DEACTIVATED });
    }
    if is(Operation::Destroy) {
        key.destroyed = key.state != ACTIVE;
        return if key.destroyed { Ok(vec![]) } else { Err(WRONG_STATE) };
    }
    if is(Operation::AddAttribute) || is(Operation::ModifyAttribute) {
        let (name, value) = custom_in(payload, tagged).ok_or(INVALID_FIELD)?;
        if key.custom.contains_key(&name) == is(Operation::AddAttribute) {
            return Err(INVALID_FIELD);
        }
        key.custom.insert(name, value);
        return Ok(vec![]);
    }
    Err(NOT_SUPPORTED)
}

fn change_state(key: &mut Key, state: u32) -> Answer {
    key.state = state;
    Ok(vec![])
}

fn named<'a>(attributes: &'a Item, name: &str) -> Option<&'a Item> {
    let attribute =
        attributes.all(tag::ATTRIBUTE).find(|item| item.text_of(tag::ATTRIBUTE_NAME).as_deref() == Some(name))?;
    attribute.find(tag::ATTRIBUTE_VALUE)
}

fn name_in(payload: &Item, tagged: bool) -> Option<String> {
    let name = if tagged { payload.find(tag::ATTRIBUTES)?.find(tag::NAME)? } else { named(payload, "Name")? };
    name.text_of(tag::NAME_VALUE)
}

fn custom_in(payload: &Item, tagged: bool) -> Option<(String, String)> {
    let attribute = match tagged {
        true => payload.find(tag::NEW_ATTRIBUTE)?.find(tag::ATTRIBUTE)?,
        false => payload.find(tag::ATTRIBUTE)?,
    };
    let vendor = attribute.text_of(tag::VENDOR_IDENTIFICATION).map(|vendor| format!("{vendor}-")).unwrap_or_default();
    Some((vendor + &attribute.text_of(tag::ATTRIBUTE_NAME)?, attribute.text_of(tag::ATTRIBUTE_VALUE)?))
}

fn attributes_of(key: &Key, own_uid: &str, tagged: bool) -> Vec<Item> {
    if tagged {
        let custom = key.custom.iter().map(|(name, value)| {
            let parts =
                [("x", tag::VENDOR_IDENTIFICATION), (&name[2..], tag::ATTRIBUTE_NAME), (value, tag::ATTRIBUTE_VALUE)];
            Item::structure(tag::ATTRIBUTE, parts.map(|(part, tag)| text(tag, part)))
        });
        let all: Vec<Item> =
            [text(tag::UNIQUE_IDENTIFIER, own_uid), number(tag::STATE, key.state)].into_iter().chain(custom).collect();
        return vec![Item::structure(tag::ATTRIBUTES, all)];
    }
    let item = |name: &str, value: Item| Item::structure(tag::ATTRIBUTE, [text(tag::ATTRIBUTE_NAME, name), value]);
    let state = item("State", number(tag::ATTRIBUTE_VALUE, key.state));
    // What crashed another client: an attribute that is a structure.
    let digest = item("Digest", Item::structure(tag::ATTRIBUTE_VALUE, [number(Tag(0x42_0038), 6)]));
    let custom = key.custom.iter().map(|(name, value)| item(name, text(tag::ATTRIBUTE_VALUE, value)));
    let own_uid = item("Unique Identifier", text(tag::ATTRIBUTE_VALUE, own_uid));
    [digest, own_uid, state].into_iter().chain(custom).collect()
}

fn key_block(bytes: &[u8]) -> Vec<Item> {
    let bits = i32::try_from(bytes.len() * 8).unwrap();
    let material = Item::new(tag::KEY_MATERIAL, Value::Bytes(Zeroizing::new(bytes.to_vec())));
    let block = [
        number(tag::KEY_FORMAT_TYPE, tag::RAW),
        Item::structure(tag::KEY_VALUE, [material]),
        number(tag::CRYPTOGRAPHIC_ALGORITHM, tag::AES),
        Item::new(tag::CRYPTOGRAPHIC_LENGTH, Value::Integer(bits)),
    ];
    let key = Item::structure(tag::SYMMETRIC_KEY, [Item::structure(tag::KEY_BLOCK, block)]);
    vec![number(tag::OBJECT_TYPE, tag::SYMMETRIC), key]
}
