//! KEKs that are here, and what was wished for.

use std::time::{Duration, Instant};

use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::format::cluster::{Refusal, Wish};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::{Failure, Trouble};
use vmcryptfs::timestamp::Timestamp;

use super::super::moment::Moment;

/// For how long a wish stays that no program asks for.
const FORGOTTEN: Duration = Duration::from_secs(20);
/// For how long an outcome stays: the program that wished for it asks again.
const KEPT: Duration = Duration::from_secs(60);
/// Shortest pause between two attempts to renew a KEK.
const MIN_PAUSE: Duration = Duration::from_millis(250);

/// A KEK. How long it may be used is what its provider says now, and not when it came: an admin may have lowered it since.
pub(super) struct Held {
    pub(super) kek: LocalKek,
    pub(super) wraps: bool,
    begun: Moment,
    /// When a keeper was last asked for it again.
    tried: Option<Instant>,
}

impl Held {
    /// One whose time has begun.
    pub(super) fn new(kek: LocalKek, wraps: bool, begun: Moment) -> Self {
        Self { kek, wraps, begun, tried: None }
    }

    /// When its time began, by the host's clock.
    pub(super) fn begun(&self) -> Timestamp {
        self.begun.time()
    }

    pub(super) fn is_alive(&self, life: Duration) -> bool {
        self.begun.age() < life
    }

    pub(super) fn copy(&self) -> Result<LocalKek> {
        super::copied(&self.kek)
    }

    /// Whether it is to be renewed now; the next attempt is later.
    pub(super) fn takes_turn(&mut self, life: Duration) -> bool {
        let is_due = self.until_turn(life).is_zero();
        if is_due {
            self.tried = Some(Instant::now());
        }
        is_due
    }

    fn until_turn(&self, life: Duration) -> Duration {
        match self.tried {
            Some(tried) => (life / 16).max(MIN_PAUSE).saturating_sub(tried.elapsed()),
            None => (life / 2).saturating_sub(self.begun.age()),
        }
    }

    /// How long it is until it ends, or is to be renewed.
    pub(super) fn until_next(&self, life: Duration) -> Duration {
        life.saturating_sub(self.begun.age()).min(self.until_turn(life))
    }
}

/// Something that was wished for.
pub(super) struct Wished {
    pub(super) provider: ProviderName,
    pub(super) wish: Wish,
    pub(super) begun: Moment,
    asked: Option<Instant>,
    pub(super) outcome: Option<Outcome>,
    ended: Option<Instant>,
}

impl Wished {
    pub(super) fn new(provider: &ProviderName, wish: Wish) -> Self {
        Self { provider: provider.clone(), wish, begun: Moment::now(), asked: None, outcome: None, ended: None }
    }

    /// A program asks for it. Returns whether it is the first one.
    pub(super) fn touch(&mut self) -> bool {
        self.asked.replace(Instant::now()).is_none()
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        (self.outcome, self.ended) = (Some(outcome), Some(Instant::now()));
    }

    /// Whether somebody may still ask for it, or for its outcome.
    pub(super) fn is_needed(&self) -> bool {
        match self.ended {
            Some(ended) => matches!(self.wish, Wish::New { .. }) && ended.elapsed() < KEPT,
            None => self.asked.map_or_else(|| self.begun.age(), |asked| asked.elapsed()) < FORGOTTEN,
        }
    }
}

/// What became of a wish.
pub(super) enum Outcome {
    /// The KEK is here.
    Kek(KeyId),
    /// It was refused.
    Refused(Refused),
}

/// A refusal by a keeper.
#[derive(Clone)]
pub(super) struct Refused {
    pub(super) at: Instant,
    pub(super) refusal: Refusal,
    pub(super) why: String,
}

impl Refused {
    pub(super) fn error(&self, doing: &str) -> Error {
        let trouble = match self.refusal {
            Refusal::Missing => Trouble::Missing,
            Refusal::Denied => Trouble::Denied,
            Refusal::Destroyed => Trouble::Destroyed,
            Refusal::Server => Trouble::Unreachable,
            Refusal::Other => Trouble::Faulty,
        };
        Error::with_source(Kind::KeyUnavailable, doing.to_owned(), Failure::new(trouble, self.why.clone()))
    }
}
