//! What is sealed under the keys of a home: its files, links and values of extended attributes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::format::home_file::FileId;
use crate::progress::to_the_end;
use crate::storage::{Access, FileStorage};
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys, Value, open_target, open_value};
use crate::store::plain_file::{PlainFile, read_all};
use crate::text::{self, Show};
use crate::vm::attributes::{xattr, xattr_names};
use crate::vm::clear;
use crate::vm::home;
use crate::vm::inventory::{Entry, Link, What};

/// Bytes that tell a disk image's format.
const HEAD_LEN: usize = 512;

/// What was looked at.
#[derive(Default)]
pub(super) struct Tally {
    files: usize,
    bytes: u64,
    /// Files that have no header yet: nothing was written to them.
    empty: usize,
    values: usize,
    links: usize,
}

impl Tally {
    /// What an answer says more of a home; `is_all` if nothing of it has a problem.
    pub(super) fn describe(&self, data: bool, is_all: bool) -> String {
        if !data {
            return match self.files {
                0 => String::new(),
                files => {
                    format!("; of its {} genuine", text::count(files, "file the header is", "files the headers are"))
                }
            };
        }
        let some = |number: usize, what: String| (number > 0).then_some(what);
        let bytes = format!("{} with {} bytes", text::count(self.files, "file", "files"), self.bytes);
        let read: Vec<String> = [
            some(self.files, bytes),
            some(self.links, text::count(self.links, "link", "links")),
            some(self.values, text::count(self.values, "extended attribute", "extended attributes")),
        ]
        .into_iter()
        .flatten()
        .collect();
        let empty = match self.empty {
            0 => String::new(),
            1 => "; 1 file is empty, so there is nothing in it to prove".to_owned(),
            empty => format!("; {empty} files are empty, so there is nothing in them to prove"),
        };
        match read.is_empty() {
            true => format!("; it has no other files with content{empty}"),
            false if is_all => format!("; all of it was read and is genuine: {}{empty}", read.join(", ")),
            false => format!("; the rest of it was read and is genuine: {}{empty}", read.join(", ")),
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
    /// Proves that an entry is of this home, and, if all is to be read, whole. Says why a home file looks like a disk, if it does.
    pub(super) fn check(&self, entry: &Entry, tally: &mut Tally) -> Result<Option<&'static str>> {
        if matches!(entry.what, What::Sealed) {
            return self.file(entry, tally);
        }
        self.other(entry, tally).map(|()| None)
    }

    fn other(&self, entry: &Entry, tally: &mut Tally) -> Result<()> {
        match &entry.what {
            What::Link(Link::Sealed) if self.data => self.link(entry, tally),
            What::Disk(headers) if self.data => {
                let uuid = headers.unverified().map(|header| header.claims().uuid);
                self.values(&(self.open)(&entry.path)?, uuid.map(home::disk_id), tally)
            }
            What::Folder(_) | What::Empty(_) if self.data => {
                tally.empty += usize::from(matches!(entry.what, What::Empty(_)));
                self.values(&(self.open)(&entry.path)?, None, tally)
            }
            What::Folder(_)
            | What::Home(_)
            | What::Disk(_)
            | What::Erased(_)
            | What::SavedHeader(_)
            | What::Sealed
            | What::Clear(_)
            | What::Empty(_)
            | What::Link(_)
            | What::Special(_)
            | What::Mount
            | What::Unreadable(_) => Ok(()),
        }
    }

    fn file(&self, entry: &Entry, tally: &mut Tally) -> Result<Option<&'static str>> {
        let storage = FileStorage::new((self.open)(&entry.path)?);
        if self.data {
            // What is being written would seem to be damaged.
            storage.claim(Access::Read).context(|| "not read".into())?;
        }
        let file = HomeFile::open(storage, self.keys)?;
        tally.files += 1;
        let mut buffer = request_buffer();
        // What its first bytes say counts for more than its name. That they cannot be read is found where all is.
        let format = file.read_at(0, HEAD_LEN, &mut buffer).ok().and_then(clear::disk_in);
        let name = entry.path.file_name().unwrap_or_default();
        let looks_like_disk = format.or_else(|| clear::disk_by_name(name, file.plain_len()));
        if !self.data {
            return Ok(looks_like_disk);
        }
        tally.bytes += read_all(&file, &mut buffer, &to_the_end)?;
        self.values(file.storage().file(), file.id(), tally)?;
        Ok(looks_like_disk)
    }

    fn link(&self, entry: &Entry, tally: &mut Tally) -> Result<()> {
        let parent = (self.open)(entry.path.parent().unwrap_or(Path::new("")))?;
        let name = entry.path.file_name().unwrap_or_default();
        let text = rustix::fs::readlinkat(&parent, name, Vec::new());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;
    use crate::storage::Storage;
    use crate::storage::memory::{FaultStorage, MemoryStorage};
    use crate::store::plain_file::MAX_REQUEST;

    #[test]
    fn a_file_is_read_as_far_as_it_has_anything_and_its_end_in_any_case() {
        let keys = HomeKeys::new(&random::home_dek().unwrap()).unwrap();
        let mut buffer = request_buffer();
        let (made, len) = (HomeFile::open(MemoryStorage::default(), &keys).unwrap(), 3 * MAX_REQUEST as u64);
        for at in [5, len - 1] {
            made.write_at(at, b"x", &mut buffer).unwrap();
        }
        made.sync().unwrap();
        let image = made.storage().snapshot();
        let read = |change: &dyn Fn(&MemoryStorage)| {
            let storage = MemoryStorage::new(image.clone());
            change(&storage);
            let file = HomeFile::open(FaultStorage::new(storage, libc::EIO), &keys).unwrap();
            file.storage().fail_after(200);
            read_all(&file, &mut request_buffer(), &to_the_end)
        };
        assert_eq!(read(&|_| ()).unwrap(), len);
        assert!(read(&|storage| storage.set_len(1 << 44).unwrap()).unwrap() > 1 << 42);
        let end = image.bytes().len() as u64;
        for (at, what) in [(end - 4096, "the last block"), (274_432, "the first block")] {
            let bad = read(&|storage| storage.write_at(at, &[7; 8]).unwrap());
            assert_eq!(bad.unwrap_err().kind(), Kind::Corrupt, "{what}");
        }
        let cut = read(&|storage| storage.set_len(end - 8192).unwrap());
        assert!(cut.unwrap_err().to_string().contains("cut off"), "the new end is a hole");
    }
}
