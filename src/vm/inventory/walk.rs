//! Going through folders.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::error::{Context, Error, Kind, NotAFile, Result};
use crate::format::header::is_reserved;
use crate::format::names::DiskNames;
use crate::progress::{GoOn, to_the_end};
use crate::store::home_file::looks_like_sealed_target;
use crate::sys::file::{kind_of, open_unnoticed, regular_at};
use crate::sys::mount_table;
use crate::text::Show;
use crate::vm::clear::ClearKind;
use crate::vm::folder;
use crate::vm::home_state::HomeState;
use crate::vm::inventory::file::{classify, component, unless_gone};
use crate::vm::inventory::{Entry, FolderKind, Headers, Link, MAX_DEPTH, What};
use crate::vm::members;

pub(super) fn take(root: &File, links: bool, disk_names: &DiskNames, go_on: &GoOn<'_>) -> Result<Vec<Entry>> {
    let mount = mount_of(root)?;
    if mount_table::leads_to_ours(mount).context(|| "reading the table of mounts".into())? {
        return Err(Error::new(Kind::Invalid, "it is a mount, which shows no headers: name its backing folder"));
    }
    let followed = links.then(Followed::default);
    let look = |file, name: &OsStr, disk_names: &DiskNames| classify(file, name, disk_names).map(Some);
    walk(root, mount, followed, disk_names, Manner { look: &look, asks_homes: true, go_on })
}

/// Components alone, but for the folder's own home header.
pub(super) fn disks(root: &File, go_on: &GoOn<'_>) -> Result<Vec<Entry>> {
    let look = |file, name: &OsStr, _: &DiskNames| match HomeState::of_header_file(name) {
        Some(_) => Ok(None),
        None => component(&file, name),
    };
    let manner = Manner { look: &look, asks_homes: false, go_on };
    walk(root, mount_of(root)?, None, &DiskNames::default(), manner)
}

/// All but the folder's own home header, which the caller knows, as it knows the home's list of names.
pub(super) fn files(root: &File, disk_names: &DiskNames) -> Result<Vec<Entry>> {
    let look = |file, name: &OsStr, disk_names: &DiskNames| match HomeState::of_header_file(name) {
        Some(_) => Ok(None),
        None => classify(file, name, disk_names).map(Some),
    };
    // A mount that begins goes through more than one folder, and heeds signals between them.
    let manner = Manner { look: &look, asks_homes: false, go_on: &to_the_end };
    walk(root, mount_of(root)?, None, disk_names, manner)
}

fn walk(
    root: &File,
    mount: u64,
    followed: Option<Followed>,
    disk_names: &DiskNames,
    manner: Manner<'_>,
) -> Result<Vec<Entry>> {
    let mut walk = Walk { root, entries: Vec::new(), followed, disk_names, manner, stopped: None };
    let place = Place { path: Path::new(""), depth: 0, reserved: false, vm: None, disk_names };
    walk.folder(root, mount, stat(root)?, &place)?;
    walk.follow_links();
    walk.stopped.map_or(Ok(walk.entries), Err)
}

/// Says what a regular file is; `None` for what is to be no entry.
type Look<'l> = dyn Fn(File, &OsStr, &DiskNames) -> Result<Option<What>> + 'l;

/// How names are gone through.
#[derive(Clone, Copy)]
struct Manner<'m> {
    look: &'m Look<'m>,
    /// Whether the names of disks are each home's own: not for callers that know them. Reading a header costs more than all else
    /// of a folder.
    asks_homes: bool,
    go_on: &'m GoOn<'m>,
}

pub(super) fn of_file(path: &Path, disk_names: &DiskNames) -> Result<Entry> {
    let file = regular_at(path).context(|| format!("opening {}", path.shown()))?;
    let stat = stat(&file)?;
    Ok(Entry {
        path: path.to_path_buf(),
        what: classify(file, path.file_name().unwrap_or_default(), disk_names)?,
        reserved: false,
        vm: None,
        headless: false,
        stat: Some(stat),
    })
}

mod links;

use links::Followed;

struct Walk<'r> {
    root: &'r File,
    entries: Vec<Entry>,
    /// If links are followed.
    followed: Option<Followed>,
    /// Which names are those of disks where no home says it.
    disk_names: &'r DiskNames,
    manner: Manner<'r>,
    /// Why nothing more is looked at.
    stopped: Option<Error>,
}

