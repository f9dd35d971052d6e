//! What lies below a folder: every name at any depth, and what it is, as far as that is known without a key.
//!
//! Nothing is passed over: what cannot be read is an entry with its reason. So a verb that says that something is not there, or that
//! all is encrypted, looks here.

mod file;
pub mod misplaced;
mod walk;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::erasure::Erasure;
use crate::format::header::{ComponentKind, Header, NEW_PREFIX, UnverifiedHeader};
use crate::format::home_file;
use crate::format::names::DiskNames;
use crate::format::saved_header::SavedHeader;
use crate::key::KeyId;
use crate::progress::{GoOn, to_the_end};
use crate::store::header_area::{RESTORE_HOME, StoredHeader};
use crate::text::Show;
use crate::vm::clear::ClearKind;
use crate::vm::home_state::HomeState;
use crate::vm::under_way::UnderWay;

/// Folders deeper than this below the first one are entries that could not be read.
pub const MAX_DEPTH: usize = 128;

/// All that lies below a folder, in the order of names, each folder before what it holds. The first entry is the folder itself.
#[derive(Debug)]
pub struct Inventory {
    /// At least one.
    pub entries: Vec<Entry>,
}

/// A name below a folder.
#[derive(Debug)]
pub struct Entry {
    /// Below the folder; its own is empty.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
    /// Whether the name, or that of a folder above, belongs to vmcryptfs: a draft, or a header that is not yet a home's.
    pub reserved: bool,
    /// The nearest folder, itself included, that has a home header, in whatever state.
    pub vm: Option<Arc<Path>>,
    /// Whether it lies in or below a folder that lost its home header: what is encrypted there is a VM's, and so is this.
    pub headless: bool,
    /// Its attributes; none are known of what could not be looked at, or is a mount of vmcryptfs.
    pub stat: Option<Stat>,
}

/// What something is.
#[derive(Debug)]
pub enum What {
    /// A directory.
    Folder(FolderKind),
    /// The header of a home: by its name, or a copy under another one.
    Home(Headers),
    /// A sector store.
    Disk(Headers),
    /// A component that was erased.
    Erased(Erasure),
    /// A header in a file of its own; none is known of one that is damaged.
    SavedHeader(Result<SavedHeader>),
    /// A sealed file of some home.
    Sealed,
    /// A file in the clear: neither sealed nor a sector store, and not empty.
    Clear(ClearKind),
    /// A file without any content, and what it is by its name.
    Empty(ClearKind),
    /// A symbolic link.
    Link(Link),
    /// A fifo, a socket or a device, for people. It is not opened: what a device holds lies elsewhere.
    Special(&'static str),
    /// A mount of vmcryptfs; what it shows lies elsewhere, and it is not asked.
    Mount,
    /// What it is is unknown.
    Unreadable(Error),
}

/// What a folder is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FolderKind {
    /// A VM folder with a header in this state; never clear.
    Vm(HomeState),
    /// It has several headers of homes at once, of which these are two: no verb works on it.
    SeveralHeaders(HomeState, HomeState),
    /// A VM folder whose home was erased.
    Erased,
    /// Part of a VM folder.
    Part,
    /// It holds sealed files or disks, but neither it nor a folder above has a home header: that is lost, or they were moved here.
    Headless,
    /// A VM folder in the clear: it holds a disk image or a VM's settings, and nothing that is encrypted.
    Clear,
    /// Anything else.
    Plain,
}

/// The header copies of a component.
#[derive(Debug)]
pub struct Headers {
    /// By any copy that can be read.
    pub uuid: Option<Uuid>,
    /// What they say together.
    pub stored: Result<StoredHeader>,
    /// The keys that any copy names which can be read, also one that does not count.
    pub keys: BTreeSet<KeyId>,
    /// Keys of those that only a copy names that is not in use.
    pub former_keys: BTreeSet<KeyId>,
    /// A deep rekey that is under way.
    pub deep_rekey: Option<UnderWay>,
}

