//! Private files are made and replaced so that a crash leaves the old file, the new one, or none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags};

use super::{FILE_MODE, beside, folder_of, sync_folder};
use crate::crypto::random;
use crate::error::{Context, Error, Result};
use crate::text::Show;

/// What names of files have behind that of the file which they are to be, and before a number in hex.
pub(super) const NEW: &str = ".new-";

/// Makes a new file of `parts`, in this order, and returns once it is durable. An error leaves no file of ours.
///
/// The file gets its name when it is whole. A process that dies before leaves nothing, or, where the file system has no files without a
/// name, a hidden file beside it, which a wipe looks for.
///
/// # Errors
/// `Exists` when the name is taken, `Io`.
pub fn create(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let named = match nameless(folder_of(path)) {
        Some(file) => {
            write_parts(&file, parts).context(|| format!("writing {}", path.shown()))?;
            give_name(&file, path)
        }
        None => return create_beside(path, parts),
    };
    match named {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("creating {}", path.shown()), error));
        }
        Err(_) => return create_beside(path, parts), // such as one without /proc
    }
    sync_new_name(path)
}

/// Makes the name of a new file durable, or takes it away.
fn sync_new_name(path: &Path) -> Result<()> {
    let synced = sync_folder(folder_of(path));
    if synced.is_err() {
        fs::remove_file(path).ok(); // the error that matters is the one of syncing
    }
    synced.context(|| format!("writing {}", path.shown()))
}

/// A file without a name, where the file system has such files.
fn nameless(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE.bits().cast_signed();
    File::options().write(true).custom_flags(flags).mode(FILE_MODE).open(folder).ok()
}

fn give_name(file: &File, path: &Path) -> io::Result<()> {
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// As [`create`], on a file system without nameless files: FAT, and some that lie on servers.
fn create_beside(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let fresh = write_beside(path, parts)?;
    let named = move_to(&fresh, path, &MOVES);
    if named.is_err() {
        fs::remove_file(&fresh).ok(); // the error that matters is the first one
    }
    named.context(|| format!("creating {}", path.shown()))?;
    sync_new_name(path)
}

/// Returns the hidden name under which the parts are whole and durable. It is nobody else's.
fn write_beside(path: &Path, parts: &[&[u8]]) -> Result<PathBuf> {
    let mut number = [0; 8];
    random::fill(&mut number)?;
    let fresh = beside(path, &format!("{NEW}{}", HEXLOWER.encode(&number)));
    let options = File::options().write(true).create_new(true).mode(FILE_MODE).open(&fresh);
    let written = options.and_then(|file| write_parts(&file, parts));
    if written.is_err() {
        fs::remove_file(&fresh).ok();
    }
    written.context(|| format!("writing {}", path.shown())).map(|()| fresh)
}

/// A way to give a file another name that must be free.
type Move = fn(&Path, &Path) -> io::Result<()>;
const MOVES: [Move; 3] = [move_if_free, link_and_remove, look_and_rename];

/// Tries one way after the other: file systems lack some of them.
fn move_to(from: &Path, to: &Path, ways: &[Move]) -> io::Result<()> {
    let mut last = Err(io::ErrorKind::Unsupported.into());
    for way in ways {
        last = way(from, to);
        if !last.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
            break;
        }
    }
    last
}

fn move_if_free(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

fn link_and_remove(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// The last resort: another process that makes the same file at the same moment is not noticed.
fn look_and_rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// Makes a file of `parts`, or puts it in the place of the one that is there. Two callers at once must hold a lock.
///
/// # Errors
/// `Io`.
pub fn replace(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let fresh = beside(path, ".new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("removing the unfinished {}", fresh.shown()), error));
        }
        _ => create(&fresh, parts)?,
    }
    fs::rename(&fresh, path)
        .and_then(|()| sync_folder(folder_of(path)))
        .context(|| format!("putting {} in its place", path.shown()))
}

fn write_parts(mut file: &File, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::{create_folder, open};
    use super::*;
    use crate::error::Kind;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn only_the_owner_can_use_files_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b/file");
        create_folder(folder_of(&file)).unwrap();
        create(&file, &[b"se", b"cret"]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"secret");
        replace(&file, &[b"new"]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(mode(&file), 0o600);
        assert_eq!((mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))), (0o700, 0o700));
        assert!(open(&file).is_ok());
    }

    #[test]
    fn nothing_that_exists_is_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "old").unwrap();
        for create in [create, create_beside] {
            assert_eq!(create(&file, &[b"new"]).unwrap_err().kind(), Kind::Exists);
            assert_eq!(fs::read(&file).unwrap(), b"old");
        }
        let there = || fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(there(), 1);
        fs::remove_file(&file).unwrap();
        create_beside(&file, &[b"ne", b"w"]).unwrap();
        assert_eq!((fs::read(&file).unwrap(), mode(&file), there()), (b"new".to_vec(), FILE_MODE, 1));
    }

    #[test]
    fn a_new_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let Some(unnamed) = nameless(dir.path()) else { return }; // a file system without such files
        write_parts(&unnamed, &[b"whole"]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        give_name(&unnamed, &file).unwrap();
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"whole".to_vec(), FILE_MODE));
    }

    #[test]
    fn without_nameless_files_a_new_file_has_its_name_only_when_it_is_whole_whatever_the_file_system_can_do() {
        let dir = tempfile::tempdir().unwrap();
        let (file, there) = (dir.path().join("file"), || fs::read_dir(dir.path()).unwrap().count());
        for way in MOVES {
            let fresh = write_beside(&file, &[b"who", b"le"]).unwrap();
            assert!(!file.exists() && fresh.file_name().unwrap().to_str().unwrap().starts_with('.'));
            let cannot: Move = |_, _| Err(io::ErrorKind::InvalidInput.into());
            move_to(&fresh, &file, &[cannot, way]).unwrap();
            assert_eq!((fs::read(&file).unwrap(), mode(&file), there()), (b"whole".to_vec(), FILE_MODE, 1));
            let second = write_beside(&file, &[b"another"]).unwrap();
            let taken = move_to(&second, &file, &[way, look_and_rename]).unwrap_err();
            assert_eq!((taken.kind(), fs::read(&file).unwrap()), (io::ErrorKind::AlreadyExists, b"whole".to_vec()));
            [&second, &file].iter().for_each(|path| fs::remove_file(path).unwrap());
        }
    }

    #[test]
    fn unfinished_replacement_of_a_former_run_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(dir.path().join(".file.new"), "unfinished").unwrap();
        replace(&file, &[b"new"]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(!dir.path().join(".file.new").exists());
    }
}
