//! Opening regular files: by whichever door a file is opened, all share one open file.

use std::fs::File;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::is_reserved;
use crate::serve::open_file::{Content, Shared};
use crate::serve::places::Place;
use crate::serve::{BackingId, CacheMode, FileUse, OpenFile, Purpose, ServedFolder};
use crate::storage::claims::Claim;
use crate::storage::{Access, FileStorage};
use crate::sys::file::{open_unnoticed, reopen};
use crate::text::Show;
use crate::vm::home::Home;
use crate::vm::{disk, home};

/// What a file is opened for.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// The backing file.
    pub id: BackingId,
    /// What its handle may do.
    pub access: Access,
    /// What caches the content, if it is a home file's.
    pub home_cache: CacheMode,
    /// The user who has it open from now on; none for the time of one operation.
    pub user: Option<u32>,
}

/// An open file, as one opener has it.
pub struct Opened {
    /// The file, shared by all openers.
    file: Arc<OpenFile>,
    _writing: Option<FileUse>,
}

impl Opened {
    /// The file that all openers share.
    pub fn shared(&self) -> &Arc<OpenFile> {
        &self.file
    }
}

impl Deref for Opened {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.file
    }
}

/// A backing file that no door has open yet.
pub struct Unopened {
    /// The file, open for what the request's access takes, and perhaps for more.
    pub file: File,
    /// Whether it is open for writing.
    pub may_write: bool,
    /// Whether it is kept as a disk; else it is a home file.
    pub is_disk: bool,
    /// Its VM folder's home.
    pub home: Arc<Home>,
    /// Its place among the files that are open.
    pub place: Option<Place>,
}

impl ServedFolder {
    /// The open file of a backing file: shared with all that use it, or opened now, and for writing its use for that. `name` is what
    /// a message calls it, and `paths` where it lies below its VM folder, by all names that are known. `allowed` does what opens a backing
    /// file once more, with the rights that the request has; `open` opens it for the first time.
    ///
    /// # Errors
    /// `KeyUnavailable` when it is locked, `Busy` when another process or host has it open, `Corrupt` for damage, `ReadOnly`, or those
    /// of `open`.
    pub fn open_file(
        &self,
        request: &OpenRequest,
        (name, paths): (impl Fn() -> String, impl Fn() -> Result<Vec<PathBuf>>),
        allowed: impl FnOnce(&File, &dyn Fn() -> Result<()>) -> Result<()>,
        open: impl FnOnce() -> Result<Unopened>,
    ) -> Result<Opened> {
        let entry = self.open_files.entry(request.id);
        let mut shared = entry.lock();
        // One that others have made another file, or may have, is opened once more, beside those who still have the former one.
        let file = if let Some(open) = shared.file.upgrade().filter(|open| !self.is_lost(open) && !open.is_stale()) {
            if self.options.shared && request.access == Access::Read {
                open.storage().ask_anew().context(&name)?; // as if it were opened for the first time
            }
            // It may be open for a reader that came when it could only be read.
            if request.access == Access::Write && open.is_read_only() && !self.options.read_only {
                let file = open.storage().file();
                let widen = || open.widen(reopen(file, OFlags::RDWR).context(|| "opening the file".into())?);
                allowed(file, &widen)?;
            }
            open
        } else {
            let open = Arc::new(self.open_first(request, open()?, &mut shared, &name)?);
            shared.file = Arc::downgrade(&open);
            open
        };
        at_its_place(&paths, |paths| file.refuse_place(paths)).context(&name)?;
        let writing = (request.access == Access::Write).then(|| file.begin(Purpose::Write)).transpose()?;
        Ok(Opened { file, _writing: writing })
    }

    fn is_lost(&self, open: &OpenFile) -> bool {
        let is_lost = open.has_lost_claims();
        if is_lost {
            self.homes.forget(); // their claims are as old
        }
        is_lost
    }

    fn open_first(
        &self,
        request: &OpenRequest,
        unopened: Unopened,
        shared: &mut Shared,
        name: impl Fn() -> String,
    ) -> Result<OpenFile> {
        let Unopened { file, may_write, is_disk, home, place } = unopened;
        let claimed = shared.claim_next();
        let storage = FileStorage::with_claims(file, self.options.claims);
        let opened = if is_disk {
            let keys = (&self.keyring, &home.owner, &[][..]); // its place is compared when it is open
            disk::open(storage, request.access, keys, self.options.engine, self.options.backing_io)
                .map(|(disk, past)| (Content::Disk(disk), Some(past)))
        } else {
            if request.access == Access::Write {
                home.allow_changes().context(&name)?;
            }
            let claim = Claim::in_use(request.access, false);
            home::open(storage, claim, &home.keys, &home.header.disk_names, &name)
                .map(|home| (Content::of_home(home, request.user), None))
        };
        Ok(OpenFile::new(
            opened.context(name)?,
            (request.home_cache, self.options.shared),
            request.access,
            may_write,
            home,
            place,
            claimed,
        ))
    }

    /// Opens a file by its path below the folder, for the time of one operation or for a door that has no other names for files.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a path that names no file, or those of [`open_file`](Self::open_file).
    pub fn open_at(&self, path: &Path, access: Access) -> Result<Opened> {
        let is_name = |part: Component<'_>| matches!(part, Component::Normal(name) if !is_reserved(name));
        let name = path.file_name().filter(|_| path.components().all(is_name)).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{} is not a path of a file below a VM folder", path.shown()))
        })?;
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        let open = |flags| open_unnoticed(&dir, name, flags).context(|| format!("opening {}", path.shown()));
        // A later handle may be for writing.
        let (file, may_write) = match if self.options.read_only { None } else { open(OFlags::RDWR).ok() } {
            Some(file) => (file, true),
            None if access == Access::Write && !self.options.read_only => (open(OFlags::RDWR)?, true),
            None => (open(OFlags::RDONLY)?, false),
        };
        let id = BackingId::of_file(&file)?;
        let request = OpenRequest { id, access, home_cache: CacheMode::Kernel, user: None };
        let shown = || path.shown().to_string();
        let place = || Ok(vec![self.below_vm(path)]);
        self.open_file(
            &request,
            (shown, place),
            |_, widen| widen(),
            || {
                let home = self.home_at(path)?;
                Ok(Unopened { is_disk: disk::is_disk(&file)?, file, may_write, home, place: None })
            },
        )
    }

    /// A path below the folder, as one below the VM folder that it is in.
    pub fn below_vm(&self, path: &Path) -> PathBuf {
        path.iter().skip(usize::from(!self.is_vm)).collect()
    }

    /// The home of the VM folder that a path below the folder is in.
    pub(super) fn home_at(&self, path: &Path) -> Result<Arc<Home>> {
        let vm = if self.is_vm { None } else { path.iter().next() }.map_or(Path::new(""), Path::new);
        let dir = self.dir(vm)?;
        self.home_of(BackingId::of_file(&dir)?, &dir, || vm.shown().to_string())
    }
}

/// A name may change between two looks: at the names of a file, and at the list.
const LOOKS: usize = 3;

fn at_its_place(paths: impl Fn() -> Result<Vec<PathBuf>>, refuse: impl Fn(&[PathBuf]) -> Result<()>) -> Result<()> {
    let mut looks = 1;
    loop {
        match refuse(&paths()?) {
            Err(error) if error.kind() == Kind::Corrupt && looks < LOOKS => looks += 1,
            refused => return refused,
        }
    }
}
