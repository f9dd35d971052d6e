//! VM folders: a directory becomes one by the home header in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, Header, Shape};
use crate::format::names::DiskNames;
use crate::key::Dek;
use crate::provider::{KeyProvider, NewKey};
use crate::storage::FileStorage;
use crate::store::header_area::{self, StoredHeader};
use crate::vm::disk::create_component;
use crate::vm::keyring;

/// Makes an encrypted VM folder, empty, with a KEK of its own. The directory may exist if nothing is in it.
///
/// # Errors
/// `Exists` when it is an encrypted VM folder already, `Denied` when it holds files that are not encrypted,
/// `KeyUnavailable` when the provider gives no key, or `Io`.
pub fn create(path: &Path, provider: &Arc<dyn KeyProvider>) -> Result<Header> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_unless_empty(path)?,
        Err(error) => return Err(Error::io(format!("creating {}", path.display()), error)),
    }
    let name = path.file_name().unwrap_or(OsStr::new("vm"));
    make_home(&open_dir(path)?, name, provider).map(|(header, _)| header)
}

/// Makes an encrypted VM folder in a datastore and returns its home's header and DEK. Without a key from the provider there
/// is no folder either.
///
/// # Errors
/// `Exists`, `KeyUnavailable` when the provider gives no key, or `Io`.
pub fn create_at(datastore: &File, name: &OsStr, provider: &Arc<dyn KeyProvider>) -> Result<(Header, Dek)> {
    rustix::fs::mkdirat(datastore, name, Mode::from_raw_mode(0o700))
        .map_err(io::Error::from)
        .context(|| format!("creating VM folder {}", name.display()))?;
    open_at(datastore, name).and_then(|dir| make_home(&dir, name, provider)).inspect_err(|_| {
        // It is empty; if it cannot be removed, the error at hand still says more.
        let _ = rustix::fs::unlinkat(datastore, name, AtFlags::REMOVEDIR);
    })
}

fn make_home(dir: &File, name: &OsStr, provider: &Arc<dyn KeyProvider>) -> Result<(Header, Dek)> {
    let uuid = random::uuid()?;
    let (key_id, kek) = provider.create_key(&NewKey { vm_name: name.to_string_lossy().into_owned(), vm_uuid: uuid })?;
    let dek = random::home_dek()?;
    let header = Header {
        sequence: 1,
        uuid,
        shape: Shape::Home,
        label: String::new(),
        disk_names: DiskNames::default(),
        slots: vec![keyring::slot_for(&key_id, kek.as_ref(), &dek)?],
        transition: None,
    };
    create_component(dir, OsStr::new(HOME_FILE), 0o600, true, |storage| header_area::create(storage, &header, &dek))?;
    Ok((header, dek))
}

/// Removes a VM folder in which nothing but its header is left.
///
/// # Errors
/// `ENOTEMPTY` when there is more, or `Io`.
pub fn remove_empty(datastore: &File, name: &OsStr) -> Result<()> {
    let doing = || format!("removing VM folder {}", name.display());
    let dir = open_at(datastore, name)?;
    for entry in Dir::read_from(&dir).map_err(io::Error::from).context(doing)? {
        let entry = entry.map_err(io::Error::from).context(doing)?;
        let entry = entry.file_name().to_bytes();
        if entry != b"." && entry != b".." && entry != HOME_FILE.as_bytes() {
            return Err(Error::io(doing(), io::Error::from_raw_os_error(libc::ENOTEMPTY)));
        }
    }
    rustix::fs::unlinkat(&dir, HOME_FILE, AtFlags::empty())
        .and_then(|()| rustix::fs::unlinkat(datastore, name, AtFlags::REMOVEDIR))
        .map_err(io::Error::from)
        .context(doing)
}

fn refuse_unless_empty(path: &Path) -> Result<()> {
    let mut entries = fs::read_dir(path).context(|| format!("reading {}", path.display()))?;
    if path.join(HOME_FILE).exists() {
        return Err(Error::new(Kind::Exists, format!("{} exists already, as an encrypted VM folder", path.display())));
    }
    if entries.next().is_some() {
        return Err(Error::new(
            Kind::Denied,
            format!("{} holds files that are not encrypted; a new VM folder must be empty", path.display()),
        ));
    }
    Ok(())
}

/// Opens a directory, to work below it.
///
/// # Errors
/// `NotFound`, `Denied`, or `Io` when it is no directory.
pub fn open_dir(path: &Path) -> Result<File> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(io::Error::from)
        .context(|| format!("opening folder {}", path.display()))
}

/// Opens a directory in a directory; a symbolic link is none.
///
/// # Errors
/// As [`open_dir`].
pub fn open_at(dir: &File, name: &OsStr) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map(File::from)
        .map_err(io::Error::from)
        .context(|| format!("opening folder {}", name.display()))
}

/// Reads the home header of a VM folder; `None` when the directory is not encrypted.
///
/// # Errors
/// As [`header_area::load`].
pub fn read_home(dir: &File) -> Result<Option<StoredHeader>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, HOME_FILE, flags, Mode::empty()) {
        Ok(file) => {
            let storage = FileStorage::new(File::from(file));
            header_area::load(&storage, ComponentKind::Home).map(Some).context(|| format!("reading {HOME_FILE}"))
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(format!("opening {HOME_FILE}"), error.into())),
    }
}
