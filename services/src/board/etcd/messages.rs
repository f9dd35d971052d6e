//! Requests and answers of etcd, version 3: those that a board needs, with the fields that it uses.

use vmcryptfs::error::Result;

use super::wire::{Fields, Message, Value};

/// A call's path.
pub(super) mod path {
    pub(in super::super) const RANGE: &str = "/etcdserverpb.KV/Range";
    pub(in super::super) const TXN: &str = "/etcdserverpb.KV/Txn";
    pub(in super::super) const PUT: &str = "/etcdserverpb.KV/Put";
    pub(in super::super) const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
    pub(in super::super) const WATCH: &str = "/etcdserverpb.Watch/Watch";
    pub(in super::super) const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub(in super::super) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    pub(in super::super) const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
    pub(in super::super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";
}

/// Asks for one key.
pub(super) fn get(key: &[u8]) -> Vec<u8> {
    Message::default().bytes(1, key).into_bytes()
}

/// Asks for the names of keys from `from` on and before `end`, without their values.
pub(super) fn names(from: &[u8], end: &[u8], most: usize) -> Vec<u8> {
    Message::default().bytes(1, from).bytes(2, end).number(3, most as u64).number(8, 1).into_bytes()
}

/// Writes a key if its last change was that of the revision, which is 0 where it is not there.
pub(super) fn put_if_unchanged(key: &[u8], revision: u64, value: &[u8]) -> Vec<u8> {
    const EQUAL: u64 = 0;
    const LAST_CHANGE: u64 = 2;
    let compare = Message::default().number(1, EQUAL).number(2, LAST_CHANGE).bytes(3, key).number(6, revision);
    let put = Message::default().bytes(1, key).bytes(2, value);
    Message::default().message(1, &compare).message(2, &Message::default().message(2, &put)).into_bytes()
}

/// Writes a key under a lease.
pub(super) fn put(key: &[u8], value: &[u8], lease: u64) -> Vec<u8> {
    Message::default().bytes(1, key).bytes(2, value).number(3, lease).into_bytes()
}

/// Deletes one key.
pub(super) fn delete(key: &[u8]) -> Vec<u8> {
    Message::default().bytes(1, key).into_bytes()
}

/// Begins a lease of this number of seconds.
pub(super) fn grant(seconds: u64) -> Vec<u8> {
    Message::default().number(1, seconds).into_bytes()
}

/// Names a lease, to keep it alive or to end it.
pub(super) fn lease(id: u64) -> Vec<u8> {
    Message::default().number(1, id).into_bytes()
}

/// Asks for nothing but an answer.
pub(super) fn empty() -> Vec<u8> {
    Vec::new()
}

/// Begins to watch the keys from `from` on and before `end`, from a revision on, or from now on where that is 0.
pub(super) fn watch(from: &[u8], end: &[u8], revision: u64) -> Vec<u8> {
    let create = Message::default().bytes(1, from).bytes(2, end).number(3, revision).number(8, 1);
    Message::default().message(1, &create).into_bytes()
}

/// Asks a watch whether it is alive.
pub(super) fn progress() -> Vec<u8> {
    Message::default().message(3, &Message::default()).into_bytes()
}

/// The number of one field, 0 where it is not there.
fn number_at(message: &[u8], wanted: u64) -> Result<u64> {
    let mut found = 0;
    for field in Fields::of(message) {
        let (field, value) = field?;
        if field == wanted {
            found = value.number()?;
        }
    }
    Ok(found)
}

/// A key and what it has.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct KeyValue<'m> {
    pub(super) key: &'m [u8],
    /// Revision of its last change.
    pub(super) revision: u64,
    pub(super) value: &'m [u8],
}

