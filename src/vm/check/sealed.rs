//! What is sealed under the keys of a home: its files, links and values of extended attributes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::format::home_file::FileId;
use crate::storage::{Access, FileStorage};
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys, Value, open_target, open_value};
use crate::store::plain_file::{MAX_REQUEST, PlainFile};
use crate::text::Show;
use crate::vm::attributes::{xattr, xattr_names};
use crate::vm::home;
use crate::vm::inventory::{Entry, Link, What};

/// What was looked at.
#[derive(Default)]
pub(super) struct Tally {
    files: usize,
    bytes: u64,
    values: usize,
    links: usize,
}

impl Tally {
    /// What an answer says more of a home.
    pub(super) fn describe(&self, data: bool) -> String {
        match (data, self.files) {
            (false, 0) => String::new(),
            (false, files) => format!("; the headers of its {files} files are genuine"),
            (true, files) => format!(
                "; its {files} files were read, {} bytes, and {} links and {} extended attributes: all genuine",
                self.bytes, self.links, self.values
            ),
        }
    }
}

/// An unlocked home, and how much of it is looked at.
pub(super) struct Sealed<'a> {
    pub(super) open: &'a dyn Fn(&Path) -> Result<File>,
    pub(super) keys: &'a HomeKeys,
    pub(super) data: bool,
}

impl Sealed<'_> {
    /// Proves that an entry is of this home, and, if all shall be read, whole.
    pub(super) fn check(&self, entry: &Entry, tally: &mut Tally) -> Result<()> {
        match &entry.what {
            What::Sealed => self.file(entry, tally),
            What::Link(Link::Sealed) if self.data => self.link(entry, tally),
            What::Disk(headers) if self.data => {
                let uuid = headers.unverified().map(|header| header.claims().uuid);
                self.values(&(self.open)(&entry.path)?, uuid.map(home::disk_id), tally)
            }
            What::Folder(_) | What::Empty if self.data => self.values(&(self.open)(&entry.path)?, None, tally),
            What::Folder(_)
            | What::Home(_)
            | What::Disk(_)
            | What::Erased(_)
            | What::SavedHeader(_)
            | What::Clear(_)
            | What::Empty
            | What::Link(_)
            | What::Special
            | What::Mount
            | What::Unreadable(_) => Ok(()),
        }
    }

    fn file(&self, entry: &Entry, tally: &mut Tally) -> Result<()> {
        let storage = FileStorage::new((self.open)(&entry.path)?);
        if self.data {
            // What is being written would seem to be damaged.
            storage.claim(Access::Read).context(|| "not read".into())?;
        }
        let file = HomeFile::open(storage, self.keys)?;
        tally.files += 1;
        if !self.data {
            return Ok(());
        }
        let mut buffer = request_buffer();
        let mut at = 0;
        loop {
            match file.read_at(at, MAX_REQUEST, &mut buffer)?.len() {
                0 => break,
                len => at += len as u64,
            }
        }
        tally.bytes += at;
        self.values(file.storage().file(), file.id(), tally)
    }

    fn link(&self, entry: &Entry, tally: &mut Tally) -> Result<()> {
        let parent = (self.open)(entry.path.parent().unwrap_or(Path::new("")))?;
        let name = entry.path.file_name().unwrap_or_default();
        let text = rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(std::io::Error::from);
        open_target(self.keys, text.context(|| "reading a symbolic link".into())?.as_bytes())?;
        tally.links += 1;
        Ok(())
    }

    fn values(&self, file: &File, id: Option<FileId>, tally: &mut Tally) -> Result<()> {
        for name in xattr_names(file)?.iter().filter(|name| name.as_bytes().starts_with(b"user.")) {
            self.value(file, id, name).context(|| format!("extended attribute {}", name.shown()))?;
            tally.values += 1;
        }
        Ok(())
    }

    fn value(&self, file: &File, id: Option<FileId>, name: &OsStr) -> Result<()> {
        let stored = xattr(file, name)?;
        match open_value(self.keys, &Value::Xattr { file: id, name: name.as_bytes() }, &stored) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::Corrupt => {
                Err(Error::with_source(Kind::Corrupt, "damaged, or in the clear", error))
            }
            Err(error) => Err(error),
        }
    }
}
