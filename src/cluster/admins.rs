//! Who may change the cluster.

use data_encoding::HEXLOWER;

use super::Session;
use crate::crypto::sign::{PUBLIC_LEN, SigningKey};
use crate::error::{Error, Kind, Result};
use crate::text;

/// A change of the admins.
#[derive(Clone, Copy, Debug)]
pub enum AdminChange {
    /// One more.
    Add([u8; PUBLIC_LEN]),
    /// One less.
    Remove([u8; PUBLIC_LEN]),
    /// The same ones.
    None,
}

/// The public key of an admin, from its hexadecimal form.
///
/// # Errors
/// `Invalid` for another text.
pub fn public_key(text: &str) -> Result<[u8; PUBLIC_LEN]> {
    let key = HEXLOWER.decode(text.trim().as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let message = || {
        format!(
            "the public key {text:?}, expected 64 lower-case hexadecimal digits, as `vmcryptfs cluster admin list` has them"
        )
    };
    key.ok_or_else(|| Error::new(Kind::Invalid, message()))
}

impl Session {
    /// Changes the admins, and how many have to sign. That many of them have to sign this change as well, so that the next one can be made.
    ///
    /// # Errors
    /// `Exists`, `NotFound`; `Invalid` for a threshold that cannot be reached; `Denied` when too few of the admins before or after it sign;
    /// `Busy` when another admin was faster.
    pub fn change_admins(&mut self, signers: &[SigningKey], change: AdminChange, threshold: Option<u8>) -> Result<()> {
        self.require_active()?;
        let mut admins = self.document().admins.clone();
        let is_there = |key: &[u8; PUBLIC_LEN]| admins.contains(key);
        match change {
            AdminChange::Add(key) if is_there(&key) => {
                return Err(Error::new(Kind::Exists, format!("{} is an admin already", HEXLOWER.encode(&key))));
            }
            AdminChange::Remove(key) if !is_there(&key) => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("{} is not an admin of the cluster", HEXLOWER.encode(&key)),
                ));
            }
            AdminChange::Add(key) => admins.push(key),
            AdminChange::Remove(key) => admins.retain(|admin| *admin != key),
            AdminChange::None => {}
        }
        admins.sort_unstable();
        let threshold = threshold.unwrap_or(self.document().threshold);
        if threshold == 0 || usize::from(threshold) > admins.len() {
            let expected = match (admins.len(), change) {
                (0, _) => "the last admin cannot be removed: add another one first".to_owned(),
                // Where admins come and go, the threshold is an option.
                (all, AdminChange::Remove(_)) => format!("give one from 1 to {all} with --threshold"),
                (all, AdminChange::Add(_) | AdminChange::None) => {
                    format!(
                        "expected 1 to {all}; `vmcryptfs cluster admin add PUBLIC_KEY --admin-key FILE` adds an admin"
                    )
                }
            };
            let all = text::count(admins.len(), "admin", "admins");
            let message = format!("a threshold of {threshold} of {all}: {expected}");
            return Err(Error::new(Kind::Invalid, message));
        }
        let signing = signers.iter().filter(|signer| admins.contains(&signer.public())).count();
        if signing < usize::from(threshold) {
            let message = format!(
                "{signing} of the admins after the change sign it, expected {threshold}: as many as it demands have to show that they \
                 can, with --admin-key"
            );
            return Err(Error::new(Kind::Denied, message));
        }
        self.change(signers, |next| {
            (next.admins, next.threshold, next.admins_since) = (admins, threshold, next.epoch);
            Ok(())
        })
    }
}
