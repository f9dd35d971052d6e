//! The key that all members of an authority share, and that nothing else has.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Bytes of the key, and of what it authenticates with.
pub(crate) const KEY_LEN: usize = 32;

/// A secret of 256 bits. What it has authenticated was made by a member of this authority: [challenges](crate::quote) and
/// [records of hosts](crate::identity::Identity).
pub struct AuthorityKey(Zeroizing<[u8; KEY_LEN]>);

impl AuthorityKey {
    /// The key that the members share. It must be secret and random, and used for nothing else.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// HMAC-SHA-256 of these parts, each after its length, so that no two lists of parts are the same. The first one says
    /// what is authenticated.
    pub(crate) fn authenticate(&self, parts: &[&[u8]]) -> [u8; KEY_LEN] {
        let mut code = [0; KEY_LEN];
        code.copy_from_slice(self.context(parts).sign().as_ref());
        code
    }

    /// Whether a member authenticated these parts. Takes the same time wherever a byte differs.
    pub(crate) fn is_authentic(&self, parts: &[&[u8]], code: &[u8]) -> bool {
        same_secret(&self.authenticate(parts), code)
    }

    fn context(&self, parts: &[&[u8]]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*self.0));
        for part in parts {
            context.update(&length_of(part));
            context.update(part);
        }
        context
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKey")
    }
}

/// What stands before a part that is hashed: its length in 64 bits.
pub(crate) fn length_of(part: &[u8]) -> [u8; 8] {
    u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes()
}

/// Whether both are equal, in a time that does not depend on where they differ.
pub(crate) fn same_secret(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Error::new(Kind::Failed, "the random generator failed"))?;
    Ok(bytes)
}
