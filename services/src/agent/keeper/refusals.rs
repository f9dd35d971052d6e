//! Why a keeper gives no key, and when it says so.

use std::time::Duration;

use vmcryptfs::error::Error;
use vmcryptfs::format::cluster::Refusal;
use vmcryptfs::provider::Trouble;

use super::TURN;

/// How long the other keepers have at least, before a host is told why this one has no key: they may have it.
const REFUSE_AFTER: Duration = Duration::from_secs(3);
/// How long after a wish was seen a keeper waits before it refuses it: until each of the keepers had its turn, since another one may reach
/// a server that this one does not, or be set up for a server that has the key. A key that was destroyed comes back by none.
pub(super) fn patience(refusal: Refusal, keepers: usize) -> Duration {
    match refusal {
        Refusal::Missing | Refusal::Denied | Refusal::Server | Refusal::Other if keepers > 1 => {
            REFUSE_AFTER.max(TURN * u32::try_from(keepers + 1).unwrap_or(u32::MAX))
        }
        Refusal::Missing | Refusal::Denied | Refusal::Server | Refusal::Other | Refusal::Destroyed => Duration::ZERO,
    }
}

/// What a host is told of an error.
pub(super) fn refusal_of(error: &Error) -> Refusal {
    match Trouble::of(error) {
        Some(Trouble::Missing) => Refusal::Missing,
        Some(Trouble::Destroyed) => Refusal::Destroyed,
        Some(Trouble::Denied | Trouble::State(_) | Trouble::NotAKek) => Refusal::Denied,
        Some(trouble) if trouble.is_of_server() => Refusal::Server,
        Some(_) | None => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_waits_until_each_keeper_had_its_turn() {
        let all = [Refusal::Missing, Refusal::Denied, Refusal::Server, Refusal::Other];
        for (keepers, turns) in (2..9).zip(2..) {
            assert!(all.iter().all(|refusal| patience(*refusal, keepers) >= TURN * turns));
            assert_eq!(patience(Refusal::Destroyed, keepers), Duration::ZERO);
        }
        assert!(all.iter().all(|refusal| patience(*refusal, 1) == Duration::ZERO), "nobody else is asked");
    }
}
