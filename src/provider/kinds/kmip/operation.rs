//! The operations of KMIP that keys need, in the terms of KMIP 1 and of KMIP 2.

use std::collections::BTreeMap;

use super::failure::shortened;
use super::message::{Request, Version};
use super::session::Session;
use super::tag::{self, Operation};
use super::ttlv::{Item, Tag, Value};
use crate::key::{KEK_LEN, MAX_KEY_ID_LEN};
use crate::provider::{Failure, KeyState, Revocation, Trouble};
use crate::sys::SecretBytes;
use crate::timestamp::Timestamp;

/// An attribute as KMIP 1 names it and KMIP 2 tags it.
#[derive(Clone, Copy)]
struct Attribute {
    name: &'static str,
    tag: Tag,
}

const ALGORITHM: Attribute = Attribute { name: "Cryptographic Algorithm", tag: tag::CRYPTOGRAPHIC_ALGORITHM };
const LENGTH: Attribute = Attribute { name: "Cryptographic Length", tag: tag::CRYPTOGRAPHIC_LENGTH };
const USAGE_MASK: Attribute = Attribute { name: "Cryptographic Usage Mask", tag: tag::CRYPTOGRAPHIC_USAGE_MASK };
const NAME: Attribute = Attribute { name: "Name", tag: tag::NAME };
const UNIQUE_ID: Attribute = Attribute { name: "Unique Identifier", tag: tag::UNIQUE_IDENTIFIER };
const STATE: Attribute = Attribute { name: "State", tag: tag::STATE };

/// Versions in a server's answer that are considered.
const MAX_VERSIONS: usize = 64;
/// Bits of a KEK.
const KEK_BITS: i32 = 256;

impl Attribute {
    fn item(self, version: Version, value: Value) -> Item {
        match version.has_tagged_attributes() {
            true => Item::new(self.tag, value),
            false => named(self.name, value),
        }
    }

    fn reference(self, version: Version) -> Item {
        match version.has_tagged_attributes() {
            true => Item::new(tag::ATTRIBUTE_REFERENCE, Value::Enumeration(self.tag.0)),
            false => Item::text(tag::ATTRIBUTE_NAME, self.name),
        }
    }
}

fn named(name: &str, value: Value) -> Item {
    Item::structure(tag::ATTRIBUTE, [Item::text(tag::ATTRIBUTE_NAME, name), Item::new(tag::ATTRIBUTE_VALUE, value)])
}

/// A custom attribute of ours. KMIP 2 has the `x` of `x-Name` as the name of a vendor.
fn custom(version: Version, name: &str, value: &str) -> Item {
    let value = Item::text(tag::ATTRIBUTE_VALUE, value);
    match version.has_tagged_attributes() {
        true => {
            let vendor = Item::text(tag::VENDOR_IDENTIFICATION, "x");
            let name = Item::text(tag::ATTRIBUTE_NAME, name.strip_prefix("x-").unwrap_or(name));
            Item::structure(tag::NEW_ATTRIBUTE, [Item::structure(tag::ATTRIBUTE, [vendor, name, value])])
        }
        false => Item::structure(tag::ATTRIBUTE, [Item::text(tag::ATTRIBUTE_NAME, name), value]),
    }
}

fn name_of(key_name: &str) -> Value {
    Value::Structure(vec![
        Item::text(tag::NAME_VALUE, key_name),
        Item::new(tag::NAME_TYPE, Value::Enumeration(tag::UNINTERPRETED_TEXT)),
    ])
}

fn unique_id(uid: &str) -> Item {
    Item::text(tag::UNIQUE_IDENTIFIER, uid)
}

impl Session {
    /// Asks for the versions that the server speaks, and takes the best that is allowed.
    pub(super) fn negotiate(&mut self, allowed: &[Version]) -> Result<Vec<Version>, Failure> {
        let asked: Vec<Item> = allowed.iter().map(|version| version.item()).collect();
        let known = match self.ask_first(Request::new(Operation::DiscoverVersions, asked)) {
            Ok(answer) => answer.all(tag::PROTOCOL_VERSION).filter_map(Version::of).take(MAX_VERSIONS).collect(),
            // A server that understood the message, but not the question, speaks the version of the message.
            Err(refusal) if refusal.trouble() == Trouble::Unsupported => vec![Version::OLDEST],
            Err(failure) => return Err(failure),
        };
        let Some(best) = allowed.iter().find(|version| known.contains(version)) else {
            let list = |versions: &[Version]| versions.iter().map(Version::to_string).collect::<Vec<_>>().join(", ");
            return Err(Failure::new(
                Trouble::Unsupported,
                format!("no common version of KMIP: it speaks {:?}, expected one of {}", list(&known), list(allowed)),
            ));
        };
        self.set_version(*best);
        Ok(known)
    }

