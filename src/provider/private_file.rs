//! Files that only their owner may read: the configuration, primary keys, and what a host has seen.
//!
//! Written so that a crash leaves the old file, the new one, or none, and refused when others could read or change them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::effective_uid;
use crate::text::Show;

/// How often a lock that is waited for is looked at.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The configuration file of root, unless another one is named.
pub const CONFIG_OF_ROOT: &str = "/etc/vmcryptfs/config.toml";
/// Longest configuration file, in bytes.
pub(super) const MAX_CONFIG_LEN: u64 = 1 << 20;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// What names of files have behind that of the file which they are to be, and before a number in hex.
const NEW: &str = ".new-";
const OF_OTHERS: u32 = 0o077;

/// Opens for reading a file that only its owner, this user or root, can read or change.
///
/// # Errors
/// `NotFound`, `Invalid` for what is not a regular file, `Denied` when others can read or change it, `Io`.
pub fn open(path: &Path) -> Result<File> {
    open_as(effective_uid(), path)
}

fn open_as(user: u32, path: &Path) -> Result<File> {
    let (file, metadata) = open_regular(path)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OF_OTHERS != 0 {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "{0} has mode {mode:04o}, so others than its owner can read or change it, expected {FILE_MODE:04o}; \
                 to repair it: chmod 600 {0}",
                path.shown()
            ),
        ));
    }
    check_owner(path, metadata.uid(), user)?;
    Ok(file)
}

/// Opens a regular file for reading. Opening a FIFO would wait for a writer, perhaps for ever, and a device has no end.
pub(super) fn open_regular(path: &Path) -> Result<(File, Metadata)> {
    let opened = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = opened.context(|| format!("opening {}", path.shown()))?;
    let metadata = file.metadata().context(|| format!("looking at {}", path.shown()))?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(Error::new(Kind::Invalid, format!("{} is not a regular file", path.shown()))),
    }
}

/// Reads the rest of a file of at most `max` bytes. The buffer never grows: growing would leave a copy of a secret in memory.
///
/// # Errors
/// `Invalid` for a longer one, `Io`.
pub fn read_at_most(max: u64, path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>> {
    let reading = || format!("reading {}", path.shown());
    let len = file.metadata().context(reading)?.len();
    if len > max {
        return Err(Error::new(Kind::Invalid, format!("{} has {len} bytes, expected at most {max}", path.shown())));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1));
    file.take(len).read_to_end(&mut content).context(reading)?;
    Ok(content)
}

/// Reads a text; that of a file which does not exist is empty.
pub(super) fn read_text(max: u64, path: &Path) -> Result<String> {
    let content = match open(path) {
        Ok(file) => read_at_most(max, path, file)?,
        Err(error) if error.kind() == Kind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let text = std::str::from_utf8(&content);
    text.map(str::to_owned).map_err(|error| {
        Error::with_source(Kind::Invalid, format!("{} is not UTF-8 text, as TOML is", path.shown()), error)
    })
}

/// A file that the configuration names: its path has to be absolute.
pub(super) fn absolute<'d, D: Deserializer<'d>>(deserializer: D) -> std::result::Result<Option<PathBuf>, D::Error> {
    let file = PathBuf::deserialize(deserializer)?;
    if file.is_absolute() {
        return Ok(Some(file));
    }
    Err(serde::de::Error::custom(format!("{}, expected an absolute path", file.shown())))
}

/// Refuses a file of another user than this one or root.
pub(crate) fn check_owner(path: &Path, owner: u32, user: u32) -> Result<()> {
    if owner == user || owner == 0 {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!(
            "{0} belongs to user id {owner}, who could change it, expected {user} or 0; to repair it: chown {user} {0}",
            path.shown()
        ),
    ))
}

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
    let synced = sync_folder(folder_of(path));
    if synced.is_err() {
        fs::remove_file(path).ok();
    }
    synced.context(|| format!("writing {}", path.shown()))
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

/// As [`replace`], and overwrites the content that was there, as a wipe does.
///
/// # Errors
/// `Io`.
pub fn replace_and_wipe(path: &Path, parts: &[&[u8]]) -> Result<()> {
    wipe_former(path)?;
    let former = former_of(path);
    match fs::hard_link(path, &former) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return replace(path, parts),
        linked => linked.context(|| format!("naming the former content of {}", path.shown()))?,
    }
    replace(path, parts)?;
    overwrite_and_remove(&former, &open_to_overwrite(&former)?)
}

/// The name of content that is to be overwritten, while it is.
fn former_of(path: &Path) -> PathBuf {
    beside(path, ".former")
}

/// Wipes the content that [`replace_and_wipe`] and [`wipe`] left when a crash ended them. Returns whether there was some. What no writer has
/// finished goes as well.
pub(crate) fn wipe_former(path: &Path) -> Result<bool> {
    let former = former_of(path);
    let looking = || format!("looking for the former content of {}", path.shown());
    let wiped = match (inode_of(path).context(looking)?, inode_of(&former).context(looking)?) {
        (_, None) => false,
        (Some(current), Some(of_crash)) if current == of_crash => {
            fs::remove_file(&former).context(looking)?;
            false
        }
        (_, Some(_)) => overwrite_and_remove(&former, &open_to_overwrite(&former)?).map(|()| true)?,
    };
    wipe_unfinished(path)?;
    Ok(wiped)
}