/// Where a symbolic link leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Link {
    /// Its text has the form of a sealed target.
    Sealed,
    /// To what is below the folder at which the inventory began, or would be.
    Inside(OsString),
    /// Elsewhere, or by an absolute path.
    Outside(OsString),
}

impl Inventory {
    /// What one file is. Where no home says which names are those of disks, `disk_names` do, here and below.
    ///
    /// # Errors
    /// `Io`.
    pub fn of_file(path: &Path, disk_names: &DiskNames) -> Result<Self> {
        walk::of_file(path, disk_names).map(|entry| Self { entries: vec![entry] })
    }

    /// Looks at everything below a folder. A mount of vmcryptfs within is not entered, other mounts are.
    ///
    /// # Errors
    /// `Invalid` when the folder is itself shown by a mount of vmcryptfs, `Io` when it cannot be listed.
    pub fn take(root: &File, disk_names: &DiskNames) -> Result<Self> {
        Self::take_watched(root, disk_names, &to_the_end)
    }

    /// As [`take`](Self::take); an error of `go_on`, which is asked before each name, ends it.
    ///
    /// # Errors
    /// As [`take`](Self::take), and that of `go_on`.
    pub fn take_watched(root: &File, disk_names: &DiskNames, go_on: &GoOn<'_>) -> Result<Self> {
        walk::take(root, false, disk_names, go_on).map(|entries| Self { entries })
    }

    /// As [`take`](Self::take), and looks once at each folder and file to which a symbolic link leads. It has the link's path, beside
    /// the link itself, and is part of no VM folder around the link.
    ///
    /// # Errors
    /// As [`take_watched`](Self::take_watched).
    pub fn take_with_links(root: &File, disk_names: &DiskNames, go_on: &GoOn<'_>) -> Result<Self> {
        walk::take(root, true, disk_names, go_on).map(|entries| Self { entries })
    }

    /// Components, erased ones aside: those with a header that should open.
    pub fn components(&self) -> impl Iterator<Item = (&Entry, ComponentKind, &Headers)> {
        self.entries.iter().filter_map(|entry| entry.headers().map(|(kind, headers)| (entry, kind, headers)))
    }

    /// What is unknown, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (&Entry, &Error)> {
        self.entries.iter().filter_map(|entry| Some((entry, entry.unreadable()?)))
    }

    /// Folders, the first one included.
    pub fn folders(&self) -> impl Iterator<Item = (&Entry, FolderKind)> {
        self.entries
            .iter()
            .filter_map(|entry| if let What::Folder(kind) = entry.what { Some((entry, kind)) } else { None })
    }

    /// Folders with sealed files whose home header is neither there nor above: nobody can tell which key opens them.
    pub fn folders_without_header(&self) -> BTreeSet<&Path> {
        let sealed = self.entries.iter().filter(|entry| matches!(entry.what, What::Sealed) && entry.vm.is_none());
        sealed.filter_map(|entry| entry.path.parent()).collect()
    }

    /// Symbolic links.
    pub fn links(&self) -> BTreeSet<&Path> {
        let links = self.entries.iter().filter(|entry| matches!(entry.what, What::Link(_)));
        links.map(|entry| entry.path.as_path()).collect()
    }

    /// VM folders within others, each with the one that it lies in. What a symbolic link leads to lies elsewhere.
    pub fn nested_folders(&self) -> Vec<(&Path, &Path)> {
        let is_vm = |kind| matches!(kind, FolderKind::Vm(_) | FolderKind::SeveralHeaders(..) | FolderKind::Erased);
        let own = |(entry, kind): (&'_ Entry, FolderKind)| !entry.reserved && is_vm(kind);
        let folders: BTreeSet<&Path> =
            self.folders().filter(|(entry, kind)| own((entry, *kind))).map(|(entry, _)| entry.path.as_path()).collect();
        let links = self.links();
        let outer = |inner: &Path| {
            let here = inner.ancestors().take_while(|below| !links.contains(below));
            here.filter_map(Path::parent).find_map(|above| folders.get(above).copied())
        };
        folders.iter().filter_map(|inner| Some((*inner, outer(inner)?))).collect()
    }

    /// Whether it holds anything that is encrypted, or was until it was erased.
    pub fn has_encrypted(&self) -> bool {
        let encrypted = |what: &What| {
            matches!(what, What::Home(_) | What::Disk(_) | What::Erased(_) | What::SavedHeader(_) | What::Sealed)
        };
        self.entries.iter().any(|entry| encrypted(&entry.what))
    }

    /// Whether it holds anything of ours, or a VM in the clear.
    pub fn has_vms(&self) -> bool {
        let plain = |kind| matches!(kind, FolderKind::Plain | FolderKind::Part);
        self.folders().any(|(_, kind)| !plain(kind)) || self.components().next().is_some()
    }
}

