//! Permission bits of backing files: looked at, changed, and lent to this process for a moment.
//!
//! The kernel decides what a caller may do with a file, by the mode that the mount shows. The backing file has that mode, too, and
//! there it counts for this process: an ordinary user's may not read what is open to writers only, though whatever is written
//! has to be read first. So it gives its own file the owner's bits for the time of one call, as only the owner can.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::process::{getegid, geteuid, getgroups};

use crate::error::{Context, Error, Result};
use crate::fs::FileSystem;
use crate::fs::stat::{self, SET_GID, Stat};
use crate::serve::BackingId;
use crate::sys::file::proc_entry;

/// What the owner needs to open a file for whatever it is. Both bits in any case: two mounts of one folder that lend at once then
/// never take a lent bit for one of the file's own.
const OWNER: u32 = 0o600;
const PERMISSIONS: u32 = 0o777;

/// Whose modes are being changed, by one thread each. Exact, so that a backing file system that does not answer holds up no other thread.
static HELD: Mutex<BTreeSet<BackingId>> = Mutex::new(BTreeSet::new());
static LET_GO: Condvar = Condvar::new();
/// What is lent now: bits that the file's own mode has not.
static LENT: Mutex<BTreeMap<BackingId, u32>> = Mutex::new(BTreeMap::new());
/// How many that are, so that a thread that looks at a mode need not ask, and how many were given back.
static LENT_NOW: AtomicUsize = AtomicUsize::new(0);
static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);

/// Whose permissions a file is opened with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rights {
    /// The caller's: the kernel has looked at them, and let the operation pass.
    Caller,
    /// This process's: nobody has looked at them for this file.
    Process,
}

/// A file whose mode only this thread changes, or lends, as long as this lives.
pub(super) struct Alone(BackingId);

/// Waits until nobody else changes a file's mode.
pub(super) fn alone(file: &File) -> Result<Alone> {
    let id = BackingId::of(&look(file)?);
    let mut held = HELD.lock();
    while !held.insert(id) {
        LET_GO.wait(&mut held);
    }
    Ok(Alone(id))
}

impl Drop for Alone {
    fn drop(&mut self) {
        HELD.lock().remove(&self.0);
        LET_GO.notify_all();
    }
}

/// What `look` sees of a file, with its own mode and not with a lent one. Waits for nobody.
pub(super) fn own<E>(look: impl Fn() -> std::result::Result<Stat, E>) -> std::result::Result<Stat, E> {
    loop {
        let before = GIVEN_BACK.load(Ordering::SeqCst);
        let mut stat = look()?;
        if LENT_NOW.load(Ordering::SeqCst) > 0 {
            let lent = LENT.lock().get(&BackingId::of(&stat)).copied();
            stat.st_mode &= !lent.unwrap_or(0);
        }
        if GIVEN_BACK.load(Ordering::SeqCst) == before {
            return Ok(stat);
        }
    }
}

/// Attributes of a file, with a mode that may be lent.
pub(super) fn look(file: &File) -> Result<Stat> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, stat::WANTED)
        .map(Stat::from)
        .context(|| "reading attributes".into())
}

/// Gives a file the mode that `wanted` makes of its attributes.
pub(super) fn change(file: &File, wanted: impl Fn(&Stat) -> u32) -> Result<()> {
    let stays = |stat: &Stat| wanted(stat) == stat.st_mode & 0o7777;
    if stays(&own(|| look(file))?) {
        return Ok(());
    }
    let _alone = alone(file)?;
    let stat = look(file)?;
    if stays(&stat) { Ok(()) } else { set(file, wanted(&stat)) }
}

/// Sets a mode while [`alone`].
pub(super) fn set(file: &File, mode: u32) -> Result<()> {
    rustix::fs::chmod(proc_entry(file), Mode::from_raw_mode(mode & 0o7777)).context(|| format!("setting mode {mode:o}"))
}

impl FileSystem {
    /// Does `work` on a backing file for a caller that the kernel let do it, whatever this process may do as it is.
    pub(super) fn allowed<T>(&self, file: &File, work: impl Fn() -> Result<T>) -> Result<T> {
        work().or_else(|refused| self.lend(file, refused, work))
    }

    /// Does once more what was refused, if this process may not do it with its own file, and a mount may change that.
    pub(super) fn lend<T>(&self, file: &File, refused: Error, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if refused.os_error() != Some(libc::EACCES) || self.served.options().read_only {
            return Err(refused);
        }
        lend(file, refused, work)
    }
}

fn lend<T>(file: &File, refused: Error, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let alone = alone(file)?;
    let stat = look(file)?;
    let bits = OWNER & !stat.st_mode;
    if !comes_back(&stat) {
        return Err(refused);
    }
    if bits == 0 {
        return work(); // it is refused by something else, or the mode was changed in the meantime
    }
    let loan = Loan::of(alone.0, bits);
    let lent = stat.st_mode & 0o7777 | bits;
    if set(file, lent).is_err() {
        return Err(refused);
    }
    let done = work();
    loan.give_back(file, lent)?;
    done
}