/// Wipes what [`replace`] and [`create`] left beside a file when a crash ended them. It loses its name first: what a writer has finished
/// in the meantime stays.
fn wipe_unfinished(path: &Path) -> Result<()> {
    let looking = || format!("looking for what was not finished of {}", path.shown());
    let entries = match fs::read_dir(folder_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(looking)?,
    };
    let former = former_of(path);
    for entry in entries {
        let name = entry.context(looking)?.file_name();
        if !is_unfinished(path, &name) {
            continue;
        }
        match fs::rename(path.with_file_name(&name), &former) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                renamed.context(looking)?;
                overwrite_and_remove(&former, &open_to_overwrite(&former)?)?;
            }
        }
    }
    Ok(())
}

/// Whether a name is one under which a writer makes a new file of this path, before that has its own.
fn is_unfinished(path: &Path, name: &OsStr) -> bool {
    let fresh = beside(path, ".new");
    let is_beside = |of: &Path| {
        let start = beside(of, NEW);
        let number = name.as_bytes().strip_prefix(start.file_name().unwrap_or_default().as_bytes());
        number.is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit))
    };
    fresh.file_name() == Some(name) || is_beside(path) || is_beside(&fresh)
}

/// What tells a file from all others, if it is there.
fn inode_of(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some((found.dev(), found.ino()))),
    }
}

/// Overwrites a file's content with zeros and removes it. Where the file system or the medium keeps older blocks, those stay.
///
/// The file loses its name first: a crash leaves no zeros where a key is looked for. The next call ends what a crash ended.
/// Returns whether there was something.
pub(crate) fn wipe(path: &Path) -> Result<bool> {
    let of_crash = wipe_former(path)?;
    let file = match open_to_overwrite(path) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(of_crash),
        file => file?,
    };
    let former = former_of(path);
    fs::rename(path, &former)
        .and_then(|()| sync_folder(folder_of(path)))
        .context(|| format!("taking the name of {}", path.shown()))?;
    overwrite_and_remove(&former, &file).map(|()| true)
}

fn open_to_overwrite(path: &Path) -> Result<File> {
    let opened = File::options().write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path);
    opened.context(|| format!("wiping {}", path.shown()))
}

fn overwrite_and_remove(path: &Path, mut file: &File) -> Result<()> {
    let wiping = || format!("wiping {}", path.shown());
    let len = file.metadata().context(wiping)?.len();
    io::copy(&mut io::repeat(0).take(len), &mut file).and_then(|_| file.sync_all()).context(wiping)?;
    fs::remove_file(path).and_then(|()| sync_folder(folder_of(path))).context(wiping)
}

/// Makes a folder, and those above it, that only this user can enter.
///
/// # Errors
/// `Io`, and `Exists` when a file has its name.
pub fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    create_folder(above)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(above),
    }
    .context(|| format!("creating the folder {}", folder.shown()))
}

/// Waits until no other process holds the lock that belongs to `path`; it is released when the file is closed.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let lock = beside(path, ".lock");
    open_lock(&lock).and_then(|file| file.lock().map(|()| file)).context(|| format!("locking {}", lock.shown()))
}

/// Takes the lock that belongs to `path`; `None` where another process holds it.
///
/// # Errors
/// `Io`.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    let lock = beside(path, ".lock");
    let locking = || format!("locking {}", lock.shown());
    let file = open_lock(&lock).context(locking)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context(locking),
    }
}

/// As [`lock`], for `time` at most.
///
/// # Errors
/// `Busy` when another process has held it for that long, `Io`.
pub(crate) fn lock_within(time: Duration, path: &Path) -> Result<File> {
    let begun = Instant::now();
    loop {
        match try_lock(path)? {
            Some(file) => return Ok(file),
            None if begun.elapsed() < time => thread::sleep(LOCK_INTERVAL),
            None => {
                let lock = beside(path, ".lock");
                let found = format!("{}: another process has held this lock for {} s", lock.shown(), time.as_secs());
                return Err(Error::new(Kind::Busy, found));
            }
        }
    }
}

fn open_lock(lock: &Path) -> io::Result<File> {
    // Neither a file elsewhere, nor a FIFO that would be waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    File::options().write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(flags).open(lock)
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new(if path.is_absolute() { "/" } else { "." }),
    }
}

/// The hidden file of the same folder whose name is made of that of `path` and `suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(suffix);
    path.with_file_name(name)
}

fn write_parts(mut file: &File, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Makes the names in a folder durable, where the file system can: some network ones answer EINVAL.
///
/// # Errors
/// The system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    sync_open_folder(&File::open(folder)?)
}

