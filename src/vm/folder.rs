//! VM folders: a directory becomes one by the home header in it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{
    ComponentKind, DECRYPTING_FILE, ENCRYPTING_FILE, HOME_FILE, Header, Shape, StoredState, is_reserved,
};
use crate::format::manifest::MANIFEST_FILE;
use crate::format::members::{MEMBERS_PREFIX, MemberList};
use crate::format::names::DiskNames;
use crate::key::{Dek, KeyId};
use crate::provider::{KeyProvider, NewKey};
use crate::storage::claims::{Claim, Claims};
use crate::storage::{Access, FileStorage};
use crate::store::header_area::{self, StoredHeader};
use crate::sys::file::{entries, file_beneath, folder_beneath, is_at};
use crate::text::{Show, quoted};
use crate::vm::disk::create_component;
use crate::vm::home_state::{HomeState, header_id};
use crate::vm::{keyring, members, outer};

/// Names of a home's header, one for each state that has one.
const HEADER_FILES: [&str; 3] = [ENCRYPTING_FILE, HOME_FILE, DECRYPTING_FILE];

/// Makes an encrypted VM folder, empty, with a KEK of its own. The directory may exist if nothing is in it.
///
/// # Errors
/// `Exists` when it is an encrypted VM folder already, `Denied` when it holds files that are not encrypted or lies in a VM folder,
/// `KeyUnavailable` when the provider gives no key, or `Io`.
pub fn create(path: &Path, provider: &Arc<dyn KeyProvider>, disk_names: &DiskNames) -> Result<(Header, Dek)> {
    outer::refuse(path)?;
    let is_new = match fs::create_dir(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_unless_empty(path).map(|()| false)?,
        Err(error) => return Err(Error::io(format!("creating {}", path.shown()), error)),
    };
    let name = path.file_name().unwrap_or(OsStr::new("vm"));
    let made = open_dir(path).and_then(|dir| make_home(&dir, name, provider, disk_names));
    if is_new && made.is_err() {
        // It is empty; if it cannot be removed, the error at hand still says more.
        let _ = fs::remove_dir(path);
    }
    made
}

/// Makes an encrypted VM folder in a datastore and returns its home's header and DEK. Without a key from the provider there
/// is not a folder either. Permissions of the owner that `mode` lacks come on top: the header is still to be made.
///
/// # Errors
/// `Exists`, `Denied` in a VM folder, `KeyUnavailable` when the provider gives no key, or `Io`.
pub fn create_at(
    datastore: &File,
    name: &OsStr,
    mode: u32,
    provider: &Arc<dyn KeyProvider>,
    disk_names: &DiskNames,
) -> Result<(Header, Dek)> {
    outer::refuse_in(datastore)?;
    rustix::fs::mkdirat(datastore, name, Mode::from_raw_mode(mode & 0o7777 | 0o700))
        .context(|| format!("creating VM folder {}", name.shown()))?;
    open_at(datastore, name).and_then(|dir| make_home(&dir, name, provider, disk_names)).inspect_err(|_| {
        // It is empty; if it cannot be removed, the error at hand still says more.
        let _ = rustix::fs::unlinkat(datastore, name, AtFlags::REMOVEDIR);
    })
}

fn make_home(
    dir: &File,
    name: &OsStr,
    provider: &Arc<dyn KeyProvider>,
    disk_names: &DiskNames,
) -> Result<(Header, Dek)> {
    let new = NewHome { file: HOME_FILE, vm_name: name, label: String::new(), disk_names: disk_names.clone() };
    let (file, header, dek) = new.make(dir, provider)?;
    // While the key was waited for, something may have come. No mount uses the home yet: it is claimed.
    if let Err(error) = refuse_files(dir, name) {
        remove_header(dir, HOME_FILE, (&file, header.uuid))?;
        return Err(error);
    }
    Ok((header, dek))
}

/// A home to be made.
pub(crate) struct NewHome<'a> {
    /// The file that its header gets.
    pub(crate) file: &'static str,
    /// What the provider calls the key after.
    pub(crate) vm_name: &'a OsStr,
    /// For people.
    pub(crate) label: String,
    /// Which new files become disks.
    pub(crate) disk_names: DiskNames,
}

