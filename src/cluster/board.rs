//! Where hosts leave documents and envelopes for each other: a folder on a file system that all of them have mounted.
//!
//! A record is a file. It appears whole by a rename, and changes only from what its writer has seen, under a lock. Nothing
//! on the board is trusted: names of files that are read here are made by this program, and lengths have a bound.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{EnvelopeFor, MAX_DOCUMENT_LEN, TokenId};
use crate::provider::private_file::{folder_of, sync_folder};
use crate::text::Show;

const SCHEME: &str = "folder:";
/// How long a writer waits for others, and how often it looks.
const LOCK_TIME: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// Most join requests that are looked at.
const MAX_LISTED: usize = 1024;

/// The board of one cluster.
#[derive(Debug)]
pub struct Board {
    folder: PathBuf,
}

/// The name of a record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key(String);

impl Key {
    /// A document, by its epoch.
    pub fn document(epoch: u64) -> Self {
        Self(format!("document/{epoch:020}"))
    }

    /// An envelope, by what it is bound to.
    pub fn envelope(place: &EnvelopeFor<'_>) -> Self {
        Self(format!("envelope/{}/{}/{}", place.provider, place.primary, place.host))
    }

    /// A request to join.
    pub fn join(token: TokenId) -> Self {
        Self(format!("join/{}", HEXLOWER.encode(&token.0)))
    }

    /// What a host says that it has.
    pub fn ack(host: Uuid) -> Self {
        Self(format!("host/{host}/ack"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The folder of a board's place, `folder:/absolute/path`, which must exist: a shared file system that is not mounted
/// must not look like an empty board.
///
/// # Errors
/// `Invalid` for another text, `NotFound` when there is no folder.
pub fn folder(place: &str) -> Result<PathBuf> {
    let path = place.strip_prefix(SCHEME).map(Path::new).filter(|path| path.is_absolute());
    let path = path.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("the board {place:?}, expected {SCHEME} and an absolute path"))
    })?;
    match path.is_dir() {
        true => Ok(path.to_path_buf()),
        false => Err(Error::new(
            Kind::NotFound,
            format!("the board's folder {} is not there: is its file system mounted?", path.shown()),
        )),
    }
}

impl Board {
    /// Makes the board of a new cluster.
    ///
    /// # Errors
    /// Those of [`folder`], `Exists`, `Io`.
    pub fn create(place: &str, cluster: Uuid) -> Result<Self> {
        let folder = folder(place)?.join(cluster.to_string());
        let making = || format!("making the folder {}", folder.shown());
        DirBuilder::new().mode(0o755).create(&folder).context(making)?;
        sync_folder(folder_of(&folder)).context(making)?;
        Ok(Self { folder })
    }

    /// The board of a cluster.
    ///
    /// # Errors
    /// Those of [`folder`], `NotFound` when the cluster is not on it.
    pub fn open(place: &str, cluster: Uuid) -> Result<Self> {
        let folder = folder(place)?.join(cluster.to_string());
        match folder.is_dir() {
            true => Ok(Self { folder }),
            false => Err(Error::new(
                Kind::NotFound,
                format!("the board {place} does not have cluster {cluster}: it is another one, or its content is gone"),
            )),
        }
    }

    /// A record, if it is there.
    ///
    /// # Errors
    /// `Corrupt` when it is not a regular file or too long, `Io`.
    pub fn read(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let reading = || format!("reading {} of the board", key.0);
        match self.find(key, false).context(reading)? {
            Some((folder, name)) => read_in(&folder, name).context(reading),
            None => Ok(None),
        }
    }

    /// Writes a record if it is still what its writer has seen, which is `None` where it was not there. Returns whether it was.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), `Io`.
    pub fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool> {
        let writing = || format!("writing {} to the board", key.0);
        let _lock = self.lock()?;
        if self.read(key)?.as_deref() != before {
            return Ok(false);
        }
        if let Some((folder, name)) = self.find(key, true).context(writing)? {
            write_in(&folder, name, after).context(writing)?;
        }
        Ok(true)
    }