impl<'m> KeyValue<'m> {
    fn decode(message: &'m [u8]) -> Result<Self> {
        let mut found = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => found.key = value.bytes()?,
                (3, value) => found.revision = value.number()?,
                (5, value) => found.value = value.bytes()?,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The keys of an answer, and whether there are more.
pub(super) fn range(message: &[u8]) -> Result<(Vec<KeyValue<'_>>, bool)> {
    let (mut found, mut more) = (Vec::new(), false);
    for field in Fields::of(message) {
        match field? {
            (2, value) => found.push(KeyValue::decode(value.bytes()?)?),
            (3, value) => more = value.number()? != 0,
            _ => {}
        }
    }
    Ok((found, more))
}

/// Whether a transaction found what it compared.
pub(super) fn succeeded(message: &[u8]) -> Result<bool> {
    Ok(number_at(message, 2)? != 0)
}

/// The identity of a new lease.
pub(super) fn granted(message: &[u8]) -> Result<u64> {
    number_at(message, 2)
}

/// The seconds that a lease has left; 0 when it has ended.
pub(super) fn time_left(message: &[u8]) -> Result<u64> {
    number_at(message, 3)
}

/// What a member says of itself.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Status {
    pub(super) version: String,
    /// Size of its database, in bytes.
    pub(super) size: u64,
    pub(super) has_leader: bool,
    pub(super) errors: Vec<String>,
}

impl Status {
    pub(super) fn decode(message: &[u8]) -> Result<Self> {
        let mut found = Self::default();
        for field in Fields::of(message) {
            match field? {
                (2, value) => value.text()?.clone_into(&mut found.version),
                (3, value) => found.size = value.number()?,
                (4, value) => found.has_leader = value.number()? != 0,
                (8, value) => found.errors.push(value.text()?.to_owned()),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// What a watch says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Watched<'m> {
    /// Revision of the store.
    pub(super) revision: u64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// The watch is canceled, since the revision is older than this one, and what was before is gone.
    pub(super) compacted: u64,
    pub(super) reason: &'m str,
    /// More of the same revision follows.
    pub(super) is_part: bool,
    /// Keys that were written or deleted, and in which revision.
    pub(super) changed: Vec<KeyValue<'m>>,
}

impl<'m> Watched<'m> {
    pub(super) fn decode(message: &'m [u8]) -> Result<Self> {
        let mut found = Self::default();
        let flag = |value: Value<'_>| value.number().map(|number| number != 0);
        for field in Fields::of(message) {
            match field? {
                (1, header) => found.revision = number_at(header.bytes()?, 3)?,
                (3, value) => found.created = flag(value)?,
                (4, value) => found.canceled = flag(value)?,
                (5, value) => found.compacted = value.number()?,
                (6, value) => found.reason = value.text()?,
                (7, value) => found.is_part = flag(value)?,
                (11, event) => {
                    for field in Fields::of(event.bytes()?) {
                        if let (2, key) = field? {
                            found.changed.push(KeyValue::decode(key.bytes()?)?);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn header(revision: u64) -> Message {
        Message::default().number(1, 7).number(3, revision)
    }

    #[test]
    fn answers_are_read_and_unknown_fields_are_skipped() {
        let kv = Message::default().bytes(1, b"k").number(2, 1).number(3, 9).number(4, 1).bytes(5, b"v");
        let answer = Message::default().message(1, &header(9)).message(2, &kv).number(3, 1).number(4, 1).into_bytes();
        let (found, more) = range(&answer).unwrap();
        assert_eq!((found, more), (vec![KeyValue { key: b"k", revision: 9, value: b"v" }], true));
        let event = Message::default().number(1, 1).message(2, &kv);
        let answer = Message::default().message(1, &header(12)).message(11, &event).number(7, 1).into_bytes();
        let seen = Watched::decode(&answer).unwrap();
        assert_eq!((seen.revision, seen.is_part, seen.changed.len(), seen.canceled), (12, true, 1, false));
        let canceled =
            Message::default().message(1, &header(12)).number(4, 1).number(5, 8).bytes(6, b"compacted").into_bytes();
        let seen = Watched::decode(&canceled).unwrap();
        assert_eq!((seen.canceled, seen.compacted, seen.reason), (true, 8, "compacted"));
    }

    #[test]
    fn fields_of_other_types_are_refused() {
        let number_for_key = Message::default().message(2, &Message::default().number(1, 1)).into_bytes();
        assert!(range(&number_for_key).unwrap_err().chain().contains("a number where bytes belong"));
        let text_for_flag = Message::default().bytes(2, b"yes").into_bytes();
        assert!(succeeded(&text_for_flag).unwrap_err().chain().contains("bytes where a number belongs"));
        assert!(Status::decode(&Message::default().bytes(2, &[0xff]).into_bytes()).is_err());
        assert!(Watched::decode(&Message::default().number(11, 1).into_bytes()).is_err());
        assert!(granted(&[0x10]).is_err() && time_left(&[0x18, 0x80]).is_err());
    }
}
