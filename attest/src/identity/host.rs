//! What a host is called.

use std::fmt;

use data_encoding::HEXLOWER;

use crate::error::{Error, Kind, Result};

/// Bytes of the longest name of a host, as for names in the DNS.
const MAX_NAME_LEN: usize = 253;

/// The UUID of a host.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostId([u8; 16]);

impl HostId {
    /// The UUID with these bytes, in the order of RFC 9562.
    pub fn new(uuid: [u8; 16]) -> Self {
        Self(uuid)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = HEXLOWER.encode(&self.0);
        let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        f.write_str(&groups.join("-"))
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A host: its UUID, which its authority gave it, and its name, by which policies know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    id: HostId,
    name: String,
}

impl Host {
    /// A host with this name.
    ///
    /// # Errors
    /// `Invalid` when the name is empty, longer than 253 bytes, or has other characters than letters, digits, `.`, `-` and
    /// `_`: it is matched with patterns and shown to people.
    pub fn new(id: HostId, name: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(allowed) {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "{name:?} is not a host's name: expected 1 to {MAX_NAME_LEN} letters, digits, '.', '-' and '_'"
                ),
            ));
        }
        Ok(Self { id, name: name.to_owned() })
    }

    /// Its UUID.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
