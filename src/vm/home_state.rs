//! How much of a VM folder's home is encrypted: its header says so under its key, and the header's name is a hint
//! (docs/FORMAT.md, section 11).

use std::ffi::OsStr;
use std::fs::File;
use std::thread;
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::header::{DECRYPTING_FILE, ENCRYPTING_FILE, HOME_FILE, Header, StoredState};

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

    /// The state of a home whose header has the name of this one, and says `stored`.
    ///
    /// # Errors
    /// `Corrupt` where the two disagree as no interrupted conversion makes them: what is sealed as a whole has one name only.
    pub fn confirm(self, stored: Option<StoredState>) -> Result<Self> {
        match stored {
            None => Ok(self), // the version that made it left the state to the name
            Some(StoredState::Encrypting) => Ok(Self::Encrypting),
            Some(StoredState::Decrypting) => Ok(Self::Decrypting),
            Some(StoredState::Encrypted | StoredState::ConvertingDisks) if self == Self::Encrypted => Ok(self),
            Some(StoredState::Encrypted | StoredState::ConvertingDisks) => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "changed without the key: its header says that it is encrypted, and has the name {}",
                    self.header_file().unwrap_or_default()
                ),
            )),
        }
    }

    /// What to say of a home that is neither the one nor the other, by what its header says; `None` for the others.
    pub fn unfinished(self, stored: Option<StoredState>) -> Option<&'static str> {
        match (self, stored.is_some()) {
            (Self::Clear | Self::Encrypted, _) => None,
            (Self::Encrypting, true) => {
                Some("its encryption is not finished: `vmcryptfs encrypt VM_FOLDER` resumes it")
            }
            (Self::Decrypting, true) => {
                Some("its decryption is not finished: `vmcryptfs decrypt VM_FOLDER --all` resumes it")
            }
            (Self::Encrypting, false) => Some(
                "only its header's name says that its encryption is not finished. If an older version began that, \
                 `vmcryptfs encrypt VM_FOLDER --resume-by-name` resumes it",
            ),
            (Self::Decrypting, false) => Some(
                "only its header's name says that its decryption is not finished. If an older version began that, \
                 `vmcryptfs decrypt VM_FOLDER --all --resume-by-name` resumes it",
            ),
        }
    }

    /// Refuses a home that is not encrypted as a whole, by its header, which has the name of this state.
    ///
    /// # Errors
    /// `Busy` with what finishes it, or those of [`confirm`](Self::confirm).
    pub fn refuse_unfinished(self, header: &Header) -> Result<()> {
        match self.confirm(header.state)?.unfinished(header.state) {
            None => Ok(()),
            Some(why) => Err(Error::new(Kind::Busy, why)),
        }
    }

    /// The state that the name of a directory's header says.
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
