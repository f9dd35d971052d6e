//! Operations on names and attributes: lookup, listing, making, renaming and removing.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, RenameFlags, Stat};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{COPY_LEN, ComponentKind, DEFAULT_DATA_OFFSET, Shape};
use crate::fs::FileSystem;
use crate::fs::attr::{self, Attr, Changes, FileKind};
use crate::fs::backing;
use crate::fs::handle::{DirEntry, Handle, HandleNumber, OpenDisk};
use crate::fs::node::{BackingId, DiskNode, Node, NodeKind, NodeNumber, Place};
use crate::sector::{self, SectorSize};
use crate::storage::Access;
use crate::store::plain_file::PlainFile;
use crate::vm::disk::{self, NewDisk};
use crate::vm::keyring;
use crate::vm::{folder, scan};

/// A file to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What `rename` does with a name that is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RenameMode {
    /// The old file goes.
    Replace,
    /// The rename fails.
    KeepExisting,
    /// Both files swap names.
    Exchange,
}

impl FileSystem {
    /// Finds `name` in a directory. The kernel owes one [`forget`](Self::forget) for each success.
    ///
    /// # Errors
    /// `NotFound`, also for names that a mount never shows.
    pub fn lookup(&self, parent: NodeNumber, name: &OsStr) -> Result<Attr> {
        let (parent, dir) = self.directory(parent)?;
        let (node, stat) = self.find(&parent, &dir, name)?;
        self.attr_of(&node, &stat)
    }

    /// Gives back `count` lookups.
    pub fn forget(&self, number: NodeNumber, count: u64) {
        self.nodes.forget(number, count);
    }

    /// Attributes of a node, through a handle when the kernel has one.
    ///
    /// # Errors
    /// `Io`, with `ESTALE` for a node whose name is gone.
    pub fn attributes(&self, number: NodeNumber) -> Result<Attr> {
        let node = self.nodes.get(number)?;
        let stat = match open_disk(&node) {
            Some(open) => backing::stat(open.disk.storage().file())?,
            None => backing::stat(&self.backing.any(&self.nodes.path(&node)?)?)?,
        };
        self.attr_of(&node, &stat)
    }

    /// Changes attributes and returns all of them.
    ///
    /// # Errors
    /// `Denied`, `ReadOnly`, `KeyUnavailable` for the length of a locked disk, or `Io`.
    pub fn change(&self, number: NodeNumber, changes: &Changes) -> Result<Attr> {
        let node = self.nodes.get(number)?;
        if let Some(size) = changes.size {
            Self::set_size(&*self.open_disk(&node, Access::Write)?, size)?;
        }
        let open = open_disk(&node);
        let named;
        let file = match &open {
            Some(open) => open.disk.storage().file(),
            None => {
                named = self.backing.any(&self.nodes.path(&node)?)?;
                &named
            }
        };
        if changes.uid.is_some() || changes.gid.is_some() {
            backing::set_owner(file, changes.uid, changes.gid)?;
        }
        if let Some(mode) = changes.mode {
            backing::set_mode(file, mode)?;
        }
        if let Some(times) = changes.timestamps() {
            backing::set_times(file, &times)?;
        }
        self.attr_of(&node, &backing::stat(file)?)
    }