impl NewHome<'_> {
    /// Makes a home header under a KEK of its own. It is claimed for as long as the file that is returned is open.
    ///
    /// # Errors
    /// `Exists`, `Busy` when the folder got another header in the meantime, `KeyUnavailable` when the provider gives no key, or
    /// `Io`. Then there is no header.
    pub(crate) fn make(self, dir: &File, provider: &Arc<dyn KeyProvider>) -> Result<(File, Header, Dek)> {
        let uuid = random::uuid()?;
        let purpose = NewKey { vm_name: self.vm_name.shown().to_string(), vm_uuid: uuid };
        let (key_id, kek) = provider.create_key(&purpose)?;
        // The key may have been waited for. Looking again here keeps most runs from making a second header at all.
        refuse_other_headers(dir, self.file, &key_id)?;
        let dek = random::home_dek()?;
        let slot = keyring::slot_for(&key_id, kek.as_ref(), &dek)?;
        let whole = Header::new(uuid, Shape::Home, self.label, slot);
        let state = if self.file == ENCRYPTING_FILE { Some(StoredState::Encrypting) } else { whole.state };
        let header = Header { disk_names: self.disk_names, state, ..whole };
        let file = write_home(dir, self.file, &header, &dek).map_err(|error| {
            // Its temporary name is gone: a conversion that begins tidies up.
            let is_gone = error.kind() == Kind::NotFound;
            if is_gone { Error::with_source(Kind::Busy, "another process works on this folder", error) } else { error }
        })?;
        // A process that makes a header under another name looks for this one after that, too: so never both of them stay.
        if let Err(error) = refuse_other_headers(dir, self.file, &key_id) {
            remove_header(dir, self.file, (&file, uuid))?;
            return Err(error);
        }
        Ok((file, header, dek))
    }
}

/// Makes a header file of a home, durably, after an empty list of its disks, under a name that must be free. It is claimed before it has that name, and for as
/// long as the file that is returned is open; one of a whole home is claimed against mounts as well.
///
/// # Errors
/// `Exists`, or `Io`.
pub(crate) fn write_home(dir: &File, name: &str, header: &Header, dek: &Dek) -> Result<File> {
    let fill = |storage: &FileStorage| {
        storage.claim(Access::Write)?;
        if name == HOME_FILE {
            storage.claim(Claim::HomeExclusive)?;
        }
        header_area::create(storage, header, dek)
    };
    if header.lists_disks {
        members::create(dir, header.uuid, dek, &MemberList::default())?;
    }
    let file = create_component(dir, OsStr::new(name), 0o600, true, fill).inspect_err(|_| {
        // It is of no use without the header; the error at hand says more.
        let _ = members::remove(dir, header.uuid);
    })?;
    // One that a crash has left of a home before. Nobody uses this one yet. What stays is noticed as no manifest of this home.
    let _ = remove_manifest(dir);
    Ok(file)
}

/// Removes the lists of other homes' disks from a folder: what an interruption has left of a home that was never finished, or has ended.
///
/// # Errors
/// `Io`.
pub(crate) fn remove_other_lists(dir: &File, home: Uuid) -> Result<()> {
    for name in sorted_names(dir)? {
        let uuid = name.to_str().and_then(|name| name.strip_prefix(MEMBERS_PREFIX)).map(Uuid::parse_str);
        if let Some(Ok(other)) = uuid
            && other != home
        {
            members::remove(dir, other)?;
        }
    }
    Ok(())
}

/// Removes the manifest of a home, if it has one.
///
/// # Errors
/// `Io`.
pub(crate) fn remove_manifest(dir: &File) -> Result<()> {
    match rustix::fs::unlinkat(dir, MANIFEST_FILE, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.context(|| format!("removing {MANIFEST_FILE}")),
    }
}

/// Removes a header that was just made and is claimed, under which nothing is sealed.
///
/// # Errors
/// `Io`.
pub(crate) fn remove_header(dir: &File, name: &str, (header, uuid): (&File, Uuid)) -> Result<()> {
    let doing = || format!("removing {name}");
    if is_at(dir, Path::new(name), header).context(doing)? {
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).context(doing)?;
    }
    members::remove(dir, uuid)
}

