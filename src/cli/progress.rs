//! How long work shows its progress: a bar on a terminal, now and then a line for logs elsewhere. Ctrl-C stops the work at its
//! next safe point; a second one ends the program, as it always would.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::size;
use crate::error::{Context, Error, Kind, Result};
use crate::gate::{self, Operation, Principal, unwatched};
use crate::progress::{Progress, Unit};
use crate::text;

/// Work that is done before this shows nothing.
const SILENCE: Duration = Duration::from_secs(1);
/// How often a terminal is redrawn, and how often a log gets a line.
const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(30);
/// Characters of the bar.
const BAR: usize = 24;

/// Does an operation for the user of this process.
///
/// # Errors
/// Those of the operation.
pub(super) fn perform<O: Operation>(operation: O) -> Result<O::Outcome> {
    gate::perform(operation, Principal::Process, &mut unwatched)
}

/// As [`perform`], and shows its progress.
///
/// # Errors
/// Those of the operation, and of [`Shown::new`].
pub(super) fn perform_shown<O: Operation>(operation: O) -> Result<O::Outcome> {
    let mut shown = Shown::new()?;
    gate::perform(operation, Principal::Process, &mut |progress| shown.advanced(progress))
}

/// Shows progress on standard error, and knows whether a stop was requested.
pub(super) struct Shown {
    stop: Arc<AtomicBool>,
    terminal: bool,
    started: Instant,
    /// What is worked on now, since when, and how much of it was done then: rates are of this run only.
    current: Option<(String, Instant, u64)>,
    shown: Option<Instant>,
    drawn: bool,
}

impl Shown {
    /// Begins to catch Ctrl-C.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal only sets the flag, which makes the second one end the program.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
                .and_then(|_| flag::register(signal, Arc::clone(&stop)))
                .context(|| "catching signals".into())?;
        }
        let terminal = std::io::stderr().is_terminal();
        Ok(Self { stop, terminal, started: Instant::now(), current: None, shown: None, drawn: false })
    }

    /// To be called as the work proceeds.
    ///
    /// # Errors
    /// `Stopped` when that was requested.
    pub(super) fn advanced(&mut self, progress: &Progress) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            self.clear();
            return Err(Error::new(Kind::Stopped, "stopped at a safe point; run it again to resume"));
        }
        let now = Instant::now();
        if self.current.as_ref().is_none_or(|(what, ..)| *what != progress.what) {
            self.current = Some((progress.what.clone(), now, progress.done));
        }
        let pause = if self.terminal { REDRAW } else { LINE };
        let due = self.shown.map_or(now - self.started >= SILENCE, |shown| now - shown >= pause);
        if due {
            self.shown = Some(now);
            self.draw(progress, now);
        }
        Ok(())
    }

    fn draw(&mut self, progress: &Progress, now: Instant) {
        let Some((_, since, before)) = &self.current else { return };
        let line = line(progress, progress.done.saturating_sub(*before), now - *since, self.terminal);
        let mut out = std::io::stderr().lock();
        // A terminal that cannot be written to stops no work.
        let _ = if self.terminal { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
        self.drawn = self.terminal;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One line: progress, rate, time left.
fn line(progress: &Progress, in_this_run: u64, took: Duration, bar: bool) -> String {
    let (done, total) = (progress.done.min(progress.total), progress.total.max(1));
    let percent = u128::from(done) * 100 / u128::from(total);
    let mut line = text::one_line(&progress.what).into_owned();
    if progress.total == 0 {
        return line; // it is not known yet what there is to do
    }
    if bar {
        let filled = usize::try_from(u128::from(done) * BAR as u128 / u128::from(total)).unwrap_or(BAR);
        line += &format!(" [{}{}]", "#".repeat(filled), "-".repeat(BAR - filled));
    }
    line += &format!(" {percent}% of {}", amount(total, progress.unit));
    let millis = took.as_millis().max(1);
    if let Ok(per_second) = u64::try_from(u128::from(in_this_run) * 1000 / millis)
        && per_second > 0
    {
        let left = (total - done) / per_second;
        line += &format!(", {}/s, {}:{:02} left", amount(per_second, progress.unit), left / 60, left % 60);
    }
    line
}

fn amount(count: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => size::show(count),
        Unit::Components => text::count(count, "component", "components"),
        Unit::Files => text::count(count, "file", "files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done: u64, total: u64) -> Progress {
        Progress { what: "root.raw".into(), done, total, unit: Unit::Bytes }
    }

    #[test]
    fn rate_and_time_left_are_of_this_run() {
        let shown = line(&progress(3 << 30, 4 << 30), 1 << 30, Duration::from_secs(8), false);
        assert_eq!(shown, "root.raw 75% of 4 GiB, 128 MiB/s, 0:08 left");
    }

    #[test]
    fn nothing_to_do_and_no_time_are_no_division_by_zero() {
        for (done, total) in [(7, 5), (0, 1), (u64::MAX, u64::MAX)] {
            let shown = line(&progress(done, total), done, Duration::ZERO, true);
            assert!(shown.contains('%'), "{shown}");
        }
        assert_eq!(line(&progress(5, 0), 5, Duration::ZERO, true), "root.raw");
    }
}