    /// The vendor that the server names.
    pub(super) fn query_vendor(&mut self) -> Result<Option<String>, Failure> {
        let function = Item::new(tag::QUERY_FUNCTION, Value::Enumeration(tag::QUERY_SERVER_INFORMATION));
        let answer = self.ask(Request::new(Operation::Query, [function]))?;
        Ok(answer.text_of(tag::VENDOR_IDENTIFICATION).map(|vendor| shortened(&vendor)))
    }

    /// Makes an AES-256 key that may wrap and unwrap, and returns its unique identifier.
    pub(super) fn create(&mut self, key_name: &str) -> Result<String, Failure> {
        let version = self.version();
        let attributes = [
            ALGORITHM.item(version, Value::Enumeration(tag::AES)),
            LENGTH.item(version, Value::Integer(KEK_BITS)),
            USAGE_MASK.item(version, Value::Integer(tag::ENCRYPT_DECRYPT)),
            NAME.item(version, name_of(key_name)),
        ];
        let around = if version.has_tagged_attributes() { tag::ATTRIBUTES } else { tag::TEMPLATE_ATTRIBUTE };
        let object_type = Item::new(tag::OBJECT_TYPE, Value::Enumeration(tag::SYMMETRIC));
        let answer = self.ask(Request::new(Operation::Create, [object_type, Item::structure(around, attributes)]))?;
        let uid = answer.text_of(tag::UNIQUE_IDENTIFIER);
        let uid = uid.ok_or_else(|| Failure::garbled("a new key without a unique identifier"))?;
        identifier(&uid).inspect_err(|_| self.discard(&uid))?;
        Ok(uid)
    }

    /// The key of this name, if there is one. Only this program gives such names: see [`create`](Self::create).
    pub(super) fn locate(&mut self, key_name: &str) -> Result<Option<String>, Failure> {
        let version = self.version();
        let name = NAME.item(version, name_of(key_name));
        let wanted = if version.has_tagged_attributes() { Item::structure(tag::ATTRIBUTES, [name]) } else { name };
        let most = Item::new(tag::MAXIMUM_ITEMS, Value::Integer(2));
        let answer = self.ask(Request::new(Operation::Locate, [most, wanted]))?;
        let found: Vec<String> = answer.all(tag::UNIQUE_IDENTIFIER).filter_map(Item::as_text).collect();
        match found.as_slice() {
            [] => Ok(None),
            [uid] => identifier(uid).inspect_err(|_| self.discard(uid)).map(|()| Some(uid.clone())),
            _ => Err(Failure::garbled("several keys of a name that one was given")),
        }
    }

    /// Makes a key Active; it may be so already.
    pub(super) fn activate(&mut self, uid: &str) -> Result<(), Failure> {
        let refusal = match self.about(uid, Operation::Activate, []) {
            Err(refusal) if matches!(refusal.trouble(), Trouble::Denied | Trouble::State(_)) => refusal,
            other => return other.map(drop),
        };
        match self.state(uid) {
            Ok(KeyState::Active) => Ok(()),
            _ => Err(refusal),
        }
    }

    /// The key itself. A refusal for its state says which state that is.
    pub(super) fn get(&mut self, uid: &str) -> Result<SecretBytes, Failure> {
        let raw = Item::new(tag::KEY_FORMAT_TYPE, Value::Enumeration(tag::RAW));
        let refusal = match self.about(uid, Operation::Get, [raw]) {
            Ok(answer) => return aes_256(&answer),
            Err(refusal) if matches!(refusal.trouble(), Trouble::Denied | Trouble::State(_)) => refusal,
            Err(failure) => return Err(failure),
        };
        match self.state(uid) {
            Ok(state) if state != KeyState::Active => {
                Err(Failure::new(Trouble::State(state), format!("the key is {state}; {refusal}")))
            }
            _ => Err(refusal),
        }
    }

