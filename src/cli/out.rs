//! What verbs print. A closed pipe, as of `head` and `grep -q`, is not an error: the work is done. Any other failure is one.
//!
//! Everything passes through [`crate::text`], so that foreign text that found its way into a message controls no terminal.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::OnceLock;

use serde::Serialize;

use crate::cli::log;
use crate::error::{Error, Kind, Result};
use crate::text;

static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// As std's, which panics on any error.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::out::results(format_args!($($text)*)) };
}

/// As std's, which panics on any error.
macro_rules! println {
    () => { $crate::cli::out::results(format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::out::results(format_args!("{}\n", format_args!($($text)*))) };
}

/// As std's, which panics on any error.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::out::advice(format_args!("{}\n", format_args!($($text)*))) };
}

/// To standard output.
pub(super) fn results(text: Arguments<'_>) {
    write(&text::lines(&text.to_string()));
}

/// A value as a line of JSON, to standard output.
///
/// # Errors
/// `Invalid` for a value that has no JSON form.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value)
        .map_err(|error| Error::with_source(Kind::Invalid, "a result that has no JSON form", error))?;
    write(&format!("{}\n", text::json(&line)));
    Ok(())
}

fn write(text: &str) {
    if let Err(error) = io::stdout().write_all(text.as_bytes())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = FAILURE.set(error); // of several, the first says why
    }
}

/// To standard error: if that cannot be written to, the message is lost.
pub(super) fn advice(text: Arguments<'_>) {
    let text = text::lines(&text.to_string()).into_owned();
    if let Err(text) = log::leave(text) {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Whether all results were written that had a reader.
///
/// # Errors
/// `Io`.
pub(super) fn failure() -> Result<()> {
    if let Err(error) = io::stdout().flush()
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = FAILURE.set(error);
    }
    let known = FAILURE
        .get()
        .map(|error| error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error));
    known.map_or(Ok(()), |error| Err(Error::io("writing to standard output", error)))
}
