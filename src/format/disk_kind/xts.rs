//! Disks as sector stores of AES-256-XTS (docs/FORMAT.md, section 4).

use crate::format::disk_kind::Layout;
use crate::sector;

pub(super) struct Xts;

impl Layout for Xts {
    fn code(&self) -> u8 {
        1
    }

    fn cipher(&self) -> &'static str {
        "AES-256-XTS"
    }

    fn cipher_len(&self, plain_len: u64) -> u64 {
        sector::cipher_len(plain_len)
    }

    fn plain_len(&self, cipher_len: u64) -> u64 {
        sector::plain_len(cipher_len)
    }

    fn why_unchecked(&self) -> Option<&'static str> {
        Some("have no integrity check (XTS), and were not read")
    }
}
