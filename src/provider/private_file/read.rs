//! Private files are read only if no other user can read or change them.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::FILE_MODE;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::effective_uid;
use crate::text::Show;

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
///
/// # Errors
/// `NotFound`, `Invalid` for what is not a regular file, `Denied`, `Io`.
pub fn open_regular(path: &Path) -> Result<(File, Metadata)> {
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

/// Opens and reads a file of at most `max` bytes; `None` when it does not exist.
///
/// # Errors
/// Those of [`open`] but for `NotFound`, and of [`read_at_most`].
pub fn read_if_there(max: u64, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    match open(path) {
        Ok(file) => read_at_most(max, path, file).map(Some),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a text; that of a file which does not exist is empty.
pub(in crate::provider) fn read_text(max: u64, path: &Path) -> Result<String> {
    let Some(content) = read_if_there(max, path)? else { return Ok(String::new()) };
    let text = std::str::from_utf8(&content);
    text.map(str::to_owned).map_err(|error| {
        Error::with_source(Kind::Invalid, format!("{} is not UTF-8 text, as TOML is", path.shown()), error)
    })
}

/// A file that the configuration names: its path has to be absolute.
pub(in crate::provider) fn absolute<'d, D: Deserializer<'d>>(
    deserializer: D,
) -> std::result::Result<Option<PathBuf>, D::Error> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::create;
    use super::*;

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