fn refuse_other_headers(dir: &File, own: &str, key_id: &KeyId) -> Result<()> {
    for name in HEADER_FILES.into_iter().filter(|name| *name != own) {
        if header_id(dir, name)?.is_some() {
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "another process made this folder's {name} while this one waited for its key; that key, {key_id}, is not used"
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a new VM folder in which there is anything but what is vmcryptfs's own.
fn refuse_files(dir: &File, name: &OsStr) -> Result<()> {
    let Some(file) = sorted_names(dir)?.into_iter().find(|file| !is_reserved(file)) else { return Ok(()) };
    let (file, name) = (file.shown(), name.shown());
    let message = format!("{file} came to {name} while its key was waited for; a new VM folder must be empty");
    Err(Error::new(Kind::Denied, message))
}

/// Removes a VM folder in which nothing but its header and its manifest is left.
///
/// # Errors
/// `ENOTEMPTY` when there is more, or `Io`.
pub fn remove_empty(datastore: &File, name: &OsStr) -> Result<()> {
    let doing = || format!("removing VM folder {}", name.shown());
    let dir = open_at(datastore, name)?;
    let names = sorted_names(&dir).context(doing)?;
    if names.iter().any(|name| name != HOME_FILE && !is_beside_header(name)) {
        return Err(Error::errno(doing(), Errno::NOTEMPTY));
    }
    let remove = |name: &OsStr| rustix::fs::unlinkat(&dir, name, AtFlags::empty());
    remove(OsStr::new(HOME_FILE))
        .and_then(|()| names.iter().filter(|name| is_beside_header(name)).try_for_each(|name| remove(name)))
        .and_then(|()| rustix::fs::unlinkat(datastore, name, AtFlags::REMOVEDIR))
        .context(doing)
}

/// Whether a name is that of a home's list of disks or manifest. Without the header it is what a crash left of a folder.
fn is_beside_header(name: &OsStr) -> bool {
    name == MANIFEST_FILE || name.as_bytes().starts_with(MEMBERS_PREFIX.as_bytes())
}

fn refuse_unless_empty(path: &Path) -> Result<()> {
    let names = sorted_names(&open_dir(path)?).context(|| format!("reading {}", path.shown()))?;
    refuse_unfinished(path)?;
    if path.join(HOME_FILE).symlink_metadata().is_ok() {
        if let Some(erasure) = open_header(&open_dir(path)?, HOME_FILE)?
            .map(|storage| header_area::erasure(&storage, ComponentKind::Home))
            .transpose()?
            .flatten()
        {
            let (what, remedy) = (erasure.describe(), quoted(path));
            let message = format!("{} was {what}; to make it again, remove it first: rm -r -- {remedy}", path.shown());
            return Err(Error::new(Kind::Exists, message));
        }
        return Err(Error::new(Kind::Exists, format!("{} exists already, as an encrypted VM folder", path.shown())));
    }
    if names.iter().any(|name| !is_beside_header(name)) {
        return Err(Error::new(Kind::Denied, format!("{} is not empty; a new VM folder must be empty", path.shown())));
    }
    Ok(())
}

/// Opens a directory, to work below it.
///
/// # Errors
/// `NotFound`, `Denied`, or `Io` when it is not a directory.
pub fn open_dir(path: &Path) -> Result<File> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let dir = opened.map(File::from).context(|| format!("opening folder {}", path.shown()))?;
    let kind = rustix::fs::fstatfs(&dir).map(|system| system.f_type).ok();
    match KERNEL_FILES.iter().find(|(magic, _)| kind == Some(*magic)) {
        Some((_, name)) => {
            let message = format!("{} is a folder of {name}, which keeps no files: expected one of a VM", path.shown());
            Err(Error::new(Kind::Invalid, message))
        }
        None => Ok(dir),
    }
}

/// File systems that show the state of the kernel, by their numbers (statfs(2)).
const KERNEL_FILES: [(i64, &str); 4] =
    [(0x9fa0, "/proc"), (0x6265_6572, "/sys"), (0x6367_7270, "control groups"), (0x6462_6720, "debugfs")];

/// Opens a directory in a directory; a symbolic link is none.
///
/// # Errors
/// As [`open_dir`].
pub fn open_at(dir: &File, name: &OsStr) -> Result<File> {
    folder_beneath(dir, Path::new(name)).context(|| format!("opening folder {}", name.shown()))
}

/// Names in a directory in order, `.` and `..` aside.
///
/// # Errors
/// `Io`.
pub(crate) fn sorted_names(dir: &File) -> Result<Vec<OsString>> {
    let names = entries(dir).and_then(|entries| {
        entries.map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_os_string())).collect()
    });
    let mut names: Vec<OsString> = names.context(|| "reading a folder".into())?;
    names.retain(|name| name != "." && name != "..");
    names.sort();
    Ok(names)
}

