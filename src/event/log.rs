//! The files of events: several processes add to one in turns, each event a line and one write. A file is rotated when it is long.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::chain::{self, Tail};
use super::{Class, Record, journal};
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
    /// Bytes from which on a file is full.
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

    /// Adds an event. The journal gets a copy where it runs; the file is what counts.
    pub(super) fn append(&self, mut record: Record, class: Class) -> Result<()> {
        let written = self.write(&mut record, &class.file(&self.path));
        if self.journal {
            journal::send(&record, written.as_deref().ok());
        }
        written.map(drop)
    }

    /// Links an event to the one before, and writes it as a line; returns the line's hash.
    fn write(&self, record: &mut Record, path: &Path) -> Result<String> {
        let mut file = open_locked(path)?;
        if len(&file, path)? >= self.most {
            rotate(path)?;
            file = open_locked(path)?;
        }
        let reading = || format!("reading the end of {}", path.shown());
        let tail = Tail::of(&file).context(reading)?;
        match tail.is_empty().then(|| File::open(numbered(path, 1)).ok()).flatten() {
            Some(older) => Tail::of(&older).context(reading)?.link(record),
            None => tail.link(record),
        }
        let line = serde_json::to_string(record)
            .map_err(|error| Error::with_source(Kind::Invalid, "an event that has no JSON form", error))?;
        let beginning = if tail.is_torn() { "\n" } else { "" };
        let text = format!("{beginning}{line}\n");
        let before = len(&file, path)?;
        let written = file.write(text.as_bytes()).context(|| format!("writing to {}", path.shown()))?;
        if written < text.len() {
            let _ = file.set_len(before);
            let why = format!("{} took {written} of {} bytes", path.shown(), text.len());
            return Err(Error::errno(why, Errno::NOSPC));
        }
        Ok(chain::hash(line.as_bytes()))
    }
}

/// Opens a file for one event, and keeps other processes from adding one in the meantime. It is opened each time: another process, or
/// logrotate, may have put a new file in its place.
fn open_locked(path: &Path) -> Result<File> {
    loop {
        let file = open(path)?;
        // A file system without locks still gets its events; `events verify` then shows those that were written at once.
        let _ = file.lock();
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Whether a file still has this name.
pub(super) fn is_at(file: &File, path: &Path) -> Result<bool> {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let opened = inode(file.metadata().context(|| format!("looking at {}", path.shown()))?);
    Ok(fs::metadata(path).is_ok_and(|now| inode(now) == opened))
}

fn open(path: &Path) -> Result<File> {
    let open = || {
        // Without a wait for the reader of what may be a fifo, and not through a link that was put there.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        File::options().read(true).append(true).create(true).mode(mode()).custom_flags(flags).open(path)
    };
    let opening = || format!("opening event log {}", path.shown());
    let file = match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            create_folder(path)?;
            open()
        }
        opened => opened,
    };
    let file = file.context(opening)?;
    if !file.metadata().context(opening)?.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{} is not a regular file", path.shown())));
    }
    Ok(file)
}

fn create_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder_mode = if effective_uid() == 0 { 0o750 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(folder_mode)
        .create(folder)
        .context(|| format!("creating {}", folder.shown()))
}

fn len(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().context(|| format!("looking at {}", path.shown()))?.len())
}

/// Makes room for a new file. The process that has the full one locked does it.
fn rotate(path: &Path) -> Result<()> {
    let rotating = || format!("rotating {}", path.shown());
    for number in (1..KEPT).rev() {
        let older = numbered(path, number);
        if older.exists() {
            fs::rename(&older, numbered(path, number + 1)).context(rotating)?;
        }
    }
    fs::rename(path, numbered(path, 1)).context(rotating)
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
