//! The thread that writes events. The operation that an event reports is done, and must not wait: for a file system that does
//! not answer, or for another program that has the file locked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use super::{Class, Record};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::thread::caught;

/// How long an event may take. While one takes longer, the next ones are not waited for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Events that wait at most.
const MAX_WAITING: usize = 1024;

/// Puts an event into the log of this process's user.
///
/// # Errors
/// Those of the log; `Io` where that does not answer, and the event may come later.
pub(super) fn append(record: Record, class: Class) -> Result<()> {
    static WRITER: LazyLock<Result<Writer>> =
        LazyLock::new(|| Writer::start(|record, class| super::log()?.append(record, class)));
    match &*WRITER {
        Ok(writer) => writer.append(record, class, WRITE_TIMEOUT),
        Err(_) => super::log()?.append(record, class),
    }
}

struct Writer {
    left: SyncSender<Left>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Events that were left and are not yet written.
    waiting: AtomicUsize,
    /// Whether one took so long that later ones are not waited for.
    is_late: AtomicBool,
}

struct Left {
    record: Record,
    class: Class,
    written: Sender<Result<()>>,
}

impl Writer {
    fn start(write: impl Fn(Record, Class) -> Result<()> + Send + 'static) -> Result<Self> {
        let (left, to_write) = sync_channel(MAX_WAITING);
        let state = Arc::new(State::default());
        let own = Arc::clone(&state);
        thread::Builder::new()
            .name("events".into())
            .spawn(move || write_all(&to_write, &own, write))
            .context(|| "starting the thread that writes events".into())?;
        Ok(Self { left, state })
    }

    fn append(&self, record: Record, class: Class, patience: Duration) -> Result<()> {
        let late = || Error::new(Kind::Io, "the event log does not answer");
        let (written, on_written) = channel();
        self.state.waiting.fetch_add(1, Ordering::SeqCst);
        if self.left.try_send(Left { record, class, written }).is_err() {
            self.state.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(late());
        }
        let patience = if self.state.is_late.load(Ordering::SeqCst) { Duration::ZERO } else { patience };
        match on_written.recv_timeout(patience) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                // Unless it was written by now, which is final.
                self.state.is_late.store(self.state.waiting.load(Ordering::SeqCst) > 0, Ordering::SeqCst);
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::new(Kind::Io, "writing it failed: this is a bug, please report it"))
            }
        }
    }
}

fn write_all(left: &Receiver<Left>, state: &State, write: impl Fn(Record, Class) -> Result<()>) {
    for Left { record, class, written } in left {
        let outcome = caught(|| write(record, class));
        if state.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            state.is_late.store(false, Ordering::SeqCst);
        }
        if let Some(outcome) = outcome {
            let _ = written.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_log_that_does_not_answer_holds_nobody_up_and_loses_nothing() {
        let (go_on, may_go_on) = channel::<()>();
        let (put, on_put) = channel();
        let writer = Writer::start(move |record, _| {
            let _ = may_go_on.recv();
            put.send(record.operation).map_err(|_| Error::new(Kind::Io, "gone"))
        })
        .unwrap();
        let append = |operation| {
            let record = super::super::tests::record(operation, "ok");
            writer.append(record, Class::Verbs, Duration::from_millis(50))
        };
        let began = Instant::now();
        for operation in ["lock", "unlock", "erase"] {
            assert!(append(operation).unwrap_err().to_string().contains("does not answer"));
        }
        assert!(began.elapsed() < Duration::from_millis(120), "only the first one waits");
        drop(go_on);
        assert_eq!(on_put.iter().take(3).collect::<Vec<_>>(), ["lock", "unlock", "erase"]);
        while writer.state.waiting.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        append("check").unwrap();
        assert_eq!(on_put.recv().unwrap(), "check");
    }

    #[test]
    fn an_event_that_ends_in_a_bug_is_reported_and_the_next_one_is_written() {
        let writer = Writer::start(|record, _| {
            assert_ne!(record.operation, "lock", "on purpose");
            Ok(())
        })
        .unwrap();
        let append =
            |operation| writer.append(super::super::tests::record(operation, "ok"), Class::Verbs, WRITE_TIMEOUT);
        assert!(append("lock").unwrap_err().to_string().contains("bug"));
        append("unlock").unwrap();
    }
}
