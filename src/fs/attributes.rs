//! Operations on attributes and extended attributes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::header::{COPY_LEN, ComponentKind};
use crate::format::home_file::{self, FileId};
use crate::fs::attr::{Attr, Changes, FileKind};
use crate::fs::caller::Caller;
use crate::fs::content::ContentKind;
use crate::fs::handle::{Handle, HandleNumber};
use crate::fs::modes::Rights;
use crate::fs::node::{Node, NodeKind, NodeNumber};
use crate::fs::stat::Stat;
use crate::fs::{FileSystem, backing, raw};
use crate::storage::Access;
use crate::text::Show;
use crate::vm::{acl, disk, home};

/// What `setxattr` does about an attribute that is, or is not, there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum XattrMode {
    /// Sets it in any case.
    Set,
    /// It must be new.
    Create,
    /// It must be there.
    Replace,
}

impl FileSystem {
    /// Attributes of a node.
    ///
    /// # Errors
    /// `Io`, with `ESTALE` for a node whose name is gone.
    pub fn attributes(&self, number: NodeNumber) -> Result<Attr> {
        let node = self.nodes.get(number)?;
        if node.is_virtual() {
            return self.virtual_attributes(&node);
        }
        let stat = self.stat_of(&node)?;
        self.attr_of(&node, &stat)
    }

    /// Changes attributes and returns all of them.
    ///
    /// # Errors
    /// `Denied`, `ReadOnly`, `KeyUnavailable` for the length of a locked file, or `Io`.
    pub fn change(&self, number: NodeNumber, changes: &Changes, caller: &Caller) -> Result<Attr> {
        let node = self.nodes.get(number)?;
        raw::refuse_virtual(&node)?;
        if let Some(size) = changes.size {
            let open = self.open_node(&node, Access::Write, Rights::Caller)?;
            if !caller.is_root() {
                caller.drop_privileges(open.storage().file())?;
            }
            match open.home_file() {
                Some(file) if size == 0 && !has_user_xattrs(file.storage().file())? => file.reset_to_empty()?,
                Some(_) | None => open.file().set_len(size)?,
            }
        }
        let stat = self.with_backing(&node, |file| {
            if changes.uid.is_some() || changes.gid.is_some() {
                if matches!(node.kind, NodeKind::File(_)) {
                    caller.drop_set_gid(file)?; // all other set-id bits go with the change of the backing file
                }
                backing::set_owner(file, changes.uid, changes.gid)?;
            }
            if let Some(mode) = changes.mode {
                backing::set_mode(file, mode)?;
            }
            if let Some(times) = changes.timestamps() {
                backing::set_times(file, &times)?;
            }
            backing::stat(file)
        })?;
        self.settle(&node)?;
        self.attr_of(&node, &stat)
    }

    /// Takes the set-user-id and set-group-id bits from an open file, because someone else than root changes it.
    ///
    /// # Errors
    /// `Io`.
    pub fn drop_privileges(&self, handle: HandleNumber, caller: &Caller) -> Result<()> {
        match &**self.handles.get(handle)? {
            Handle::File(open, _) => caller.drop_privileges(open.storage().file()),
            Handle::Image(open) => {
                open.image.extents().try_for_each(|extent| caller.drop_privileges(extent.storage().file()))
            }
            Handle::Directory(_) => Ok(()),
        }
    }

    /// Whether the backing file system knows ACLs, so that the kernel should ask for them.
    pub fn has_acls(&self) -> bool {
        self.has_acls
    }

    /// An extended attribute's value; those of the `user` namespace are opened.
    ///
    /// # Errors
    /// `ENODATA` when there is none, `KeyUnavailable` when the home is locked, `Corrupt` when it does not open.
    pub fn xattr(&self, number: NodeNumber, name: &OsStr) -> Result<Vec<u8>> {
        let node = self.nodes.get(number)?;
        self.refuse_unsupported(name)?;
        let read = |file: &File| backing::xattr(file, name);
        if node.is_virtual() {
            return if name == acl::ACCESS {
                self.with_original(&node, read)
            } else {
                Err(refusal(name, Errno::NODATA))
            };
        }
        if !is_user(name) {
            return self.with_backing(&node, read);
        }
        let stored = self.with_backing(&node, |file| self.allowed(file, || read(file)))?;
        let home = self.home_of(&node)?;
        home::open_xattr(&home, self.xattr_owner(&node)?, name, &stored)
    }

    /// Sets an extended attribute; values of the `user` namespace are sealed. An ACL takes the set-group-id bit from a file
    /// of a group that the `caller` is not in.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `KeyUnavailable` when the home is locked, or `Io`.
    pub fn set_xattr(
        &self,
        number: NodeNumber,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
        caller: &Caller,
    ) -> Result<()> {
        let node = self.nodes.get(number)?;
        raw::refuse_virtual(&node)?;
        self.refuse_unsupported(name)?;
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        let (home, sealed); // held until the value is stored
        let stored = if is_user(name) {
            home = self.home_of(&node)?;
            let owner = match &node.kind {
                NodeKind::File(_) => Some(self.open_node(&node, Access::Write, Rights::Caller)?.ensure_id()?),
                NodeKind::Directory(_)
                | NodeKind::Symlink
                | NodeKind::Special
                | NodeKind::ImageDirectory
                | NodeKind::Image(_) => None,
            };
            sealed = home::seal_xattr(&home, owner, name, value)?;
            &sealed
        } else {
            value
        };
        self.with_backing(&node, |file| {
            let set = || backing::set_xattr(file, name, stored, flags);
            if is_user(name) {
                self.allowed(file, set)?
            } else {
                set()?
            }
            if name == acl::ACCESS { caller.drop_set_gid(file) } else { Ok(()) }
        })?;
        self.settle(&node)
    }

