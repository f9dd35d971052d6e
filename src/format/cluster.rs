//! What hosts of a cluster write to their board (docs/FORMAT.md, section 18): documents, envelopes, join requests,
//! acknowledgements, KEKs and what asks for them, and the token that lets a host in.
//!
//! Everything here comes from a place that others can write to. Decoding checks form and limits; whose it is, is checked by
//! the methods that take a key.

mod document;
mod kept;
mod provider;
mod push;
mod pushed;
mod records;
mod token;

use std::fmt;
use std::ops::RangeInclusive;

use uuid::Uuid;

pub use document::{Document, Member, MemberState, Removal, UnverifiedDocument};
pub use kept::{KeptKek, KeptKeks, MAX_KEPT, MAX_KEPT_LEN};
pub use provider::{Generation, SharedProvider};
pub use push::{Given, MAX_WISHES, Parcel, Reference, Refusal, SealedKek, Want, Wish};
pub use pushed::{MAX_LIFE, PushedProvider};
pub use records::{Ack, Envelope, EnvelopeFor, JoinRequest, UnverifiedRequest};
pub use token::{Token, TokenId};

use crate::crypto::{hpke, sign};
use crate::error::{Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::check_name;

/// Longest document in bytes.
pub const MAX_DOCUMENT_LEN: usize = 1 << 20;
/// Longest record of another kind in bytes.
pub const MAX_RECORD_LEN: usize = 4096;

const VERSION: u16 = 1;

/// The name of a cluster or of a host: letters that are safe in paths and on terminals.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(String);

impl Name {
    /// Accepts what a provider may be called.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn new(of: &str, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        check_name(of, &name)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host as others know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostIdentity {
    /// Its UUID, made when it was asked to join.
    pub uuid: Uuid,
    /// Its name.
    pub name: Name,
    /// What envelopes for it are sealed to.
    pub seal_key: [u8; hpke::PUBLIC_LEN],
    /// What its acknowledgements are verified with.
    pub sign_key: [u8; sign::PUBLIC_LEN],
}

impl HostIdentity {
    /// Whether a person means it: by its name, or by its UUID.
    pub fn is_meant_by(&self, wanted: &str) -> bool {
        self.name.as_str() == wanted || self.uuid.to_string() == wanted
    }

    fn write(&self, writer: &mut Writer) -> Result<()> {
        writer.put(self.uuid.as_bytes());
        writer.put(self.seal_key);
        writer.put(self.sign_key);
        put_text(writer, self.name.as_str())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let uuid = Uuid::from_bytes(reader.array()?);
        let (seal_key, sign_key) = (reader.array()?, reader.array()?);
        Ok(Self { uuid, name: name(reader, "host")?, seal_key, sign_key })
    }
}

fn put_text(writer: &mut Writer, text: &str) -> Result<()> {
    writer.count_u8(text.len(), "bytes of a name")?;
    writer.put(text);
    Ok(())
}

fn text<'a>(reader: &mut Reader<'a>, of: &str) -> Result<&'a str> {
    let len = usize::from(reader.u8()?);
    reader.text(len, &format!("the name of a {of}"))
}

fn name(reader: &mut Reader<'_>, of: &str) -> Result<Name> {
    Name::new(of, text(reader, of)?).map_err(|error| Error::with_source(Kind::Corrupt, "a name that is not one", error))
}

/// Magic, version and six reserved bytes: what every record begins with.
fn put_start(writer: &mut Writer, magic: &[u8; 8]) {
    put_start_of(writer, magic, VERSION);
}

fn put_start_of(writer: &mut Writer, magic: &[u8; 8], version: u16) {
    writer.put(magic);
    writer.put(version.to_le_bytes());
    writer.put([0; 6]);
}

fn check_start(reader: &mut Reader<'_>, magic: [u8; 8], what: &str) -> Result<()> {
    check_start_of(reader, magic, VERSION..=VERSION, what).map(drop)
}

/// Returns the version.
fn check_start_of(reader: &mut Reader<'_>, magic: [u8; 8], versions: RangeInclusive<u16>, what: &str) -> Result<u16> {
    if reader.array()? != magic {
        let expected = String::from_utf8_lossy(&magic);
        return Err(Error::new(Kind::Corrupt, format!("not {what}: it does not begin with {expected}")));
    }
    let version = reader.u16()?;
    if !versions.contains(&version) {
        let newest = versions.end();
        let message = format!(
            "{what} of version {version}, expected at most {newest}: another host has a newer version of vmcryptfs, which this host needs as well"
        );
        return Err(Error::new(Kind::Unsupported, message));
    }
    reader.reserved(6)?;
    Ok(version)
}

fn check_len(bytes: &[u8], max: usize, what: &str) -> Result<()> {
    if bytes.len() > max {
        return Err(Error::new(Kind::Corrupt, format!("{what} of {} bytes, expected at most {max}", bytes.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
