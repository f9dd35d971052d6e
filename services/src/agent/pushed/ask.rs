//! The thread that says on the board what this host wants, and takes what keepers have left for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmcryptfs::cluster::push::{Answer, PushBoard, WANT_LEASE};
use vmcryptfs::error::{Error, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::format::cluster::{PushedProvider, Reference, Wish};
use vmcryptfs::key::{KeyId, ProviderName};

use super::super::boards::Boards;
use super::super::moment::Moment;
use super::held::{Held, Outcome, Refused};
use super::{Pushed, State};

/// How often the board is looked at while nothing is wished for, and how long a view of it is good.
pub(super) const PERIOD: Duration = Duration::from_secs(2);
/// The same while something is.
const SOON: Duration = Duration::from_millis(50);
/// The pause after the board could not be asked.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Forged records of one minute that have events of their own.
const MAX_NAMED: u64 = 16;

/// What the thread remembers.
pub(super) struct Asker {
    boards: Arc<Boards>,
    board: Option<(Instant, PushBoard)>,
    written: Written,
}

type Wishes = BTreeMap<Reference, Wish>;
/// When the want of each provider was written on the board, and what it says; none where that is not known.
type Written = BTreeMap<ProviderName, (Instant, BTreeSet<Reference>)>;

impl Asker {
    pub(super) fn new(boards: Arc<Boards>) -> Self {
        Self { boards, board: None, written: BTreeMap::new() }
    }

    /// Does what there is to do, and waits until there may be more.
    pub(super) fn turn(&mut self, pushed: &Pushed) {
        let (work, wait) = pushed.lock().work();
        let asked = if work.is_empty() { Ok(()) } else { self.exchange(pushed, &work) };
        let wait = match &asked {
            Ok(()) => wait,
            Err(_) => AFTER_FAILURE,
        };
        let mut state = pushed.lock();
        let trouble = asked.err().map(|error| error.chain());
        if state.trouble != trouble {
            if let Some(why) = &trouble {
                tracing::warn!("pushed keys: {why}");
            }
            state.trouble = trouble;
            pushed.changed.notify_all();
        }
        // A wish that came since then is not in the board's want yet.
        let is_new = |(of, wishes): &(PushedProvider, Wishes)| !says(&self.written, &of.name, wishes);
        if !state.outstanding().iter().any(is_new) || wait == AFTER_FAILURE {
            pushed.changed.wait_for(&mut state, wait);
        }
    }

    fn exchange(&mut self, pushed: &Pushed, work: &[(PushedProvider, Wishes)]) -> Result<()> {
        let board = match self.board.take().filter(|(opened, _)| opened.elapsed() < PERIOD) {
            Some(board) => board,
            None => (Instant::now(), self.boards.session(&pushed.config)?.into_push_board()),
        };
        let (_, open) = self.board.insert(board);
        for (provider, wishes) in work {
            let name = &provider.name;
            if !says(&self.written, name, wishes) {
                self.written.remove(name);
                open.want(name, wishes)?;
                self.written.insert(name.clone(), (Instant::now(), wishes.keys().copied().collect()));
            }
            // The document that the board has may have other keepers, or none of this provider.
            let Some(known) = open.document().pushed.iter().find(|known| known.name == *name) else { continue };
            let taken = open.take(known)?;
            let mut state = pushed.lock();
            for (reference, answer) in taken {
                match answer {
                    Ok(answer) => state.take(reference, answer),
                    Err(error) => tell_forged(name, &error),
                }
            }
            pushed.changed.notify_all();
        }
        Ok(())
    }
}

/// Whether the want of a provider says these wishes, and will for a while. One that says nothing is not there, and does not end.
fn says(written: &Written, name: &ProviderName, wishes: &Wishes) -> bool {
    let lasts = |at: &Instant| wishes.is_empty() || at.elapsed() < WANT_LEASE / 3;
    written.get(name).is_some_and(|(at, written)| written.iter().eq(wishes.keys()) && lasts(at))
}

fn tell_forged(name: &ProviderName, error: &Error) {
    tracing::warn!("a pushed key of provider {name}: {}", error.chain());
    let mut event = Event::of(EventName::ClusterPush);
    event.provider(name).failed_as_one_of(Event::of(EventName::ClusterPush), MAX_NAMED, error);
}

impl State {
    /// What is to be asked of keepers, and how long to wait after it.
    fn work(&mut self) -> (Vec<(PushedProvider, Wishes)>, Duration) {
        self.end_old();
        self.renew();
        let work = self.outstanding();
        let next = self.keks.iter().map(|(id, held)| held.until_next(self.life_of(id))).min();
        let until_next = next.map_or(PERIOD, |next| next.max(SOON));
        let is_idle = work.iter().all(|(_, wishes)| wishes.is_empty());
        (work, if is_idle { until_next.min(PERIOD) } else { SOON })
    }

    /// What is wished for and has not come, by provider; nothing is wished for of some.
    fn outstanding(&self) -> Vec<(PushedProvider, Wishes)> {
        let of_one = |(provider, _): &(PushedProvider, Vec<String>)| {
            let of_it = self.wishes.iter().filter(|(_, wished)| wished.provider == provider.name);
            let open = of_it.filter(|(_, wished)| wished.outcome.is_none());
            (provider.clone(), open.map(|(reference, wished)| (*reference, wished.wish.clone())).collect())
        };
        self.providers.values().map(of_one).collect()
    }

    fn end_old(&mut self) {
        self.wishes.retain(|_, wished| wished.is_needed());
        let ended: Vec<KeyId> =
            self.keks.iter().filter(|(id, held)| !self.is_alive(id, held)).map(|(id, _)| id.clone()).collect();
        for id in ended {
            self.keks.remove(&id);
            tracing::warn!("wiped key {id}: no keeper has renewed it in time");
        }
    }

    /// Wishes for KEKs whose time is half over.
    fn renew(&mut self) {
        let lives: Vec<(KeyId, Duration)> = self.keks.keys().map(|id| (id.clone(), self.life_of(id))).collect();
        let mut takes_turn = |id: &KeyId, life| self.keks.get_mut(id).is_some_and(|held| held.takes_turn(life));
        let due: Vec<KeyId> = lives.into_iter().filter(|(id, life)| takes_turn(id, *life)).map(|(id, _)| id).collect();
        for id in due {
            // Without a keeper it ends with its time.
            if let Err(error) = self.wish_for(&id) {
                tracing::warn!("renewing key {id}: {}", error.chain());
            }
        }
    }

    /// Takes what a keeper has given.
    fn take(&mut self, reference: Reference, answer: Answer) {
        match answer {
            Answer::Kek { id, kek, wraps } => {
                let is_free = self.may_come_unasked(&id);
                let wished = self.wishes.get_mut(&reference).filter(|wished| wished.outcome.is_none());
                let begun = match wished {
                    Some(wished) if is_wish_for(&wished.wish, &id) => {
                        wished.end(Outcome::Kek(id.clone()));
                        wished.begun
                    }
                    // Nobody wished for it: it is new here, or an old record that was put back.
                    None if reference == Reference::NONE && is_free => Moment::now(),
                    Some(_) | None => return,
                };
                self.refused.remove(&id);
                self.keks.insert(id, Held::new(kek, wraps, begun));
            }
            Answer::Refused { id, refusal, why } => {
                let open = self.wishes.get_mut(&reference).filter(|wished| wished.outcome.is_none());
                let Some(wished) = open else { return };
                let refused = Refused { at: Instant::now(), refusal, why };
                if let Wish::Key(wanted) = &wished.wish
                    && let Some(id) = id.filter(|id| id.id() == wanted)
                {
                    if refusal.is_of_key() && self.keks.remove(&id).is_some() {
                        tracing::warn!("wiped key {id}: {}", refused.why);
                    }
                    self.remember(id, refused.clone());
                }
                if let Some(wished) = self.wishes.get_mut(&reference) {
                    wished.end(Outcome::Refused(refused));
                }
            }
        }
    }

    pub(super) fn may_come_unasked(&self, id: &KeyId) -> bool {
        !self.keks.contains_key(id) && !self.refused.get(id).is_some_and(|refused| refused.refusal.is_of_key())
    }
}

fn is_wish_for(wish: &Wish, id: &KeyId) -> bool {
    match wish {
        Wish::Key(wanted) => wanted == id.id(),
        Wish::New { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use vmcryptfs::crypto::wrap::LocalKek;
    use vmcryptfs::format::cluster::{KeptKek, Name, Refusal};
    use vmcryptfs::key::KEK_LEN;
    use vmcryptfs::sys::SecretBytes;
    use vmcryptfs::timestamp::Timestamp;

    use super::*;

    fn pushed(life: Duration) -> PushedProvider {
        PushedProvider {
            name: ProviderName::new("corp").unwrap(),
            kind: Name::new("kind", "kmip").unwrap(),
            uuid: Uuid::nil(),
            since: 1,
            life,
            persists: false,
            keepers: Vec::new(),
            places: Vec::new(),
        }
    }

    fn id() -> KeyId {
        KeyId::new(ProviderName::new("corp").unwrap(), "1").unwrap()
    }

    fn kek() -> Answer {
        Answer::Kek { id: id(), kek: LocalKek::random().unwrap(), wraps: true }
    }

    fn refusal(refusal: Refusal) -> Answer {
        Answer::Refused { id: Some(id()), refusal, why: "keeper h1: no".into() }
    }

    /// The state of a host to which `corp` is pushed, and which has wished for its key.
    fn wishing(life: Duration) -> (State, PushedProvider, Reference) {
        let (mut state, pushed) = (State::default(), pushed(life));
        state.providers.insert(pushed.name.clone(), (pushed.clone(), vec!["h1".into()]));
        let reference = state.wish_for(&id()).unwrap();
        (state, pushed, reference)
    }

    #[test]
    fn a_want_is_written_again_before_it_ends_and_nothing_is_said_of_nothing() {
        let (name, some) = (ProviderName::new("corp").unwrap(), (Reference([1; 16]), Wish::Key("1".into())));
        let wishes = Wishes::from([some.clone()]);
        let at = |age: Duration, of: &[Reference]| {
            let begun = Instant::now().checked_sub(age).unwrap();
            Written::from([(name.clone(), (begun, of.iter().copied().collect()))])
        };
        assert!(says(&at(WANT_LEASE / 4, &[some.0]), &name, &wishes));
        assert!(!says(&at(WANT_LEASE / 2, &[some.0]), &name, &wishes));
        assert!(!says(&at(Duration::ZERO, &[]), &name, &wishes) && !says(&Written::new(), &name, &wishes));
        assert!(says(&at(2 * WANT_LEASE, &[]), &name, &Wishes::new()));
    }

    #[test]
    fn an_old_answer_brings_no_key_back_that_a_keeper_has_refused() {
        let (mut state, _, reference) = wishing(Duration::from_secs(60));
        state.take(reference, kek());
        assert!(state.keks.contains_key(&id()));
        // At the renewal the key is gone from its server.
        let renewal = state.wish_for(&id()).unwrap();
        assert_ne!(renewal, reference);
        state.take(renewal, refusal(Refusal::Destroyed));
        assert!(!state.keks.contains_key(&id()));
        for old in [reference, renewal, Reference::NONE, Reference([9; 16])] {
            state.take(old, kek());
            assert!(!state.keks.contains_key(&id()), "{old}");
        }
        // A keeper that has it again is believed.
        let wished = state.wish_for(&id()).unwrap();
        state.take(wished, kek());
        assert!(state.keks.contains_key(&id()));
    }

    #[test]
    fn a_server_that_does_not_answer_takes_no_key_away() {
        let (mut state, _, reference) = wishing(Duration::from_secs(60));
        state.take(reference, kek());
        let renewal = state.wish_for(&id()).unwrap();
        state.take(renewal, refusal(Refusal::Server));
        assert!(state.keks.contains_key(&id()) && matches!(state.found(&id()), Some(Ok(_))));
    }

    #[test]
    fn a_key_that_was_kept_is_taken_back_although_its_server_did_not_answer_in_the_meantime() {
        let (mut state, mut pushed, _) = wishing(Duration::from_secs(60));
        pushed.persists = true;
        state.providers.insert(pushed.name.clone(), (pushed.clone(), vec!["h1".into()]));
        for (refused, comes_back) in [(Refusal::Server, true), (Refusal::Other, true), (Refusal::Destroyed, false)] {
            let wished = state.wish_for(&id()).unwrap();
            state.take(wished, refusal(refused));
            let (begun, kek) = (Timestamp::now(), SecretBytes::zeroed(KEK_LEN));
            let kept = KeptKek { provider: pushed.uuid, id: id(), wraps: true, begun, kek };
            assert_eq!(state.restore(kept).is_some(), comes_back, "{refused:?}");
            assert_eq!(matches!(state.found(&id()), Some(Ok(_))), comes_back);
            state.keks.clear();
        }
    }

    #[test]
    fn of_too_many_refusals_the_oldest_are_forgotten() {
        let (mut state, pushed, _) = wishing(Duration::from_secs(60));
        let key = |number: usize| KeyId::new(pushed.name.clone(), number.to_string()).unwrap();
        for number in 0..super::super::MAX_REFUSED + 2 {
            let why = Refused { at: Instant::now(), refusal: Refusal::Destroyed, why: String::new() };
            state.remember(key(number), why);
        }
        assert_eq!(state.refused.len(), super::super::MAX_REFUSED);
        assert!(!state.refused.contains_key(&key(0)) && !state.refused.contains_key(&key(1)));
    }

    #[test]
    fn another_key_than_the_one_that_was_wished_for_is_not_taken() {
        let (mut state, pushed, _) = wishing(Duration::from_secs(60));
        let other = KeyId::new(pushed.name.clone(), "2").unwrap();
        let reference = state.wish_for(&other).unwrap();
        state.take(reference, kek());
        assert!(state.keks.is_empty());
    }

    #[test]
    fn a_life_that_is_lowered_counts_for_keys_that_are_here() {
        let (mut state, mut pushed, reference) = wishing(Duration::from_secs(3600));
        state.take(reference, kek());
        assert!(matches!(state.found(&id()), Some(Ok(_))));
        assert!(state.work().0[0].1.is_empty(), "it is not due");
        pushed.life = Duration::from_nanos(1);
        state.providers.insert(pushed.name.clone(), (pushed, vec!["h1".into()]));
        assert!(state.found(&id()).is_none());
        state.work();
        assert!(state.keks.is_empty());
    }

    #[test]
    fn the_time_for_which_a_host_sleeps_counts_as_well() {
        let (mut state, _, reference) = wishing(Duration::from_secs(3600));
        let wished = state.wishes.get_mut(&reference).unwrap();
        wished.begun = Moment::at(Timestamp::now().before(Duration::from_secs(3601)));
        state.take(reference, kek());
        assert!(state.found(&id()).is_none());
    }

    #[test]
    fn a_key_ends_with_its_time_and_is_asked_for_again_before() {
        let (mut state, _, reference) = wishing(Duration::ZERO);
        state.take(reference, kek());
        assert!(state.found(&id()).is_none(), "its time is over");
        state.work();
        assert!(state.keks.is_empty());
        let (mut state, _, reference) = wishing(Duration::from_nanos(2_000_000_000));
        state.take(reference, kek());
        assert!(state.work().0[0].1.is_empty(), "it is not due");
        std::thread::sleep(Duration::from_millis(1050)); // time itself is tested
        assert_eq!(state.work().0[0].1.len(), 1, "half of its time is over");
        assert!(state.work().0[0].1.len() == 1 && state.keks.len() == 1, "it is asked for once");
    }
}
