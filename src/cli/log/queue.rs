//! Log lines on their way to standard error. A thread leaves its line here and continues, whatever becomes of it: a
//! file system that is full, a pipe without a reader, a file that is gone must not hold up or end what the line is about.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stderr;

use crate::text;

/// Lines that wait at most; one more is lost.
const MAX_LINES: usize = 4096;
/// How long the end of the process waits for lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    lines: SyncSender<Left>,
    lost: AtomicU64,
}

enum Left {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Asked(Sender<()>),
}

/// Lets lines of this process be written by a thread of their own.
pub(super) fn start() {
    let (lines, left) = sync_channel(MAX_LINES);
    if thread::Builder::new().name("log".into()).spawn(move || write_all(&left)).is_ok() {
        let _ = QUEUE.set(Queue { lines, lost: AtomicU64::new(0) });
    }
}

/// Leaves a text for the log; given back where there is no thread for it.
pub(super) fn leave(text: String) -> Result<(), String> {
    let Some(queue) = QUEUE.get() else { return Err(text) };
    queue.leave(text.into_bytes());
    Ok(())
}

/// Waits, not for long, until all is written that was left.
pub(super) fn finish() {
    let Some(queue) = QUEUE.get() else { return };
    let (written, on_written) = channel();
    if queue.lines.try_send(Left::Asked(written)).is_ok() {
        let _ = on_written.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl Queue {
    fn leave(&self, line: Vec<u8>) {
        if self.lines.try_send(Left::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a logger writes a line to; it takes everything.
pub(super) struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.leave(line.to_vec()),
            None => drop(put(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(left: &Receiver<Left>) {
    // Whether the last line was put down in part.
    let mut torn = false;
    let mut lost = 0;
    for left in left {
        match left {
            Left::Asked(written) => drop(written.send(())),
            Left::Line(line) => {
                lost += QUEUE.get().map_or(0, |queue| queue.lost.swap(0, Ordering::Relaxed));
                if (lost > 0 || torn) && put(missing(torn, lost).as_bytes()).is_ok() {
                    (torn, lost) = (false, 0);
                }
                if let Err(begun) = put(&line) {
                    torn |= begun;
                    lost += 1;
                }
            }
        }
    }
}

fn missing(torn: bool, lost: u64) -> String {
    let end = if torn { "\n" } else { "" };
    format!("{end}{} of the log could not be written here\n", text::count(lost, "line", "lines"))
}

/// Writes to standard error. `Err` where that fails, and whether a part is there.
fn put(text: &[u8]) -> Result<(), bool> {
    let mut rest = text;
    while !rest.is_empty() {
        match rustix::io::write(stderr(), rest) {
            Ok(0) => return Err(rest.len() < text.len()),
            Ok(len) => rest = &rest[len..],
            Err(Errno::INTR) => {}
            // The other side of the terminal or pipe made it one that does not wait.
            Err(Errno::AGAIN) if poll(&mut [PollFd::new(&stderr(), PollFlags::OUT)], None).is_ok() => {}
            Err(_) => return Err(rest.len() < text.len()),
        }
    }
    Ok(())
}
