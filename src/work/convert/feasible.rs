//! What would stop a conversion half-way, found before it begins: known by asking, or tried on a file without a name.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Access as May, AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::home_file;
use crate::sector::{self, SectorSize};
use crate::store::home_file::{HomeKeys, MAX_TARGET_LEN, VALUE_OVERHEAD, sealed_target_len};
use crate::sys::file::{file_beneath, folder_beneath, open_beneath};
use crate::text::Show;
use crate::text::advice::{Places, below_vm_folder};
use crate::vm::attributes::{give_owner, give_times};
use crate::vm::draft::Draft;
use crate::vm::home_state::HomeState;
use crate::work::convert::attributes::{self, Attributes, ChangeTime, Sealing};
use crate::work::convert::plan::{Action, Obstacle, Plan, peak_space, planned};
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::PART;
use crate::work::convert::tree::{Entry, EntryForm, by_inode};
use crate::work::space::Space;

/// Targets of links that all file systems take.
const SHORT_TARGET: usize = 256;

/// What becomes of a file or link, under all its names.
pub(super) struct Verdict {
    /// Whether it gets its other form.
    pub(super) convert: bool,
    /// Whether it counts as a disk although it is in the clear.
    pub(super) as_disk: bool,
    /// Bytes that its other form takes.
    pub(super) space: u64,
    /// What someone should know of it.
    pub(super) note: Option<String>,
}

/// Files of this many bytes are everywhere.
const MIN_LONGEST: u64 = 1 << 30;

/// What is tried, for one folder.
pub(super) struct Trial<'a> {
    root: &'a File,
    /// Those of the home, if it has them.
    keys: Option<&'a HomeKeys>,
    /// Of the root: on another one nothing can be renamed to.
    mount: Option<u64>,
    /// Whether values grow: they are to be sealed.
    seal: bool,
    /// Owners that a new file could be given.
    owners: HashSet<(u32, u32)>,
    folders: HashSet<PathBuf>,
    /// Bytes that a file may have here.
    longest: u64,
}