/// Refuses a VM folder whose home is neither encrypted nor clear, with the command that finishes it.
///
/// # Errors
/// `Busy` for such a folder, or those of [`HomeState::of`].
pub fn refuse_unfinished(path: &Path) -> Result<()> {
    refuse_unfinished_at(&open_dir(path)?).context(|| path.shown().to_string())
}

/// As [`refuse_unfinished`], of an open directory. What the header says is not verified.
///
/// # Errors
/// As that.
pub fn refuse_unfinished_at(dir: &File) -> Result<()> {
    let by_name = HomeState::of(dir)?;
    let Some(name) = by_name.header_file() else { return Ok(()) };
    match read_header(dir, name) {
        Ok(Some(stored)) => by_name.refuse_unfinished(stored.header.claims()),
        Ok(None) => Ok(()),                                  // just renamed
        Err(_) if by_name == HomeState::Encrypted => Ok(()), // the code that uses it reports that
        Err(error) => Err(error),
    }
}

/// Reads the home header of a VM folder that is encrypted as a whole; `None` when the directory is clear.
///
/// # Errors
/// As [`refuse_unfinished`] and [`header_area::load`].
pub fn read_whole_home(dir: &File) -> Result<Option<StoredHeader>> {
    let by_name = HomeState::of(dir)?;
    let stored = by_name.header_file().map(|name| read_header(dir, name)).transpose()?.flatten();
    stored.map(|stored| by_name.refuse_unfinished(stored.header.claims()).map(|()| stored)).transpose()
}

/// Reads the home header of a VM folder, whatever its state is; `None` when there is none.
///
/// # Errors
/// Those of [`HomeState::of`] and [`header_area::load`].
pub fn read_home_of_any_state(dir: &File) -> Result<Option<StoredHeader>> {
    HomeState::of(dir)?.header_file().map(|name| read_header(dir, name)).transpose().map(Option::flatten)
}

/// Reads the home header of a VM folder; `None` when the directory is not encrypted.
///
/// # Errors
/// As [`header_area::load`].
pub fn read_home(dir: &File) -> Result<Option<StoredHeader>> {
    read_header(dir, HOME_FILE)
}

/// Claims a VM folder's home for using its keys, and then reads its header. Until the file that is returned is closed, no process
/// on this host or another gives the home another DEK. `None` when the directory is not encrypted.
///
/// # Errors
/// `Busy` while someone does that, or while the home is not encrypted as a whole, or those of [`HomeState::of`] and
/// [`header_area::load`].
pub fn use_home(dir: &File, claims: &'static dyn Claims) -> Result<Option<(FileStorage, StoredHeader)>> {
    let Some(header) = open_header(dir, HOME_FILE)? else { return Ok(None) };
    let claim = FileStorage::with_claims(header.into_file(), claims);
    // It may have been turned into another state, or have gone, between its opening and the claim.
    if !claim.claim_at(dir, Path::new(HOME_FILE), Claim::HomeInUse)? {
        return Err(Error::new(Kind::Busy, "another process converts this VM folder"));
    }
    HomeState::of(dir)?;
    let stored = load_header(&claim, HOME_FILE)?;
    HomeState::Encrypted.refuse_unfinished(stored.header.claims())?;
    Ok(Some((claim, stored)))
}

/// Reads a home's header from a file of this name; `None` when there is none.
///
/// # Errors
/// As [`header_area::load`].
pub(crate) fn read_header(dir: &File, name: &str) -> Result<Option<StoredHeader>> {
    open_header(dir, name)?.map(|storage| load_header(&storage, name)).transpose()
}

fn open_header(dir: &File, name: &str) -> Result<Option<FileStorage>> {
    match file_beneath(dir, Path::new(name)) {
        Ok(file) => Ok(Some(FileStorage::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening {name}"), error)),
    }
}

fn load_header(storage: &FileStorage, name: &str) -> Result<StoredHeader> {
    header_area::load(storage, ComponentKind::Home).context(|| format!("reading {name}"))
}
