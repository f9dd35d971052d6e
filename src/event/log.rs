//! The file of events: one line, one write, so that several processes can share it; rotated when it is long.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Record, journal};
use crate::error::{Context, Error, Kind, Result};
use crate::provider::config::EventSettings;
use crate::sys::process::effective_uid;
use crate::text::Show;

/// How many full files are kept beside the one that is written to.
pub(super) const KEPT: usize = 4;

/// Where events go.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Bytes from which on the file is full.
    most: u64,
    journal: bool,
}

impl Log {
    pub(super) fn new(settings: &EventSettings) -> Result<Self> {
        let most = u64::from(settings.max_mib.get()) << 20;
        Ok(Self { path: place(settings)?, most, journal: settings.journal })
    }

    #[cfg(test)]
    pub(super) fn at(path: PathBuf, most: u64) -> Self {
        Self { path, most, journal: false }
    }

    /// Adds a line. The journal gets a copy where it runs; the file is what counts.
    pub(super) fn append(&self, record: &Record) -> Result<()> {
        if self.journal {
            journal::send(record);
        }
        let mut line = serde_json::to_vec(record)
            .map_err(|error| Error::with_source(Kind::Invalid, "an event that has no JSON form", error))?;
        line.push(b'\n');
        let mut file = self.open()?;
        if self.is_full(&file)? {
            self.rotate()?;
            file = self.open()?;
        }
        let written = file.write(&line).context(|| format!("writing to {}", self.path.shown()))?;
        if written < line.len() {
            let text = format!("{} took {written} of {} bytes", self.path.shown(), line.len());
            return Err(Error::errno(text, Errno::NOSPC));
        }
        Ok(())
    }

    /// Reopened for each event: another process, or logrotate, may have put a new file in its place.
    fn open(&self) -> Result<File> {
        let open = || {
            // Without a wait for the reader of what may be a fifo, and not through a link that was put there.
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            File::options().append(true).create(true).mode(mode()).custom_flags(flags).open(&self.path)
        };
        let opening = || format!("opening event log {}", self.path.shown());
        let file = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.create_folder()?;
                open()
            }
            opened => opened,
        };
        let file = file.context(opening)?;
        if !file.metadata().context(opening)?.is_file() {
            return Err(Error::new(Kind::Invalid, format!("{} is not a regular file", self.path.shown())));
        }
        Ok(file)
    }

    fn create_folder(&self) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let folder_mode = if effective_uid() == 0 { 0o750 } else { 0o700 };
        DirBuilder::new()
            .recursive(true)
            .mode(folder_mode)
            .create(folder)
            .context(|| format!("creating {}", folder.shown()))
    }

    fn is_full(&self, file: &File) -> Result<bool> {
        Ok(file.metadata().context(|| format!("looking at {}", self.path.shown()))?.len() >= self.most)
    }

    /// Makes room for a new file. Of several processes that find it full, one does it; the others do not wait for it.
    fn rotate(&self) -> Result<()> {
        let rotating = || format!("rotating {}", self.path.shown());
        let mut lock = OsString::from(".");
        lock.push(self.path.file_name().unwrap_or_default());
        lock.push(".lock");
        let lock =
            File::options().write(true).create(true).truncate(false).mode(0o600).open(self.path.with_file_name(lock));
        let lock = lock.context(rotating)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(()), // another process does it, or will when it resumes
            Err(fs::TryLockError::Error(error)) => return Err(Error::io(rotating(), error)),
        }
        match fs::metadata(&self.path) {
            Ok(current) if current.size() >= self.most => {}
            _ => return Ok(()), // another process was quicker
        }
        for number in (1..KEPT).rev() {
            let older = numbered(&self.path, number);
            if older.exists() {
                fs::rename(&older, numbered(&self.path, number + 1)).context(rotating)?;
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1)).context(rotating)
    }
}

fn mode() -> u32 {
    if effective_uid() == 0 { 0o640 } else { 0o600 }
}

/// The file that was full `number` rotations ago.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The file of events: the configured one, else `/var/log/vmcryptfs/events.jsonl` for root and
/// `vmcryptfs/events.jsonl` in the XDG state folder for others.
///
/// # Errors
/// `NotFound` when a user has no home folder to look in.
pub fn place(settings: &EventSettings) -> Result<PathBuf> {
    match &settings.file {
        Some(file) => Ok(file.clone()),
        None => standard_place(effective_uid(), env::var_os("XDG_STATE_HOME"), env::var_os("HOME")),
    }
}

fn standard_place(user: u32, xdg: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    // An XDG folder that is not absolute is to be ignored (XDG Base Directory Specification).
    let absolute = |folder: OsString| Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute());
    let states = match user {
        0 => Some(PathBuf::from("/var/log")),
        _ => xdg.and_then(absolute).or_else(|| home.and_then(absolute).map(|home| home.join(".local/state"))),
    };
    states
        .map(|folder| folder.join("vmcryptfs/events.jsonl"))
        .ok_or_else(|| Error::new(Kind::NotFound, "no place for the event log: neither XDG_STATE_HOME nor HOME is set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_file_depends_on_the_user() {
        let place = |user, xdg: Option<&str>, home: Option<&str>| {
            standard_place(user, xdg.map(Into::into), home.map(Into::into)).ok()
        };
        let system = Some(PathBuf::from("/var/log/vmcryptfs/events.jsonl"));
        assert_eq!(place(0, Some("/x"), Some("/root")), system);
        assert_eq!(place(1, Some("/x"), Some("/home/u")), Some("/x/vmcryptfs/events.jsonl".into()));
        assert_eq!(place(1, Some("x"), Some("/home/u")), Some("/home/u/.local/state/vmcryptfs/events.jsonl".into()));
        assert_eq!(place(1, None, None), None);
    }
}
