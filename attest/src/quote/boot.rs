//! Which boot of a host a quote is from.

use super::Quoted;
use super::challenge::ID_LEN;
use crate::error::{Error, Result};

/// One boot, by the counts of its TPM. Those of one attestation key can be compared with each other, and with no others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Boot {
    /// Counts resets: each boot.
    pub reset_count: u32,
    /// Counts restarts and resumptions since.
    pub restart_count: u32,
}

/// Which boot a quote must be from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expected {
    /// Any: the host attests from the start, with all of its logs.
    Any,
    /// This one: what was attested before is built upon.
    Same(Boot),
}

/// Proof that a quote is from the boot that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Steady {
    boot: Boot,
    /// Of which quote.
    id: [u8; ID_LEN],
}

impl Steady {
    /// Checks the counts of a quote. Nothing goes by its clock, so that need not be safe: after a crash it is not for up to 70
    /// minutes, while `resetCount` has counted the start that followed (TPM 2.0 Library, part 2, `TPMS_CLOCK_INFO`).
    ///
    /// # Errors
    /// `Refused` when the host was started since: it has to attest again, from the start.
    pub fn check(quoted: &Quoted, expected: Expected) -> Result<Self> {
        let clock = quoted.clock();
        let host = quoted.identity().host().name();
        let found = Boot { reset_count: clock.reset_count, restart_count: clock.restart_count };
        match expected {
            Expected::Same(boot) if boot != found => Err(Error::refused(format!(
                "{host} was started again since it attested: its TPM counts {} resets and {} restarts, expected {} and {}",
                found.reset_count, found.restart_count, boot.reset_count, boot.restart_count
            ))),
            Expected::Any | Expected::Same(_) => Ok(Self { boot: found, id: quoted.id }),
        }
    }

    /// The boot.
    pub fn boot(self) -> Boot {
        self.boot
    }

    /// Whether it is proof of this quote.
    pub(crate) fn is_of(self, quoted: &Quoted) -> bool {
        self.id == quoted.id
    }
}
