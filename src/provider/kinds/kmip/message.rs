//! KMIP messages: requests around operations, and responses checked to be answers to them.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::tag::{self, Operation};
use super::ttlv::{self, Item, Tag, Value};
use crate::provider::Failure;

/// A version of KMIP.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version {
    major: i32,
    minor: i32,
}

impl Version {
    /// Those that this client speaks, the best first.
    pub const ALL: [Self; 5] = [Self::new(2, 1), Self::new(1, 4), Self::new(1, 3), Self::new(1, 2), Self::OLDEST];
    /// The one in which a server is asked for its versions: the first that has the question.
    pub const OLDEST: Self = Self::new(1, 1);

    const fn new(major: i32, minor: i32) -> Self {
        Self { major, minor }
    }

    /// Whether attributes are items with tags of their own, as from KMIP 2 on, rather than names and values.
    pub(super) fn has_tagged_attributes(self) -> bool {
        self.major >= 2
    }

    pub(super) fn item(self) -> Item {
        let number = |tag: Tag, number: i32| Item::new(tag, Value::Integer(number));
        Item::structure(
            tag::PROTOCOL_VERSION,
            [number(tag::PROTOCOL_VERSION_MAJOR, self.major), number(tag::PROTOCOL_VERSION_MINOR, self.minor)],
        )
    }

    pub(super) fn of(item: &Item) -> Option<Self> {
        let major = item.integer_of(tag::PROTOCOL_VERSION_MAJOR)?;
        Some(Self { major, minor: item.integer_of(tag::PROTOCOL_VERSION_MINOR)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|version| version.to_string() == text).ok_or_else(|| {
            let known = Self::ALL.map(|version| version.to_string()).join(", ");
            format!("KMIP version {text:?}, expected one of {known}")
        })
    }
}

/// One operation and what it is to be done with.
#[derive(Debug)]
pub(super) struct Request {
    operation: Operation,
    payload: Vec<Item>,
}

impl Request {
    pub(super) fn new(operation: Operation, payload: impl Into<Vec<Item>>) -> Self {
        Self { operation, payload: payload.into() }
    }
}

/// Bytes of the id that connects an answer to its request.
const ID_LEN: usize = 8;

/// Requests that are sent as one message, each under an id that no other message has.
#[derive(Debug)]
pub(super) struct Batch {
    requests: Vec<(Operation, [u8; ID_LEN])>,
    message: Zeroizing<Vec<u8>>,
}

impl Batch {
    /// Puts `requests` into a message. `unique` is a number that was not used before.
    pub(super) fn new(version: Version, requests: Vec<Request>, unique: [u8; ID_LEN]) -> Self {
        let mut header = vec![version.item()];
        if requests.len() > 1 {
            header.push(Item::new(tag::BATCH_ERROR_CONTINUATION_OPTION, Value::Enumeration(tag::CONTINUE)));
        }
        header.push(Item::new(tag::BATCH_COUNT, Value::Integer(i32::try_from(requests.len()).unwrap_or(i32::MAX))));
        let mut message = vec![Item::structure(tag::REQUEST_HEADER, header)];
        let mut asked = Vec::new();
        for (index, request) in (0_u64..).zip(requests) {
            let id = u64::from_le_bytes(unique).wrapping_add(index).to_le_bytes();
            asked.push((request.operation, id));
            message.push(Item::structure(
                tag::BATCH_ITEM,
                [
                    Item::new(tag::OPERATION, Value::Enumeration(request.operation as u32)),
                    Item::new(tag::UNIQUE_BATCH_ITEM_ID, Value::Bytes(Zeroizing::new(id.to_vec()))),
                    Item::structure(tag::REQUEST_PAYLOAD, request.payload),
                ],
            ));
        }
        Self { requests: asked, message: Item::structure(tag::REQUEST_MESSAGE, message).encode() }
    }

    /// What is to be sent.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The payloads of the answers, in the order of the requests.
    ///
    /// # Errors
    /// `Garbled` when it is not the answer to this batch, and the server's refusal when that is all it answers. Refusals of
    /// single requests are in the list.
    pub(super) fn answers(&self, response: &[u8]) -> Result<Vec<Result<Item, Failure>>, Failure> {
        let message = ttlv::decode(response).map_err(Failure::garbled)?;
        if message.tag != tag::RESPONSE_MESSAGE {
            return Err(Failure::garbled(format_args!("a message {:?}", message.tag)));
        }
        let count = message.find(tag::RESPONSE_HEADER).and_then(|header| header.integer_of(tag::BATCH_COUNT));
        let answers: Vec<&Item> = message.all(tag::BATCH_ITEM).collect();
        if count.and_then(|count| usize::try_from(count).ok()) != Some(answers.len()) {
            return Err(Failure::garbled(format_args!("{} answers, announced {count:?}", answers.len())));
        }
        // A server that cannot read a request cannot name its operation or id.
        if let [answer] = answers.as_slice()
            && answer.enumeration_of(tag::RESULT_STATUS) == Some(tag::OPERATION_FAILED)
            && answer.find(tag::OPERATION).is_none()
        {
            return Err(refusal(None, answer));
        }
        if answers.len() != self.requests.len() {
            return Err(Failure::garbled(format_args!(
                "{} answers to {} requests",
                answers.len(),
                self.requests.len()
            )));
        }
        self.requests.iter().map(|(operation, id)| answer_to(*operation, id, &answers)).collect()
    }
}

fn answer_to(operation: Operation, id: &[u8], answers: &[&Item]) -> Result<Result<Item, Failure>, Failure> {
    let answer = answers
        .iter()
        .find(|answer| answer.bytes_of(tag::UNIQUE_BATCH_ITEM_ID) == Some(id))
        .ok_or_else(|| Failure::garbled(format_args!("no answer has the id of {operation:?}")))?;
    let answered = answer.enumeration_of(tag::OPERATION);
    if answered != Some(operation as u32) {
        return Err(Failure::garbled(format_args!("operation {answered:x?} answered, asked for {operation:?}")));
    }
    match answer.enumeration_of(tag::RESULT_STATUS) {
        Some(tag::SUCCESS) => {
            let payload = answer.find(tag::RESPONSE_PAYLOAD).cloned();
            Ok(Ok(payload.unwrap_or_else(|| Item::structure(tag::RESPONSE_PAYLOAD, []))))
        }
        Some(tag::OPERATION_FAILED) => Ok(Err(refusal(Some(operation), answer))),
        status => Err(Failure::garbled(format_args!("{operation:?} has status {status:?}, expected 0 or 1"))),
    }
}

fn refusal(operation: Option<Operation>, answer: &Item) -> Failure {
    let text = answer.text_of(tag::RESULT_MESSAGE);
    Failure::refused(operation, answer.enumeration_of(tag::RESULT_REASON), text.as_deref())
}

#[cfg(test)]
mod tests;