/// The disks below a folder, copies of home headers, and what cannot be looked at: all else of it is passed over.
///
/// # Errors
/// `Io` when it cannot be listed, and that of `go_on`.
pub(in crate::vm) fn disks_below(folder: &File, go_on: &GoOn<'_>) -> Result<Vec<Entry>> {
    walk::disks(folder, go_on)
}

/// All that is below a VM folder but its home header; its home has this list of names.
///
/// # Errors
/// `Io` when it cannot be listed.
pub(in crate::vm) fn files_below(folder: &File, disk_names: &DiskNames) -> Result<Vec<Entry>> {
    walk::files(folder, disk_names)
}

/// What to say of a folder whose files are encrypted, and that lost its home header.
pub fn headless_what() -> String {
    format!("sealed files, but no home header here or above: {RESTORE_HOME}")
}

/// What to say of a VM folder that lies in another one.
pub fn nested_what(outer: &Path) -> String {
    let outer =
        if outer.as_os_str().is_empty() { "the VM folder".to_owned() } else { format!("VM folder {}", outer.shown()) };
    format!(
        "a VM folder within {outer}, whose home seals what its mount writes here: `erase` of this one leaves that readable; \
         copy what is in it to a place outside"
    )
}

/// What to say of a file that may be a disk in the clear, and as well an encrypted one.
pub const NO_SIGN: &str = "no sign of what it is: a disk in the clear, or one whose header was overwritten (`vmcryptfs header restore DISK FILE` brings a saved one back)";

/// What a file in the clear is, for people.
pub fn clear_what(kind: ClearKind) -> String {
    match kind {
        ClearKind::Disk(reason) => format!("disk, {reason}"),
        ClearKind::Home(reason) => reason.to_owned(),
    }
}

