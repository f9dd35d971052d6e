//! Where a mount's log lines go: standard error, in the form that its reader knows.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::text;

/// Starts logging to standard error. Warnings and errors always; `verbose` adds information, then details.
pub(super) fn start(verbose: u8) {
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = Lines { form: if journal { Form::Journal } else { Form::Dated }, ansi: io::stderr().is_terminal() };
    let logger = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).event_format(lines).finish();
    // A logger that is there already serves as well.
    let _ = tracing::subscriber::set_global_default(logger);
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