impl<'a> Trial<'a> {
    /// Begins with a folder that is to be encrypted, or decrypted.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn new(root: &'a File, keys: Option<&'a HomeKeys>, seal: bool) -> Result<Self> {
        let mount = statx(root)?.1;
        Ok(Self { root, keys, mount, seal, owners: HashSet::new(), folders: HashSet::new(), longest: MIN_LONGEST })
    }

    /// Plans what `judge` says of each file and link, and if the `folders` are changed as well, tries those.
    ///
    /// # Errors
    /// `Stopped`, or `Io`.
    pub(super) fn plan(
        mut self,
        state: HomeState,
        entries: &[Entry],
        folders: bool,
        pace: &ProgressCounter<'_>,
        judge: impl Fn(&[&Entry]) -> Verdict,
    ) -> Result<Plan> {
        let (mut files, mut space, mut notes, mut obstacles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in entries.iter().filter(|entry| folders && entry.found == EntryForm::Folder) {
            obstacles.extend(self.obstacle(entry));
        }
        for names in by_inode(entries.iter().filter(|entry| entry.found != EntryForm::Folder)) {
            let (entry, Verdict { convert, as_disk, space: then, note }) = (names[0], judge(&names));
            notes.extend(note);
            // In the order of the work: the home is sealed before its disks, and opened after them.
            let is_later = (as_disk || entry.found == EntryForm::Disk) == self.seal;
            if convert {
                pace.tell()?;
                obstacles.extend(self.obstacle(entry));
                let too_long = if as_disk { sector::refuse_too_long(entry.len()).err() } else { None };
                let obstacle =
                    |error: Error| Obstacle::new(error.kind(), format!("{}: {}", entry.path.shown(), error.chain()));
                obstacles.extend(too_long.or_else(|| self.check_len(entry, as_disk).err()).map(obstacle));
                space.push((is_later, entry.allocated(), then));
            }
            let action = if convert { Action::Convert } else { Action::Keep };
            files.push((is_later, planned(entry, action, as_disk)));
        }
        files.sort_by_key(|(is_later, _)| *is_later);
        space.sort_by_key(|(is_later, ..)| *is_later);
        Ok(Plan {
            state,
            ends: state,
            files: files.into_iter().map(|(_, file)| file).collect(),
            space: Space::at(self.root, peak_space(space.into_iter().map(|(_, now, then)| (now, then))))?,
            notes,
            obstacles,
        })
    }

    /// What would stop a conversion at a file, link or folder, which is to be replaced, or changed, with nothing lost.
    fn obstacle(&mut self, entry: &Entry) -> Option<Obstacle> {
        let error = self.check(entry).err()?;
        let name = if entry.path.as_os_str().is_empty() { Path::new(".") } else { &entry.path };
        let error = error.with_places(&Places { component: Some(&below_vm_folder(name)), ..Places::default() });
        Some(Obstacle::new(error.kind(), format!("{}: {}", name.shown(), error.chain())))
    }

    fn check(&mut self, entry: &Entry) -> Result<()> {
        // The VM folder itself is not replaced: what it lies in does not matter.
        if let Some(parent) = entry.path.parent().filter(|parent| !self.folders.contains(*parent)) {
            self.check_folder(parent).context(|| "its folder".into())?;
            self.folders.insert(parent.to_path_buf());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let handle = open_beneath(self.root, &entry.path, flags, Mode::empty()).context(|| "opening it".into())?;
        self.check_flags(&handle)?;
        match entry.found {
            EntryForm::ClearLink => self.check_link(entry),
            EntryForm::SealedLink => self.check_owner(entry),
            EntryForm::Folder => self.check_values_of_folder(entry),
            EntryForm::Clear(_) | EntryForm::Sealed | EntryForm::Disk | EntryForm::UnreadableOrForeign => {
                self.check_file(entry)
            }
            EntryForm::FormNeutral => Ok(()),
        }
    }

    /// Whether names in a folder can be replaced.
    fn check_folder(&self, path: &Path) -> Result<()> {
        let dir = folder_beneath(self.root, path).context(|| "opening it".into())?;
        self.check_flags(&dir)?;
        rustix::fs::accessat(&dir, ".", May::WRITE_OK | May::EXEC_OK, AtFlags::EACCESS)
            .context(|| "files in it cannot be replaced".into())
    }

    fn check_flags(&self, handle: &File) -> Result<()> {
        let (flags, mount) = statx(handle)?;
        let denied = |why: &str| Err(Error::new(Kind::Denied, why));
        if mount.is_some() && self.mount.is_some() && mount != self.mount {
            return denied("something is mounted there, where files cannot be replaced at once");
        }
        if flags.contains(StatxAttributes::IMMUTABLE) {
            return denied("it is immutable: chattr -i");
        }
        if flags.contains(StatxAttributes::APPEND) {
            return denied("it can only be appended to: chattr -a");
        }
        Ok(())
    }

    fn check_owner(&mut self, entry: &Entry) -> Result<()> {
        let owner = (entry.stat.st_uid, entry.stat.st_gid);
        if !self.owners.contains(&owner) {
            give_owner(&entry.stat, &unnamed(self.root)?)?;
            self.owners.insert(owner);
        }
        Ok(())
    }

    fn check_file(&mut self, entry: &Entry) -> Result<()> {
        let file = file_beneath(self.root, &entry.path).context(|| "opening it".into())?;
        let own = Attributes::read(&file, Sealing::Clear)?;
        if own.are_plain() {
            return self.check_owner(entry);
        }
        own.give(&unnamed(self.root)?, self.sealing(), ChangeTime::Kept).map_err(too_large)
    }

    /// Whether the file system takes the length that a file in the clear gets.
    fn check_len(&mut self, entry: &Entry, as_disk: bool) -> Result<()> {
        if !self.seal || !matches!(entry.found, EntryForm::Clear(_)) {
            return Ok(());
        }
        let plain_len = entry.len();
        let len = match as_disk {
            true => DiskShape::new(SectorSize::DEFAULT).backing_len(plain_len),
            false => home_file::cipher_len(plain_len),
        };
        if len > self.longest {
            unnamed(self.root)?.set_len(len).context(|| format!("its encrypted form has a length of {len} bytes"))?;
            self.longest = len;
        }
        Ok(())
    }

    fn check_values_of_folder(&self, entry: &Entry) -> Result<()> {
        let dir = folder_beneath(self.root, &entry.path).context(|| "opening it".into())?;
        // An interrupted run may have sealed some already.
        let sealing = |name: &OsStr, value: &[u8]| match self.keys {
            Some(keys) if attributes::is_sealed(keys, name, value) => Sealing::Clear,
            _ => self.sealing(),
        };
        let own = Attributes::read(&dir, Sealing::Clear)?;
        own.give_user_xattrs(&unnamed(self.root)?, sealing).map_err(too_large)?;
        let is_own = rustix::process::geteuid().as_raw() == entry.stat.st_uid;
        // Only its owner may set its times, also to what they are.
        if is_own || entry.path.as_os_str().is_empty() { Ok(()) } else { give_times(&entry.stat, &dir) }
    }

    fn check_link(&mut self, entry: &Entry) -> Result<()> {
        let len = usize::try_from(entry.len()).unwrap_or(usize::MAX);
        if len > MAX_TARGET_LEN {
            let message = format!("a link's target of {len} bytes, at most {MAX_TARGET_LEN} can be sealed");
            return Err(Error::new(Kind::Unsupported, message));
        }
        if len > SHORT_TARGET {
            let draft = Draft::new(self.root, PART)?;
            rustix::fs::symlinkat("x".repeat(sealed_target_len(len)), self.root, draft.name())
                .context(|| format!("making a symbolic link to a sealed target of {len} bytes"))?;
        }
        self.check_owner(entry)
    }

    fn sealing(&self) -> Sealing<'static> {
        if self.seal { Sealing::Grown(VALUE_OVERHEAD) } else { Sealing::Clear }
    }
}

/// Attributes of a file, and the mount that it is on, if the system tells.
fn statx(handle: &File) -> Result<(StatxAttributes, Option<u64>)> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    match rustix::fs::statx(handle, "", AtFlags::EMPTY_PATH, wanted) {
        Ok(found) => {
            let has_mount = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
            Ok((found.stx_attributes, has_mount.then_some(found.stx_mnt_id)))
        }
        Err(Errno::NOSYS) => Ok((StatxAttributes::empty(), None)),
        Err(error) => Err(Error::errno("reading attributes", error)),
    }
}

/// The system's "no space" means that of the attributes, which sounds as if the disk were full.
fn too_large(error: Error) -> Error {
    let full = [Errno::NOSPC, Errno::TOOBIG, Errno::RANGE].map(Errno::raw_os_error);
    if !error.os_error().is_some_and(|number| full.contains(&number)) {
        return error;
    }
    let message =
        format!("its extended attributes do not fit once each value is sealed, {VALUE_OVERHEAD} bytes longer");
    Error::with_source(error.kind(), message, error)
}

/// A new file in a folder, which is gone when it is closed.
fn unnamed(root: &File) -> Result<File> {
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::openat(root, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(file) => return Ok(File::from(file)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {} // not with this file system
        Err(error) => return Err(Error::errno("making a new file", error)),
    }
    Draft::new(root, PART)?.make_file(mode)
}
