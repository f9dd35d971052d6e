//! Finding VM folders and their components in a backing directory.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FileType, OFlags};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, Header, UnverifiedHeader, is_reserved};
use crate::format::names::DiskNames;
use crate::progress::{GoOn, to_the_end};
use crate::store::header_area::{RESTORE_HOME, StoredHeader};
use crate::sys::file::{folder_beneath, open_unnoticed, stat_at};
use crate::text::Show;
use crate::text::advice::Places;
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::inventory::{self, Entry, Inventory, What};
use crate::vm::under_way::UnderWay;
use crate::vm::{disk, folder, home};

/// A component, where it lies, and what its header says or why it cannot be read.
#[derive(Debug)]
pub struct FoundComponent {
    /// Below the scanned directory. A home's path is its VM folder's.
    pub path: PathBuf,
    /// Home or disk.
    pub kind: ComponentKind,
    /// The header, unverified.
    pub header: Result<StoredHeader>,
    /// Length of the backing file in bytes.
    pub cipher_len: u64,
    /// Of a disk, device and number of its inode: it may have several names.
    pub inode: Option<(u64, u64)>,
    /// A deep rekey that is under way.
    pub deep_rekey: Option<UnderWay>,
}

impl FoundComponent {
    /// Which one it is of the VM folder that was scanned.
    pub fn component(&self) -> Component {
        match self.kind {
            ComponentKind::Home => Component::Home,
            ComponentKind::Disk => Component::Disk(self.path.clone()),
        }
    }

    fn of_disk(folder: &Path, entry: Entry) -> Option<Self> {
        let (kind, inode, cipher_len) = (ComponentKind::Disk, entry.inode(), entry.stored_len());
        let (header, deep_rekey) = if let What::Disk(headers) = entry.what {
            (headers.stored, headers.deep_rekey)
        } else if let What::Erased(mark) = entry.what
            && mark.kind == kind
        {
            (Err(mark.error()), None)
        } else {
            return None;
        };
        Some(Self { path: folder.join(&entry.path), kind, header, cipher_len, inode, deep_rekey })
    }

    /// Whether it was erased: there is nothing left that a key opens.
    pub fn is_erased(&self) -> bool {
        self.header.as_ref().is_err_and(|error| error.kind() == Kind::KeyUnavailable)
    }

    /// Whether it is the disk of this UUID, as far as a header says that is not verified.
    pub fn is_disk(&self, uuid: Uuid) -> bool {
        let header = self.unverified().filter(|_| self.kind == ComponentKind::Disk);
        header.is_some_and(|header| header.claims().uuid == uuid)
    }

    /// What can be tried to unlock.
    pub fn unverified(&self) -> Option<&UnverifiedHeader> {
        self.header.as_ref().ok().map(|stored| &stored.header)
    }
}

/// Leaves each file's first name alone: a disk with several names is one, and can be claimed only once.
pub(crate) fn each_file_once<C: Borrow<FoundComponent>>(found: &mut Vec<C>) {
    let mut seen = HashSet::new();
    found.retain(|component| component.borrow().inode.is_none_or(|inode| seen.insert(inode)));
}

/// What a mount finds when it begins: its components, and what it will not show.
#[derive(Debug, Default)]
pub struct FirstLook {
    /// As of [`scan`].
    pub components: Vec<FoundComponent>,
    /// Folders of a datastore that hold sealed files or disks, but no home header: a mount shows nothing of them. What lies
    /// deeper in them is not looked at.
    pub without_home: Vec<PathBuf>,
    /// Files of VM folders that may be disks in the clear, and as well encrypted ones whose header was overwritten: a mount opens
    /// none of them.
    pub without_sign: Vec<PathBuf>,
}

/// All components below `root`: it is a VM folder itself, or a datastore of VM folders. Files that cannot be read are
/// passed over: they belong to no component that this user could unlock.
///
/// # Errors
/// `Io` when `root` cannot be read.
pub fn scan(root: &File) -> Result<Vec<FoundComponent>> {
    scan_watched(root, &to_the_end)
}

/// As [`scan`]; an error of `go_on`, which is asked before each name, ends it.
///
/// # Errors
/// As [`scan`], and that of `go_on`.
pub fn scan_watched(root: &File, go_on: &GoOn<'_>) -> Result<Vec<FoundComponent>> {
    let mut look = FirstLook::default();
    let below = |dir: &File, _: Option<&Header>| inventory::disks_below(dir, go_on);
    if !scan_folder(root, Path::new(""), &below, &mut look)? {
        for name in shown_names(root)? {
            go_on()?;
            look.folder(root, &name, &below)?;
        }
    }
    Ok(look.components)
}

