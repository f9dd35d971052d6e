//! Key locators: VMware's notation of where a key is, in `encryptionKeys`, `encryption.keySafe` and
//! `encryption.bundle`.
//!
//! `vmware:key/<locator>`, where a locator is `null/`, `rawkey/<key>`, one of the indirect `phrase`, `ldap`, `script`,
//! `role` and `fqid`, or one of the compound `list/(<locator>,...)` and `pair/(<locator>,<MAC>,<base64 data>)`.
//! Elements are percent-escaped. Key material is never kept: a locator that held it says so and no more.

use crate::error::{Error, Kind, Result, shown};
use crate::limits::{MAX_KEY_LOCATOR_DEPTH, MAX_KEY_LOCATOR_ELEMENTS};

/// Where a key is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyLocator {
    /// There is no key.
    Null,
    /// The key itself was written here, in the clear; it is not kept.
    RawKey,
    /// Derived from a passphrase, as Workstation and Fusion do.
    Phrase {
        /// Which passphrase.
        id: String,
        /// How it is derived: `pass2key`, `cipher`, `rounds` and `salt`, unescaped.
        parameters: Vec<(String, String)>,
    },
    /// In a directory server.
    Ldap {
        /// The server's host name, if it is given.
        server: Option<String>,
        /// The path of the entry.
        path: String,
    },
    /// Printed by a script of this relative path.
    Script {
        /// The script.
        path: String,
    },
    /// One of VMware's well-known keys: `obfuscation`, `adminIdent`, `adminRecovery` or `server`.
    Role {
        /// Which one.
        role: String,
    },
    /// In a key provider, as vSphere does.
    FullyQualified(KeyRef),
    /// Several keys, each of which may do.
    List(Vec<KeyLocator>),
    /// Data that is locked by a key.
    Pair {
        /// The key that unlocks it.
        locker: Box<KeyLocator>,
        /// The MAC that authenticates the data, such as `HMAC-SHA-256`.
        mac: String,
    },
}

/// A key by provider and id, as vSphere names it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct KeyRef {
    /// The provider ("key server cluster"); `None` where it was not written.
    pub provider: Option<String>,
    /// The provider's name of the key.
    pub key_id: String,
}

impl KeyLocator {
    /// Reads a key locator with its `vmware:key/` prefix.
    ///
    /// # Errors
    /// `Invalid` with the byte at which the text leaves the grammar; `Unsupported` for an unknown kind of locator or
    /// one nested deeper or longer than any that VMware writes.
    pub fn parse(text: &str) -> Result<Self> {
        const PREFIX: &str = "vmware:key/";
        let prefixed = text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        let mut reader = Reader { text, at: 0, elements: 0 };
        if !prefixed {
            return Err(reader.error(Kind::Invalid, format!("expected {PREFIX}, found {}", shown(text))));
        }
        reader.at = PREFIX.len();
        let locator = reader.locator(text.len(), 0)?;
        if reader.at < text.len() {
            let rest = text.get(reader.at..).unwrap_or_default();
            return Err(reader.error(Kind::Invalid, format!("the key locator ends here, but {} follows", shown(rest))));
        }
        Ok(locator)
    }

    /// Every provider's key in it, in order.
    pub fn keys(&self) -> Vec<&KeyRef> {
        match self {
            Self::FullyQualified(key) => vec![key],
            Self::List(locators) => locators.iter().flat_map(Self::keys).collect(),
            Self::Pair { locker, .. } => locker.keys(),
            Self::Null
            | Self::RawKey
            | Self::Phrase { .. }
            | Self::Ldap { .. }
            | Self::Script { .. }
            | Self::Role { .. } => Vec::new(),
        }
    }

    /// Whether a passphrase unlocks any of it.
    pub fn takes_passphrase(&self) -> bool {
        match self {
            Self::Phrase { .. } => true,
            Self::List(locators) => locators.iter().any(Self::takes_passphrase),
            Self::Pair { locker, .. } => locker.takes_passphrase(),
            Self::Null
            | Self::RawKey
            | Self::Ldap { .. }
            | Self::Script { .. }
            | Self::Role { .. }
            | Self::FullyQualified(_) => false,
        }
    }
}

/// Reads `text` from `at` on; `elements` counts what was read, against floods.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    elements: usize,
}

