//! Opening and making regular files.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::fs::content::{ContentKind, FileNode};
use crate::fs::handle::{Content, Handle, HandleNumber, OpenFile};
use crate::fs::modes::Rights;
use crate::fs::namespace::{NewFile, refuse_reserved};
use crate::fs::node::{Birth, Node, NodeKind, NodeNumber};
use crate::fs::places::Place;
use crate::fs::{Attr, Caller, Durability, FileSystem, Options, backing};
use crate::sector::SectorSize;
use crate::storage::Access;
use crate::sys::file::read_unnoticed;
use crate::vm::disk::{self, NewDisk};
use crate::vm::home;
use crate::vm::home::Home;
use crate::vm::keyring::Change;

impl FileSystem {
    /// Opens a file.
    ///
    /// # Errors
    /// `KeyUnavailable` when it is locked, `Busy` when another mount or host has it open, `Corrupt` for damage.
    pub fn open_file(&self, number: NodeNumber, mode: OpenMode, caller: &Caller) -> Result<(HandleNumber, CacheMode)> {
        let node = self.nodes.get(number)?;
        if let NodeKind::Image(image) = &node.kind {
            return Ok((self.open_image(&node, image, mode.access(), caller)?, CacheMode::Direct));
        }
        let open = self.open_node_for(&node, mode.access(), self.home_cache(mode), Some(caller.uid), Rights::Caller)?;
        let cache = open.cache;
        Ok((self.handles.insert(Handle::File(open)), cache))
    }

    /// Why a file's data go through the page cache although the mount's shall not.
    pub fn why_cached(&self, handle: HandleNumber) -> Option<String> {
        let handle = self.handles.get(handle).ok()?;
        let Handle::File(open) = handle.as_ref().as_ref() else { return None };
        open.content.storage().why_cached().map(Error::chain)
    }

    /// Closes a handle.
    pub fn close(&self, handle: HandleNumber) {
        if let Some(Handle::Image(open)) = self.handles.remove(handle).as_deref() {
            self.forget_files(open);
        }
    }

