//! The members of a key server: which one is asked, for how long, and which one next.
//!
//! The last one that answered is asked first. One that does not answer costs the others little: reading requests are put
//! to a second member while the first is still waited for. Every wait ends at an absolute point in time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ClientConfig;

use super::certificate::{self, EXPIRES_SOON};
use super::credentials::Credentials;
use super::dial::Addresses;
use super::health::Health;
use super::message::Version;
use super::notices::Notices;
use super::session::Session;
use super::settings::{Address, Settings, Timeouts};
use crate::crypto::random;
use crate::error::Result;
use crate::provider::timed::Deadline;
use crate::provider::{Failure, Trouble};
use crate::text;

/// How long one member is waited for before another is asked as well.
const ASK_NEXT_AFTER: Duration = Duration::from_millis(500);
/// Pause after the first round in which no member answered; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Idle sessions that are kept with one member.
const MAX_RESTING: usize = 8;

type Attempted<T> = std::result::Result<T, Failure>;

/// All members, and what is known of them.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Vec<Member>,
    last_good: AtomicUsize,
    credentials: Credentials,
    /// What was in the files when it was last looked.
    config: Mutex<Arc<ClientConfig>>,
    timeouts: Timeouts,
    versions: Vec<Version>,
    notices: Notices,
    /// Whether the servers take attributes that say what hosts have seen, as far as known.
    keeps_seen: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Member {
    address: Address,
    /// Those that the name has.
    addresses: Addresses,
    health: Health,
    /// What was agreed on when it was last asked.
    version: Mutex<Option<Version>>,
    resting: Mutex<Vec<Session>>,
}

impl Cluster {
    pub(super) fn new(settings: &Settings, config: &Path) -> Result<Self> {
        let member = |address: &Address| Member {
            address: address.clone(),
            addresses: Addresses::default(),
            health: Health::default(),
            version: Mutex::default(),
            resting: Mutex::default(),
        };
        let (credentials, notices) = (Credentials::load(settings, config)?, Notices::default());
        Ok(Self {
            config: Mutex::new(credentials.current(&notices)),
            members: settings.servers.addresses().iter().map(member).collect(),
            last_good: AtomicUsize::new(0),
            credentials,
            timeouts: settings.timeouts(),
            versions: settings.allowed_versions(),
            notices,
            keeps_seen: AtomicBool::new(true),
        })
    }

    pub(super) fn notices(&self) -> &Notices {
        &self.notices
    }

    pub(super) fn keeps_seen(&self) -> bool {
        self.keeps_seen.load(Ordering::Relaxed)
    }

    /// Takes note that what hosts have seen is not kept, and tells it once.
    pub(super) fn keeps_no_seen(&self, why: &Failure) {
        if self.keeps_seen.swap(false, Ordering::Relaxed) {
            self.notices.add(format!(
                "what hosts have seen of components is not kept at the key server, so this host notices only older headers than it \
                 has seen itself: {why}"
            ));
        }
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Reads something. `attempt` may run several times, side by side.
    pub(super) fn read<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: impl Fn(&mut Session) -> Attempted<T> + Send + Sync + 'static,
    ) -> Attempted<T> {
        self.read_within(Duration::MAX, attempt)
    }