    /// Removes a record, if it is there.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self, key: &Key) -> Result<()> {
        let removing = || format!("removing {} from the board", key.0);
        let _lock = self.lock()?;
        let Some((folder, name)) = self.find(key, false).context(removing)? else { return Ok(()) };
        match unlinkat(&folder, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.context(removing),
        }
    }

    /// The folder of a record, and its name there. Symbolic links are not followed: the owner of the board must not lead a
    /// host to other files. `None`: the folder is not there.
    fn find<'k>(&self, key: &'k Key, make: bool) -> Result<Option<(File, &'k str)>> {
        let mut folder = File::open(&self.folder).context(|| format!("opening {}", self.folder.shown()))?;
        let mut names = key.0.split('/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Ok(Some((folder, name)));
            }
            let opening = || format!("opening the folder {name}");
            if make {
                match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => folder.sync_all().or_else(unsupported_is_fine).context(opening)?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(Error::errno(opening(), error)),
                }
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = match openat(&folder, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(None),
                opened => opened.context(opening)?.into(),
            };
        }
        Ok(None)
    }

    /// The tokens of all requests to join.
    ///
    /// # Errors
    /// `Io`.
    pub fn join_requests(&self) -> Result<Vec<TokenId>> {
        let listing = || "listing the join requests of the board".to_owned();
        let entries = match fs::read_dir(self.folder.join("join")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(listing)?,
        };
        let mut tokens = Vec::new();
        for entry in entries.take(MAX_LISTED) {
            let name = entry.context(listing)?.file_name();
            let token = HEXLOWER.decode(name.as_encoded_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
            tokens.extend(token.map(TokenId));
        }
        tokens.sort_by_key(|token| token.0);
        Ok(tokens)
    }

    fn lock(&self) -> Result<File> {
        let path = self.folder.join(".lock");
        let locking = || format!("locking the board by {}", path.shown());
        let mut options = File::options();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            // A fifo in its place is refused: opening it would wait for ever.
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
        let file = options.open(&path).context(locking)?;
        lock_within(LOCK_TIME, &file).context(locking)?;
        Ok(file)
    }
}

/// A writer holds the lock for as long as a small file takes. One that never releases it must not stop other hosts for ever.
fn lock_within(time: Duration, file: &File) -> Result<()> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(Error::io("asking for the lock", error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() < time => thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                let found = format!("another process has had it for {} s: which host is it?", time.as_secs());
                return Err(Error::new(Kind::Busy, found));
            }
        }
    }
}

fn read_in(folder: &File, name: &str) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(Error::new(Kind::Corrupt, "it is a symbolic link")),
        opened => opened.context(|| "opening it".into())?.into(),
    };
    if !file.metadata().context(|| "looking at it".into())?.is_file() {
        return Err(Error::new(Kind::Corrupt, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_LEN as u64 + 1).read_to_end(&mut bytes).context(|| "its content".into())?;
    match bytes.len() > MAX_DOCUMENT_LEN {
        true => Err(Error::new(Kind::Corrupt, format!("it is longer than {MAX_DOCUMENT_LEN} bytes"))),
        false => Ok(Some(bytes)),
    }
}

/// A full disk keeps no part: what was begun is removed.
fn write_in(folder: &File, name: &str, content: &[u8]) -> Result<()> {
    let mut random = [0; 8];
    random::fill(&mut random)?;
    let fresh = format!(".new-{}", HEXLOWER.encode(&random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let making = || format!("making {fresh}");
    let mut file: File = openat(folder, &fresh, flags, Mode::from_raw_mode(0o644)).context(making)?.into();
    let written = file.write_all(content).and_then(|()| file.sync_all()).context(making);
    let placed = written.and_then(|()| renameat(folder, &fresh, folder, name).context(|| format!("renaming {fresh}")));
    if placed.is_err() {
        let _ = unlinkat(folder, &fresh, AtFlags::empty()); // the error that matters is the first one
    }
    placed?;
    folder.sync_all().or_else(unsupported_is_fine).context(|| "making its name durable".into())
}

/// Some network file systems do not sync folders.
fn unsupported_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests;
