//! Which of a server's addresses is talked to. A name may have several, of which some are down, hang, or are of another
//! server: each is tried up to the end of the TLS handshake, the next one as soon as one fails or takes long (as RFC 8305 has it for TCP).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::settings::Address;
use crate::provider::Failure;
use crate::provider::timed::Deadline;

/// How long one address is waited for before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(500);
/// Addresses of a name that are tried. An answer to the name may hold thousands.
const MAX_ADDRESSES: usize = 16;

/// What is known of a server's addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    good: Option<SocketAddr>,
    bad: Option<SocketAddr>,
}

impl Addresses {
    /// The order in which addresses are to be tried: first the one that served last, and at last the one that failed last.
    pub(super) fn in_order(&self, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let known = self.0.lock();
        found.sort_by_key(|address| (Some(*address) == known.bad, Some(*address) != known.good));
        found
    }

    /// Remembers one that completed the handshake.
    pub(super) fn answered(&self, address: SocketAddr) {
        self.0.lock().good = Some(address);
    }

    /// Remembers one that did not serve although it had completed the handshake.
    pub(super) fn failed(&self, address: SocketAddr) {
        let mut known = self.0.lock();
        known.bad = Some(address);
        known.good = known.good.filter(|good| *good != address);
    }
}

/// Tries addresses until the first success. What is late then is dropped by its own thread.
///
/// # Errors
/// Those of all addresses, when each has failed or `total` has passed.
pub(super) fn first_of<T: Send + 'static>(
    addresses: &[SocketAddr],
    total: Deadline,
    attempt: impl Fn(SocketAddr) -> Result<T, Failure> + Send + Sync + 'static,
) -> Result<T, Failure> {
    if let [only] = addresses {
        return attempt(*only);
    }
    let (attempt, (sender, receiver)) = (Arc::new(attempt), mpsc::channel());
    let mut untried = addresses.iter().copied();
    let (mut running, mut failures) = (0_usize, Vec::new());
    loop {
        if let Some(address) = untried.next() {
            let (attempt, sender) = (Arc::clone(&attempt), sender.clone());
            let run = move || _ = sender.send((address, attempt(address)));
            running += usize::from(thread::Builder::new().name("dial".into()).spawn(run).is_ok());
        } else if running == 0 {
            break;
        }
        let is_last = untried.len() == 0;
        let patience = if is_last { total.left().unwrap_or_default() + STAGGER } else { STAGGER };
        match receiver.recv_timeout(patience) {
            Ok((_, Ok(value))) => return Ok(value),
            Ok((address, Err(failure))) => {
                running -= 1;
                failures.push((address, failure));
            }
            Err(_) if is_last => break,
            Err(_) => {}
        }
    }
    Err(Failure::of_addresses(&failures))
}

/// The addresses of a server, at least one. Resolving a name has no timeout, so it is done on a thread that may outlive
/// this call.
pub(super) fn resolve(address: &Address, deadline: Deadline) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = address.host().parse() {
        return Ok(vec![SocketAddr::new(ip, address.port())]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = (address.host().to_owned(), address.port());
    thread::Builder::new().name("resolve".into()).spawn(move || {
        let found = name.to_socket_addrs().map(|found| found.take(MAX_ADDRESSES).collect::<Vec<_>>());
        sender.send(found).ok(); // the caller may have given up
    })?;
    let found = receiver.recv_timeout(deadline.time_left()?).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::provider::Trouble;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 5696))
    }

    /// What came of addresses that take this many milliseconds and then succeed or not, and after how long.
    fn dialed(plan: &'static [(u64, bool)], total: Duration) -> (Result<u8, Failure>, Duration) {
        let addresses: Vec<SocketAddr> = (0..plan.len()).map(|index| address(u8::try_from(index).unwrap())).collect();
        let start = Instant::now();
        let dialed = first_of(&addresses, Deadline::after(total), |address| {
            let SocketAddr::V4(v4) = address else { panic!("{address}") };
            let number = v4.ip().octets()[3];
            let (time, succeeds) = plan[usize::from(number)];
            thread::sleep(Duration::from_millis(time));
            if succeeds { Ok(number) } else { Err(Failure::new(Trouble::Unreachable, format!("no {number}"))) }
        });
        (dialed, start.elapsed())
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn address_that_hangs_or_fails_does_not_delay_the_next() {
        let (dialed_hanging, time) = dialed(&[(120_000, true), (120_000, false), (0, true)], MINUTE);
        assert_eq!(dialed_hanging, Ok(2));
        assert!((STAGGER * 2..STAGGER * 40).contains(&time), "{time:?}");
        let (dialed_failing, time) = dialed(&[(0, false), (0, false), (0, true)], MINUTE);
        assert_eq!(dialed_failing, Ok(2));
        assert!(time < STAGGER * 20, "{time:?}");
        assert_eq!(dialed(&[(800, true), (5_000, true)], MINUTE).0, Ok(0), "a slow one is still waited for");
    }

    #[test]
    fn when_all_fail_each_is_named_within_the_deadline() {
        let failure = dialed(&[(0, false), (10, false)], MINUTE).0.unwrap_err();
        assert_eq!(failure.to_string(), "127.0.0.0: no 0; 127.0.0.1: no 1");
        let (failure, time) = dialed(&[(120_000, true), (120_000, true)], Duration::from_millis(100));
        assert_eq!(failure.unwrap_err().trouble(), Trouble::Silent);
        assert!(time < MINUTE, "{time:?}");
        assert_eq!(dialed(&[], MINUTE).0.unwrap_err().trouble(), Trouble::Silent);
    }

    #[test]
    fn the_address_that_served_is_tried_first_and_the_one_that_failed_last() {
        let addresses = Addresses::default();
        let order = || addresses.in_order(vec![address(1), address(2), address(3)]);
        assert_eq!(order(), [address(1), address(2), address(3)]);
        addresses.answered(address(2));
        assert_eq!(order(), [address(2), address(1), address(3)]);
        addresses.failed(address(2));
        assert_eq!(order(), [address(1), address(3), address(2)]);
    }
}
