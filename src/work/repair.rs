//! Mending one header copy by the other.

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::UnverifiedHeader;
use crate::progress::to_the_end;
use crate::seen::Point;
use crate::store::header_area::{self, OtherCopy, RESTORE};
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::keyring;
use crate::work::ComponentResult;

/// Mends a damaged header copy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RepairHeader {
    /// Whose.
    pub component: Component,
}

/// What repairing did. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Repaired {
    /// Whether a copy was written; else both were whole.
    pub changed: bool,
    /// Where the copy that was mended lies in the backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What was wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Why the other copy could not be verified with its key; absent when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
}

impl RepairHeader {
    /// Writes the copy that is whole over the one that is damaged, of a component that nothing uses. A crash leaves the copy that is
    /// whole as it is.
    ///
    /// # Errors
    /// `Corrupt` when no copy is whole, or the one that is does not verify with its key; `Denied` where an erasure was
    /// interrupted, `ReadOnly` when that copy is older than what this host has seen, `Busy`, or `Io`, also when the copy does not read back.
    pub fn run(&self, place: &dyn VmAccess) -> Result<ComponentResult<Repaired>> {
        let kind = self.component.kind();
        let claimed = place.claim_exclusive(&self.component, &to_the_end)?;
        let storage = claimed.storage();
        let stored = header_area::load(storage, kind).map_err(|error| {
            if error.kind() != Kind::Invalid {
                return error; // of damaged headers it has the advice
            }
            Error::with_source(Kind::Invalid, format!("no header copy is left: {RESTORE}"), error)
        })?;
        let repaired = |done| Ok(ComponentResult::new(&self.component, stored.header.claims().uuid, done));
        let damage = match &stored.other {
            OtherCopy::Same | OtherCopy::Older(_) => {
                return repaired(Repaired { changed: false, offset: None, damage: None, unverified: None });
            }
            OtherCopy::Damaged(damage) if damage.kind() == Kind::KeyUnavailable => {
                let message = "one header copy is erased, the other not yet: `vmcryptfs erase COMPONENT` finishes that";
                return Err(Error::new(Kind::Denied, message));
            }
            OtherCopy::Damaged(damage) => damage.chain(),
        };
        let unverified = verify(&stored.header, place)?;
        let offset = kind.copy_offsets()[1 - stored.in_use];
        storage.write_at(offset, &stored.header.bytes())?;
        claimed.sync()?;
        claimed.drop_cache();
        match header_area::load(storage, kind)?.other {
            OtherCopy::Same => {
                repaired(Repaired { changed: true, offset: Some(offset), damage: Some(damage), unverified })
            }
            OtherCopy::Older(_) | OtherCopy::Damaged(_) => {
                Err(Error::new(Kind::Io, format!("the copy at {offset} did not read back as it was written")))
            }
        }
    }
}

/// Why a copy could not be verified, if its keys are unavailable: it is the only one either way.
fn verify(header: &UnverifiedHeader, place: &dyn VmAccess) -> Result<Option<String>> {
    if let Some(dek) = place.known_dek(header) {
        return place.memory().allow(Point::of(header, &dek)?).map(|()| None);
    }
    match keyring::unlock_by(header, &place.providers()) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == Kind::ReadOnly => Err(error),
        Err(error) if error.kind() == Kind::KeyUnavailable => Ok(Some(error.chain())),
        Err(error) => Err(error).context(|| "the copy that is whole is not genuine".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::{COPY_LEN, ComponentKind};
    use crate::storage::memory::Countdown;
    use crate::work::test_vm::TestVm;

    fn damaged(before: &TestVm, copies: &[usize]) -> TestVm {
        let mut images = before.images();
        for &copy in copies {
            let at = usize::try_from(ComponentKind::Disk.copy_offsets()[copy]).unwrap();
            images[1][at + 100..at + COPY_LEN].fill(7);
        }
        before.with(images, Countdown::fault_after(i64::MAX))
    }

    fn repair(rig: &TestVm) -> Result<Repaired> {
        RepairHeader { component: Component::Disk("0.raw".into()) }.run(rig).map(|repaired| repaired.done)
    }

    #[test]
    fn either_copy_is_mended_by_the_other() {
        let before = TestVm::new(1);
        for copy in 0..2 {
            let rig = damaged(&before, &[copy]);
            let repaired = repair(&rig).unwrap();
            assert_eq!(repaired.offset, Some(ComponentKind::Disk.copy_offsets()[copy]));
            assert!(repaired.changed && repaired.damage.is_some() && repaired.unverified.is_none(), "{repaired:?}");
            assert!(rig.images() == before.images());
            let again = repair(&rig).unwrap();
            assert!(!again.changed);
        }
    }

    #[test]
    fn without_a_whole_copy_nothing_is_written() {
        let rig = damaged(&TestVm::new(1), &[0, 1]);
        let images = rig.images();
        assert_eq!(repair(&rig).unwrap_err().kind(), Kind::Corrupt);
        assert!(rig.images() == images);
    }

    #[test]
    fn a_crash_anywhere_leaves_a_copy_that_opens() {
        let before = TestVm::new(1);
        for stop in 0.. {
            let rig = damaged(&before, &[0]);
            let rig = rig.with(rig.images(), Countdown::end_after(stop));
            if repair(&rig).is_ok() {
                assert!(stop > 3);
                break;
            }
            for image in &rig.few_crash_images()[1] {
                assert!(rig.open(&rig.parts[1], image).is_ok(), "stopped at call {stop}");
            }
        }
    }
}
