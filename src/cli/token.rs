//! Tokens, which are secrets: on the command line other users would see them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Context, Result};
use crate::text::Show;

/// Longest token that is read, in bytes.
const MAX_LEN: u64 = 8192;

/// The text of a token, from a file, or from standard input for "-".
///
/// # Errors
/// `NotFound`, `Denied`, `Io`. They name the file, and never the token.
pub(super) fn read(file: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_LEN).unwrap_or(0)));
    let read = match file == Path::new("-") {
        true => io::stdin().take(MAX_LEN).read_to_string(&mut text),
        false => File::open(file).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text)),
    };
    read.context(|| format!("reading the token from {}", file.shown()))?;
    Ok(text)
}