    /// As [`read`](Self::read), and waits no longer than `limit`.
    pub(super) fn read_within<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        attempt: impl Fn(&mut Session) -> Attempted<T> + Send + Sync + 'static,
    ) -> Attempted<T> {
        let total = Deadline::after(self.timeouts.total.min(limit));
        if self.members.len() == 1 {
            return self.ask_in_turn(0, total, &AtomicBool::new(false), &mut |session| attempt(session));
        }
        let (attempt, answered) = (Arc::new(attempt), Arc::new(AtomicBool::new(false)));
        let (sender, receiver) = mpsc::channel();
        let run = |turn: usize| {
            let (cluster, sender) = (Arc::clone(self), sender.clone());
            let (attempt, answered) = (Arc::clone(&attempt), Arc::clone(&answered));
            let run = move || {
                let result = cluster.ask_in_turn(turn, total, &answered, &mut |session| attempt(session));
                sender.send(result).ok(); // another run was quicker
            };
            thread::Builder::new().name("kmip".into()).spawn(run).is_ok()
        };
        let result = first_success(self.members.len(), total, run, &receiver);
        answered.store(true, Ordering::Relaxed); // those that still run may stop
        result
    }

    /// Does something that changes the server, one member after the other. `attempt` may run several times, and must know
    /// whether an earlier one may have succeeded.
    pub(super) fn call<T>(&self, attempt: impl FnMut(&mut Session) -> Attempted<T>) -> Attempted<T> {
        self.call_within(Duration::MAX, attempt)
    }

    /// As [`call`](Self::call), and waits no longer than `limit`.
    pub(super) fn call_within<T>(
        &self,
        limit: Duration,
        mut attempt: impl FnMut(&mut Session) -> Attempted<T>,
    ) -> Attempted<T> {
        let total = Deadline::after(self.timeouts.total.min(limit));
        self.ask_in_turn(0, total, &AtomicBool::new(false), &mut attempt)
    }

    fn ask_in_turn<T>(
        &self,
        turn: usize,
        total: Deadline,
        answered: &AtomicBool,
        attempt: &mut dyn FnMut(&mut Session) -> Attempted<T>,
    ) -> Attempted<T> {
        self.config(); // fresh certificates are tried with members that refused the old ones
        let count = self.members.len();
        let first = self.last_good.load(Ordering::Relaxed) + turn;
        let mut failures: Vec<Option<Failure>> = vec![None; count];
        let mut pause = FIRST_PAUSE;
        loop {
            let mut asked = false;
            for index in (first..first + count).map(|index| index % count) {
                let settled = failures[index].as_ref().is_some_and(|failure| !failure.trouble().may_pass());
                if settled || total.passed() || answered.load(Ordering::Relaxed) {
                    continue;
                }
                let member = &self.members[index];
                if let Err(aside) = member.health.admit(Instant::now(), self.others_are_aside(index)) {
                    failures[index].get_or_insert(aside);
                    continue;
                }
                asked = true;
                match self.ask_member(member, total, attempt) {
                    Ok(value) => {
                        self.last_good.store(index, Ordering::Relaxed);
                        return Ok(value);
                    }
                    Err(failure) => failures[index] = Some(failure),
                }
            }
            let may_pass = failures.iter().flatten().any(|failure| failure.trouble().may_pass());
            let left = total.left().filter(|_| asked && may_pass && !answered.load(Ordering::Relaxed));
            let Some(left) = left else {
                return Err(self.sum_up(&failures));
            };
            thread::sleep(jittered(pause).min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The certificates of now. When they changed, earlier failures of the members are forgotten.
    fn config(&self) -> Arc<ClientConfig> {
        let fresh = self.credentials.current(&self.notices);
        let mut config = self.config.lock();
        if !Arc::ptr_eq(&config, &fresh) {
            self.members.iter().for_each(|member| _ = member.health.answered());
            config.clone_from(&fresh);
        }
        fresh
    }

    /// Whether all other members are set aside.
    fn others_are_aside(&self, index: usize) -> bool {
        let now = Instant::now();
        self.members.iter().enumerate().all(|(other, member)| other == index || member.health.is_aside(now))
    }

    fn ask_member<T>(
        &self,
        member: &Member,
        total: Deadline,
        attempt: &mut dyn FnMut(&mut Session) -> Attempted<T>,
    ) -> Attempted<T> {
        let mut result = Err(Failure::new(Trouble::Unreachable, "no session rests"));
        if let Some(session) = self.resting_session(member, total) {
            result = member.ask(session, attempt);
        }
        // A server may close what rests; that says nothing about the server.
        if result.as_ref().is_err_and(|failure| failure.trouble() == Trouble::Unreachable) {
            result = self.connect(member, total).and_then(|session| member.ask(session, attempt));
        }
        let result = result.map_err(|failure| self.explained(failure));
        match &result {
            Err(failure) if failure.trouble().is_of_server() => {
                *member.version.lock() = None; // it may come back as another version
                if member.health.failed(failure) {
                    self.notices
                        .add(format!("{} is set aside after failures in a row, the last: {failure}", member.address));
                }
            }
            _ => {
                if member.health.answered() {
                    self.notices.add(format!("{} answers again", member.address));
                }
            }
        }
        result
    }

    fn resting_session(&self, member: &Member, total: Deadline) -> Option<Session> {
        let config = self.config();
        let mut resting = member.resting.lock();
        resting.retain(|session| session.is_fresh(&config));
        let mut session = resting.pop()?;
        session.resume(total);
        Some(session)
    }

    fn connect(&self, member: &Member, total: Deadline) -> Attempted<Session> {
        let config = self.config();
        let mut session = self.open_session(member, config, total)?;
        let days = session.server_certificate().and_then(|server| certificate::days_left(server));
        if let Some(days) = days.filter(|&days| days < EXPIRES_SOON) {
            let days = text::count(days, "day", "days");
            self.notices.add(format!("the certificate of {} expires in {days}", member.address));
        }
        let known = *member.version.lock();
        match known {
            Some(version) => session.set_version(version),
            None => {
                session.negotiate(&self.versions).inspect_err(|_| member.addresses.failed(session.peer()))?;
                *member.version.lock() = Some(session.version());
            }
        }
        Ok(session)
    }

    /// A session with one member, whatever is known of it.
    pub(super) fn probe_session(&self, member: &Member) -> Attempted<Session> {
        self.open_session(member, self.config(), Deadline::after(self.timeouts.total))
    }

    fn open_session(&self, member: &Member, config: Arc<ClientConfig>, total: Deadline) -> Attempted<Session> {
        Session::connect(&member.address, &member.addresses, config, self.timeouts, total)
    }

    /// A server that does not accept this host rarely says why. Of what can be the reason, the times are known here.
    pub(super) fn explained(&self, failure: Failure) -> Failure {
        let out_of_time = self.credentials.out_of_time().filter(|_| failure.trouble() == Trouble::Untrusted);
        failure.with_note(out_of_time.map(|why| format!("this host's certificate {why}")))
    }

    /// What all members said. That a key is missing is only known when each of them says so.
    fn sum_up(&self, failures: &[Option<Failure>]) -> Failure {
        let failed =
            self.members.iter().zip(failures).filter_map(|(member, failure)| Some((member, failure.as_ref()?)));
        let failed: Vec<(&Member, &Failure)> = failed.collect();
        let all = failed.len() == self.members.len();
        let trouble = failed.iter().map(|(_, failure)| failure.trouble()).min_by_key(|trouble| trouble.rank());
        let lines: Vec<String> =
            failed.iter().map(|(member, failure)| format!("{}: {failure}", member.address)).collect();
        match trouble {
            Some(Trouble::Missing) if !all => Failure::new(Trouble::Silent, lines.join("; ")),
            Some(trouble) => Failure::new(trouble, lines.join("; ")),
            None => Failure::new(Trouble::Silent, "no member was asked in time"),
        }
    }
}

impl Member {
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    fn ask<T>(&self, mut session: Session, attempt: &mut dyn FnMut(&mut Session) -> Attempted<T>) -> Attempted<T> {
        let result = attempt(&mut session);
        if result.as_ref().is_err_and(|failure| failure.trouble().is_of_server()) {
            self.addresses.failed(session.peer());
        }
        session.rest();
        let mut resting = self.resting.lock();
        if session.is_usable() && resting.len() < MAX_RESTING {
            resting.push(session);
        }
        result
    }
}

/// Starts runs, another one each time that patience ends, and returns the first success. Each run asks all members, so
/// none is started after a failure, and the last failure covers all members.
fn first_success<T>(
    most: usize,
    total: Deadline,
    run: impl Fn(usize) -> bool,
    results: &mpsc::Receiver<Attempted<T>>,
) -> Attempted<T> {
    let mut last = Failure::new(Trouble::Silent, "no member answered in time");
    let (mut turns, mut running) = (0..most, 0);
    loop {
        let started = turns.next().is_some_and(&run);
        running += usize::from(started);
        // Runs end by themselves when the time is over, and say more than that.
        let patience = if started { ASK_NEXT_AFTER } else { total.left().unwrap_or_default() + ASK_NEXT_AFTER };
        match results.recv_timeout(patience) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => {
                last = failure;
                turns = most..most;
                running -= 1;
            }
            Err(_) if started => {}
            Err(_) => return Err(last),
        }
        if running == 0 {
            return Err(last);
        }
    }
}

/// Half to all of a pause, so that hosts that lost their server at the same time do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    random::fill(&mut byte).ok(); // then they do
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of runs that come this many milliseconds after their start with a key, or with none.
    fn outcome(runs: &[(u64, Option<u8>)], total: Duration) -> (Attempted<u8>, Duration) {
        let (sender, receiver) = mpsc::channel();
        let run = |turn: usize| {
            let (sender, (time, key)) = (sender.clone(), runs[turn]);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(time));
                sender.send(key.ok_or_else(|| Failure::new(Trouble::Missing, turn.to_string()))).ok();
            });
            true
        };
        let start = Instant::now();
        (first_success(runs.len(), Deadline::after(total), run, &receiver), start.elapsed())
    }

    #[test]
    fn a_second_member_is_asked_when_the_first_is_slow() {
        let (result, time) = outcome(&[(60_000, Some(1)), (0, Some(2))], Duration::from_secs(60));
        assert_eq!(result, Ok(2));
        assert!((ASK_NEXT_AFTER..ASK_NEXT_AFTER * 20).contains(&time), "{time:?}");
    }

    #[test]
    fn a_slow_success_wins_over_a_quick_failure() {
        let slow = u64::try_from(ASK_NEXT_AFTER.as_millis()).unwrap() * 2;
        assert_eq!(outcome(&[(slow, Some(1)), (0, None)], Duration::from_secs(60)).0, Ok(1));
    }

    #[test]
    fn failure_of_all_is_reported_at_once() {
        let (result, time) = outcome(&[(0, None), (0, Some(2))], Duration::from_secs(60));
        assert_eq!(result.unwrap_err().to_string(), "0", "the first run asked all members");
        assert!(time < Duration::from_secs(30), "{time:?}");
    }

    #[test]
    fn no_member_is_waited_for_longer_than_in_total() {
        let (result, time) = outcome(&[(60_000, Some(1)), (60_000, Some(2))], Duration::from_millis(100));
        assert_eq!(result.unwrap_err().trouble(), Trouble::Silent);
        assert!(time < Duration::from_secs(30), "{time:?}");
    }
}