impl Reader<'_> {
    /// The locator that begins here and ends at or before `end`.
    fn locator(&mut self, end: usize, depth: usize) -> Result<KeyLocator> {
        if depth >= MAX_KEY_LOCATOR_DEPTH {
            let message = format!("key locators nested deeper than {MAX_KEY_LOCATOR_DEPTH}");
            return Err(self.error(Kind::Unsupported, message));
        }
        let start = self.at;
        let name = self.element(b'/', end)?.unwrap_or_default();
        let last = if depth == 0 { b'/' } else { b',' };
        Ok(match name.to_ascii_lowercase().as_str() {
            "null" => {
                self.element(last, end)?;
                KeyLocator::Null
            }
            "rawkey" => {
                self.element(last, end)?;
                KeyLocator::RawKey
            }
            "phrase" => {
                let id = self.element(b'/', end)?.unwrap_or_default();
                let dictionary = self.element(last, end)?.unwrap_or_default();
                KeyLocator::Phrase { id, parameters: parameters(&dictionary) }
            }
            "ldap" => {
                self.element(b'/', end)?; // unique id
                let server = self.element(b'/', end)?;
                for _domain_port_tls in 0..3 {
                    self.element(b'/', end)?;
                }
                KeyLocator::Ldap { server, path: self.element(last, end)?.unwrap_or_default() }
            }
            "script" => {
                self.element(b'/', end)?; // unique id
                let path = self.element(b'/', end)?.unwrap_or_default();
                self.element(last, end)?; // signature
                KeyLocator::Script { path }
            }
            "role" => {
                self.element(b'/', end)?; // unique id
                KeyLocator::Role { role: self.element(last, end)?.unwrap_or_default() }
            }
            "fqid" => {
                self.element(b'/', end)?; // unique id
                let provider = self.element(b'/', end)?;
                let key_id = self.element(last, end)?.unwrap_or_default();
                KeyLocator::FullyQualified(KeyRef { provider, key_id })
            }
            "list" => KeyLocator::List(self.list(end, depth)?),
            "pair" => self.pair(end, depth)?,
            _ => {
                self.at = start;
                return Err(self.error(Kind::Unsupported, format!("unknown kind of key locator {}", shown(&name))));
            }
        })
    }

    fn list(&mut self, end: usize, depth: usize) -> Result<Vec<KeyLocator>> {
        let close = self.nested(end)?;
        let mut locators = Vec::new();
        while self.at < close {
            locators.push(self.locator(close, depth + 1)?);
        }
        self.leave(close, end);
        Ok(locators)
    }

    fn pair(&mut self, end: usize, depth: usize) -> Result<KeyLocator> {
        let close = self.nested(end)?;
        let locker = Box::new(self.locator(close, depth + 1)?);
        let mac = self.element(b',', close)?.unwrap_or_default();
        if self.at >= close {
            return Err(self.error(Kind::Invalid, "expected the data that the pair locks".to_owned()));
        }
        self.leave(close, end); // the locked data is of no use without the key
        Ok(KeyLocator::Pair { locker, mac })
    }

    /// Enters parentheses; gives the place of the closing one.
    fn nested(&mut self, end: usize) -> Result<usize> {
        let inside = self.text.as_bytes().get(self.at..end).unwrap_or_default();
        if inside.first() != Some(&b'(') {
            return Err(self.error(Kind::Invalid, "expected \"(\"".to_owned()));
        }
        let mut depth = 0_usize;
        for (index, byte) in inside.iter().enumerate() {
            match byte {
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                let close = self.at + index;
                self.at += 1;
                return Ok(close);
            }
        }
        Err(self.error(Kind::Invalid, "\"(\" is never closed".to_owned()))
    }

    /// Goes past the closing parenthesis and the delimiter that may follow it.
    fn leave(&mut self, close: usize, end: usize) {
        self.at = close + 1;
        if self.at < end && matches!(self.text.as_bytes().get(self.at), Some(b',' | b'/')) {
            self.at += 1;
        }
    }

    /// The element up to `delimiter` or `end`, unescaped; `None` if it is VMware's word for null.
    fn element(&mut self, delimiter: u8, end: usize) -> Result<Option<String>> {
        self.elements += 1;
        if self.elements > MAX_KEY_LOCATOR_ELEMENTS {
            let message = format!("more than {MAX_KEY_LOCATOR_ELEMENTS} elements in a key locator");
            return Err(self.error(Kind::Unsupported, message));
        }
        let rest = self.text.as_bytes().get(self.at..end).unwrap_or_default();
        if rest.is_empty() {
            return Err(self.error(Kind::Invalid, "the key locator ends in its middle".to_owned()));
        }
        let len = rest.iter().position(|byte| *byte == delimiter).unwrap_or(rest.len());
        let raw = rest.get(..len).unwrap_or_default();
        let value = match raw {
            b"<VMWARE-NULL>" => None,
            b"<VMWARE-EMPTYSTRING>" => Some(String::new()),
            _ => match unescaped(raw) {
                Some(value) => Some(value),
                None => return Err(self.error(Kind::Invalid, "a broken %-escape".to_owned())),
            },
        };
        self.at = (self.at + len + 1).min(end);
        Ok(value)
    }

    fn error(&self, kind: Kind, message: String) -> Error {
        Error::new(kind, format!("key locator, byte {}: {message}", self.at))
    }
}