    /// Makes a regular file, a disk if its name says so, and opens it.
    ///
    /// # Errors
    /// `Denied` outside of VM folders, `Exists`, `KeyUnavailable` when the VM is locked, or `Io`.
    pub fn create(
        &self,
        parent: NodeNumber,
        name: &OsStr,
        new: NewFile,
        mode: OpenMode,
    ) -> Result<(Attr, HandleNumber, CacheMode)> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(&parent, &dir, name)?;
        let home = self.home_of(&parent)?;
        let place = self.places.take(new.uid)?;
        let new = new.in_directory(&dir, false)?;
        let (file, content) = if home.header.disk_names.matches(name) {
            let (key_id, kek) = self.keyring.kek(&home.header)?;
            let spec = NewDisk {
                sector_size: SectorSize::DEFAULT,
                plain_len: 0,
                label: String::new(),
                mode: new.mode,
                durable: self.options.durability != Durability::OnRequest,
            };
            let (file, header, dek) = disk::create(&dir, name, &spec, &key_id, kek.as_ref())?;
            self.keyring.insert(header.uuid, dek);
            self.paths.write().insert(header.uuid, self.nodes.path(&parent)?.join(name));
            self.keyring.tell(&Change::made(&header, new.uid));
            (file, ContentKind::Disk { data_offset: DEFAULT_DATA_OFFSET })
        } else {
            (home::create(&dir, name, new.mode)?, ContentKind::Home)
        };
        read_unnoticed(&file);
        let stat = new.give_to_owner(&file)?;
        self.settle_names(&[&dir])?;
        let birth = Birth::of(&stat).in_full(&file, OsStr::new(""));
        let node =
            self.nodes.found(parent.number, name, &stat, birth, NodeKind::File(FileNode::new(content, &stat)))?;
        let open = self.open_shared(&node, Access::Write, self.home_cache(mode), Some(new.uid), || {
            Ok((file, home, true, Some(place)))
        })?;
        let attr = self.attr_of(&node, &stat)?;
        let cache = open.cache;
        Ok((attr, self.handles.insert(Handle::File(open)), cache))
    }

    /// The kernel maps files that it does not cache, and shows in mappings what is written past the cache.
    pub fn allow_uncached_homes(&self) {
        self.uncached_homes.store(true, Ordering::Relaxed);
    }

    /// Who shall cache a home file that is opened for this. What is only written gains nothing by being cached: the kernel
    /// copies it once more, and keeps others out meanwhile.
    fn home_cache(&self, mode: OpenMode) -> CacheMode {
        match mode {
            OpenMode::Write if self.uncached_homes.load(Ordering::Relaxed) => CacheMode::Direct,
            OpenMode::Read | OpenMode::Write | OpenMode::ReadWrite => CacheMode::Kernel,
        }
    }

    /// The open file of a node: shared with handles, or opened now, for the time of one operation or for what nobody asked for.
    pub(super) fn open_node(&self, node: &Node, access: Access, rights: Rights) -> Result<Arc<OpenFile>> {
        self.open_node_for(node, access, CacheMode::Kernel, None, rights)
    }

    /// The same, for the user who has it open from now on.
    pub(super) fn open_node_for(
        &self,
        node: &Node,
        access: Access,
        home_cache: CacheMode,
        user: Option<u32>,
        rights: Rights,
    ) -> Result<Arc<OpenFile>> {
        self.widen_open(node, access, rights)?;
        self.open_shared(node, access, home_cache, user, || {
            let place = user.map(|user| self.places.take(user)).transpose()?;
            let home = self.home_of(node)?;
            if access == Access::Write {
                return Ok((self.open_backing(node, OFlags::RDWR, rights)?, home, true, place));
            }
            // A later handle may be for writing.
            let for_writing = || self.open_backing(node, OFlags::RDWR, Rights::Process);
            match if self.options.read_only { None } else { for_writing().ok() } {
                Some(file) => Ok((file, home, true, place)),
                None => Ok((self.open_backing(node, OFlags::RDONLY, rights)?, home, false, place)),
            }
        })
    }

    /// Opens the backing file for writing as well if it is open for a reader who came when it could only be read.
    fn widen_open(&self, node: &Node, access: Access, rights: Rights) -> Result<()> {
        let NodeKind::File(file) = &node.kind else { return Ok(()) };
        let shared = file.open.lock();
        let Some(open) = shared.upgrade().filter(|open| access == Access::Write && open.is_read_only()) else {
            return Ok(());
        };
        if self.options.read_only {
            return Ok(()); // which is refused as any other
        }
        let backing_file = open.content.storage().file();
        let widen = || open.widen(backing::reopen(backing_file, OFlags::RDWR)?);
        match rights {
            Rights::Caller => self.allowed(backing_file, widen),
            Rights::Process => widen(),
        }
    }

    /// As [`open_node`](Self::open_node); if the file is not open yet, `backing` gives the backing file, its home, whether it
    /// may be written, and its place, and a home file is cached as `home_cache` says.
    fn open_shared(
        &self,
        node: &Node,
        access: Access,
        home_cache: CacheMode,
        user: Option<u32>,
        backing: impl FnOnce() -> Result<(File, Arc<Home>, bool, Option<Place>)>,
    ) -> Result<Arc<OpenFile>> {
        let NodeKind::File(file) = &node.kind else {
            return Err(Error::new(Kind::Invalid, "not a regular file"));
        };
        let mut shared = file.open.lock();
        if let Some(open) = shared.upgrade() {
            open.admit(access)?;
            return Ok(open);
        }
        let (backing_file, home, may_write, place) = backing()?;
        file.look_again(&backing::stat(&backing_file)?, || {
            backing_file.try_clone().context(|| "reading the file".into())
        });
        let turn = self.turns.take(node.backing);
        let content = match file.content() {
            ContentKind::Disk { .. } => {
                let Options { engine, backing_io, .. } = self.options;
                disk::open(backing_file, access, &self.keyring, engine, backing_io).map(Content::Disk)
            }
            ContentKind::Home => {
                home::open(backing_file, access, &home.keys, &home.header.disk_names, || self.name(node.number))
                    .map(|home| Content::of_home(home, node.number, user))
            }
        };
        let content = content.context(|| self.name(node.number))?;
        let open = Arc::new(OpenFile::new(content, home_cache, access, may_write, home, place, turn));
        *shared = Arc::downgrade(&open);
        Ok(open)
    }
}

/// What a program opens a file for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenMode {
    /// Reading alone.
    Read,
    /// Writing alone.
    Write,
    /// Both.
    ReadWrite,
}

impl OpenMode {
    /// What flags of `open(2)` say.
    pub fn of_flags(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Self::Read,
            libc::O_WRONLY => Self::Write,
            _ => Self::ReadWrite,
        }
    }

    fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Write | Self::ReadWrite => Access::Write,
        }
    }
}

/// Who caches a file's content, for all handles that are open at once: what one writes past the kernel's cache, another must
/// not read from there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheMode {
    /// Only the page cache of the backing file: a disk's guest has a cache of its own.
    Direct,
    /// The kernel, as for any file: programs read small files again and again, and map them.
    Kernel,
}