/// As [`scan`], and what a mount will not show, in one pass. Threads share the folders of a large datastore.
///
/// # Errors
/// As [`scan`].
pub fn first_look(root: &File) -> Result<FirstLook> {
    let below = |dir: &File, home: Option<&Header>| match home {
        Some(home) => inventory::files_below(dir, &home.disk_names),
        None => inventory::disks_below(dir, &to_the_end),
    };
    let mut look = FirstLook::default();
    if scan_folder(root, Path::new(""), &below, &mut look)? {
        return Ok(look);
    }
    let names = shown_names(root)?;
    let work = |names: &[OsString]| -> Result<FirstLook> {
        let mut look = FirstLook::default();
        for name in names {
            if let Some(dir) = look.folder(root, name, &below)?
                && has_ciphertext(&dir)
            {
                look.without_home.push(PathBuf::from(name));
            }
        }
        Ok(look)
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let share = names.len().div_ceil(threads).max(LEAST_SHARE);
    thread::scope(|scope| {
        let started: Vec<_> = names
            .chunks(share)
            .map(|names| (names, thread::Builder::new().name("scan".into()).spawn_scoped(scope, move || work(names))))
            .collect();
        for (names, started) in started {
            // A thread that the system does not give is done without.
            let looked = started
                .map_or_else(|_| work(names), |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            look.add(looked?);
        }
        Ok(look)
    })
}

/// Threads of one first look.
const MAX_THREADS: usize = 4;
/// Fewer folders are no work for a thread of its own.
const LEAST_SHARE: usize = 64;

fn shown_names(root: &File) -> Result<Vec<OsString>> {
    Ok(folder::sorted_names(root)?.into_iter().filter(|name| !is_reserved(name)).collect())
}

/// Lists what lies below a VM folder that has this home, if it has one that is whole.
type Below<'l> = dyn Fn(&File, Option<&Header>) -> Result<Vec<Entry>> + 'l;

/// Home and disks of one VM folder; only disks where it is not one. An error of `go_on`, which is asked before each name, ends it.
///
/// # Errors
/// As [`scan`], and that of `go_on`.
pub fn scan_vm(folder: &File, go_on: &GoOn<'_>) -> Result<Vec<FoundComponent>> {
    let (mut look, here) = (FirstLook::default(), Path::new(""));
    let below = |dir: &File, _: Option<&Header>| inventory::disks_below(dir, go_on);
    if !scan_folder(folder, here, &below, &mut look)? {
        look.add_files(here, below(folder, None)?);
    }
    Ok(look.components)
}

/// Adds the home and the disks of one directory; `false` when it is not a VM folder of ours, not even in part.
fn scan_folder(dir: &File, path: &Path, below: &Below<'_>, look: &mut FirstLook) -> Result<bool> {
    let header = match folder::read_whole_home(dir) {
        Ok(None) => return Ok(false),
        Ok(Some(stored)) => Ok(stored),
        Err(error) => Err(error),
    };
    let home = header.as_ref().ok().map(|stored| stored.header.claims());
    let entries = below(dir, home)?;
    let deep_rekey = home.is_some_and(|home| home.transition.is_some()).then_some(UnderWay { percent: None });
    let path_of_home = path.to_path_buf();
    let kind = ComponentKind::Home;
    look.components.push(FoundComponent { path: path_of_home, kind, header, cipher_len: 0, inode: None, deep_rekey });
    look.add_files(path, entries);
    Ok(true)
}

impl FirstLook {
    /// Adds one folder of a datastore. Gives it back if it is not one of a VM.
    fn folder(&mut self, root: &File, name: &OsString, below: &Below<'_>) -> Result<Option<File>> {
        let Ok(dir) = folder_beneath(root, Path::new(name)) else { return Ok(None) };
        let is_vm = scan_folder(&dir, Path::new(name), below, self)?;
        Ok((!is_vm).then_some(dir))
    }

    fn add(&mut self, other: Self) {
        self.components.extend(other.components);
        self.without_home.extend(other.without_home);
        self.without_sign.extend(other.without_sign);
    }

    /// Adds what a folder holds.
    fn add_files(&mut self, path: &Path, entries: Vec<Entry>) {
        for entry in entries.into_iter().filter(|entry| !entry.reserved) {
            if entry.may_be_ciphertext() {
                self.without_sign.push(path.join(&entry.path));
            }
            self.components.extend(FoundComponent::of_disk(path, entry));
        }
    }
}

/// Regular files of a VM folder that are no disks, with paths below it.
///
/// # Errors
/// `Io`, and that of `go_on`, which is asked before each name.
pub fn home_files(folder: &File, go_on: &GoOn<'_>) -> Result<Vec<PathBuf>> {
    let files = Inventory::take_watched(folder, &DiskNames::default(), go_on)?.entries.into_iter();
    Ok(files.filter(|entry| entry.is_shown_file() && !entry.is_disk()).map(|entry| entry.path).collect())
}

/// The VM folders of a datastore, the first ones by name, for people; `None` for a folder that is not a datastore.
pub fn vm_folders(path: &Path) -> Option<String> {
    const MAX_NAMED: usize = 5;
    let root = folder::open_dir(path).ok()?;
    let is_vm = |name: &OsString| folder_beneath(&root, Path::new(name)).is_ok_and(|dir| has_home(&dir));
    let names = folder::sorted_names(&root).ok()?.into_iter().filter(|name| !is_reserved(name)).filter(is_vm);
    let mut names: Vec<String> = names.take(MAX_NAMED + 1).map(|name| Path::new(&name).shown().to_string()).collect();
    if names.len() > MAX_NAMED {
        names[MAX_NAMED] = "...".to_owned();
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// What to say of VM folders that have one UUID: nothing but their places tells them apart.
pub fn describe_copies(uuid: Uuid, folders: &[&Path]) -> String {
    let names: Vec<String> = folders.iter().map(|folder| folder.shown().to_string()).collect();
    format!(
        "{} are copies of one VM (UUID {uuid}): to this host, a change of one makes the others older, so that these can only be read; \
         `vmcryptfs clone FROM TO` makes a VM of its own of a copy",
        names.join(" and ")
    )
}

/// The nearest folder around a path that is one of a VM.
pub fn folder_around(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?; // a name without a folder has nothing around it
    let around = path.ancestors().skip(1).find(|folder| folder::open_dir(folder).is_ok_and(|dir| has_home(&dir)));
    around.map(Path::to_path_buf)
}

/// A text with the paths in its advice that a path says: a VM folder's, or that of something in one, and the mountpoint.
pub fn advised(path: Option<&Path>, mountpoint: Option<&Path>, text: &str) -> String {
    if !text.contains('`') {
        return text.to_owned(); // the rest costs a look at the folders around
    }
    let vm_folder = path.and_then(vm_folder_of);
    Places { vm_folder: vm_folder.as_deref(), component: path, mountpoint }.put_into(text)
}

/// The VM folder that a path is, or is in.
pub fn vm_folder_of(path: &Path) -> Option<PathBuf> {
    let is_one = folder::open_dir(path).is_ok_and(|dir| has_home(&dir));
    if is_one { Some(path.to_path_buf()) } else { folder_around(path) }
}

/// Whether a folder is one of a VM: also if its home is damaged, erased, not finished, or there are two.
pub fn has_home(dir: &File) -> bool {
    HomeState::of(dir).map_or(true, |state| state.header_file().is_some())
}

/// Refuses a folder that holds files of an encrypted home, or disks, and no home header: it is not a VM folder in the clear. Files that
/// only served the home do not count, such as a manifest that a crash has left of a home that is decrypted.
///
/// # Errors
/// `Corrupt`, with the way out.
pub fn refuse_lost_home(path: &Path) -> Result<()> {
    let Ok(dir) = folder::open_dir(path) else { return Ok(()) }; // opening it says why
    if has_home(&dir) || !has_ciphertext(&dir) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "{} holds encrypted files, and no home header. If its {HOME_FILE} is lost, {RESTORE_HOME}",
            path.shown()
        ),
    )
    .with_places(&Places { vm_folder: Some(path), component: Some(path), mountpoint: None }))
}

/// Whether it holds files of a home, or disks. What a crash has left, such as a manifest, is neither.
fn has_ciphertext(dir: &File) -> bool {
    let is_ciphertext = |name: &OsString| {
        let is_file = !is_reserved(name)
            && stat_at(dir, name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let file = is_file.then(|| open_unnoticed(dir, name, OFlags::RDONLY).ok()).flatten();
        file.is_some_and(|file| disk::is_disk(&file).unwrap_or(false) || home::is_home_file(&file).unwrap_or(false))
    };
    folder::sorted_names(dir).is_ok_and(|names| names.iter().any(is_ciphertext))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_first_look_by_several_threads_finds_what_one_finds_in_the_same_order() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..(3 * LEAST_SHARE) {
            let folder = root.path().join(format!("vm{number:04}"));
            fs::create_dir(&folder).unwrap();
            // Damaged homes are components, too.
            fs::write(folder.join(HOME_FILE), [7; 100]).unwrap();
        }
        let dir = folder::open_dir(root.path()).unwrap();
        let paths = |found: Vec<FoundComponent>| found.into_iter().map(|found| found.path).collect::<Vec<_>>();
        let found = paths(first_look(&dir).unwrap().components);
        assert_eq!(found.len(), 3 * LEAST_SHARE);
        assert_eq!(found, paths(scan(&dir).unwrap()));
    }
}