    /// The state that a key is in.
    pub(super) fn state(&mut self, uid: &str) -> Result<KeyState, Failure> {
        let reference = STATE.reference(self.version());
        let answer = self.about(uid, Operation::GetAttributes, [reference])?;
        let state = match answer.find(tag::ATTRIBUTES) {
            Some(attributes) => attributes.enumeration_of(tag::STATE),
            None => {
                named_values(&answer).find(|(name, _)| name == STATE.name).and_then(|(_, state)| state.as_enumeration())
            }
        };
        Ok(state.map_or(KeyState::Unknown, key_state))
    }

    /// The identifier of a key as the server has it. Some repeat in their answers whatever spelling they were asked with, so the
    /// attribute counts more than those. Of what the server does not tell, the spelling is the one given.
    pub(super) fn own_spelling(&mut self, uid: &str) -> Result<String, Failure> {
        let reference = UNIQUE_ID.reference(self.version());
        let answer = match self.ask(Request::new(Operation::GetAttributes, [unique_id(uid), reference])) {
            // Some call it a general failure to be asked for what they do not know.
            Err(refusal) if refusal.trouble() == Trouble::Faulty || !refusal.trouble().is_of_server() => {
                return Ok(uid.to_owned());
            }
            answer => answer?,
        };
        let attribute = match answer.find(tag::ATTRIBUTES) {
            Some(attributes) => attributes.text_of(tag::UNIQUE_IDENTIFIER),
            None => {
                named_values(&answer).find(|(name, _)| name == UNIQUE_ID.name).and_then(|(_, value)| value.as_text())
            }
        };
        let own = attribute.or_else(|| answer.text_of(tag::UNIQUE_IDENTIFIER)).unwrap_or_else(|| uid.to_owned());
        identifier(&own).map(|()| own)
    }

    /// The custom attributes of a key that the server has.
    pub(super) fn custom_attributes(&mut self, uid: &str) -> Result<BTreeMap<String, String>, Failure> {
        let answer = self.about(uid, Operation::GetAttributes, [])?;
        let attributes = answer.find(tag::ATTRIBUTES).unwrap_or(&answer);
        let full_name = |attribute: &Item| {
            let name = attribute.text_of(tag::ATTRIBUTE_NAME)?;
            Some(
                attribute.text_of(tag::VENDOR_IDENTIFICATION).map_or(name.clone(), |vendor| format!("{vendor}-{name}")),
            )
        };
        let all = attributes.all(tag::ATTRIBUTE);
        let texts = all.filter_map(|item| Some((full_name(item)?, item.text_of(tag::ATTRIBUTE_VALUE)?)));
        Ok(texts.filter(|(name, _)| name.starts_with("x-")).collect())
    }

    /// Gives a key another value of a custom attribute, whether it has one already or not.
    pub(super) fn set_attribute(&mut self, uid: &str, name: &str, value: &str) -> Result<(), Failure> {
        let attribute = custom(self.version(), name, value);
        match self.about(uid, Operation::ModifyAttribute, [attribute]) {
            // PyKMIP says "general failure" for an attribute that it does not know.
            Err(refusal) if refusal.trouble() == Trouble::Faulty || !refusal.trouble().may_pass() => {
                self.add_attributes(uid, &[(name.to_owned(), value.to_owned())])
            }
            other => other.map(drop),
        }
    }