/// Where something lies.
struct Place<'p> {
    path: &'p Path,
    depth: usize,
    reserved: bool,
    vm: Option<Arc<Path>>,
    /// The home's list, or that of homes that are made.
    disk_names: &'p DiskNames,
}

impl Walk<'_> {
    /// Adds a folder and all that it holds.
    fn folder(&mut self, dir: &File, mount: u64, stat: Stat, place: &Place<'_>) -> Result<()> {
        if self.followed.as_ref().is_some_and(|followed| followed.is_known(&stat)) {
            return Ok(());
        }
        let names = folder::sorted_names(dir)?;
        let is_vm = names.iter().any(|name| HomeState::of_header_file(name).is_some());
        let vm = if is_vm { Some(Arc::from(place.path)) } else { place.vm.clone() };
        let own = self.entries.len();
        let of_home = if is_vm && self.manner.asks_homes { home_disk_names(dir) } else { None };
        let disk_names = of_home.as_ref().unwrap_or(place.disk_names);
        let here = Place { path: place.path, depth: place.depth, reserved: place.reserved, vm, disk_names };
        self.add(&here, stat, What::Folder(FolderKind::Plain));
        for name in &names {
            let path = place.path.join(name);
            let place = Place {
                path: &path,
                depth: place.depth + 1,
                reserved: place.reserved || is_reserved(name),
                vm: here.vm.clone(),
                disk_names,
            };
            self.name(dir, mount, name, &place);
        }
        let kind = folder_kind(place.vm.is_some(), &self.entries[own + 1..], place.depth + 1);
        self.entries[own].what = What::Folder(kind);
        if kind == FolderKind::Headless {
            self.entries[own + 1..].iter_mut().for_each(|entry| entry.headless |= entry.vm.is_none());
        }
        Ok(())
    }

    /// Adds what a name leads to. What cannot be looked at is an entry all the same.
    fn name(&mut self, dir: &File, mount: u64, name: &OsStr, place: &Place<'_>) {
        if self.stopped.is_none() {
            self.stopped = (self.manner.go_on)().err();
        }
        if self.stopped.is_some() {
            return;
        }
        let before = self.entries.len();
        if let Err(error) = self.try_name(dir, mount, name, place) {
            self.entries.truncate(before);
            if let Some(what) = unless_gone(error) {
                self.add_unseen(place, what);
            }
        }
    }

    fn try_name(&mut self, dir: &File, mount: u64, name: &OsStr, place: &Place<'_>) -> Result<()> {
        // A mount that does not answer must not be asked even for the attributes of its root.
        let handle = open(dir, name, OFlags::PATH)?;
        let its_mount = mount_of(&handle)?;
        if its_mount != mount
            && mount_table::leads_to_ours(its_mount).context(|| "reading the table of mounts".into())?
        {
            self.add_unseen(place, What::Mount);
            return Ok(());
        }
        let stat = stat(&handle)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_home_header = HomeState::of_header_file(name).is_some();
        if is_home_header && kind != FileType::RegularFile {
            let why = Error::new(Kind::Corrupt, format!("{}: {}", name.shown(), NotAFile(kind_of(kind))));
            self.add(place, stat, What::Home(Headers::none(why)));
        }
        let what = match kind {
            FileType::Directory if place.depth > MAX_DEPTH => What::Unreadable(too_deep()),
            FileType::Directory => {
                let dir = open(&handle, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
                return self.folder(&dir, its_mount, stat, place);
            }
            FileType::RegularFile => match self.file(dir, name, place.disk_names) {
                Ok(Some(what)) => what,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == Kind::NotFound => return Err(error),
                Err(error) => What::Unreadable(error),
            },
            FileType::Symlink => {
                let link = self.link(dir, name, place)?;
                if let Some(followed) = self.followed.as_mut().filter(|_| link != Link::Sealed && !is_home_header) {
                    followed.waiting.push((place.path.to_path_buf(), place.depth, place.reserved));
                }
                What::Link(link)
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => What::Special(kind_of(kind)),
        };
        self.add(place, stat, what);
        Ok(())
    }

    fn file(&self, dir: &File, name: &OsStr, disk_names: &DiskNames) -> Result<Option<What>> {
        let file = open_unnoticed(dir, name, OFlags::RDONLY).context(|| "opening it".into())?;
        if members::is_list(&file, name)? {
            return Ok(None); // as genuine as its home says, which knows where it is
        }
        (self.manner.look)(file, name, disk_names)
    }

    fn link(&self, dir: &File, name: &OsStr, place: &Place<'_>) -> Result<Link> {
        let text = rustix::fs::readlinkat(dir, name, Vec::new());
        let text = OsString::from_vec(text.context(|| "reading a symbolic link".into())?.into_bytes());
        if place.vm.is_some() && looks_like_sealed_target(text.as_bytes()) {
            return Ok(Link::Sealed);
        }
        let target = place.path.parent().unwrap_or(Path::new("")).join(&text);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(self.root, &target, flags, Mode::empty(), ResolveFlags::BENEATH) {
            Err(rustix::io::Errno::XDEV) => Ok(Link::Outside(text)),
            Ok(_) | Err(_) => Ok(Link::Inside(text)),
        }
    }

    /// Adds what has no attributes that are known.
    fn add_unseen(&mut self, place: &Place<'_>, what: What) {
        let (path, vm) = (place.path.to_path_buf(), place.vm.clone());
        self.entries.push(Entry { path, what, reserved: place.reserved, vm, headless: false, stat: None });
    }

    fn add(&mut self, place: &Place<'_>, stat: Stat, what: What) {
        if let Some(followed) = &mut self.followed {
            followed.seen.insert((stat.st_dev, stat.st_ino));
        }
        self.entries.push(Entry {
            path: place.path.to_path_buf(),
            what,
            reserved: place.reserved,
            vm: place.vm.clone(),
            headless: false,
            stat: Some(stat),
        });
    }
}

/// What a folder is that holds `below`, of which its own names are those `depth` deep.
fn folder_kind(in_vm: bool, below: &[Entry], depth: usize) -> FolderKind {
    let own = || below.iter().filter(|entry| entry.path.components().count() == depth);
    // In the order of their life, as elsewhere. Two names of one file are a rename that was interrupted.
    let mut headers: Vec<(HomeState, Option<(u64, u64)>)> = Vec::new();
    for state in [HomeState::Encrypting, HomeState::Encrypted, HomeState::Decrypting] {
        let entry = own().find(|entry| entry.path.file_name().and_then(HomeState::of_header_file) == Some(state));
        if let Some(entry) = entry.filter(|entry| headers.iter().all(|(_, inode)| *inode != entry.inode())) {
            headers.push((state, entry.inode()));
        }
    }
    match headers.as_slice() {
        [(state, _)] => {
            let erased = own().any(|entry| matches!(entry.what, What::Erased(_)) && entry.is_own_header());
            if erased { FolderKind::Erased } else { FolderKind::Vm(*state) }
        }
        [] if in_vm => FolderKind::Part,
        [] if own().any(|entry| matches!(entry.what, What::Sealed | What::Disk(_))) => FolderKind::Headless,
        [] if own().any(|entry| matches!(entry.what, What::Clear(kind) if tells_of_vm(kind))) => FolderKind::Clear,
        [] => FolderKind::Plain,
        [(first, _), (second, _), ..] => FolderKind::SeveralHeaders(*first, *second),
    }
}

/// An image of a medium may lie anywhere; other images of disks, and settings, are a VM's.
fn tells_of_vm(kind: ClearKind) -> bool {
    match kind {
        ClearKind::Disk(what) => !matches!(what, "raw image: ISO 9660" | "raw image: UDF"),
        ClearKind::Home(what) => matches!(what, "settings" | "VMDK descriptor"),
    }
}

/// The list of the home of a VM folder, in whatever state that is, if it can be read.
fn home_disk_names(dir: &File) -> Option<DiskNames> {
    let stored = folder::read_home_of_any_state(dir).ok()??;
    Some(stored.header.claims().disk_names.clone())
}

fn too_deep() -> Error {
    Error::new(Kind::Unsupported, format!("nested too deep: deeper than {MAX_DEPTH} folders, not looked at"))
}

fn open(dir: &File, name: &OsStr, flags: OFlags) -> Result<File> {
    // NONBLOCK keeps a fifo that was put in a file's place from stopping us.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from);
    opened.context(|| "opening it".into())
}

fn stat(file: &File) -> Result<Stat> {
    let stat = rustix::fs::statat(file, "", AtFlags::EMPTY_PATH);
    stat.context(|| "reading attributes".into())
}

fn mount_of(file: &File) -> Result<u64> {
    mount_table::mount_id(file).context(|| "finding out which mount it is of".into())
}
