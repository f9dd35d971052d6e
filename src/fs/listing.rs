//! Listings of directories.
//!
//! Where a reader stands is a position that the backing file system gives out: it stays right while other names come and go, and
//! is good for another opening of the same directory as well. An index into a list of names would be neither.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use parking_lot::Mutex;
use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::format::header::is_reserved;
use crate::fs::attr::FileKind;
use crate::fs::handle::{Handle, HandleNumber};
use crate::fs::namespace::{holds_home, is_datastore};
use crate::fs::node::{FIRST_OWN_NUMBER, Node, NodeNumber, ROOT};
use crate::fs::open_listing::{DirEntry, Listing, Stored};
use crate::fs::{Caller, FileSystem, backing};

/// Bytes that the system is asked for at once.
const READ_LEN: usize = 32 << 10;

impl FileSystem {
    /// Opens a directory's listing.
    ///
    /// # Errors
    /// `Io`.
    pub fn open_dir(&self, number: NodeNumber, caller: &Caller) -> Result<HandleNumber> {
        let node = self.nodes.get(number)?;
        let listing = if node.is_virtual() {
            Listing::Images(node, Mutex::default())
        } else {
            let place = self.served.places().take_listing(caller.uid)?;
            let dir = backing::open_again(&*self.dir_of(&node)?)?;
            Listing::Stored(Mutex::new(Stored { node, dir, ahead: VecDeque::new(), position: 0, _place: place }))
        };
        Ok(self.handles.insert(Handle::Directory(listing)))
    }

    /// Passes the entries after a position to `each`, the directory itself and its parent among them, until it takes no more.
    /// Position 0 begins again, with the names that there are by then.
    ///
    /// # Errors
    /// `Io`, also for a handle that is not a directory.
    pub fn list(&self, handle: HandleNumber, from: u64, mut each: impl FnMut(&DirEntry) -> bool) -> Result<()> {
        match &**self.handles.get(handle)? {
            Handle::Directory(Listing::Stored(stored)) => {
                let mut stored = stored.lock();
                stored.seek(from)?;
                while let Some(entry) = stored.next(self)? {
                    if !each(entry) {
                        break;
                    }
                    stored.take();
                }
                Ok(())
            }
            Handle::Directory(Listing::Images(node, entries)) => {
                let mut entries = entries.lock();
                if from == 0 || entries.is_empty() {
                    *entries = self.images_of(node)?;
                }
                entries.iter().filter(|entry| entry.next > from).take_while(|entry| each(entry)).for_each(drop);
                Ok(())
            }
            Handle::File(..) | Handle::Image(_) => Err(Error::errno("no directory", Errno::NOTDIR)),
        }
    }

    /// Images by their positions, which follow from their names.
    fn images_of(&self, node: &Node) -> Result<Vec<DirEntry>> {
        let position = |name: &OsStr| {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            (hasher.finish() >> 2) + 3
        };
        let image = |name: OsString| DirEntry {
            next: position(&name),
            name,
            kind: FileKind::Regular,
            number: FIRST_OWN_NUMBER,
        };
        let folder =
            |name: &str, next| DirEntry { name: name.into(), kind: FileKind::Directory, number: node.number, next };
        let mut entries = vec![folder(".", 1), folder("..", 2)];
        entries.extend(self.image_names(node)?.into_iter().map(image));
        entries.sort_by_key(|entry| entry.next);
        Ok(entries)
    }

    /// What shows of an entry that is on disk.
    fn shown(&self, node: &Node, dir: &File, name: &OsStr, file_type: FileType, inode: u64) -> Option<(FileKind, u64)> {
        if name == "." || name == ".." {
            let is_root = node.number == ROOT || self.nodes.is_root(inode);
            let number = if name == "." { node.number } else { inode };
            return Some((FileKind::Directory, if is_root && name == ".." { ROOT } else { number }));
        }
        if is_reserved(name) {
            return None;
        }
        // Not every file system tells the type of what it lists.
        let kind = match FileKind::of(file_type) {
            Some(kind) => kind,
            None => FileKind::of(FileType::from_raw_mode(backing::stat_at(dir, name).ok()?.st_mode))?,
        };
        let shows = !is_datastore(node) || (kind == FileKind::Directory && holds_home(dir, name));
        shows.then_some((kind, inode))
    }
}

impl Stored {
    fn seek(&mut self, position: u64) -> Result<()> {
        // The beginning is sought also where nothing was read yet: that it is asked for means that the names are to be new.
        if position != self.position || position == 0 {
            self.ahead.clear();
            rustix::fs::seek(&self.dir, SeekFrom::Start(position)).context(reading)?;
            self.position = position;
        }
        Ok(())
    }

    /// The entry at the position; `None` at the end.
    fn next(&mut self, fs: &FileSystem) -> Result<Option<&DirEntry>> {
        while self.ahead.is_empty() && self.read_ahead(fs)? {}
        Ok(self.ahead.front())
    }

    fn take(&mut self) {
        if let Some(taken) = self.ahead.pop_front() {
            self.position = taken.next;
        }
    }

    /// Reads some entries, of which none may show; `false` at the end.
    fn read_ahead(&mut self, fs: &FileSystem) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); READ_LEN];
        let mut entries = RawDir::new(&self.dir, &mut buffer);
        let mut read = false;
        while !(read && entries.is_buffer_empty()) {
            let entry = match entries.next() {
                None | Some(Err(Errno::NOENT)) => break, // the end, or one that was removed
                Some(entry) => entry.context(reading)?,
            };
            read = true;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if let Some((kind, number)) = fs.shown(&self.node, &self.dir, name, entry.file_type(), entry.ino()) {
                let next = entry.next_entry_cookie();
                self.ahead.push_back(DirEntry { name: name.to_os_string(), kind, number, next });
            }
        }
        Ok(read)
    }
}

fn reading() -> String {
    "reading the folder".into()
}
