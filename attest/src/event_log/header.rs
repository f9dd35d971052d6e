//! The first event of a log: in SHA-1's form, with the table of algorithms as its content (TCG_EfiSpecIDEvent).

use super::event_type::EventType;
use super::fields::Fields;
use super::printable;
use crate::error::{Error, Result};
use crate::pcr::HashAlgorithm;

const AGILE: &[u8; 16] = b"Spec ID Event03\0";
/// What logs of the older form begin with, where they have such an event.
const SHA1_ONLY: [&[u8; 16]; 2] = [b"Spec ID Event00\0", b"Spec ID Event02\0"];

/// Algorithms of a log: TPMs have no more banks than this.
const MAX_ALGORITHMS: u32 = 16;

/// How long the digests of each algorithm are. One that is unknown here keeps the length that the log gives it.
pub(super) struct Algorithms(Vec<(u16, usize)>);

impl Algorithms {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn digest_len(&self, algorithm: u16) -> Result<usize> {
        let known = self.0.iter().find(|(id, _)| *id == algorithm);
        known.map(|(_, len)| *len).ok_or_else(|| {
            Error::malformed(format!("a digest of algorithm {algorithm:#06x}, which the log's table does not have"))
        })
    }
}

pub(super) fn read(fields: &mut Fields<'_>) -> Result<Algorithms> {
    fields.u32("a PCR number")?;
    let event_type = EventType(fields.u32("an event type")?);
    fields.take(HashAlgorithm::Sha1.digest_len(), "a SHA-1 digest")?;
    let len = fields.size("a length")?;
    if event_type != EventType::NO_ACTION {
        return Err(sha1_form(&format!("it is of type {event_type}")));
    }
    let content = fields.take(len, "a table of algorithms")?;
    let mut content = Fields::new(content);
    let signature: [u8; 16] = content.array("a signature")?;
    if SHA1_ONLY.contains(&&signature) {
        return Err(sha1_form(&format!("its signature is {:?}", printable(&signature))));
    }
    if signature != *AGILE {
        return Err(Error::malformed(format!("signature {:?}: expected \"Spec ID Event03\"", printable(&signature))));
    }
    content.take(8, "a platform class and versions")?;
    let algorithms = table(&mut content)?;
    let vendor = content.u8("the length of the vendor's bytes")?;
    content.take(usize::from(vendor), "the vendor's bytes")?;
    if !content.is_empty() {
        return Err(Error::malformed(format!("{} bytes past the vendor's bytes: expected none", content.rest().len())));
    }
    Ok(algorithms)
}

fn sha1_form(why: &str) -> Error {
    Error::unsupported(format!(
        "{why}, so the log is of the form that has only SHA-1 digests: expected the crypto-agile form of TPM 2.0, \
         \"Spec ID Event03\". Switch the firmware's TPM support to TPM 2.0 with a SHA-256 bank"
    ))
}

fn table(content: &mut Fields<'_>) -> Result<Algorithms> {
    let count = content.u32("a number of algorithms")?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(Error::malformed(format!("{count} algorithms: expected 1 to {MAX_ALGORITHMS}")));
    }
    let mut table: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let id = content.u16("an algorithm")?;
        let len = usize::from(content.u16("the length of a digest")?);
        if table.iter().any(|(earlier, _)| *earlier == id) {
            return Err(Error::malformed(format!("algorithm {id:#06x} twice in the table: expected once")));
        }
        if let Some(known) = HashAlgorithm::from_id(id)
            && known.digest_len() != len
        {
            return Err(Error::malformed(format!(
                "digests of {known} have {len} bytes by the table: expected {}",
                known.digest_len()
            )));
        }
        table.push((id, len));
    }
    Ok(Algorithms(table))
}
