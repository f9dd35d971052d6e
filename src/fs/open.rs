//! Opening and making regular files.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, OFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::fs::content::{ContentKind, FileNode};
use crate::fs::handle::{Handle, HandleNumber};
use crate::fs::modes::Rights;
use crate::fs::namespace::{NewFile, refuse_reserved};
use crate::fs::node::{Birth, Node, NodeKind, NodeNumber};
use crate::fs::{Attr, Caller, Durability, FileSystem, backing};
use crate::sector::SectorSize;
use crate::serve::{BackingId, CacheMode, NameChange, OpenRequest, Opened, Place, Unopened, change_names};
use crate::storage::Access;
use crate::sys::file::{kind_of, read_unnoticed};
use crate::vm::disk::{self, NewDisk};
use crate::vm::home;
use crate::vm::home::Home;

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
        Ok((self.handles.insert(Handle::File(open, number)), cache))
    }

    /// Why a file's data goes through the page cache although the mount's should not.
    pub fn why_cached(&self, handle: HandleNumber) -> Option<String> {
        let handle = self.handles.get(handle).ok()?;
        let Handle::File(open, _) = handle.as_ref().as_ref() else { return None };
        open.storage().why_cached().map(Error::chain)
    }

    /// Closes a handle.
    pub fn close(&self, handle: HandleNumber) {
        if let Some(Handle::Image(open)) = self.handles.remove(handle).as_deref() {
            self.forget_files(open);
        }
    }

    /// Closes all handles of a mount that has ended: the kernel drops requests to close that it has not sent by then.
    pub fn close_all(&self) {
        self.handles.clear();
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
        let keyring = self.served.keyring();
        let home = self.home_of(&parent)?;
        home.allow_changes()?;
        let place = self.served.places().take(new.uid)?;
        let new = new.in_directory(&dir, false)?;
        let (file, content) = if home.header.disk_names.matches(name) {
            let (key_id, kek) = keyring.kek(&home.header)?;
            let spec = NewDisk {
                owner: Some(home.header.uuid),
                sector_size: SectorSize::DEFAULT,
                plain_len: 0,
                label: String::new(),
                mode: new.mode,
                durable: self.durability != Durability::OnRequest,
            };
            let (path, place) = (self.nodes.path(&parent)?.join(name), self.path_in_vm(&parent)?.join(name));
            let file = self.served.make_disk(path, new.uid, || {
                let (file, header, dek) = home.owner.with_new_disk(&place, |announce| {
                    disk::create(&dir, name, &spec, (&key_id, kek.as_ref()), announce)
                })?;
                keyring.insert(header.uuid, BackingId::of_file(&file).ok().map(BackingId::place), dek);
                Ok((file, header))
            })?;
            (file, ContentKind::NEW_DISK)
        } else {
            let place = self.path_in_vm(&parent)?.join(name);
            let make = || home::create(&dir, name, new.mode);
            let is_left = home.owner.list()?.is_some_and(|list| list.touches(&place));
            let made = if is_left && backing::stat_at(&dir, name).is_err() {
                change_names(Some(&home), NameChange::Made(&place), make)?
            } else {
                make()?
            };
            (made, ContentKind::Home)
        };
        read_unnoticed(&file);
        let stat = new.give_to_owner(&file)?;
        self.settle_names(&[&dir])?;
        let birth = Birth::of(&stat).in_full(&file, OsStr::new(""));
        let node =
            self.nodes.found(parent.number, name, &stat, birth, NodeKind::File(FileNode::new(content, &stat)))?;
        let request = OpenRequest {
            id: node.backing,
            access: Access::Write,
            home_cache: self.home_cache(mode),
            user: Some(new.uid),
        };
        let open = self.open_shared(&node, &request, Rights::Process, || Ok((file, true, home, Some(place))))?;
        let attr = self.attr_of(&node, &stat)?;
        let cache = open.cache;
        Ok((attr, self.handles.insert(Handle::File(open, node.number)), cache))
    }

    /// The kernel maps files that it does not cache, and shows in mappings what is written past the cache.
    pub fn allow_uncached_homes(&self) {
        self.uncached_homes.store(true, Ordering::Relaxed);
    }

    /// Which side caches a home file that is opened for this. What is only written gains nothing by being cached: the kernel
    /// copies it once more, and keeps others out in the meantime. Where other hosts may write it, nothing is cached.
    fn home_cache(&self, mode: OpenMode) -> CacheMode {
        match mode {
            _ if self.served.options().shared => CacheMode::Direct,
            OpenMode::Write if self.uncached_homes.load(Ordering::Relaxed) => CacheMode::Direct,
            OpenMode::Read | OpenMode::Write | OpenMode::ReadWrite => CacheMode::Kernel,
        }
    }

    /// The open file of a node: shared with handles, or opened now, for the time of one operation or for what nobody asked for.
    pub(super) fn open_node(&self, node: &Node, access: Access, rights: Rights) -> Result<Opened> {
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
    ) -> Result<Opened> {
        let request = OpenRequest { id: node.backing, access, home_cache, user };
        self.open_shared(node, &request, rights, || {
            let place = user.map(|user| self.served.places().take(user)).transpose()?;
            let home = self.home_of(node)?;
            if access == Access::Write {
                return Ok((self.open_backing(node, OFlags::RDWR, rights)?, true, home, place));
            }
            // A later handle may be for writing.
            let for_writing = || self.open_backing(node, OFlags::RDWR, Rights::Process);
            match if self.served.options().read_only { None } else { for_writing().ok() } {
                Some(file) => Ok((file, true, home, place)),
                None => Ok((self.open_backing(node, OFlags::RDONLY, rights)?, false, home, place)),
            }
        })
    }

    /// Refuses a fifo, a socket or a device that lies where the VM's list has a disk. Nothing is known of a VM that is locked.
    ///
    /// # Errors
    /// `Corrupt`, with what lies there and the disk.
    pub(super) fn in_place_of_disk(&self, node: &Node, kind: FileType) -> Result<()> {
        let Some(list) = self.home_of(node).ok().and_then(|home| home.owner.list().ok().flatten()) else {
            return Ok(());
        };
        self.paths_in_vm(node)?.iter().try_for_each(|path| list.refuse_special(path, kind_of(kind)))
    }

    /// As [`open_node`](Self::open_node); if the file is not open yet, `backing` gives the backing file, whether it may be written,
    /// its home and its place.
    fn open_shared(
        &self,
        node: &Node,
        request: &OpenRequest,
        rights: Rights,
        backing: impl FnOnce() -> Result<(File, bool, Arc<Home>, Option<Place>)>,
    ) -> Result<Opened> {
        let NodeKind::File(remembered) = &node.kind else {
            if matches!(node.kind, NodeKind::Special) {
                let kind = self.with_backing(node, backing::stat)?.st_mode;
                self.in_place_of_disk(node, FileType::from_raw_mode(kind)).context(|| self.name(node.number))?;
            }
            return Err(Error::new(Kind::Invalid, "not a regular file"));
        };
        let allowed = |file: &File, work: &dyn Fn() -> Result<()>| match rights {
            Rights::Caller => self.allowed(file, work),
            Rights::Process => work(),
        };
        let name = || self.name(node.number);
        let paths = || self.paths_in_vm(node);
        let open = self.served.open_file(request, (name, paths), allowed, || {
            let (file, may_write, home, place) = backing()?;
            let twin = || file.try_clone().context(|| "reading the file".into());
            remembered.look_again(&backing::stat(&file)?, twin);
            let is_disk = matches!(remembered.content(), ContentKind::Disk(_));
            Ok(Unopened { file, may_write, is_disk, home, place })
        })?;
        *remembered.open.lock() = Arc::downgrade(open.shared());
        Ok(open)
    }

    /// Called before a write of `data` at `offset`: an empty file becomes a disk if a disk's format begins with them.
    pub(super) fn heed_first_write(&self, handle: &Handle, offset: u64, data: &[u8]) -> Result<()> {
        let Handle::File(open, number) = handle else { return Ok(()) };
        let path = || self.nodes.get(*number).and_then(|node| self.nodes.path(&node)).ok();
        if self.served.prepare_first_write(open, offset, data, path).context(|| self.name(*number))?
            && let NodeKind::File(remembered) = &self.nodes.get(*number)?.kind
        {
            remembered.became(ContentKind::NEW_DISK, &backing::stat(open.storage().file())?);
        }
        Ok(())
    }
}

/// What a program opens a file for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenMode {
    /// Reading only.
    Read,
    /// Writing only.
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
