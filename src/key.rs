//! Keys and their names: what wraps, what is wrapped, and how both are called.
//!
//! Secrets live in locked memory, are wiped when dropped, cannot be cloned by accident, and never print.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

/// Data encryption key of one component: 64 bytes (AES-256-XTS) for a disk, 32 for a home.
pub struct Dek(SecretBytes);

/// Bytes of a disk's DEK: two AES-256 keys, as IEEE 1619 orders them.
pub const DISK_DEK_LEN: usize = 64;
/// Bytes of a home's DEK.
pub const HOME_DEK_LEN: usize = 32;
/// Bytes of a KEK.
pub const KEK_LEN: usize = 32;
/// Longest provider name in bytes.
pub const MAX_PROVIDER_LEN: usize = 64;
/// Longest key id in bytes.
pub const MAX_KEY_ID_LEN: usize = 512;

impl Dek {
    /// Takes over bytes that are already in locked memory.
    ///
    /// # Errors
    /// `Corrupt` when the length is not one that a DEK can have, or the two keys in a disk's are equal.
    pub fn new(bytes: SecretBytes) -> Result<Self> {
        match bytes.len() {
            // Rogaway 2004, and FIPS 140-2 IG A.9 after it: with equal halves a chosen ciphertext betrays the tweaks.
            DISK_DEK_LEN if bytes[..DISK_DEK_LEN / 2] == bytes[DISK_DEK_LEN / 2..] => {
                Err(Error::new(Kind::Corrupt, "a disk's DEK of two equal halves, expected different ones"))
            }
            DISK_DEK_LEN | HOME_DEK_LEN => Ok(Self(bytes)),
            len => Err(Error::new(
                Kind::Corrupt,
                format!("a DEK of {len} bytes, expected {HOME_DEK_LEN} (home) or {DISK_DEK_LEN} (disk)"),
            )),
        }
    }

    /// The key itself. Copy it nowhere.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A second handle on the same key, for a second owner. Not `Clone`, so that it cannot happen by accident.
    pub fn duplicate(&self) -> Self {
        let mut copy = SecretBytes::zeroed(self.0.len());
        copy.copy_from_slice(&self.0);
        Self(copy)
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dek({} bytes)", self.0.len())
    }
}

/// A DEK as it is stored: AES-256-KWP (RFC 5649) under a KEK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrappedDek(pub Vec<u8>);

/// Distinguishes a wrong KEK from a damaged header: 8 bytes derived from a KEK (docs/FORMAT.md, section 3).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct KeyCheck(pub [u8; 8]);

impl KeyCheck {
    /// Whether two checks that differ are of KEKs which are made of one key of a provider, with different shares, or with and without one.
    pub fn is_of_same_provider_key(&self, other: &Self) -> bool {
        self.0[..4] == other.0[..4]
    }
}

/// Name under which an administrator configured a provider. Part of a KEK's identity, as in vSphere.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProviderName(String);

impl ProviderName {
    /// Accepts 1 to 64 ASCII letters, digits, `-`, `_` and `.`, not starting with `-` or `.`.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        check_name("provider", &name)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses a name that is not 1 to 64 ASCII letters, digits, `-`, `_` and `.`, or that starts with `-` or `.`.
///
/// # Errors
/// `Invalid`, with what the name is of.
pub fn check_name(of: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_PROVIDER_LEN || !name.chars().all(allowed) || name.starts_with(['-', '.']) {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "{of} name {name:?}, expected 1 to {MAX_PROVIDER_LEN} letters, digits, '-', '_' or '.', beginning with a \
                 letter, a digit or '_'"
            ),
        ));
    }
    Ok(())
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identity of a KEK: the provider's configured name, and the provider's own name of the key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId {
    provider: ProviderName,
    id: String,
}

impl KeyId {
    /// A provider's key. The id is opaque to all but the provider.
    ///
    /// # Errors
    /// `Invalid` when the id is empty, longer than 512 bytes, or holds control characters.
    pub fn new(provider: ProviderName, id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        if id.is_empty() || id.len() > MAX_KEY_ID_LEN || id.chars().any(char::is_control) {
            return Err(Error::new(
                Kind::Invalid,
                format!("key id of {} bytes, expected 1 to {MAX_KEY_ID_LEN} without control characters", id.len()),
            ));
        }
        Ok(Self { provider, id })
    }

    /// Name of the provider that holds the key.
    pub fn provider(&self) -> &ProviderName {
        &self.provider
    }

    /// The provider's name of the key.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Whether two ids may be spellings of one. Key servers look ids up by rules of their own: one takes `023` and `23.0` for `23`,
/// another one any case. Ids that only look alike count as the same, since a key that is needed must not seem to be another one.
pub fn may_be_same_id(a: &str, b: &str) -> bool {
    fn plain(id: &str) -> String {
        id.trim().trim_start_matches('0').to_lowercase()
    }
    // Of more digits a floating-point number has not all.
    let number = |id: &str| id.trim().parse::<f64>().ok().filter(|number| number.is_finite() && id.len() <= 15);
    plain(a) == plain(b) || number(a).is_some_and(|of_a| number(b) == Some(of_a))
}

impl KeyId {
    /// Whether a text may be this key's id, in whatever spelling, or the id after a provider's name and a slash, as keys are shown.
    /// The provider's name may be another one: two names, also those of two hosts, may be of one key server.
    pub fn may_be_called(&self, text: &str) -> bool {
        let after_provider = text.split_once('/').map(|(_, id)| id);
        std::iter::once(text).chain(after_provider).any(|id| may_be_same_id(&self.id, id))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.id)
    }
}

