//! What the response codes of a TPM mean to an administrator (TCG, TPM 2.0 Library, part 2, 6.6).

use crate::error::{Error, Kind};

/// Format one: a code about a parameter, a handle or a session, whose number the code also has.
const FORMAT_ONE: u32 = 0x080;
/// Of format one: the code and the bit of the format.
const FORMAT_ONE_CODE: u32 = 0x0bf;
/// The command is right, and may be sent again: too much work now, or the self test runs.
const NOT_NOW: [u32; 5] = [
    0x908, // TPM_RC_YIELDED
    0x909, // TPM_RC_CANCELED
    0x90a, // TPM_RC_TESTING
    0x920, // TPM_RC_NV_RATE
    0x922, // TPM_RC_RETRY
];

/// A response code other than success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseCode(pub(super) u32);

impl ResponseCode {
    pub(super) fn is_temporary(self) -> bool {
        NOT_NOW.contains(&self.0)
    }

    /// Without the number of what it is about.
    fn base(self) -> u32 {
        if self.0 & FORMAT_ONE == 0 { self.0 } else { self.0 & FORMAT_ONE_CODE }
    }

    /// Whether a policy is not met: PCRs have other values than those that were sealed to.
    fn is_of_policy(self) -> bool {
        matches!(self.base(), 0x09d | 0x128) // TPM_RC_POLICY_FAIL, TPM_RC_PCR_CHANGED
    }

    /// Whether what the command is about has a password.
    pub fn is_of_password(self) -> bool {
        matches!(self.base(), 0x08e | 0x0a2) // TPM_RC_AUTH_FAIL, TPM_RC_BAD_AUTH
    }

    /// The error of a command, which this response refused.
    pub fn refusal(self, command: &str) -> Error {
        let (kind, meaning) = match self.base() {
            _ if self.is_of_policy() => (
                Kind::KeyUnavailable,
                "its PCRs have other values than when it sealed this, as after a change of firmware or boot settings",
            ),
            0x921 => (
                Kind::KeyUnavailable,
                "it is locked out after wrong passwords; wait, or reset it with its lockout password (tpm2_dictionarylockout)",
            ),
            _ if self.is_of_password() => (
                Kind::Denied,
                "its owner hierarchy or its storage root key has a password; make a storage root key without one persistent \
                 at 0x81000001 (tpm2_createprimary, tpm2_evictcontrol)",
            ),
            0x100 => (Kind::KeyUnavailable, "it was not started"),
            0x101 => (Kind::KeyUnavailable, "it is in failure mode; restart the host"),
            0x902..=0x904 => {
                (Kind::KeyUnavailable, "others use all of its memory; use it through /dev/tpmrm0, which shares it")
            }
            0x09f | 0x0a5 | 0x095 | 0x0db | 0x09a | 0x08a | 0x082 | 0x08b | 0x084 => {
                (Kind::Corrupt, "it does not accept the object or key that it was given")
            }
            _ => (Kind::KeyUnavailable, "it gave no other reason"),
        };
        Error::new(kind, format!("the TPM refused {command} with response code {:#05x}: {meaning}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_specification_says() {
        let of = |code| ResponseCode(code).refusal("Unseal");
        for (code, kind, words) in [
            (0x921, Kind::KeyUnavailable, "locked out"),
            (0x99d, Kind::KeyUnavailable, "PCRs have other values"),
            (0x128, Kind::KeyUnavailable, "PCRs have other values"),
            (0x9a2, Kind::Denied, "has a password"),
            (0x98e, Kind::Denied, "has a password"),
            (0x1df, Kind::Corrupt, "does not accept the object"),
            (0x100, Kind::KeyUnavailable, "not started"),
            (0x902, Kind::KeyUnavailable, "/dev/tpmrm0"),
            (0x123, Kind::KeyUnavailable, "no other reason"),
        ] {
            let error = of(code);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(ResponseCode(0x922).is_temporary() && !ResponseCode(0x921).is_temporary());
    }
}