    /// Opens a directory's listing.
    ///
    /// # Errors
    /// `Io`.
    pub fn open_dir(&self, number: NodeNumber) -> Result<HandleNumber> {
        let (node, dir) = self.directory(number)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|error| Error::io("reading the folder", error.into()))? {
            let entry = entry.map_err(|error| Error::io("reading the folder", error.into()))?;
            let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || scan::is_reserved(name) {
                continue;
            }
            let Some(kind) = attr::shown_kind(entry.file_type()) else { continue };
            if is_datastore(&node) && !(kind == FileKind::Directory && holds_home(&dir, name)) {
                continue;
            }
            entries.push(DirEntry { name: name.to_os_string(), kind, number: entry.ino() });
        }
        Ok(self.handles.insert(Handle::Directory(entries)))
    }

    /// Passes the listing's entries from the `from`-th on to `each`, until it says stop.
    ///
    /// # Errors
    /// `Io` for a handle that is no directory.
    pub fn list(
        &self,
        handle: HandleNumber,
        from: usize,
        mut each: impl FnMut(usize, &DirEntry) -> bool,
    ) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::Directory(entries) => {
                entries.iter().enumerate().skip(from).take_while(|(index, entry)| each(*index, entry)).for_each(drop);
                Ok(())
            }
            Handle::Disk(_) => Err(Error::io("no directory", std::io::Error::from_raw_os_error(libc::ENOTDIR))),
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `KeyUnavailable` when it is locked, `Busy` when another mount or host has it open, `Denied` for what is no disk.
    pub fn open_file(&self, number: NodeNumber, access: Access) -> Result<HandleNumber> {
        let node = self.nodes.get(number)?;
        let open = self.open_disk(&node, access)?;
        Ok(self.handles.insert(Handle::Disk(open)))
    }

    /// Closes a handle.
    pub fn close(&self, handle: HandleNumber) {
        self.handles.remove(handle);
    }

    /// Makes a disk and opens it.
    ///
    /// # Errors
    /// `Denied` when the name is none of a disk, `Exists`, `KeyUnavailable` when the VM is locked, or `Io`.
    pub fn create(&self, parent: NodeNumber, name: &OsStr, new: NewFile) -> Result<(Attr, HandleNumber)> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(name)?;
        let vm = self.nodes.vm_of(&parent)?;
        let vm_path = self.nodes.path(&vm)?;
        let home = folder::read_home(&self.backing.dir(&vm_path)?)?
            .ok_or_else(|| Error::new(Kind::NotFound, "the VM folder's home header is gone"))?;
        let home_dek = self.keyring.dek(&home.header).context(|| format!("home of {}", vm_path.display()))?;
        let home = home.header.verify(&home_dek)?;
        if !name.to_str().is_some_and(|name| home.disk_names.matches(name)) {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "{} is no name of a disk (such as *.raw or *.qcow2), and home files cannot be made yet",
                    name.display()
                ),
            ));
        }
        let (key_id, kek) = keyring::first_kek(&home, self.keyring.providers())?;
        let spec = NewDisk {
            sector_size: SectorSize::DEFAULT,
            plain_len: 0,
            label: String::new(),
            mode: new.mode,
            durable: false,
        };
        let (file, header, dek) = disk::create(&dir, name, &spec, &key_id, kek.as_ref())?;
        backing::set_owner(&file, Some(new.uid), Some(new.gid))?;
        self.keyring.insert(header.uuid, dek);
        drop(file);
        let (node, stat) = self.find(&parent, &dir, name)?;
        let open = self.open_disk(&node, Access::Write)?;
        Ok((self.attr_of(&node, &stat)?, self.handles.insert(Handle::Disk(open))))
    }

    /// Makes a directory in a VM folder.
    ///
    /// # Errors
    /// `Denied` at the root of a datastore, `Exists`, or `Io`.
    pub fn make_dir(&self, parent: NodeNumber, name: &OsStr, new: NewFile) -> Result<Attr> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(name)?;
        self.nodes.vm_of(&parent)?;
        backing::make_dir(&dir, name, new.mode)?;
        let made = folder::open_at(&dir, name)?;
        backing::set_owner(&made, Some(new.uid), Some(new.gid))?;
        let (node, stat) = self.find(&parent, &dir, name)?;
        self.attr_of(&node, &stat)
    }

    /// Removes a file, or an empty directory with `directory`. Open handles on it still work.
    ///
    /// # Errors
    /// `Denied` for what a mount never shows and for VM folders, `NotFound`, or `Io`.
    pub fn remove(&self, parent: NodeNumber, name: &OsStr, directory: bool) -> Result<()> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(name)?;
        self.nodes.vm_of(&parent)?;
        let stat = backing::stat_at(&dir, name)?;
        backing::remove(&dir, name, if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
        self.nodes.removed(parent.number, name, BackingId::of(&stat));
        Ok(())
    }

    /// Renames within one VM folder.
    ///
    /// # Errors
    /// `EXDEV` from one VM folder to another, `Denied` for what a mount never shows, `Exists`, or `Io`.
    pub fn rename(&self, from: (NodeNumber, &OsStr), to: (NodeNumber, &OsStr), mode: RenameMode) -> Result<()> {
        let (from_parent, from_dir) = self.directory(from.0)?;
        let (to_parent, to_dir) = self.directory(to.0)?;
        refuse_reserved(from.1)?;
        refuse_reserved(to.1)?;
        if self.nodes.vm_of(&from_parent)?.number != self.nodes.vm_of(&to_parent)?.number {
            return Err(Error::io(
                "a file stays in its VM folder, whose keys it has",
                std::io::Error::from_raw_os_error(libc::EXDEV),
            ));
        }
        let moved = backing::stat_at(&from_dir, from.1)?;
        let replaced = backing::stat_at(&to_dir, to.1).ok();
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::KeepExisting => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        backing::rename((&from_dir, from.1), (&to_dir, to.1), flags)?;
        match (replaced, mode) {
            (Some(other), RenameMode::Exchange) => {
                self.nodes.renamed(BackingId::of(&other), from_parent.number, from.1)
            }
            (Some(other), _) if BackingId::of(&other) != BackingId::of(&moved) => {
                self.nodes.removed(to_parent.number, to.1, BackingId::of(&other));
            }
            _ => {}
        }
        self.nodes.renamed(BackingId::of(&moved), to_parent.number, to.1);
        Ok(())
    }

    /// Returns once all changes of names in a directory are durable.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync_dir(&self, number: NodeNumber) -> Result<()> {
        let (_, dir) = self.directory(number)?;
        rustix::fs::fsync(dir).map_err(|error| Error::io("syncing the folder", error.into()))
    }

    fn directory(&self, number: NodeNumber) -> Result<(Arc<Node>, File)> {
        let node = self.nodes.get(number)?;
        let dir = self.backing.dir(&self.nodes.path(&node)?)?;
        Ok((node, dir))
    }

    /// Looks at `name` in an open directory and makes its node known.
    fn find(&self, parent: &Node, dir: &File, name: &OsStr) -> Result<(Arc<Node>, Stat)> {
        let absent = || Error::new(Kind::NotFound, format!("{} does not exist", name.display()));
        if scan::is_reserved(name) || (is_datastore(parent) && !holds_home(dir, name)) {
            return Err(absent());
        }
        let stat = backing::stat_at(dir, name)?;
        let kind = attr::shown_kind(FileType::from_raw_mode(stat.st_mode)).ok_or_else(absent)?;
        if self.nodes.known(BackingId::of(&stat)).is_some() {
            return Ok((self.nodes.found(parent.number, name, &stat, || NodeKind::Other), stat));
        }
        let kind = match kind {
            FileKind::Directory if is_datastore(parent) => NodeKind::Directory(Place::Vm),
            FileKind::Directory => NodeKind::Directory(Place::Inside),
            FileKind::Regular => self.regular_kind(&self.nodes.path(parent)?.join(name))?,
        };
        Ok((self.nodes.found(parent.number, name, &stat, || kind), stat))
    }

    fn regular_kind(&self, path: &Path) -> Result<NodeKind> {
        // What this process may not read is shown, but whatever it is, it will not open.
        let Ok(file) = self.backing.file(path, OFlags::RDONLY) else { return Ok(NodeKind::Other) };
        if !disk::is_disk(&file)? {
            return Ok(NodeKind::Other);
        }
        let data_offset = match disk::read_header(file).map(|(_, stored)| stored.header.claims().shape) {
            Ok(Shape::Disk { data_offset, .. }) => data_offset,
            Ok(Shape::Home) | Err(_) => DEFAULT_DATA_OFFSET,
        };
        Ok(NodeKind::Disk(DiskNode { data_offset, open: Mutex::new(Weak::new()) }))
    }

    fn attr_of(&self, node: &Node, stat: &Stat) -> Result<Attr> {
        let cipher_size = u64::try_from(stat.st_size).unwrap_or(0);
        let cipher_blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let (kind, size, blocks) = match &node.kind {
            NodeKind::Directory(_) => (FileKind::Directory, cipher_size, cipher_blocks),
            NodeKind::Other => (FileKind::Regular, cipher_size, cipher_blocks),
            NodeKind::Disk(disk) => {
                let size = match open_disk(node) {
                    Some(open) => open.disk.plain_len(),
                    None => sector::plain_len(cipher_size.saturating_sub(disk.data_offset)),
                };
                // The header's two copies are no data; a file system that packs them tighter only makes this too small.
                let header_blocks = (ComponentKind::Disk.copy_offsets().len() * COPY_LEN / 512) as u64;
                (FileKind::Regular, size, cipher_blocks.saturating_sub(header_blocks))
            }
        };
        Ok(Attr::new(node.number, kind, stat, size, blocks))
    }

    fn open_disk(&self, node: &Node, access: Access) -> Result<Arc<OpenDisk>> {
        let NodeKind::Disk(disk) = &node.kind else {
            return Err(Error::new(Kind::Denied, "not an encrypted disk, and home files cannot be opened yet"));
        };
        let mut shared = disk.open.lock();
        if let Some(open) = shared.upgrade() {
            open.admit(access)?;
            return Ok(open);
        }
        let path = self.nodes.path(node)?;
        let describe = || path.display().to_string();
        let for_writing = if self.options.read_only { None } else { self.backing.file(&path, OFlags::RDWR).ok() };
        let may_write = for_writing.is_some();
        let file = match for_writing {
            Some(file) => file,
            None if access == Access::Read => self.backing.file(&path, OFlags::RDONLY)?,
            None => self.backing.file(&path, OFlags::RDWR)?,
        };
        let opened = disk::open(file, access, &self.keyring, self.options.engine).context(describe)?;
        let open = Arc::new(OpenDisk::new(opened, access, may_write));
        *shared = Arc::downgrade(&open);
        Ok(open)
    }
}

fn open_disk(node: &Node) -> Option<Arc<OpenDisk>> {
    match &node.kind {
        NodeKind::Disk(disk) => disk.open.lock().upgrade(),
        NodeKind::Directory(_) | NodeKind::Other => None,
    }
}

fn is_datastore(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Directory(Place::Datastore))
}

/// A datastore shows only what is an encrypted VM folder; whether its header is whole is another question.
fn holds_home(dir: &File, name: &OsStr) -> bool {
    folder::open_at(dir, name)
        .is_ok_and(|vm| backing::stat_at(&vm, OsStr::new(crate::format::header::HOME_FILE)).is_ok())
}

fn refuse_reserved(name: &OsStr) -> Result<()> {
    if scan::is_reserved(name) {
        return Err(Error::new(Kind::Denied, format!("{} belongs to vmcryptfs", name.display())));
    }
    Ok(())
}
