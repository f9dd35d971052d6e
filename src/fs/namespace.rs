//! Operations on names: lookup, listing, making, linking, renaming and removing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{DEFAULT_DATA_OFFSET, HOME_FILE, is_reserved};
use crate::fs::attr::{self, Attr, FileKind};
use crate::fs::content::{ContentKind, FileNode};
use crate::fs::leaving::Leaving;
use crate::fs::node::{Birth, Node, NodeKind, NodeNumber, Place};
use crate::fs::stat::{SET_GID, Stat};
use crate::fs::{FileSystem, OpenMode, backing, raw};
use crate::serve::{BackingId, NameChange, change_names};
use crate::text::Show;
use crate::vm::home::Home;
use crate::vm::{acl, folder, home, manifest};

/// A file to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    /// Type and permission bits.
    pub mode: u32,
    /// Permission bits that it must not have, if the directory it is made in says nothing of them.
    pub umask: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The bits of a mode that ACLs have a say in.
const PERMISSIONS: u32 = 0o777;

impl NewFile {
    /// Follows the set-group-id bit of the directory it is made in, and applies the umask unless there is a default ACL
    /// instead. The backing file system could do neither: it sees our process make the file, which has no umask.
    pub(super) fn in_directory(self, dir: &File, is_directory: bool) -> Result<Self> {
        let parent = backing::stat(dir)?;
        let mut new = self;
        if parent.st_mode & SET_GID != 0 {
            new.gid = parent.st_gid;
            new.mode |= if is_directory { SET_GID } else { 0 };
        }
        if new.mode & new.umask & PERMISSIONS != 0 && !acl::is_inherited_in(dir)? {
            new.mode &= !(new.umask & PERMISSIONS);
        }
        Ok(new)
    }

