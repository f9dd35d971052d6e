//! A board that is a folder, on a file system that all hosts have mounted.
//!
//! A record is a file. It appears whole by a rename, and changes only from what its writer has seen, under a lock. Names that
//! begin with a dot are not records.

mod lease;
mod watch;

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

use super::{Board, Key, Lease, MAX_RECORD, MemberHealth, Watch};
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::provider::private_file::{folder_of, sync_folder};
use crate::text::Show;
use lease::{Clock, FolderLease};
use watch::{FolderWatch, MAX_RECORDS};

/// How long a writer waits for others, and how often it looks.
const LOCK_TIME: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// An unfinished file of this age was left by a dead writer: one that lives has had the lock for some seconds at most.
const LEFT: Duration = Duration::from_secs(600);
/// How the names of files begin that a writer has not finished.
const UNFINISHED: &str = ".new-";
/// Folders in each other, at most.
const MAX_DEPTH: usize = 8;

/// The board of one cluster.
#[derive(Clone, Debug)]
pub struct FolderBoard {
    folder: PathBuf,
    clock: Arc<Clock>,
}

/// Refuses a folder that is not there: a shared file system that is not mounted must not look like an empty board.
///
/// # Errors
/// `NotFound`.
pub fn check(path: &Path) -> Result<()> {
    match path.is_dir() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::NotFound,
            format!("the board's folder {} is not there: is its file system mounted?", path.shown()),
        )),
    }
}

impl FolderBoard {
    /// Makes the board of a new cluster in a folder that is there.
    ///
    /// # Errors
    /// Those of [`check`], `Exists`, `Io`.
    pub fn create(path: &Path, cluster: Uuid) -> Result<Self> {
        check(path)?;
        let folder = path.join(cluster.to_string());
        let making = || format!("making the folder {}", folder.shown());
        DirBuilder::new().mode(0o755).create(&folder).context(making)?;
        sync_folder(folder_of(&folder)).context(making)?;
        Ok(Self { folder, clock: Arc::default() })
    }

    /// The board of a cluster.
    ///
    /// # Errors
    /// Those of [`check`], `NotFound` when the cluster is not on it.
    pub fn open(path: &Path, cluster: Uuid) -> Result<Self> {
        check(path)?;
        let board = Self { folder: path.join(cluster.to_string()), clock: Arc::default() };
        match board.root() {
            Err(error) if error.os_error() == Some(Errno::NOENT.raw_os_error()) => Err(Error::new(
                Kind::NotFound,
                format!(
                    "the board folder:{} does not have cluster {cluster}: it is another one, or its content is gone. Where that is meant, an admin says so \
                     with `vmcryptfs cluster accept-board --admin-key FILE`",
                    path.shown()
                ),
            )),
            root => root.map(|_| board),
        }
    }

