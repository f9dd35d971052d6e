//! The programs that ask the agent. None holds up another: each has a thread, of a bounded number, and bounds on its bytes and time.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::gate::Principal;
use vmcryptfs::provider::agent::{Answer, Fault, MAX_ANSWER, MAX_REQUEST, Request, receive, send};
use vmcryptfs::provider::timed::{Deadline, TimedStream};
use vmcryptfs::sys::process::effective_uid;
use vmcryptfs::sys::thread::{caught, may_fail};

use super::Agent;

/// Programs that are served at once. One more is told so.
const MAX_CLIENTS: usize = 256;
/// How long a program may rest between two requests.
const IDLE: Duration = Duration::from_secs(30);
/// How long it may take to send a request, and to take the answer.
const TRANSFER: Duration = Duration::from_secs(5);
/// How long no client is taken after one could not be.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Refusals of one minute that have events of their own.
const MAX_NAMED: u64 = 16;
/// Of a client's thread: it unwraps keys and does no more.
const STACK: usize = 512 << 10;

/// Serves clients on threads of their own for as long as the process lives.
///
/// # Errors
/// `Io`.
pub(super) fn take(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    let present = Arc::new(AtomicUsize::new(0));
    let work = move || {
        for stream in listener.incoming() {
            let served = stream.and_then(|stream| {
                let Some(place) = Place::take(&present) else {
                    turn_away(
                        &stream,
                        &Error::new(Kind::Busy, format!("the agent serves {MAX_CLIENTS} programs already")),
                    );
                    return Ok(());
                };
                let agent = Arc::clone(&agent);
                let serve = move || {
                    let _place = place;
                    caught(|| serve_one(stream, &agent));
                };
                thread::Builder::new().name("client".into()).stack_size(STACK).spawn(serve).map(drop)
            });
            // Without descriptors or threads there is nothing to do but to wait until there are some again.
            if let Err(error) = served {
                tracing::warn!("{}", Error::io("socket of the agent", error).chain());
                thread::sleep(AFTER_FAILURE);
            }
        }
    };
    thread::Builder::new()
        .name("clients".into())
        .spawn(work)
        .map(drop)
        .context(|| "starting the thread of clients".into())
}

/// A client's share of [`MAX_CLIENTS`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(present: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |present| (present < MAX_CLIENTS).then_some(present + 1);
        present.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(present)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers a client that is not served. It is not waited for.
fn turn_away(mut stream: &UnixStream, error: &Error) {
    if stream.set_nonblocking(true).is_ok() {
        send(&mut stream, &failure(error), MAX_ANSWER).ok(); // it may have gone
    }
}

fn failure(error: &Error) -> Answer {
    Answer::Error { kind: error.kind(), message: error.chain(), fault: Fault::of(error) }
}

fn serve_one(stream: UnixStream, agent: &Agent) {
    let principal = match admit(&stream) {
        Ok(principal) => principal,
        Err(refusal) => return turn_away(&stream, &refusal),
    };
    let mut stream = TimedStream::new(stream, Deadline::after(IDLE));
    loop {
        let request = match receive::<Request>(&mut stream, (Deadline::after(IDLE), TRANSFER), MAX_REQUEST) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                tracing::info!("a client: {}", error.chain());
                stream.set_deadline(Deadline::after(TRANSFER));
                send(&mut stream, &failure(&error), MAX_ANSWER).ok(); // it may have gone
                return;
            }
        };
        let answer = caught(|| {
            may_fail("agent");
            agent.answer(request, principal).unwrap_or_else(|error| (failure(&error), None))
        });
        let bug = || Error::new(Kind::Io, "the agent failed at this: this is a bug, please report it with its log");
        let (answer, kek) = answer.unwrap_or_else(|| (failure(&bug()), None));
        stream.set_deadline(Deadline::after(TRANSFER));
        let sent = send(&mut stream, &answer, MAX_ANSWER).and_then(|()| match kek {
            Some(kek) => stream.write_all(kek.bytes()).context(|| "sending a KEK".into()),
            None => Ok(()),
        });
        if let Err(error) = sent {
            tracing::info!("a client: {}", error.chain());
            return;
        }
    }
}

/// Root may all, and so may the agent's own user; others may nothing.
fn admit(stream: &UnixStream) -> Result<Principal> {
    let principal = Principal::of_peer(stream)?;
    let uid = principal.uid();
    if uid == 0 || uid == effective_uid() {
        return Ok(principal);
    }
    let refusal = Error::new(Kind::Denied, format!("user {uid} may not ask the agent of this host: only root may"));
    let mut event = Event::of(EventName::Agent);
    event.by(uid).failed_as_one_of(Event::of(EventName::Agent), MAX_NAMED, &refusal);
    Err(refusal)
}
