//! What verbs print. Who stops reading, as `head` and `grep -q` do, is no reason to fail: the work is done. Any other error is one.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::OnceLock;

use crate::error::{Error, Result};

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
    if let Err(error) = io::stdout().write_fmt(text)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = FAILURE.set(error); // of several, the first says why
    }
}

/// To standard error: where that cannot be written to, nobody can be told.
pub(super) fn advice(text: Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

/// Whether all results were written that someone wanted to read.
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
