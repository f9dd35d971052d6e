//! Questions before what cannot be taken back.

use std::ffi::OsStr;
use std::io::{BufRead, IsTerminal};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Context, Error, Kind, Result};
use crate::text::Show;

/// Has the name typed of what is to be changed for good. `doing` is that in a few words, `what` a sentence on it.
///
/// # Errors
/// `Invalid` without a terminal, or for another answer.
pub(super) fn by_name(name: &OsStr, doing: &str, what: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let message = format!("refusing to {doing} without confirmation: pass --yes (no terminal)");
        return Err(Error::new(Kind::Invalid, message));
    }
    eprintln!("{what} To continue, type its name ({}):", name.shown());
    let mut typed = Vec::new();
    std::io::stdin().lock().read_until(b'\n', &mut typed).context(|| "reading the answer".into())?;
    // As it is, or as it was shown.
    let typed = typed.trim_ascii();
    if typed == name.as_bytes().trim_ascii() || typed == name.shown().to_string().as_bytes() {
        Ok(())
    } else {
        Err(Error::new(Kind::Invalid, "the name does not match: nothing was done"))
    }
}
