//! KEKs that are here, and what was wished for.

use std::time::{Duration, Instant};

use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::format::cluster::{Refusal, Wish};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::{Failure, Trouble};

/// For how long a wish stays that no program asks for.
const FORGOTTEN: Duration = Duration::from_secs(20);
/// For how long an outcome stays: the program that wished for it asks again.
const KEPT: Duration = Duration::from_secs(60);
/// Shortest pause between two attempts to renew a KEK.
const MIN_PAUSE: Duration = Duration::from_millis(250);

/// A KEK.
pub(super) struct Held {
    pub(super) kek: LocalKek,
    pub(super) wraps: bool,
    life: Duration,
    until: Instant,
    /// When a keeper is asked for it again.
    renew: Instant,
}

impl Held {
    /// One that may be used for `life` from `begun` on.
    pub(super) fn new(kek: LocalKek, wraps: bool, begun: Instant, life: Duration) -> Self {
        Self { kek, wraps, life, until: begun + life, renew: begun + life / 2 }
    }

    pub(super) fn is_alive(&self) -> bool {
        Instant::now() < self.until
    }

    pub(super) fn copy(&self) -> Result<LocalKek> {
        super::copied(&self.kek)
    }

    /// Whether it is to be renewed now; the next attempt is later.
    pub(super) fn takes_turn(&mut self) -> bool {
        let is_due = Instant::now() >= self.renew;
        if is_due {
            self.renew = Instant::now() + (self.life / 16).max(MIN_PAUSE);
        }
        is_due
    }

    /// When it ends, or is to be renewed.
    pub(super) fn next(&self) -> Instant {
        self.until.min(self.renew)
    }
}

/// Something that was wished for.
pub(super) struct Wished {
    pub(super) provider: ProviderName,
    pub(super) wish: Wish,
    pub(super) begun: Instant,
    asked: Option<Instant>,
    pub(super) outcome: Option<Outcome>,
    ended: Option<Instant>,
}

impl Wished {
    pub(super) fn new(provider: &ProviderName, wish: Wish) -> Self {
        Self { provider: provider.clone(), wish, begun: Instant::now(), asked: None, outcome: None, ended: None }
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
            None => self.asked.unwrap_or(self.begun).elapsed() < FORGOTTEN,
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
