//! A file that was empty when it was opened: the first write to it says whether it is a disk or a home file.

use std::io;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::format::home_file::FileId;
use crate::storage::{FileStorage, Storage};
use crate::store::disk::Disk;
use crate::store::home_file::{HomeFile, stale};
use crate::store::plain_file::PlainFile;
use crate::store::transfer::{Begun, Transfer};
use crate::vm::home;

/// An empty file, until something changes it; from then on what that made it.
pub(super) struct Undecided {
    /// The user who has it open.
    pub(super) user: Option<u32>,
    pub(super) home: Box<HomeFile<FileStorage>>,
    decided: OnceLock<Decided>,
    /// Locked by the thread that decides, and by what touches the backing file before that.
    deciding: Mutex<()>,
}

enum Decided {
    Home,
    Disk(Box<dyn Disk<FileStorage>>),
}

impl Undecided {
    /// Takes over a home file that is empty and has no header.
    pub(super) fn new(user: Option<u32>, home: Box<HomeFile<FileStorage>>) -> Self {
        Self { user, home, decided: OnceLock::new(), deciding: Mutex::default() }
    }

    /// The disk that it became.
    pub(super) fn disk(&self) -> Option<&dyn Disk<FileStorage>> {
        match self.decided.get()? {
            Decided::Disk(disk) => Some(disk.as_ref()),
            Decided::Home => None,
        }
    }

    /// The home file that it became.
    pub(super) fn home_file(&self) -> Option<&HomeFile<FileStorage>> {
        matches!(self.decided.get()?, Decided::Home).then_some(self.home.as_ref())
    }

    /// The id of what it is; a home file if nothing else was decided.
    pub(super) fn ensure_id(&self) -> Result<FileId> {
        self.settled();
        self.disk().map_or_else(|| self.home.ensure_id(), |disk| Ok(home::disk_id(disk.uuid())))
    }

    pub(super) fn is_decided(&self) -> bool {
        self.decided.get().is_some()
    }

    /// The backing file, whatever it holds.
    pub(super) fn storage(&self) -> &FileStorage {
        self.disk().map_or_else(|| self.home.storage(), |disk| disk.storage())
    }

    fn file(&self) -> Option<&dyn PlainFile> {
        Some(match self.decided.get()? {
            Decided::Home => self.home.as_ref(),
            Decided::Disk(disk) => disk.as_ref(),
        })
    }

    /// What it is; a home file if nothing else was decided.
    fn settled(&self) -> &dyn PlainFile {
        self.file().unwrap_or_else(|| {
            let _deciding = self.deciding.lock();
            match self.decided.get_or_init(|| Decided::Home) {
                Decided::Home => self.home.as_ref(),
                Decided::Disk(disk) => disk.as_ref(),
            }
        })
    }

    /// Makes it the disk that `make` makes of it, or a home file.
    pub(super) fn decide(&self, make: impl FnOnce() -> Result<Option<Box<dyn Disk<FileStorage>>>>) -> Result<()> {
        let _deciding = self.deciding.lock();
        if self.is_decided() {
            return Ok(());
        }
        let decided = make()?.map_or(Decided::Home, Decided::Disk);
        let _ = self.decided.set(decided); // no other thread decides at the same time
        Ok(())
    }

    /// Does what leaves an empty file empty, while no thread decides.
    fn leaving_it_empty(&self, work: impl FnOnce(&dyn PlainFile) -> Result<()>) -> Result<()> {
        let _deciding = (!self.is_decided()).then(|| self.deciding.lock());
        work(self.file().unwrap_or(self.home.as_ref()))
    }
}

impl PlainFile for Undecided {
    fn plain_len(&self) -> u64 {
        self.file().map_or(0, PlainFile::plain_len)
    }

    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        self.file().map_or(Ok(&[]), |file| file.read_at(plain_offset, len, buffer))
    }

    fn write_in_place(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        self.settled().write_in_place(plain_offset, len, buffer)
    }

    fn begin_read(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        self.file().map_or(Ok(Begun::Done(0)), |file| file.begin_read(plain_offset, len, buffer))
    }

    /// To decide takes waiting.
    fn begin_write(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        self.file().map_or(Ok(Begun::MustWait), |file| file.begin_write(plain_offset, len, buffer))
    }

    fn end_transfer(&self, transfer: Transfer, moved: io::Result<usize>, buffer: &mut [u8]) -> Result<usize> {
        let file = self.file().ok_or_else(|| Error::new(Kind::Invalid, "nothing of this file was begun"))?;
        file.end_transfer(transfer, moved, buffer)
    }

    fn set_len(&self, plain_len: u64) -> Result<()> {
        match plain_len {
            0 => self.leaving_it_empty(|file| file.set_len(0)),
            _ => self.settled().set_len(plain_len),
        }
    }

    fn prepare_writes(&self) -> Result<()> {
        match self.file() {
            Some(file) => file.prepare_writes(),
            None if self.home.storage().len()? > 0 => Err(stale()), // written elsewhere
            None => Ok(()),
        }
    }

    fn punch(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.settled().punch(plain_offset, len, buffer)
    }

    fn zero(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.settled().zero(plain_offset, len, buffer)
    }

    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        self.settled().allocate(plain_offset, len, grow)
    }

    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.file().map_or(Ok(None), |file| file.seek_data(plain_offset))
    }

    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.file().map_or(Ok(None), |file| file.seek_hole(plain_offset))
    }

    fn sync(&self) -> Result<()> {
        self.leaving_it_empty(|file| file.sync())
    }
}