    /// The cluster's folder. It lies on the board, whose owner must not lead a host to another one.
    ///
    /// # Errors
    /// `Corrupt` for a symbolic link or a file in its place, `Io`.
    fn root(&self) -> Result<File> {
        let opening = || format!("opening {}", self.folder.shown());
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, &self.folder, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(Error::new(Kind::Corrupt, "it is a symbolic link or a file, expected a folder")).context(opening)
            }
            opened => Ok(opened.context(opening)?.into()),
        }
    }

    /// The folder of a record, and its name there. Symbolic links are not followed: the owner of the board must not lead a
    /// host to other files. `None`: the folder is not there.
    fn find<'k>(&self, path: &'k str, make: bool) -> Result<Option<(File, &'k str)>> {
        let mut folder = self.root()?;
        let mut names = path.split('/').peekable();
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
            folder = match open_folder_in(&folder, name).context(opening)? {
                Some(folder) => folder,
                None => return Ok(None),
            };
        }
        Ok(None)
    }

    /// What tells a record from what it was before, if it is there: much cheaper than reading it.
    ///
    /// # Errors
    /// `Io`.
    pub fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        let Some((folder, name)) = self.find(key.as_str(), false)? else { return Ok(None) };
        Ok(stat_in(&folder, name)?.as_ref().map(Stamp::of))
    }

    fn lock(&self) -> Result<File> {
        self.lock_for(LOCK_TIME)
    }

    fn lock_for(&self, time: Duration) -> Result<File> {
        let path = self.folder.join(".lock");
        let locking = || format!("locking the board by {}", path.shown());
        // A fifo in its place is refused: opening it would wait for ever.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let root = self.root().context(locking)?;
        let file: File = openat(&root, ".lock", flags, Mode::from_raw_mode(0o644)).context(locking)?.into();
        lock_within(time, &file).context(locking)?;
        Ok(file)
    }

    /// Writes a record, under the lock. One that was there ends, and its lease with it.
    fn place(&self, key: &Key, content: &[u8]) -> Result<()> {
        let writing = || format!("writing {key} to the board");
        if let Some((folder, name)) = self.find(key.as_str(), true).context(writing)? {
            lease::leave(&folder, name, &self.clock).context(writing)?;
            write_in(&folder, name, content).context(writing)?;
        }
        Ok(())
    }

    /// Removes records whose leases have ended, and files that dead writers have left: nobody else does where their owner has gone. Another
    /// writer is not waited for. Unfinished files are written under the lock, so one that is here has no living writer.
    fn sweep(&self, ended: &[Key], left: &[String]) -> Result<()> {
        if ended.is_empty() && left.is_empty() {
            return Ok(());
        }
        let _lock = self.lock_for(Duration::ZERO)?;
        for key in ended {
            if let Some((folder, name)) = self.find(key.as_str(), false)? {
                lease::remove_with_its_end(&folder, name, &self.clock)?;
            }
        }
        for path in left {
            if let Some((folder, name)) = self.find(path, false)?
                && self.is_left(&folder, name)?
            {
                unlink_in(&folder, name)?;
            }
        }
        Ok(())
    }

    /// Whether a file is one that its writer did not finish, a while ago: then it has died, or lost its lock.
    fn is_left(&self, folder: &File, name: &str) -> Result<bool> {
        if !name.starts_with(UNFINISHED) && !name.starts_with(lease::PROBE) {
            return Ok(false);
        }
        let Some(stat) = stat_in(folder, name)? else { return Ok(false) };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        Ok(is_file && self.clock.now(folder)?.duration_since(written).is_ok_and(|age| age >= LEFT))
    }

    /// All records below a folder, with what shows whether they have changed. It looks at `most` names at most.
    fn records(&self, under: &str, most: usize) -> Result<Vec<(Key, Stamp)>> {
        let listing = || format!("listing {under} of the board");
        let mut listed = Listing { board: self, most, found: Vec::new(), ended: Vec::new(), left: Vec::new() };
        let root = match under {
            "" => Some(self.root()?),
            _ => match self.find(under, false).context(listing)? {
                Some((folder, name)) => open_folder_in(&folder, name).context(listing)?,
                None => None,
            },
        };
        if let Some(root) = root {
            listed.walk(&root, under, MAX_DEPTH).context(listing)?;
        }
        // What cannot be removed now is no record all the same, and the next listing tries again.
        self.sweep(&listed.ended, &listed.left).ok();
        listed.found.sort();
        Ok(listed.found)
    }
}

/// When a file was made and changed: each write of a record makes another file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Stamp {
    inode: u64,
    changed: (i64, u64),
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self { inode: stat.st_ino, changed: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

struct Listing<'b> {
    board: &'b FolderBoard,
    /// How many more names are looked at.
    most: usize,
    found: Vec<(Key, Stamp)>,
    /// Records whose leases have ended, and some that have only a lease.
    ended: Vec<Key>,
    /// Files that dead writers have left.
    left: Vec<String>,
}

