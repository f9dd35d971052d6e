//! Where a mount's log lines go: standard error, in the form that its reader knows. Nothing of this fails or panics.

mod queue;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{panic, thread};

use rustix::stdio::dup2_stderr;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::error::{self, Context};
use crate::text::{self, Show};

/// The kind of process that logs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Teller {
    /// A program that does one thing, and may wait until its line is written.
    Verb,
    /// The process of a mount, or another that serves requests: those never wait for the log.
    Daemon,
}

/// Starts logging to standard error. Warnings and errors always; `verbose` adds information, then details.
pub(super) fn start(verbose: u8, teller: Teller) {
    if teller == Teller::Daemon {
        queue::start();
        // As std's, which writes to standard error itself, and waits for it.
        panic::set_hook(Box::new(|panic| {
            let thread = thread::current();
            let panic = panic.to_string().replace('\n', " ");
            tracing::error!("thread {}: {panic}", thread.name().unwrap_or("without a name"));
        }));
    }
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = Lines { form: if journal { Form::Journal } else { Form::Dated }, ansi: io::stderr().is_terminal() };
    // The layer's own errors go to standard error by a macro that panics where it cannot write.
    let layer =
        tracing_subscriber::fmt::layer().with_writer(|| queue::Lines).event_format(lines).log_internal_errors(false);
    let logger = tracing_subscriber::registry().with(LevelFilter::from_level(level)).with(layer);
    // A logger that is there already serves as well.
    let _ = tracing::subscriber::set_global_default(logger);
}

/// Logs a line like any other; given back where this process may wait until it is written.
pub(super) fn leave(text: String) -> Result<(), String> {
    queue::leave(text)
}

/// Waits, not for long, until all lines are written.
pub(super) fn finish() {
    queue::finish();
}

/// Opens a log file, which is made if need be.
///
/// # Errors
/// `Io`.
pub(super) fn open(path: &Path) -> error::Result<File> {
    // A fifo that nobody reads is an error, and one that is full loses lines: nothing waits for a reader of the log.
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NONBLOCK).open(path);
    opened.context(|| format!("opening log file {}", path.shown()))
}

/// Lets what comes from now on go to the log file that has this name by now: the former one may have been put away.
///
/// # Errors
/// As [`open`]; the log file is then unchanged.
pub(super) fn reopen(path: &Path) -> error::Result<()> {
    let file = open(path)?;
    dup2_stderr(&file).context(|| format!("opening log file {}", path.shown()))
}

enum Form {
    /// Priority in angle brackets as sd-daemon(3) has it; the journal adds the time.
    Journal,
    Dated,
}

struct Lines {
    form: Form,
    ansi: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        match self.form {
            Form::Journal => write!(writer, "<{}>", priority(level))?,
            Form::Dated => {
                SystemTime.format_time(&mut writer)?;
                let (colour, end) = if self.ansi { (colour(level), "\x1b[0m") } else { ("", "") };
                write!(writer, " {colour}{level:>5}{end} ")?;
            }
        }
        // Names in it may be anyone's: none begins a line of its own.
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        writeln!(writer, "{}", text::one_line(&fields))
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        _ => "\x1b[2m",
    }
}