    /// Sets the owner, then the mode once more, because giving a file away clears some bits of it, and returns the file's
    /// attributes. The permissions are those that it was made with: a default ACL may have taken some away. Looks first:
    /// mostly all is right already, and each change is one that the backing file system has to journal.
    pub(super) fn give_to_owner(&self, file: &File) -> Result<Stat> {
        let made = backing::stat(file)?;
        let mode = self.mode & 0o7777 & (made.st_mode | !PERMISSIONS);
        let is_owner = (made.st_uid, made.st_gid) == (self.uid, self.gid);
        if is_owner && made.st_mode & 0o7777 == mode {
            return Ok(made);
        }
        if !is_owner {
            backing::set_owner(file, Some(self.uid), Some(self.gid))?;
        }
        backing::set_mode(file, mode)?;
        backing::stat(file)
    }
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
        let node = self.nodes.get(parent)?;
        if node.is_virtual() {
            return self.lookup_virtual(&node, name);
        }
        let (parent, dir) = self.directory(parent)?;
        match self.find(&parent, &dir, name) {
            Ok((node, stat)) => self.attr_of(&node, &stat),
            Err(error) if error.kind() == Kind::NotFound => self.lookup_virtual(&parent, name),
            Err(error) => Err(error),
        }
    }

    /// Gives back `count` lookups.
    pub fn forget(&self, number: NodeNumber, count: u64) {
        self.nodes.forget(number, count);
    }

    /// Makes a directory in a VM folder; at the root of a datastore, an encrypted VM folder under the default provider.
    ///
    /// Making a VM folder waits for its provider.
    ///
    /// # Errors
    /// `Exists`, `KeyUnavailable` when the provider gives no key for a VM, or `Io`.
    pub fn make_dir(&self, parent: NodeNumber, name: &OsStr, new: NewFile) -> Result<Attr> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(&parent, &dir, name)?;
        let new = new.in_directory(&dir, true)?;
        if is_datastore(&parent) {
            let keyring = self.served.keyring();
            self.served.make_vm(name.into(), new.uid, || {
                let providers = keyring.providers();
                let (_, provider) = providers.default_provider()?;
                let (header, dek) = folder::create_at(&dir, name, new.mode, &provider, providers.disk_names())?;
                let stat = folder::open_at(&dir, name).and_then(|vm| backing::stat_at(&vm, HOME_FILE.as_ref())).ok();
                keyring.insert(header.uuid, stat.map(|stat| (stat.st_dev, stat.st_ino)), dek);
                Ok(((), header))
            })?;
        } else {
            self.allow_names(&parent)?;
            backing::make_dir(&dir, name, new.mode)?;
        }
        new.give_to_owner(&backing::any_at(&dir, name)?)?;
        self.settle_names(&[&dir])?;
        let (node, stat) = self.find(&parent, &dir, name)?;
        self.attr_of(&node, &stat)
    }

    /// Whether a directory that is made in this one is a VM folder, with a key of its own.
    pub fn holds_vm_folders(&self, number: NodeNumber) -> bool {
        self.nodes.get(number).is_ok_and(|node| is_datastore(&node))
    }

    /// Makes what the mode's type bits say: a fifo, a socket, a device, or an empty regular file.
    ///
    /// # Errors
    /// `Denied` outside of VM folders, `Exists`, or `Io`.
    pub fn make_node(&self, parent: NodeNumber, name: &OsStr, new: NewFile, device: u32) -> Result<Attr> {
        if matches!(FileType::from_raw_mode(new.mode), FileType::RegularFile) {
            let (attr, handle, _) = self.create(parent, name, new, OpenMode::ReadWrite)?;
            self.close(handle);
            return Ok(attr);
        }
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(&parent, &dir, name)?;
        self.nodes.vm_of(&parent)?;
        self.allow_names(&parent)?;
        let new = new.in_directory(&dir, false)?;
        backing::make_special(&dir, name, new.mode, attr::system_device(device))?;
        new.give_to_owner(&backing::any_at(&dir, name)?)?;
        self.settle_names(&[&dir])?;
        let (node, stat) = self.find(&parent, &dir, name)?;
        self.attr_of(&node, &stat)
    }

    /// Makes a symbolic link, whose target is sealed.
    ///
    /// # Errors
    /// `ENAMETOOLONG` for a target that is too long to be stored sealed, `KeyUnavailable` when the home is locked.
    pub fn make_symlink(&self, parent: NodeNumber, name: &OsStr, target: &Path, new: NewFile) -> Result<Attr> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(&parent, &dir, name)?;
        let home = self.home_of(&parent)?; // held until the link is there
        let sealed = home::seal_target(&home, target)?;
        let new = new.in_directory(&dir, false)?;
        backing::make_symlink(&dir, name, &sealed)?;
        backing::set_owner(&backing::any_at(&dir, name)?, Some(new.uid), Some(new.gid))?;
        self.settle_names(&[&dir])?;
        let (node, stat) = self.find(&parent, &dir, name)?;
        self.attr_of(&node, &stat)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `KeyUnavailable` when the home is locked, `Corrupt` for a link that was not made through a mount.
    pub fn read_symlink(&self, number: NodeNumber) -> Result<OsString> {
        let node = self.nodes.get(number)?;
        let stored = self.with_backing(&node, backing::read_symlink).context(|| self.name(number))?;
        home::open_target(&*self.home_of(&node)?, &stored).context(|| self.name(number))
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// `EXDEV` from one VM folder to another, `Exists`, or `Io`.
    pub fn link(&self, number: NodeNumber, parent: NodeNumber, name: &OsStr) -> Result<Attr> {
        let node = self.nodes.get(number)?;
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(&parent, &dir, name)?;
        raw::refuse_virtual(&node)?;
        self.refuse_other_vm(&node, &parent)?;
        self.allow_names(&parent)?;
        let (from_dir, from_name) = self.place_of(&node)?;
        let (from, to) = (self.path_in_vm(&node)?, self.path_in_vm(&parent)?.join(name));
        let home = self.home_with_list(&parent, &[backing::stat_at(&from_dir, &from_name)?])?;
        let link = || backing::link((&from_dir, &from_name), (&dir, name));
        change_names(home.as_ref(), NameChange::Linked(&from, &to), link)?;
        self.settle_names(&[&dir])?;
        let (node, stat) = self.find(&parent, &dir, name)?;
        self.attr_of(&node, &stat)
    }

    /// Removes a name of a file, or with `directory` an empty directory. A VM folder is empty when only its header is left,
    /// which goes with it. Open handles still work.
    ///
    /// # Errors
    /// `Denied` for what a mount never shows, `NotFound`, or `Io`.
    pub fn remove(&self, parent: NodeNumber, name: &OsStr, directory: bool) -> Result<()> {
        let (parent, dir) = self.directory(parent)?;
        refuse_reserved(&parent, &dir, name)?;
        self.allow_names(&parent)?;
        let leaving = Leaving::at(&dir, name)?;
        let remove = || {
            let until_known = self.name_changes.read();
            if !is_datastore(&parent) {
                backing::remove(&dir, name, if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
            } else if directory {
                folder::remove_empty(&dir, name)?;
            } else {
                return Err(Error::new(Kind::Denied, "a datastore contains only VM folders"));
            }
            self.open_dirs.forget(BackingId::of(&leaving.stat));
            self.nodes.removed(parent.number, name, leaving.left());
            drop(until_known);
            Ok(())
        };
        if is_datastore(&parent) {
            remove()?;
        } else {
            let (home, path) = (self.home_of(&parent).ok(), self.path_in_vm(&parent)?.join(name));
            change_names(home.as_ref(), NameChange::Removed(&path), remove)?;
        }
        self.settle_names(&[&dir])
    }

    /// Renames within one VM folder, or a VM folder within its datastore.
    ///
    /// # Errors
    /// `EXDEV` from one VM folder to another, `Denied` for what a mount never shows, `Exists`, or `Io`.
    pub fn rename(&self, from: (NodeNumber, &OsStr), to: (NodeNumber, &OsStr), mode: RenameMode) -> Result<()> {
        let (from_parent, from_dir) = self.directory(from.0)?;
        let (to_parent, to_dir) = self.directory(to.0)?;
        refuse_reserved(&from_parent, &from_dir, from.1)?;
        refuse_reserved(&to_parent, &to_dir, to.1)?;
        if !(is_datastore(&from_parent) && from_parent.number == to_parent.number) {
            self.refuse_other_vm(&from_parent, &to_parent)?;
        }
        self.allow_names(&from_parent)?;
        let moved = backing::stat_at(&from_dir, from.1)?;
        let replaced = Leaving::at(&to_dir, to.1).ok();
        let is_same_file = replaced.as_ref().is_some_and(|other| BackingId::of(&other.stat) == BackingId::of(&moved));
        let concerned: Vec<Stat> = std::iter::once(moved).chain(replaced.as_ref().map(|other| other.stat)).collect();
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::KeepExisting => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let rename = || {
            let until_known = self.name_changes.read();
            backing::rename((&from_dir, from.1), (&to_dir, to.1), flags)?;
            let (from, to) = ((from_parent.number, from.1), (to_parent.number, to.1));
            match replaced {
                // Renaming one hard link of a file to another does nothing at all.
                Some(other) if BackingId::of(&other.stat) == BackingId::of(&moved) => return Ok(false),
                Some(other) if mode == RenameMode::Exchange => self.nodes.exchanged(&moved, from, &other.stat, to),
                replaced => {
                    replaced.iter().for_each(|other| self.open_dirs.forget(BackingId::of(&other.stat)));
                    self.nodes.renamed(&moved, from, to, replaced.map(Leaving::left));
                }
            }
            drop(until_known);
            Ok(true)
        };
        let is_changed = if is_datastore(&from_parent) {
            rename()?
        } else {
            let home = self.home_with_list(&from_parent, &concerned)?;
            let from = self.path_in_vm(&from_parent)?.join(from.1);
            let to = self.path_in_vm(&to_parent)?.join(to.1);
            let change = if is_same_file {
                NameChange::Linked(&from, &to) // both names stay
            } else if mode == RenameMode::Exchange {
                NameChange::Exchanged(&from, &to)
            } else {
                NameChange::Renamed(&from, &to)
            };
            change_names(home.as_ref(), change, rename)?
        };
        if is_changed { self.settle_names(&[&to_dir, &from_dir]) } else { Ok(()) }
    }

    /// Returns once all changes of names in a directory are durable.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync_dir(&self, number: NodeNumber) -> Result<()> {
        if self.nodes.get(number)?.is_virtual() {
            return Ok(());
        }
        let (_, dir) = self.directory(number)?;
        self.sync_names(&dir)
    }

    /// Refuses changes of names in a VM folder whose home is older than what this host has seen of it. That is known of an unlocked
    /// one; names of a locked one may change, unless it has a manifest.
    pub(super) fn allow_names(&self, node: &Node) -> Result<()> {
        match self.home_of(node) {
            Ok(home) => home.allow_changes(),
            Err(error) if self.has_manifest(node) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Whether the VM folder of a node has a manifest. Only an unlocked home can say that it is about to change.
    fn has_manifest(&self, node: &Node) -> bool {
        let vm = self.nodes.vm_of(node).and_then(|vm| self.dir_of(&vm));
        vm.is_ok_and(|dir| manifest::is_there(&dir))
    }

    /// Where a node lies below its VM folder.
    pub(super) fn path_in_vm(&self, node: &Node) -> Result<PathBuf> {
        Ok(self.served.below_vm(&self.nodes.path(node)?))
    }

    /// Where a file lies below its VM folder, by all its names that are known; none of a file that has none any more.
    pub(super) fn paths_in_vm(&self, node: &Node) -> Result<Vec<PathBuf>> {
        let Ok(mut names) = self.nodes.names(node) else { return Ok(Vec::new()) };
        if names.len() > 1 {
            // The last ones may be names that it had.
            let links = self.with_backing(node, backing::stat)?.st_nlink;
            names.truncate(usize::try_from(links).unwrap_or(usize::MAX).max(1));
        }
        let path = |(parent, name): (NodeNumber, OsString)| Ok(self.path_in_vm(&*self.nodes.get(parent)?)?.join(name));
        names.into_iter().map(path).collect()
    }

    /// The home whose list of disks learns of a change of names. What is locked has none that could, and names of files that may be
    /// disks do not change then.
    fn home_with_list(&self, parent: &Node, moved: &[Stat]) -> Result<Option<Arc<Home>>> {
        let locked = match self.home_of(parent) {
            Ok(home) => return Ok(Some(home)),
            Err(error) => error,
        };
        let vm = self.nodes.vm_of(parent)?;
        let is_listed = folder::read_home(&*self.dir_of(&vm)?)
            .map_or(true, |home| home.is_some_and(|home| home.header.claims().lists_disks));
        let may_be_disk = |stat: &Stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile => u64::try_from(stat.st_size).is_ok_and(|len| len >= DEFAULT_DATA_OFFSET),
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => false,
        };
        if is_listed && moved.iter().any(may_be_disk) { Err(locked) } else { Ok(None) }
    }

    fn refuse_other_vm(&self, from: &Node, to: &Node) -> Result<()> {
        if self.nodes.vm_of(from)?.number == self.nodes.vm_of(to)?.number {
            return Ok(());
        }
        Err(Error::errno("a file cannot leave its VM folder, whose key it has", Errno::XDEV))
    }

    /// Looks at `name` in an open directory and makes its node known.
    pub(super) fn find(&self, parent: &Node, dir: &File, name: &OsStr) -> Result<(Arc<Node>, Stat)> {
        let absent = || Error::new(Kind::NotFound, format!("{} does not exist", name.shown()));
        if is_reserved(name) || (is_datastore(parent) && !holds_home(dir, name)) {
            return Err(absent());
        }
        let stat = backing::stat_at(dir, name)?;
        let mut birth = Birth::of(&stat);
        if birth.lacks_time() {
            birth = birth.in_full(dir, name);
        }
        if let Some(node) = self.nodes.found_known(parent.number, name, &stat, birth) {
            return Ok((node, stat));
        }
        let kind = match FileKind::of(FileType::from_raw_mode(stat.st_mode)).ok_or_else(absent)? {
            FileKind::Directory if is_datastore(parent) => NodeKind::Directory(Place::Vm),
            FileKind::Directory => NodeKind::Directory(Place::Inside),
            // What this process may not read is shown, but whatever it is, it will not open.
            FileKind::Regular => match self.open_to_look(dir, name, &stat) {
                Ok(file) => NodeKind::File(FileNode::new(ContentKind::of(file)?, &stat)),
                Err(_) => NodeKind::File(FileNode::new(ContentKind::Home, &stat)),
            },
            FileKind::Symlink => NodeKind::Symlink,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => NodeKind::Special,
        };
        Ok((self.nodes.found(parent.number, name, &stat, birth.in_full(dir, name), kind)?, stat))
    }

    /// Opens a file to see how it keeps its content, on which the length depends that the mount shows. One that is shorter than any disk
    /// is none, and not worth a change of its mode.
    fn open_to_look(&self, dir: &File, name: &OsStr, stat: &Stat) -> Result<File> {
        backing::file_at(dir, name, OFlags::RDONLY).or_else(|refused| {
            if u64::try_from(stat.st_size).is_ok_and(|len| len < DEFAULT_DATA_OFFSET) {
                return Err(refused);
            }
            let file = backing::any_at(dir, name)?;
            self.lend(&file, refused, || backing::reopen(&file, OFlags::RDONLY))
        })
    }
}

pub(super) fn is_datastore(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Directory(Place::Datastore))
}

/// A datastore shows only what is an encrypted VM folder; whether its header is whole is another question.
pub(super) fn holds_home(dir: &File, name: &OsStr) -> bool {
    backing::dir_at(dir, name).is_ok_and(|vm| backing::stat_at(&vm, OsStr::new(HOME_FILE)).is_ok())
}

/// Refuses names that nobody but vmcryptfs makes, renames or removes.
pub(super) fn refuse_reserved(parent: &Node, dir: &File, name: &OsStr) -> Result<()> {
    if is_reserved(name) {
        return Err(Error::new(Kind::Denied, format!("{} belongs to vmcryptfs", name.shown())));
    }
    raw::refuse_image_directory(parent, dir, name)
}
