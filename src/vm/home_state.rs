//! How much of a VM folder's home is encrypted: the name of its header says so (docs/FORMAT.md, section 1).

use std::ffi::OsStr;
use std::fs::File;
use std::thread;
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::header::{DECRYPTING_FILE, ENCRYPTING_FILE, HOME_FILE};

/// How much of a VM folder's home is encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HomeState {
    /// Not at all: there is no header.
    Clear,
    /// In part: an encryption was begun.
    Encrypting,
    /// As a whole: what a mount shows.
    Encrypted,
    /// In part: a decryption was begun.
    Decrypting,
}

impl HomeState {
    /// Name of the header file in this state.
    pub fn header_file(self) -> Option<&'static str> {
        match self {
            Self::Clear => None,
            Self::Encrypting => Some(ENCRYPTING_FILE),
            Self::Encrypted => Some(HOME_FILE),
            Self::Decrypting => Some(DECRYPTING_FILE),
        }
    }

    /// The state in which a home's header has this name.
    pub fn of_header_file(name: &OsStr) -> Option<Self> {
        let states = [Self::Encrypting, Self::Encrypted, Self::Decrypting];
        states.into_iter().find(|state| state.header_file().is_some_and(|file| name == file))
    }

    /// What to say of a home that is neither the one nor the other; `None` for the others.
    pub fn unfinished(self) -> Option<&'static str> {
        match self {
            Self::Clear | Self::Encrypted => None,
            Self::Encrypting => Some("its encryption is not finished: `vmcryptfs encrypt` resumes it"),
            Self::Decrypting => Some("its decryption is not finished: `vmcryptfs decrypt` resumes it"),
        }
    }

    /// The state of a directory's home.
    ///
    /// # Errors
    /// `Corrupt` when two header files contradict each other, or `Io`.
    pub fn of(dir: &File) -> Result<Self> {
        const ATTEMPTS: usize = 4;
        const PAUSE: Duration = Duration::from_millis(20);
        for _ in 1..ATTEMPTS {
            match headers(dir)? {
                (state, None) => return Ok(state),
                // One that is renamed while it is looked for shows twice, and one that its maker takes back shows beside another.
                (_, Some(_)) => thread::sleep(PAUSE),
            }
        }
        match headers(dir)? {
            (first, Some((second, false))) => Err(two_headers(first, second)),
            // Two names of one file are a rename in two steps that was interrupted.
            (state, None | Some((_, true))) => Ok(state),
        }
    }
}

/// The state that the first header says, and if there is a second one, its state and whether it is the same file.
fn headers(dir: &File) -> Result<(HomeState, Option<(HomeState, bool)>)> {
    let mut found = Vec::new();
    // In the order of their life: one that is renamed during this is still seen.
    for state in [HomeState::Encrypting, HomeState::Encrypted, HomeState::Decrypting] {
        if let Some(id) = state.header_file().map(|name| header_id(dir, name)).transpose()?.flatten() {
            found.push((state, id));
        }
    }
    Ok(match found.as_slice() {
        [] => (HomeState::Clear, None),
        [(only, _)] => (*only, None),
        [(first, id), (second, other), ..] => (*first, Some((*second, id == other))),
    })
}

/// Both may have sealed files, so neither may go before that is known.
pub(crate) fn two_headers(first: HomeState, second: HomeState) -> Error {
    let name = |state: HomeState| state.header_file().unwrap_or_default();
    Error::new(
        Kind::Corrupt,
        format!(
            "two headers of one home, {} and {}: files may be encrypted under either, or twice. Keep both, and their keys; \
             docs/CLI.md, \"Two headers\", says how to get everything back",
            name(first),
            name(second)
        ),
    )
}

/// Device and inode of a header file, if there is one of this name.
pub(super) fn header_id(dir: &File, name: &str) -> Result<Option<(u64, u64)>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::errno(format!("looking for {name}"), error)),
    }
}
