//! Leases on a folder: beside a record lies `.lease-NAME`, which its owner writes again to keep it alive.
//!
//! It has the lease's time as text. Its age is judged by the clock of the file system, which is that of the server on NFS: hosts
//! whose clocks differ agree on it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{FolderBoard, stat_in, unlink_in, write_in};
use crate::cluster::board::{Key, Lease};
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};

const PREFIX: &str = ".lease-";
/// How the names of files begin by which the file system is asked for its time.
pub(super) const PROBE: &str = ".now-";
/// For how long that is known.
const KNOWN: Duration = Duration::from_secs(1);
/// Longest text of a lease: milliseconds, as a number.
const MAX_TEXT: u64 = 20;

/// A lease of this process.
pub(super) struct FolderLease {
    board: FolderBoard,
    time: Duration,
    /// In the order in which they were first written, and are renewed.
    records: Vec<Key>,
    known: BTreeSet<Key>,
}

impl FolderLease {
    pub(super) fn new(board: FolderBoard, time: Duration) -> Self {
        Self { board, time, records: Vec::new(), known: BTreeSet::new() }
    }

    fn renew(&self, key: &Key) -> Result<()> {
        let renewing = || format!("keeping the lease of {key} alive");
        let Some((folder, name)) = self.board.find(key.as_str(), true).context(renewing)? else { return Ok(()) };
        write_in(&folder, &lease_of(name), self.time.as_millis().to_string().as_bytes()).context(renewing)
    }

    /// Whether these records are there, under leases that have not ended.
    fn live(&self, records: &[Key]) -> Result<bool> {
        for key in records {
            let lives = match self.board.find(key.as_str(), false)? {
                Some((folder, name)) => {
                    stat_in(&folder, name)?.is_some()
                        && stat_in(&folder, &lease_of(name))?.is_some()
                        && !has_ended(&folder, name, &self.board.clock)?
                }
                None => false,
            };
            if !lives {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Lease for FolderLease {
    fn write(&mut self, key: &Key, value: &[u8]) -> Result<()> {
        let _lock = self.board.lock()?;
        // The first one was renewed before all others, so it ends first. A look at each would be longer for each that is written.
        if !self.live(self.records.get(..1).unwrap_or_default())? {
            return Err(Error::new(Kind::NotFound, format!("the lease for {key} has ended")));
        }
        if let Some((folder, name)) = self.board.find(key.as_str(), true)? {
            let writing = || format!("writing {key} to the board");
            remove_ended(&folder, name, &self.board.clock).context(writing)?;
            self.renew(key)?; // before the record, so that no record is ever without its end
            write_in(&folder, name, value).context(writing)?;
        }
        if self.known.insert(key.clone()) {
            self.records.push(key.clone());
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<bool> {
        let _lock = self.board.lock()?;
        if !self.live(&self.records)? {
            return Ok(false);
        }
        self.records.iter().try_for_each(|key| self.renew(key))?;
        Ok(true)
    }

    fn end(self: Box<Self>) -> Result<()> {
        let _lock = self.board.lock()?;
        if self.live(&self.records)? {
            for key in &self.records {
                let Some((folder, name)) = self.board.find(key.as_str(), false)? else { continue };
                unlink_in(&folder, name)?;
                leave(&folder, name, &self.board.clock)?;
            }
        }
        Ok(())
    }
}

fn lease_of(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The record whose lease has this name, if it is that of one.
pub(super) fn record_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// The time by the file system's clock. Asking for it makes a file, so it is known for a moment.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(Instant, SystemTime)>>);

impl Clock {
    pub(super) fn now(&self, folder: &File) -> Result<SystemTime> {
        let mut known = self.0.lock();
        let (asked, time) = match known.filter(|(asked, _)| asked.elapsed() < KNOWN) {
            Some(known) => known,
            None => (Instant::now(), now_in(folder)?),
        };
        *known = Some((asked, time));
        Ok(time + asked.elapsed())
    }
}

/// Takes a record out of its lease, if it is under one. One that has ended is removed.
pub(super) fn leave(folder: &File, name: &str, clock: &Clock) -> Result<()> {
    remove_ended(folder, name, clock)?;
    unlink_in(folder, &lease_of(name))
}

/// So that what has ended does not come back under a new lease, or without one.
fn remove_ended(folder: &File, name: &str, clock: &Clock) -> Result<()> {
    if has_ended(folder, name, clock)? { unlink_in(folder, name) } else { Ok(()) }
}

/// Removes a record and its lease, if that has ended. The lease goes last, so that no record is ever without its end.
pub(super) fn remove_with_its_end(folder: &File, name: &str, clock: &Clock) -> Result<()> {
    if has_ended(folder, name, clock)? {
        unlink_in(folder, name)?;
        unlink_in(folder, &lease_of(name))?;
    }
    Ok(())
}

/// Whether a record was under a lease that has ended. What is not the text of a lease has ended.
pub(super) fn has_ended(folder: &File, name: &str, clock: &Clock) -> Result<bool> {
    let lease = lease_of(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match openat(folder, &lease, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::LOOP) => return Ok(true),
        opened => opened.context(|| format!("opening {lease}"))?.into(),
    };
    let renewed = changed(&file).context(|| format!("looking at {lease}"))?;
    let mut text = String::new();
    let read = file.take(MAX_TEXT).read_to_string(&mut text);
    let Some(time) = read.ok().and_then(|_| text.parse().ok()).map(Duration::from_millis) else { return Ok(true) };
    Ok(clock.now(folder)?.duration_since(renewed).is_ok_and(|age| age >= time))
}

fn changed(file: &File) -> Result<SystemTime> {
    file.metadata().and_then(|file| file.modified()).context(|| "asking the file system for a time".into())
}

/// The time by the file system's clock, or by that of this host where nothing can be written.
fn now_in(folder: &File) -> Result<SystemTime> {
    let mut random = [0; 8];
    random::fill(&mut random)?;
    let probe = format!("{PROBE}{}", HEXLOWER.encode(&random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(file) = openat(folder, &probe, flags, Mode::from_raw_mode(0o600)).map(File::from) else {
        return Ok(SystemTime::now());
    };
    let _ = unlinkat(folder, &probe, AtFlags::empty()); // one that stays is not a record
    changed(&file)
}