/// Bits that are lent, or are about to be.
struct Loan(BackingId, u32);

impl Loan {
    fn of(id: BackingId, bits: u32) -> Self {
        LENT.lock().insert(id, bits);
        LENT_NOW.fetch_add(1, Ordering::SeqCst);
        Self(id, bits)
    }

    /// Takes back what was lent, and nothing else: set-id bits may have gone with a write in the meantime, and if something else than this
    /// mount has changed the permissions, its word counts.
    fn give_back(self, file: &File, lent: u32) -> Result<()> {
        let now = look(file)?.st_mode & 0o7777;
        if now & PERMISSIONS == lent & PERMISSIONS { set(file, now & !self.1) } else { Ok(()) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        GIVEN_BACK.fetch_add(1, Ordering::SeqCst); // first: what was seen of the lent mode is then looked at again
        LENT_NOW.fetch_sub(1, Ordering::SeqCst);
        LENT.lock().remove(&self.0);
    }
}

/// Whether this process can lend itself bits of the file's mode and have all of it as before afterwards. The set-group-id bit goes for good
/// when its owner is not in its group.
fn comes_back(stat: &Stat) -> bool {
    let in_group = || {
        getegid().as_raw() == stat.st_gid
            || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == stat.st_gid))
    };
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == geteuid().as_raw()
        && (stat.st_mode & SET_GID == 0 || in_group())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::*;
    use crate::fs::backing;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal() -> Error {
        Error::errno("opening", rustix::io::Errno::ACCESS)
    }

    /// The file's mode while it is lent and afterwards, if `change` is done in between.
    fn lent(path: &Path, change: impl FnOnce()) -> (u32, u32) {
        let dir = File::open(path.parent().unwrap()).unwrap();
        let file = backing::any_at(&dir, path.file_name().unwrap()).unwrap();
        let during = lend(&file, refusal(), || {
            let during = mode(path);
            change();
            Ok(during)
        });
        (during.unwrap(), mode(path))
    }

    #[test]
    fn what_is_lent_comes_back_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        for own in [0o200, 0o400, 0, 0o060, 0o7311, 0o6000, 0o1246] {
            set_mode(&path, own);
            assert_eq!(lent(&path, || {}), (own | 0o600, own), "{own:o}");
        }
        set_mode(&path, 0o640);
        assert_eq!(lent(&path, || {}), (0o640, 0o640));
        set_mode(&path, 0o6200);
        assert_eq!(lent(&path, || set_mode(&path, 0o600)), (0o6600, 0o200), "set-id bits that went stay away");
        set_mode(&path, 0o200);
        assert_eq!(lent(&path, || set_mode(&path, 0o644)), (0o600, 0o644), "a mode that was set during it stays");
        set_mode(&path, 0o200);
        let renamed = dir.path().join("renamed");
        let file = backing::any_at(&File::open(dir.path()).unwrap(), "file".as_ref()).unwrap();
        lend(&file, refusal(), || {
            std::fs::rename(&path, &renamed).unwrap();
            std::fs::write(&path, "y").unwrap();
            set_mode(&path, 0o644);
            Ok(())
        })
        .unwrap();
        assert_eq!((mode(&renamed), mode(&path)), (0o200, 0o644), "whatever name the file has");
    }

    #[test]
    fn nobody_sees_a_lent_mode_and_a_failure_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        set_mode(&path, 0o200);
        let folder = File::open(dir.path()).unwrap();
        let file = backing::any_at(&folder, "file".as_ref()).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    assert!(lend(&file, refusal(), || Err::<(), _>(refusal())).is_err());
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(backing::stat(&file).unwrap().st_mode & 0o7777, 0o200);
                assert_eq!(backing::stat_at(&folder, "file".as_ref()).unwrap().st_mode & 0o7777, 0o200);
                change(&file, |stat| stat.st_mode & 0o7777 | 0o4000).unwrap();
                assert_eq!(mode(&path) & 0o4000, 0o4000);
                change(&file, |stat| stat.st_mode & 0o3777).unwrap();
            }
        });
        assert_eq!(mode(&path), 0o200);
    }

    #[test]
    fn what_belongs_to_another_user_is_not_lent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        set_mode(&path, 0o200);
        let mut stat = backing::stat(&File::open(dir.path()).unwrap()).unwrap();
        assert!(!comes_back(&stat), "a folder");
        stat = backing::stat_at(&File::open(dir.path()).unwrap(), "file".as_ref()).unwrap();
        assert!(comes_back(&stat));
        assert!(!comes_back(&Stat { st_uid: stat.st_uid + 1, ..stat }));
        let strange = Stat { st_gid: 3_999_999_999, ..stat };
        assert!(comes_back(&strange));
        assert!(!comes_back(&Stat { st_mode: stat.st_mode | SET_GID, ..strange }));
    }
}