/// As [`sync_folder`], of a folder that is open.
pub(crate) fn sync_open_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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

    #[test]
    fn content_that_is_replaced_is_overwritten_also_after_a_crash_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let (file, former) = (dir.path().join("file"), dir.path().join(".file.former"));
        let replaced_by = |content: &[u8]| {
            let before = File::open(&file).unwrap();
            replace_and_wipe(&file, &[content]).unwrap();
            let mut left = Vec::new();
            (&before).read_to_end(&mut left).unwrap();
            assert!(!former.exists());
            assert_eq!(fs::read(&file).unwrap(), content);
            left
        };
        replace_and_wipe(&file, &[b"first"]).unwrap();
        assert_eq!(replaced_by(b"second"), [0; 5]);
        // It ended before the new content was in its place, and after that.
        fs::hard_link(&file, &former).unwrap();
        assert_eq!(replaced_by(b"third"), [0; 6]);
        fs::write(&former, "of a crash").unwrap();
        let of_crash = File::open(&former).unwrap();
        assert_eq!(replaced_by(b"fourth"), [0; 5]);
        let mut left = Vec::new();
        (&of_crash).read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; 10]);
    }

    #[test]
    fn a_wipe_that_a_crash_ended_leaves_no_zeros_in_the_place_of_a_key_and_is_ended_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (file, former) = (dir.path().join("file"), dir.path().join(".file.former"));
        assert!(!wipe(&file).unwrap());
        create(&file, &[b"secret"]).unwrap();
        let before = File::open(&file).unwrap();
        assert!(wipe(&file).unwrap());
        let mut left = Vec::new();
        (&before).read_to_end(&mut left).unwrap();
        assert_eq!((left, file.exists(), former.exists()), (vec![0; 6], false, false));
        // It ended after the name was taken, before the zeros.
        create(&file, &[b"secret"]).unwrap();
        let before = File::open(&file).unwrap();
        fs::rename(&file, &former).unwrap();
        assert!(wipe(&file).unwrap());
        let mut left = Vec::new();
        (&before).read_to_end(&mut left).unwrap();
        assert_eq!((left, former.exists()), (vec![0; 6], false));
        assert!(!wipe(&file).unwrap());
        // What a link leads to is not ours to overwrite.
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(wipe(&file).is_err());
        assert_eq!((fs::read(&elsewhere).unwrap(), file.is_symlink()), (b"kept".to_vec(), true));
    }

    #[test]
    fn what_no_writer_has_finished_is_wiped_with_its_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let unfinished = [".file.new", ".file.new-0123456789abcdef", "..file.new.new-0123456789abcdef"];
        let of_others = [".file.newer.lock", ".file.new-0123", ".other.new", ".file.lock"];
        for content in [None, Some(b"key")] {
            unfinished.iter().chain(&of_others).for_each(|name| fs::write(dir.path().join(name), "secret").unwrap());
            content.iter().for_each(|content| create(&file, &[*content]).unwrap());
            let before = unfinished.map(|name| File::open(dir.path().join(name)).unwrap());
            assert_eq!(wipe(&file).unwrap(), content.is_some(), "there was a file");
            for mut left in before {
                let mut content = Vec::new();
                left.read_to_end(&mut content).unwrap();
                assert_eq!(content, [0; 6]);
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), of_others.len());
        }
        assert!(!wipe(&dir.path().join("no folder/file")).unwrap());
    }

    #[test]
    fn each_permission_of_others_is_refused_and_the_repair_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        create(&file, &[b"secret"]).unwrap();
        for of_others in [0o040, 0o020, 0o004, 0o002] {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600 | of_others)).unwrap();
            let error = open(&file).unwrap_err();
            assert_eq!(error.kind(), Kind::Denied, "{of_others:o}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", file.shown())), "{error}");
        }
    }

    #[test]
    fn only_this_user_and_root_may_own_what_is_read() {
        let path = Path::new("config.toml");
        assert!(check_owner(path, 1000, 1000).is_ok());
        assert!(check_owner(path, 0, 1000).is_ok());
        assert_eq!(check_owner(path, 1000, 0).unwrap_err().kind(), Kind::Denied);
        assert_eq!(check_owner(path, 1001, 1000).unwrap_err().kind(), Kind::Denied);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        create(&file, &[b"secret"]).unwrap();
        let mine = effective_uid();
        if mine == 0 {
            std::os::unix::fs::chown(&file, Some(1), None).unwrap(); // what root owns, all may trust
        }
        assert_eq!(open_as(mine + 2, &file).unwrap_err().kind(), Kind::Denied);
        assert!(open_as(mine.max(1), &file).is_ok());
    }
    #[test]
    fn fifos_and_devices_are_refused_without_waiting_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path()] {
            let error = open(path).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
            assert!(error.to_string().contains("is not a regular file"), "{error}");
        }
    }

    #[test]
    fn huge_files_are_refused_before_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = read_at_most(100, &path, file).unwrap_err();
        assert!(error.to_string().contains("expected at most 100"), "{error}");
        fs::write(&path, "x".repeat(100)).unwrap();
        assert_eq!(read_at_most(100, &path, File::open(&path).unwrap()).unwrap().len(), 100);
    }
}