/// Identity of a KEK in its stable JSON form.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeyName {
    /// The provider's name.
    pub provider: String,
    /// The provider's name of the key.
    pub key_id: String,
}

impl KeyName {
    /// The name of a key.
    pub fn of(key_id: &KeyId) -> Self {
        Self { provider: key_id.provider().to_string(), key_id: key_id.id().to_owned() }
    }

    /// The key of this name.
    ///
    /// # Errors
    /// `Invalid` when it cannot be one.
    pub fn to_key_id(&self) -> Result<KeyId> {
        KeyId::new(ProviderName::new(&self.provider)?, &self.key_id)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.key_id)
    }
}

/// Key encryption key. Whether its bytes ever leave the provider is the provider's affair.
pub trait Kek: Send + Sync {
    /// Wraps `dek`.
    ///
    /// # Errors
    /// `KeyUnavailable` when the key may no longer wrap, or its holder cannot be reached.
    fn wrap(&self, dek: &Dek) -> Result<WrappedDek>;

    /// Unwraps what [`wrap`](Self::wrap) made.
    ///
    /// # Errors
    /// `KeyRejected` when `wrapped` was not wrapped by this key or was changed since.
    fn unwrap(&self, wrapped: &WrappedDek) -> Result<Dek>;

    /// The value stored beside a wrapped DEK to recognise this key.
    ///
    /// # Errors
    /// `KeyUnavailable` when the holder of the key cannot be reached.
    fn check(&self) -> Result<KeyCheck>;

    /// What the holder of the key keeps of components for all hosts, if it does.
    fn shared_memory(&self) -> Option<Arc<dyn SharedMemory>> {
        None
    }

    /// Learns whether the key may wrap, so that this is known when its holder cannot be asked. May take long.
    fn refresh_state(&self) {}

    /// Whether the next [`wrap`](Self::wrap) returns without a request that may take long.
    fn wraps_at_once(&self) -> bool {
        true
    }

    /// Asks what has to be known before the next [`wrap`](Self::wrap), which then comes at once.
    ///
    /// # Errors
    /// As those of `wrap`.
    fn prepare_wrap(&self) -> Result<()> {
        Ok(())
    }
}

/// A short text of each component that a KEK opens, which the holder of the KEK keeps for all hosts.
pub trait SharedMemory: Send + Sync {
    /// The text of a component, as it was when the key was fetched or this was last read.
    fn get(&self, uuid: Uuid) -> Option<String>;

    /// Takes a text for the one that is there, in this process.
    fn assume(&self, uuid: Uuid, text: String);

    /// Reads all texts again. May take some seconds.
    ///
    /// # Errors
    /// `KeyUnavailable` when the holder cannot be asked.
    fn refresh(&self) -> Result<()>;

    /// Stores a text, if what is there by now is one that it `replaces`, or nothing. May take some seconds. A holder that keeps no texts
    /// is not an error.
    ///
    /// # Errors
    /// `KeyUnavailable` when the holder cannot be asked, or did not take it.
    fn store(&self, uuid: Uuid, text: &str, replaces: &dyn Fn(&str) -> bool) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_a_server_may_take_for_one_are_the_same() {
        for (a, b) in
            [("23", "023"), ("23", " 23"), ("23", "+23"), ("23", "23.0"), ("23", "2.3e1"), ("AB-0c", "0ab-0C ")]
        {
            assert!(may_be_same_id(a, b) && may_be_same_id(b, a), "{a} {b}");
        }
        for (a, b) in [("23", "230"), ("23", "2 3"), ("key-0", "key-00"), ("90071992547409921", "90071992547409922")] {
            assert!(!may_be_same_id(a, b), "{a} {b}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let mut bytes = SecretBytes::zeroed(DISK_DEK_LEN);
        bytes[..32].fill(0xab);
        let shown = format!("{:?}", Dek::new(bytes).unwrap());
        assert_eq!(shown, "Dek(64 bytes)");
    }

    #[test]
    fn only_lengths_of_the_format_make_a_dek() {
        let of_len = |len| {
            let mut bytes = SecretBytes::zeroed(len);
            bytes.iter_mut().zip(0..).for_each(|(byte, value)| *byte = value);
            Dek::new(bytes)
        };
        let accepted: Vec<usize> = (0..=64).filter(|&len| of_len(len).is_ok()).collect();
        assert_eq!(accepted, [HOME_DEK_LEN, DISK_DEK_LEN]);
    }

    #[test]
    fn the_two_keys_of_a_disk_differ() {
        let mut bytes = SecretBytes::zeroed(DISK_DEK_LEN);
        bytes.fill(0x3c);
        assert_eq!(Dek::new(bytes).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn provider_names_are_plain_words() {
        for good in ["local", "corp-kms_1", "a.b", "9"] {
            assert!(ProviderName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-x", ".hidden", "a/b", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(ProviderName::new(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn key_ids_are_opaque_but_bounded() {
        let name = ProviderName::new("local").unwrap();
        assert!(KeyId::new(name.clone(), "arn:aws:kms:eu/1 ü").is_ok());
        for bad in ["", "a\nb", &"x".repeat(513)] {
            assert!(KeyId::new(name.clone(), bad).is_err(), "{bad:?}");
        }
    }
}
