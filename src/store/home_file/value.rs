//! Small values of a home that lie outside of files: those of user xattrs, and targets of symbolic links.
//!
//! A value is sealed as a whole, and bound to what it is and what it belongs to: in another place it does not open.
//! What authentication cannot tell is an older value of the same place from the newest.

use data_encoding::BASE64URL_NOPAD;
use rustix::io::Errno;

use crate::crypto::xaes::{NONCE_LEN, Seal, TAG_LEN};
use crate::error::{Error, Kind, Result};
use crate::format::home_file::FileId;
use crate::store::home_file::HomeKeys;

/// The form of sealed values: its number, the nonce, the ciphertext, the tag.
const FORM: u8 = 1;
/// Bytes that sealing adds.
const OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;
/// By how many bytes a sealed value is longer than what it seals.
pub const VALUE_OVERHEAD: usize = OVERHEAD;
/// Longest text of a symbolic link that Linux takes, in bytes.
const MAX_SEALED_TARGET_LEN: usize = 4095;
/// Longest target of a symbolic link in a home, in bytes.
pub const MAX_TARGET_LEN: usize = MAX_SEALED_TARGET_LEN * 3 / 4 - OVERHEAD;
/// Longest value of an xattr in a home, in bytes: Linux takes 64 KiB, sealed.
pub const MAX_XATTR_LEN: usize = (64 << 10) - OVERHEAD;

/// What a value is, and where it belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// The value of the xattr `name`.
    Xattr {
        /// The file it belongs to. What has no id (a directory) shares one name space with all others that have none.
        file: Option<FileId>,
        /// The attribute's full name.
        name: &'a [u8],
    },
    /// A symbolic link's target. A link has nothing that it could be bound to but the home.
    Target,
}

impl Value<'_> {
    /// The form, what it is, and where it belongs; the name, of any length, comes last.
    fn associated(&self) -> Vec<u8> {
        match self {
            Self::Xattr { file: Some(id), name } => [&[FORM, 1], id.0.as_slice(), name].concat(),
            Self::Xattr { file: None, name } => [&[FORM, 2], *name].concat(),
            Self::Target => vec![FORM, 3],
        }
    }
}

/// Seals a value.
///
/// # Errors
/// `Io` (`E2BIG`) for one that is too long for an xattr.
pub fn seal_value(keys: &HomeKeys, value: &Value<'_>, plain: &[u8]) -> Result<Vec<u8>> {
    if plain.len() > MAX_XATTR_LEN {
        let message = format!("a value of {} bytes, at most {MAX_XATTR_LEN} can be sealed", plain.len());
        return Err(Error::errno(message, Errno::TOOBIG));
    }
    let mut sealed = vec![0; plain.len() + OVERHEAD];
    sealed[0] = FORM;
    let (nonce, rest) = sealed[1..].split_at_mut(NONCE_LEN);
    let (cipher, tag) = rest.split_at_mut(plain.len());
    let seal = keys.values().sealer()?.seal(&value.associated(), plain, cipher)?;
    nonce.copy_from_slice(&seal.nonce);
    tag.copy_from_slice(&seal.tag);
    Ok(sealed)
}

/// Opens what [`seal_value`] made of the same [`Value`].
///
/// # Errors
/// `Corrupt` for anything else.
pub fn open_value(keys: &HomeKeys, value: &Value<'_>, sealed: &[u8]) -> Result<Vec<u8>> {
    let fields = sealed.split_first_chunk::<{ 1 + NONCE_LEN }>();
    let fields = fields.and_then(|(head, rest)| Some((head, rest.split_last_chunk::<TAG_LEN>()?)));
    let Some((head, (cipher, tag))) = fields else {
        let message = format!("{} bytes, expected a sealed value of at least {OVERHEAD}", sealed.len());
        return Err(Error::new(Kind::Corrupt, message));
    };
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&head[1..]);
    let mut plain = cipher.to_vec();
    let seal = Seal { nonce, tag: *tag };
    let genuine = head[0] == FORM && keys.values().opener().open(&seal, &value.associated(), &mut plain)?;
    if genuine {
        return Ok(plain);
    }
    if let Some(old) = keys.old() {
        return open_value(old, value, sealed);
    }
    Err(Error::new(Kind::Corrupt, "a value that does not authenticate: damaged, moved, or not of this home"))
}

/// Length of a value, by that of its sealed form.
pub fn value_len(sealed_len: usize) -> usize {
    sealed_len.saturating_sub(OVERHEAD)
}