/// `k=v:k=v`, escaped a second time.
fn parameters(dictionary: &str) -> Vec<(String, String)> {
    let pairs = dictionary.split(':').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), unescaped(value.as_bytes()).unwrap_or_else(|| value.to_owned())))
        .collect()
}

/// `bytes` with every `%xx` replaced by its byte; `None` if that is not text.
fn unescaped(bytes: &[u8]) -> Option<String> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
            plain.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vsphere_locator_gives_provider_and_key_id() {
        let text =
            "vmware:key/list/(pair/(fqid/<VMWARE-NULL>/HyTrust%20Cluster/a4e7494f%2dda55,HMAC%2dSHA%2d256,KP/Y%3d=))";
        let locator = KeyLocator::parse(text).unwrap();
        let key = KeyRef { provider: Some("HyTrust Cluster".into()), key_id: "a4e7494f-da55".into() };
        assert_eq!(locator.keys(), [&key]);
        assert!(!locator.takes_passphrase());
        let KeyLocator::List(pairs) = &locator else { panic!("{locator:?}") };
        assert!(matches!(&pairs[0], KeyLocator::Pair { mac, .. } if mac == "HMAC-SHA-256"));
    }

    #[test]
    fn a_workstation_locator_gives_how_its_passphrase_is_stretched() {
        let text = "vmware:key/list/(pair/(phrase/IpXx%2fSk=/pass2key%3dPBKDF2%2dHMAC%2dSHA%2d1%3acipher%3dAES%2d256%3arounds%3d1000%3asalt%3dab%252bc%253d,HMAC%2dSHA%2d1,AAAA),pair/(phrase/x/a%3db,M,BBBB))";
        let locator = KeyLocator::parse(text).unwrap();
        assert!(locator.takes_passphrase() && locator.keys().is_empty());
        let KeyLocator::List(pairs) = &locator else { panic!("{locator:?}") };
        assert_eq!(pairs.len(), 2);
        let KeyLocator::Pair { locker, .. } = &pairs[0] else { panic!("{pairs:?}") };
        let KeyLocator::Phrase { id, parameters } = &**locker else { panic!("{locker:?}") };
        assert_eq!(id, "IpXx/Sk=");
        assert!(parameters.contains(&("rounds".into(), "1000".into())));
        assert!(parameters.contains(&("salt".into(), "ab+c=".into())));
    }

    #[test]
    fn every_kind_of_locator_is_read() {
        for (text, expected) in [
            ("vmware:key/null/<VMWARE-EMPTYSTRING>", KeyLocator::Null),
            ("VMWARE:KEY/RawKey/type%3dkey", KeyLocator::RawKey),
            ("vmware:key/role/<VMWARE-NULL>/server", KeyLocator::Role { role: "server".into() }),
            ("vmware:key/script/i/p%2fq/sig", KeyLocator::Script { path: "p/q".into() }),
            (
                "vmware:key/ldap/i/<VMWARE-NULL>/dom/389/TRUE/cn%3dx",
                KeyLocator::Ldap { server: None, path: "cn=x".into() },
            ),
        ] {
            assert_eq!(KeyLocator::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn broken_locators_are_refused_with_their_place() {
        for bad in [
            "",
            "vmware:key/",
            "vmware:key/fqid/a",
            "vmware:key/list/(",
            "vmware:key/list/)",
            "vmware:key/what/x",
            "vmware:key/null/%zz",
            "vmware:key/null/%c3",
            "vmware:key/pair/(null/x,MAC)",
            "vmware:key/null/x/y",
            "vmware:key/rawkey/%2",
            "vmware:kex/null/x",
        ] {
            let error = KeyLocator::parse(bad).unwrap_err();
            assert!(error.message().contains("byte "), "{bad}: {error}");
        }
    }

    #[test]
    fn nesting_and_floods_are_bounded() {
        let deep = format!("vmware:key/{}null/x{}", "list/(".repeat(5000), ")".repeat(5000));
        assert_eq!(KeyLocator::parse(&deep).unwrap_err().kind(), Kind::Unsupported);
        let long = format!("vmware:key/list/({})", "null/x,".repeat(100_000));
        assert_eq!(KeyLocator::parse(&long).unwrap_err().kind(), Kind::Unsupported);
    }
}