impl Listing<'_> {
    fn walk(&mut self, folder: &File, under: &str, depth: usize) -> Result<()> {
        let reading = || "reading a folder".to_owned();
        for entry in Dir::read_from(folder).context(reading)? {
            let entry = entry.context(reading)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            let Some(most) = self.most.checked_sub(1) else { break };
            self.most = most;
            let at = |name: &str| if under.is_empty() { name.to_owned() } else { format!("{under}/{name}") };
            if let Some(name) = lease::record_of(name) {
                if stat_in(folder, name)?.is_none() {
                    self.ended.extend(Key::parse(&at(name)));
                }
                continue;
            }
            let path = at(name);
            if self.board.is_left(folder, name)? {
                self.left.push(path);
                continue;
            }
            let Some(key) = Key::parse(&path) else { continue };
            let Some(stat) = stat_in(folder, name)? else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile if lease::has_ended(folder, name, &self.board.clock)? => self.ended.push(key),
                FileType::RegularFile => self.found.push((key, Stamp::of(&stat))),
                FileType::Directory if depth > 0 => {
                    if let Some(inner) = open_folder_in(folder, name).context(reading)? {
                        self.walk(&inner, &path, depth - 1)?;
                    }
                }
                FileType::Directory
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {}
            }
        }
        Ok(())
    }
}

impl Board for FolderBoard {
    fn read(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let reading = || format!("reading {key} of the board");
        match self.find(key.as_str(), false).context(reading)? {
            Some((folder, name)) if !lease::has_ended(&folder, name, &self.clock).context(reading)? => {
                read_in(&folder, name).context(reading)
            }
            _ => Ok(None),
        }
    }

    fn write_if_unchanged(&self, key: &Key, before: Option<&[u8]>, after: &[u8]) -> Result<bool> {
        let _lock = self.lock()?;
        if self.read(key)?.as_deref() != before {
            return Ok(false);
        }
        self.place(key, after)?;
        Ok(true)
    }

    fn remove(&self, key: &Key) -> Result<()> {
        let removing = || format!("removing {key} from the board");
        let _lock = self.lock()?;
        let Some((folder, name)) = self.find(key.as_str(), false).context(removing)? else { return Ok(()) };
        lease::leave(&folder, name, &self.clock).context(removing)?;
        unlink_in(&folder, name).context(removing)
    }

    fn list(&self, under: &str, most: usize) -> Result<Vec<Key>> {
        Ok(self.records(under, most)?.into_iter().map(|(key, _)| key).collect())
    }

    fn clean(&self) -> Result<()> {
        self.records("", MAX_RECORDS).map(drop)
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(Box::new(FolderWatch::begin(self.clone())?))
    }

    fn lease(&self, time: Duration) -> Result<Box<dyn Lease>> {
        Ok(Box::new(FolderLease::new(self.clone(), time)))
    }

    fn health(&self) -> Vec<MemberHealth> {
        let trouble = self.root().err().map(|error| error.chain());
        vec![MemberHealth { member: self.folder.shown().to_string(), version: String::new(), trouble }]
    }
}

fn open_folder_in(folder: &File, name: &str) -> Result<Option<File>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        opened => Ok(Some(opened.context(|| format!("opening the folder {name}"))?.into())),
    }
}

fn stat_in(folder: &File, name: &str) -> Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        stat => stat.map(Some).context(|| format!("looking at {name}")),
    }
}

fn unlink_in(folder: &File, name: &str) -> Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.context(|| format!("removing {name}")),
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
    file.take(MAX_RECORD as u64 + 1).read_to_end(&mut bytes).context(|| "its content".into())?;
    match bytes.len() > MAX_RECORD {
        true => Err(Error::new(Kind::Corrupt, format!("it is longer than {MAX_RECORD} bytes"))),
        false => Ok(Some(bytes)),
    }
}

/// A full disk keeps no part: what was begun is removed.
fn write_in(folder: &File, name: &str, content: &[u8]) -> Result<()> {
    let mut random = [0; 8];
    random::fill(&mut random)?;
    let fresh = format!("{UNFINISHED}{}", HEXLOWER.encode(&random));
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