    /// Gives a key custom attributes. Some servers know none.
    pub(super) fn add_attributes(&mut self, uid: &str, attributes: &[(String, String)]) -> Result<(), Failure> {
        if attributes.is_empty() {
            return Ok(());
        }
        let version = self.version();
        let add = |(name, value): &(String, String)| {
            Request::new(Operation::AddAttribute, [unique_id(uid), custom(version, name, value)])
        };
        self.ask_all(attributes.iter().map(add).collect())?.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Takes a key out of use. This cannot be undone.
    pub(super) fn revoke(&mut self, uid: &str, reason: Revocation) -> Result<(), Failure> {
        let code = match reason {
            Revocation::Compromised => 2,
            Revocation::Superseded => 5,
            Revocation::Ended => 6,
        };
        let code = Item::new(tag::REVOCATION_REASON_CODE, Value::Enumeration(code));
        let mut payload = vec![Item::structure(tag::REVOCATION_REASON, [code])];
        if reason == Revocation::Compromised {
            let now = Timestamp::now().since_1970().as_secs();
            let now = Value::DateTime(i64::try_from(now).unwrap_or(i64::MAX));
            payload.push(Item::new(tag::COMPROMISE_OCCURRENCE_DATE, now));
        }
        self.about(uid, Operation::Revoke, payload).map(drop)
    }

    /// Destroys a key; servers refuse it for Active ones.
    pub(super) fn destroy(&mut self, uid: &str) -> Result<(), Failure> {
        self.about(uid, Operation::Destroy, []).map(drop)
    }

    /// Destroys a key that was just made and will never be used, if the server does it. An active one is revoked first.
    pub(super) fn discard(&mut self, uid: &str) {
        self.revoke(uid, Revocation::Ended).ok();
        self.destroy(uid).ok();
    }

    /// Asks for an operation on a key; the answer must be about the same key.
    fn about(
        &mut self,
        uid: &str,
        operation: Operation,
        rest: impl IntoIterator<Item = Item>,
    ) -> Result<Item, Failure> {
        let payload: Vec<Item> = std::iter::once(unique_id(uid)).chain(rest).collect();
        let answer = self.ask(Request::new(operation, payload))?;
        match answer.text_of(tag::UNIQUE_IDENTIFIER) {
            Some(answered) if answered == uid => Ok(answer),
            answered => {
                let other = if answered.is_some() { "another key" } else { "no key" };
                Err(Failure::garbled(format_args!("{operation:?} of key {uid:?} answered for {other}")))
            }
        }
    }
}

/// Refuses an identifier that cannot be stored, or with which the server could not be asked again.
fn identifier(uid: &str) -> Result<(), Failure> {
    let is_usable = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
    match (1..=MAX_KEY_ID_LEN).contains(&uid.len()) && uid.chars().all(is_usable) {
        true => Ok(()),
        false => Err(Failure::garbled(format_args!(
            "a key identifier of {} bytes, expected 1 to {MAX_KEY_ID_LEN} of UTF-8 without control characters",
            uid.len()
        ))),
    }
}

fn named_values(answer: &Item) -> impl Iterator<Item = (String, &Item)> {
    answer
        .all(tag::ATTRIBUTE)
        .filter_map(|attribute| Some((attribute.text_of(tag::ATTRIBUTE_NAME)?, attribute.find(tag::ATTRIBUTE_VALUE)?)))
}

/// The key of the answer to Get, which must be what [`Session::create`] asks for.
fn aes_256(answer: &Item) -> Result<SecretBytes, Failure> {
    let object_type = answer.enumeration_of(tag::OBJECT_TYPE);
    if object_type != Some(tag::SYMMETRIC) {
        return Err(Failure::no_kek(format_args!("an object of type {object_type:?}")));
    }
    let block = answer
        .find(tag::SYMMETRIC_KEY)
        .and_then(|key| key.find(tag::KEY_BLOCK))
        .ok_or_else(|| Failure::garbled("a key without a key block"))?;
    let format = block.enumeration_of(tag::KEY_FORMAT_TYPE);
    if format != Some(tag::RAW) || block.find(tag::KEY_WRAPPING_DATA).is_some() {
        return Err(Failure::no_kek(format_args!("a key of format {format:?}, or a wrapped one")));
    }
    let algorithm = block.enumeration_of(tag::CRYPTOGRAPHIC_ALGORITHM);
    if algorithm.is_some_and(|algorithm| algorithm != tag::AES) {
        return Err(Failure::no_kek(format_args!("a key of algorithm {algorithm:?}")));
    }
    let bits = block.integer_of(tag::CRYPTOGRAPHIC_LENGTH);
    let material: Option<&[u8]> = block.find(tag::KEY_VALUE).and_then(|value| value.bytes_of(tag::KEY_MATERIAL));
    match material {
        Some(material) if material.len() == KEK_LEN && bits.is_none_or(|bits| bits == KEK_BITS) => {
            let mut key = SecretBytes::zeroed(KEK_LEN);
            key.copy_from_slice(material);
            Ok(key)
        }
        Some(material) => {
            Err(Failure::no_kek(format_args!("a key of {} bytes that says it has {bits:?} bits", material.len())))
        }
        None => Err(Failure::garbled("a key without its bytes")),
    }
}

/// The state of this number in KMIP.
fn key_state(number: u32) -> KeyState {
    match number {
        1 => KeyState::PreActive,
        2 => KeyState::Active,
        3 => KeyState::Deactivated,
        4 => KeyState::Compromised,
        5 | 6 => KeyState::Destroyed,
        _ => KeyState::Unknown,
    }
}

#[cfg(test)]
mod tests;