impl Entry {
    /// Device and inode number: names that have the same are one file.
    pub fn inode(&self) -> Option<(u64, u64)> {
        self.stat.as_ref().map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Length in bytes of what is stored, if it is known.
    pub fn stored_len(&self) -> u64 {
        self.stat.as_ref().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
    }

    /// Length in bytes of the plaintext, as headers that are not verified and the stored length say; 0 where no header tells.
    pub fn plain_len(&self) -> u64 {
        let len = self.stored_len();
        match &self.what {
            What::Disk(headers) => {
                let shape = headers.unverified().and_then(|header| header.claims().shape.disk());
                shape.map_or(0, |shape| shape.plain_len(len))
            }
            What::Erased(_) => 0,
            What::Sealed => home_file::plain_len(len),
            What::Folder(_)
            | What::Home(_)
            | What::SavedHeader(_)
            | What::Clear(_)
            | What::Empty(_)
            | What::Link(_)
            | What::Special(_)
            | What::Mount
            | What::Unreadable(_) => len,
        }
    }

    /// Bytes that it takes on the medium, if it is known.
    pub fn allocated(&self) -> u64 {
        self.stat.as_ref().and_then(|stat| u64::try_from(stat.st_blocks).ok()).unwrap_or(0) * 512
    }

    /// Whether it is a regular file that a mount shows.
    pub fn is_shown_file(&self) -> bool {
        let is_file = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        !self.reserved && self.stat.as_ref().is_some_and(is_file)
    }

    /// Whether it is a disk, also an erased one.
    pub fn is_disk(&self) -> bool {
        matches!(self.what, What::Disk(_) | What::Erased(Erasure { kind: ComponentKind::Disk, .. }))
    }

    /// A component's kind and header copies.
    pub fn headers(&self) -> Option<(ComponentKind, &Headers)> {
        if let What::Home(headers) = &self.what {
            Some((ComponentKind::Home, headers))
        } else if let What::Disk(headers) = &self.what {
            Some((ComponentKind::Disk, headers))
        } else {
            None
        }
    }

    /// Why it is unknown what it is, or what it says.
    pub fn unreadable(&self) -> Option<&Error> {
        if let What::Unreadable(error) | What::SavedHeader(Err(error)) = &self.what {
            Some(error)
        } else {
            self.headers()?.1.stored.as_ref().err()
        }
    }

    /// Of what is not encrypted although it is a VM's: the kind of thing, and what it is, for people.
    pub fn in_the_clear(&self) -> Option<(&'static str, String)> {
        let in_vm = self.vm.is_some() || self.headless;
        if let What::Folder(FolderKind::Clear) = self.what {
            Some(("folder", "in the clear: a VM folder that is not encrypted".to_owned()))
        } else if let (What::Clear(_), true, true) = (&self.what, in_vm, self.reserved) {
            Some(("file", format!("in the clear: {}", self.reserved_what())))
        } else if let (What::Clear(kind), true) = (&self.what, in_vm && !self.may_be_ciphertext()) {
            Some(("file", format!("in the clear: {}", clear_what(*kind))))
        } else if in_vm && self.may_be_ciphertext() {
            Some(("file", NO_SIGN.to_owned()))
        } else if let (What::Link(Link::Inside(_) | Link::Outside(_)), true) = (&self.what, in_vm) {
            Some(("file", "in the clear: a symbolic link".to_owned()))
        } else {
            None
        }
    }

    /// What a file in the clear with a reserved name is: not all that has such a name is of vmcryptfs.
    fn reserved_what(&self) -> &'static str {
        let is_draft = |name: &OsStr| name.as_bytes().starts_with(NEW_PREFIX.as_bytes());
        if self.path.iter().any(is_draft) {
            "what an interrupted run has left"
        } else {
            "not of vmcryptfs, but with a name that it keeps for itself (.vmcryptfs-...), so no mount shows it"
        }
    }

    /// Whether it may be a disk in the clear, and as well an encrypted one whose header is lost.
    pub fn may_be_ciphertext(&self) -> bool {
        matches!(self.what, What::Clear(kind) if kind.may_be_ciphertext()) && !self.reserved
    }

    /// Refuses the header of a home that is neither encrypted as a whole nor clear.
    ///
    /// # Errors
    /// As [`HomeState::refuse_unfinished`].
    pub fn refuse_unfinished(&self, header: &Header) -> Result<()> {
        let by_name = self.path.file_name().and_then(HomeState::of_header_file);
        by_name.map_or(Ok(()), |state| state.refuse_unfinished(header))
    }

    /// What a component is called: a home by its VM folder, whatever the header's file is called.
    pub fn component_path(&self) -> &Path {
        self.vm.as_deref().filter(|_| self.is_own_header()).unwrap_or(&self.path)
    }

    /// Whether this is the file by which its folder is one of a VM; a copy of it has another name.
    pub fn is_own_header(&self) -> bool {
        self.path.file_name().is_some_and(|name| HomeState::of_header_file(name).is_some())
    }
}

impl Headers {
    /// Of a component none of whose copies can be read.
    fn none(why: Error) -> Self {
        Self { uuid: None, stored: Err(why), keys: BTreeSet::new(), former_keys: BTreeSet::new(), deep_rekey: None }
    }

    /// The header that counts, unverified.
    pub fn unverified(&self) -> Option<&UnverifiedHeader> {
        self.stored.as_ref().ok().map(|stored| &stored.header)
    }
}

#[cfg(test)]
mod tests;