/// Seals a symbolic link's target into text that can be one.
///
/// # Errors
/// `Io` (`ENAMETOOLONG`) for a target over [`MAX_TARGET_LEN`].
pub fn seal_target(keys: &HomeKeys, plain: &[u8]) -> Result<String> {
    if plain.len() > MAX_TARGET_LEN {
        let message = format!("a link's target of {} bytes, at most {MAX_TARGET_LEN} can be sealed", plain.len());
        return Err(Error::errno(message, Errno::NAMETOOLONG));
    }
    Ok(BASE64URL_NOPAD.encode(&seal_value(keys, &Value::Target, plain)?))
}

/// Length of what [`seal_target`] makes of a target.
pub fn sealed_target_len(plain_len: usize) -> usize {
    BASE64URL_NOPAD.encode_len(plain_len + OVERHEAD)
}

/// Opens what [`seal_target`] made.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn open_target(keys: &HomeKeys, sealed: &[u8]) -> Result<Vec<u8>> {
    let sealed = BASE64URL_NOPAD.decode(sealed).map_err(|error| {
        Error::with_source(Kind::Corrupt, "a link that was not made through a mount of this home", error)
    })?;
    open_value(keys, &Value::Target, &sealed)
}

/// Whether a symbolic link's text has the form of a sealed target; only a key tells whether it is one.
pub fn looks_like_sealed_target(text: &[u8]) -> bool {
    BASE64URL_NOPAD.decode(text).is_ok_and(|sealed| sealed.len() >= OVERHEAD && sealed[0] == FORM)
}

/// Length of a symbolic link's target, by that of its sealed form.
pub fn target_len(sealed_len: usize) -> usize {
    value_len(sealed_len * 3 / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;

    const NAME: &[u8] = b"user.note";

    fn keys() -> HomeKeys {
        HomeKeys::new(&random::home_dek().unwrap()).unwrap()
    }

    fn places() -> [Value<'static>; 7] {
        let id = FileId([1; 16]);
        [
            Value::Xattr { file: Some(id), name: NAME },
            Value::Xattr { file: Some(id), name: b"user.notes" },
            Value::Xattr { file: Some(id), name: b"" },
            Value::Xattr { file: Some(FileId([2; 16])), name: NAME },
            Value::Xattr { file: None, name: NAME },
            Value::Xattr { file: None, name: b"user.other" },
            Value::Target,
        ]
    }

    #[test]
    fn a_value_opens_in_its_own_place_alone() {
        let keys = keys();
        for sealed_for in places() {
            let sealed = seal_value(&keys, &sealed_for, b"content").unwrap();
            assert_eq!(value_len(sealed.len()), 7);
            for place in places() {
                match open_value(&keys, &place, &sealed) {
                    Ok(plain) => assert!(place == sealed_for && plain == b"content"),
                    Err(error) => assert!(place != sealed_for && error.kind() == Kind::Corrupt),
                }
            }
            assert!(open_value(&self::keys(), &sealed_for, &sealed).is_err(), "another home");
            assert_ne!(seal_value(&keys, &sealed_for, b"content").unwrap(), sealed, "never the same twice");
        }
    }

    #[test]
    fn every_flipped_byte_and_every_other_length_is_refused() {
        let keys = keys();
        let place = places()[0];
        let sealed = seal_value(&keys, &place, b"content").unwrap();
        let refused = |bytes: &[u8]| open_value(&keys, &place, bytes).is_err_and(|error| error.kind() == Kind::Corrupt);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 0x10;
            assert!(refused(&bad), "byte {at}");
            assert!(refused(&sealed[..at]), "cut to {at}");
        }
        assert!(refused(b"plain text that someone put there by hand, long enough"));
    }

    #[test]
    fn targets_of_any_length_come_back_and_are_text() {
        let keys = keys();
        for len in [0, 1, 2, 3, 100, 255, 1000, MAX_TARGET_LEN - 1, MAX_TARGET_LEN] {
            let target = vec![b'/'; len];
            let sealed = seal_target(&keys, &target).unwrap();
            assert!(sealed.len() <= MAX_SEALED_TARGET_LEN && !sealed.contains(['/', '\0']));
            assert_eq!(open_target(&keys, sealed.as_bytes()).unwrap(), target);
            assert_eq!(target_len(sealed.len()), len);
        }
        let error = seal_target(&keys, &vec![b'a'; MAX_TARGET_LEN + 1]).unwrap_err();
        assert_eq!(error.os_error(), Some(libc::ENAMETOOLONG));
        assert_eq!(open_target(&keys, b"../plain/target").unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn too_long_a_value_is_refused() {
        let keys = keys();
        let longest = seal_value(&keys, &places()[0], &vec![1; MAX_XATTR_LEN]).unwrap();
        assert_eq!(longest.len(), 64 << 10);
        let error = seal_value(&keys, &places()[0], &vec![1; MAX_XATTR_LEN + 1]).unwrap_err();
        assert_eq!(error.os_error(), Some(libc::E2BIG));
    }
}
