//! What VMware's own encryption left visible, so that it can be explained.

use std::fmt;

use crate::error::{Error, Kind, Result, shown};
use crate::key_locator::{KeyLocator, KeyRef};

/// That and how VMware encrypted a disk or a VM. The data itself is not opened: how VMware encrypts a disk's sectors is
/// not public.
///
/// Displays as a sentence that says who holds the key and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Encryption {
    keys: Option<KeyLocator>,
    key_id: Option<String>,
}

impl Encryption {
    /// The keys that unlock it, as `encryptionKeys`, `encryption.keySafe` or `encryption.bundle` names them.
    pub fn locator(&self) -> Option<&KeyLocator> {
        self.keys.as_ref()
    }

    /// The `keyID` line of a disk descriptor, as it was.
    pub fn key_id_line(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The keys of key providers among them: provider and key id.
    pub fn keys(&self) -> Vec<&KeyRef> {
        self.keys.as_ref().map(KeyLocator::keys).unwrap_or_default()
    }

    /// The refusal to read what is encrypted like this.
    pub fn refusal(&self) -> Error {
        Error::new(Kind::Encrypted, self.to_string())
    }

    pub(crate) fn new(keys: &str, key_id: Option<&str>) -> Result<Self> {
        Ok(Self { keys: Some(KeyLocator::parse(keys)?), key_id: key_id.map(str::to_owned) })
    }

    pub(crate) fn by_key_id(key_id: &str) -> Self {
        Self { keys: None, key_id: Some(key_id.to_owned()) }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MANY: usize = 3;
        let keys = self.keys();
        if !keys.is_empty() {
            f.write_str("encrypted by vSphere with ")?;
            for (index, key) in keys.iter().take(MANY).enumerate() {
                let or = if index > 0 { " or " } else { "" };
                let provider = key
                    .provider
                    .as_deref()
                    .map_or("its default provider".to_owned(), |name| format!("provider {}", shown(name)));
                write!(f, "{or}key {} of {provider}", shown(&key.key_id))?;
            }
            if keys.len() > MANY {
                write!(f, " or {} more", keys.len() - MANY)?;
            }
            return f.write_str("; decrypt it there first (Edit VM Storage Policies)");
        }
        if self.keys.as_ref().is_some_and(KeyLocator::takes_passphrase) {
            return f.write_str(
                "encrypted by VMware Workstation or Fusion with a passphrase; remove the encryption there first",
            );
        }
        match &self.key_id {
            Some(key_id) => write!(f, "encrypted by vSphere with key {}; decrypt it there first", shown(key_id)),
            None => f.write_str("encrypted by VMware with a key stored elsewhere; decrypt it there first"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_name_key_and_provider() {
        let vsphere =
            Encryption::new("vmware:key/list/(pair/(fqid/<VMWARE-NULL>/KMS/k1,HMAC-SHA-256,AA))", None).unwrap();
        assert!(vsphere.to_string().contains("key \"k1\" of provider \"KMS\""), "{vsphere}");
        assert_eq!(vsphere.refusal().kind(), Kind::Encrypted);
        let phrase = Encryption::new("vmware:key/list/(pair/(phrase/i/a%3db,HMAC-SHA-1,AA))", None).unwrap();
        assert!(phrase.to_string().contains("passphrase"));
        assert!(Encryption::by_key_id("k2").to_string().contains("\"k2\""));
        let other = Encryption::new("vmware:key/list/(pair/(null/x,HMAC-SHA-1,AA))", None).unwrap();
        assert!(other.to_string().contains("elsewhere"));
    }
}