    /// Names of the extended attributes that can be read, each ended by a zero byte.
    ///
    /// # Errors
    /// `Io`.
    pub fn xattr_names(&self, number: NodeNumber, caller: &Caller) -> Result<Vec<u8>> {
        let node = self.nodes.get(number)?;
        if node.is_virtual() {
            return Ok(Vec::new());
        }
        let names = self.with_backing(&node, backing::xattr_names)?;
        let shown = |name: &&[u8]| {
            let name = OsStr::from_bytes(name.strip_suffix(b"\0").unwrap_or(name));
            self.refuse_unsupported(name).is_ok() && (caller.is_root() || !name.as_bytes().starts_with(b"trusted."))
        };
        Ok(names.split_inclusive(|&byte| byte == 0).filter(shown).collect::<Vec<_>>().concat())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none, or `Io`.
    pub fn remove_xattr(&self, number: NodeNumber, name: &OsStr) -> Result<()> {
        let node = self.nodes.get(number)?;
        raw::refuse_virtual(&node)?;
        self.refuse_unsupported(name)?;
        if is_user(name) {
            self.allow_names(&node)?;
        }
        self.with_backing(&node, |file| {
            let remove = || backing::remove_xattr(file, name);
            if is_user(name) { self.allowed(file, remove) } else { remove() }
        })?;
        self.settle(&node)
    }

    /// Of the system's own attributes only ACLs exist, and those only where the kernel heeds them.
    fn refuse_unsupported(&self, name: &OsStr) -> Result<()> {
        let is_known = !name.as_bytes().starts_with(b"system.") || (self.has_acls && acl::is_acl(name));
        if is_known { Ok(()) } else { Err(refusal(name, Errno::OPNOTSUPP)) }
    }

    /// What an extended attribute's value is bound to, beside its name.
    fn xattr_owner(&self, node: &Node) -> Result<Option<FileId>> {
        let NodeKind::File(file) = &node.kind else { return Ok(None) };
        if let Some(open) = node.open_file() {
            return open.id();
        }
        let stored = self.open_backing(node, OFlags::RDONLY, Rights::Caller)?;
        match file.content() {
            ContentKind::Disk(_) => {
                let (_, header) = disk::read_header(stored)?;
                Ok(Some(home::disk_id(header.header.claims().uuid)))
            }
            ContentKind::Home => home::file_id(&stored),
        }
    }

    /// Attributes of the plain side from those of the cipher side. What other hosts may change is not kept.
    pub(super) fn attr_of(&self, node: &Node, stat: &Stat) -> Result<Attr> {
        let mut attr = self.attr_here(node, stat)?;
        attr.lasting &= !self.served.options().shared;
        Ok(attr)
    }

    fn attr_here(&self, node: &Node, stat: &Stat) -> Result<Attr> {
        let cipher_size = u64::try_from(stat.st_size).unwrap_or(0);
        let cipher_blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let kind = FileKind::of(rustix::fs::FileType::from_raw_mode(stat.st_mode))
            .ok_or_else(|| Error::new(Kind::Unsupported, "a file of unknown type"))?;
        let NodeKind::File(file) = &node.kind else {
            if matches!(node.kind, NodeKind::Special)
                && self.in_place_of_disk(node, rustix::fs::FileType::from_raw_mode(stat.st_mode)).is_err()
            {
                // A program that opens a fifo waits. Only of a regular file the kernel asks whether it may be opened.
                let attr = Attr::new(node.id(), FileKind::Regular, stat, 0, 0);
                return Ok(Attr { lasting: false, ..attr });
            }
            let size = if kind == FileKind::Symlink { home::target_len(cipher_size) } else { cipher_size };
            return Ok(Attr::new(node.id(), kind, stat, size, cipher_blocks));
        };
        let open_len = node.open_file().map(|open| open.plain_len());
        if open_len.is_none() {
            file.look_again(stat, || self.open_backing(node, OFlags::RDONLY, Rights::Process));
        }
        let (size, blocks) = match file.content() {
            ContentKind::Disk(shape) => {
                // The header's two copies are no data; a file system that packs them tighter only makes this too small.
                let header_blocks = (ComponentKind::Disk.copy_offsets().len() * COPY_LEN / 512) as u64;
                (open_len.unwrap_or_else(|| shape.plain_len(cipher_size)), cipher_blocks.saturating_sub(header_blocks))
            }
            ContentKind::Home => (open_len.unwrap_or_else(|| home_file::plain_len(cipher_size)), cipher_blocks),
        };
        let mut attr = Attr::new(node.id(), kind, stat, size, blocks);
        attr.lasting &= file.content() == ContentKind::Home; // another mount may write a disk, and change its length
        Ok(attr)
    }
}

/// Whether there are values that are bound to the file's id.
fn has_user_xattrs(file: &File) -> Result<bool> {
    let names = backing::xattr_names(file)?;
    Ok(names.split(|&byte| byte == 0).any(|name| is_user(OsStr::from_bytes(name))))
}

fn is_user(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"user.")
}

fn refusal(name: &OsStr, number: Errno) -> Error {
    Error::errno(format!("extended attribute {}", name.shown()), number)
}
