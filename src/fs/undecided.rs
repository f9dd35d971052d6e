//! A file that was empty when it was opened: the first write to it says whether it is a disk or a home file.

use std::io;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::format::home_file::FileId;
use crate::fs::content::ContentKind;
use crate::fs::handle::{Content, Handle};
use crate::fs::node::{NodeKind, NodeNumber};
use crate::fs::{FileSystem, backing};
use crate::storage::{Access, FileStorage, Storage};
use crate::store::disk::Disk;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;
use crate::store::transfer::{Begun, Transfer};
use crate::vm::clear;
use crate::vm::disk;
use crate::vm::home;
use crate::vm::keyring::Change;

/// As many bytes as formats of disks are known by.
const HEAD_LEN: usize = 512;

/// An empty file, until something changes it; from then on what that made it.
pub(super) struct Undecided {
    node: NodeNumber,
    /// The user who has it open.
    user: Option<u32>,
    home: Box<HomeFile<FileStorage>>,
    decided: OnceLock<Decided>,
    /// Held by whoever decides, and by what touches the backing file before that.
    deciding: Mutex<()>,
}

enum Decided {
    Home,
    Disk(Box<Disk<FileStorage>>),
}

impl Undecided {
    /// Takes over a home file that is empty and has no header.
    pub(super) fn new(node: NodeNumber, user: Option<u32>, home: Box<HomeFile<FileStorage>>) -> Self {
        Self { node, user, home, decided: OnceLock::new(), deciding: Mutex::default() }
    }

    /// The disk that it became.
    pub(super) fn disk(&self) -> Option<&Disk<FileStorage>> {
        match self.decided.get()? {
            Decided::Disk(disk) => Some(disk),
            Decided::Home => None,
        }
    }

    /// The home file that it became.
    pub(super) fn home(&self) -> Option<&HomeFile<FileStorage>> {
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
        self.disk().map_or_else(|| self.home.storage(), Disk::storage)
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
    fn decide(&self, make: impl FnOnce() -> Result<Option<Disk<FileStorage>>>) -> Result<()> {
        let _deciding = self.deciding.lock();
        if self.is_decided() {
            return Ok(());
        }
        let decided = make()?.map_or(Decided::Home, |disk| Decided::Disk(Box::new(disk)));
        let _ = self.decided.set(decided); // nobody else decides meanwhile
        Ok(())
    }

    /// Does what leaves an empty file empty, while nobody decides.
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
        self.file().map_or(Ok(()), PlainFile::prepare_writes)
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

impl Content {
    /// An unlocked home file; an empty one may still become a disk.
    pub(super) fn of_home(home: HomeFile<FileStorage>, node: NodeNumber, user: Option<u32>) -> Self {
        let home = Box::new(home);
        let is_empty = home.id().is_none() && !home.has_lost_header();
        if is_empty { Self::Undecided(Box::new(Undecided::new(node, user, home))) } else { Self::Home(home) }
    }
}

impl FileSystem {
    /// Called before a write of `data` at `offset`: makes a disk of an empty file if a disk's format begins with them.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn heed_first_write(&self, handle: &Handle, offset: u64, data: &[u8]) -> Result<()> {
        let Handle::File(open) = handle else { return Ok(()) };
        let Content::Undecided(file) = &open.content else { return Ok(()) };
        if offset != 0 || file.is_decided() || clear::disk_in(&data[..data.len().min(HEAD_LEN)]).is_none() {
            return Ok(());
        }
        let _held = open.hold_header(); // a command may find the first copy before there is a second
        file.decide(|| self.disk_in_place(file)).context(|| self.name(file.node))
    }

    /// Makes a disk in an empty backing file; `None` where no disk can be made without asking a provider, or of a file that
    /// has no name any more.
    fn disk_in_place(&self, file: &Undecided) -> Result<Option<Disk<FileStorage>>> {
        let node = self.nodes.get(file.node)?;
        let NodeKind::File(remembered) = &node.kind else { return Ok(None) };
        let (Ok(path), Ok(home)) = (self.nodes.path(&node), self.home_of(&node)) else { return Ok(None) };
        let Ok((key_id, kek)) = self.keyring.kek(&home.header) else { return Ok(None) };
        let storage = file.home.storage();
        let (header, dek) = match disk::create_in_place(storage, &key_id, kek.as_ref()) {
            Err(error) if error.kind() == Kind::KeyUnavailable => return Ok(None), // it may not wrap
            made => made?,
        };
        self.keyring.insert(header.uuid, dek);
        // A twin of the descriptor has the same claim.
        let opened = storage.file().try_clone().context(|| "opening the new disk".into()).and_then(|twin| {
            disk::open(twin, Access::Write, &self.keyring, self.options.engine, self.options.backing_io)
        });
        let disk = match opened {
            Ok(disk) => disk,
            Err(error) => {
                storage.set_len(0).context(|| format!("emptying a file again after: {}", error.chain()))?;
                return Err(error);
            }
        };
        self.paths.write().insert(header.uuid, path);
        remembered.became(ContentKind::Disk { data_offset: DEFAULT_DATA_OFFSET }, &backing::stat(storage.file())?);
        self.keyring.tell(&Change::made(&header, file.user));
        Ok(Some(disk))
    }
}
