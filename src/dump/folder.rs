//! The folder that encrypted dumps lie in: names, limits, and what is there.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, renameat, unlinkat};

use crate::cluster::host;
use crate::error::{Context, Error, Kind, Result};
use crate::format::dump::{About, DumpHeader, MAX_HEADER_LEN};
use crate::provider::config::DumpSettings;
use crate::provider::private_file;
use crate::sys::process::effective_uid;
use crate::text::Show;

/// What the names of dumps end with, and those of dumps that are being taken or were never ended.
const ENDING: &str = "dump";
const UNFINISHED: &str = "part";
/// What is locked while a dump begins.
const LOCK: &str = ".dump.lock";
const MIB: u64 = 1 << 20;
/// Longest part of a program's name that goes into a file's name.
const MAX_NAME: usize = 64;

/// The folder of this host's dumps.
#[derive(Debug)]
pub struct DumpFolder {
    path: PathBuf,
    /// Where dumps lie that came while the configuration could not be read.
    usual: PathBuf,
    settings: DumpSettings,
}

/// A dump that lies there.
#[derive(Debug)]
pub struct StoredDump {
    /// Its file.
    pub path: PathBuf,
    /// Bytes of the file.
    pub len: u64,
    /// Whether it was ended; else it is being taken, or its writer was stopped.
    pub is_finished: bool,
    /// What it says of itself, or why it cannot be read.
    pub header: Result<DumpHeader>,
}

/// A dump that is being taken.
pub(super) struct Draft {
    pub(super) file: File,
    folder: File,
    path: PathBuf,
    name: String,
    uid: u32,
}

impl Draft {
    /// Gives it its name, once all of it is durable.
    pub(super) fn finish(self) -> Result<PathBuf> {
        let finished = self.path.with_file_name(format!("{}.{ENDING}", self.name));
        self.file.sync_all().context(|| format!("writing {}", self.path.shown()))?;
        let (from, to) = (format!("{}.{UNFINISHED}", self.name), format!("{}.{ENDING}", self.name));
        renameat(&self.folder, from, &self.folder, to)
            .map_err(io::Error::from)
            .and_then(|()| private_file::sync_open_folder(&self.folder))
            .context(|| format!("naming {}", finished.shown()))?;
        Ok(finished)
    }

    /// Takes it away: nothing of it is worth keeping.
    pub(super) fn discard(self) {
        // `dump list` shows one that stays
        unlinkat(&self.folder, format!("{}.{UNFINISHED}", self.name), AtFlags::empty()).ok();
    }
}

/// Opens the folder, if only root or this user can write it: others could exchange what lies there, or make links for us to write through.
fn open_own(path: &Path) -> Result<File> {
    let opening = || format!("opening the folder {}", path.shown());
    let folder = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = File::from(folder.map_err(io::Error::from).context(opening)?);
    let found = folder.metadata().context(opening)?;
    private_file::check_owner(path, found.uid(), effective_uid())?;
    let mode = found.mode() & 0o7777;
    match mode & 0o022 {
        0 => Ok(folder),
        _ => {
            let shown = path.shown();
            let message = format!("other users can write {shown}, mode {mode:o}; to repair it: chmod go-w {shown}");
            Err(Error::new(Kind::Denied, message))
        }
    }
}

/// Makes or opens a file below a folder.
fn open_below(folder: &File, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::from_raw_mode(0o600))?.into())
}

impl DumpFolder {
    /// That of a host with this configuration.
    pub fn of(config: &Path, settings: &DumpSettings) -> Self {
        let usual = host::folder(config).with_file_name("dumps");
        let path = settings.folder.clone().unwrap_or_else(|| usual.clone());
        Self { path, usual, settings: settings.clone() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The dumps that lie there, and in the usual folder where that is another one, the oldest first.
    ///
    /// # Errors
    /// `Io`. A dump that cannot be read is in the list.
    pub fn list(&self) -> Result<Vec<StoredDump>> {
        let mut dumps: Vec<StoredDump> = self.all_files()?.into_iter().map(|(path, len)| stored(path, len)).collect();
        dumps.sort_by_key(|dump| (dump.header.as_ref().ok().map(|header| header.about.time), dump.path.clone()));
        Ok(dumps)
    }

    fn list_here(&self) -> Result<Vec<StoredDump>> {
        Ok(files(&self.path)?.into_iter().map(|(path, len)| stored(path, len)).collect())
    }

    fn all_files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut all = files(&self.path)?;
        if self.usual != self.path {
            all.extend(files(&self.usual)?);
        }
        Ok(all)
    }

    /// The file that a name of a user means: one of this folder, or any other one.
    pub fn find(&self, name: &Path) -> PathBuf {
        let is_plain = name.components().count() == 1 && name.file_name().is_some();
        let there = [&self.path, &self.usual].map(|folder| folder.join(name));
        let found = there.into_iter().find(|path| is_plain && !name.exists() && path.exists());
        found.unwrap_or_else(|| name.to_path_buf())
    }

    /// Begins a dump, unless there are too many. Two at once wait for each other for a moment.
    pub(super) fn begin(&self, about: &About) -> Result<Draft> {
        private_file::create_folder(&self.path)?;
        let folder = open_own(&self.path)?;
        let locking = || format!("locking the folder {}", self.path.shown());
        let lock = open_below(&folder, LOCK, OFlags::NONBLOCK).context(locking)?; // a FIFO would be waited for
        lock.lock().context(locking)?;
        self.refuse_too_many(about)?;
        let name = format!("{}-{}-{}", plain_name(&about.program), about.pid, about.uuid);
        let unfinished = format!("{name}.{UNFINISHED}");
        let path = self.path.join(&unfinished);
        let creating = || format!("creating {}", path.shown());
        let file = open_below(&folder, &unfinished, OFlags::EXCL).context(creating)?;
        file.lock().context(creating)?; // so it is not removed before it is ended
        Ok(Draft { file, folder, path, name, uid: about.uid })
    }

    fn refuse_too_many(&self, about: &About) -> Result<()> {
        let (folder, max) = (self.path.shown(), self.settings.max_files.get() as usize);
        let remove = "`vmcryptfs dump remove DUMP` makes room";
        let dumps = self.list_here()?;
        if dumps.len() >= max {
            return Err(Error::new(Kind::Io, format!("{folder} has {} dumps, at most {max}: {remove}", dumps.len())));
        }
        let (of_users, half) = (dumps.iter().filter(|dump| may_be_of_users(dump)).count(), max.div_ceil(2));
        if !is_of_system(about.uid) && of_users >= half {
            let message = format!("{folder} has {of_users} dumps of processes of users, at most {half}: {remove}");
            return Err(Error::new(Kind::Io, message));
        }
        Ok(())
    }

    /// The longest that a dump may get, in bytes.
    pub(super) fn max_len(&self) -> u64 {
        u64::from(self.settings.max_mib.get()) * MIB
    }

    /// Refuses another `more` bytes where all dumps, or what is left free of the file system, forbid it.
    pub(super) fn check_space(&self, draft: &Draft, more: u64) -> Result<()> {
        let (files, max) = (files(&self.path)?, u64::from(self.settings.max_total_mib.get()));
        let used: u64 = files.iter().map(|(_, len)| len).sum();
        if used + more > max * MIB {
            return Err(Error::new(Kind::Io, format!("all dumps together are longer than {max} MiB")));
        }
        if !is_of_system(draft.uid) {
            let dumps = files.into_iter().map(|(path, len)| stored(path, len));
            let of_users: u64 = dumps.filter(may_be_of_users).map(|dump| dump.len).sum();
            if of_users + more > max * MIB / 2 {
                let message = format!("all dumps of processes of users are longer than half of {max} MiB");
                return Err(Error::new(Kind::Io, message));
            }
        }
        let space = rustix::fs::fstatvfs(&draft.file).context(|| "reading free space".into())?;
        let (free, keep) = (space.f_bavail.saturating_mul(space.f_frsize), u64::from(self.settings.keep_free_mib));
        match free < (keep * MIB).saturating_add(more) {
            true => Err(Error::new(Kind::Io, format!("less than {keep} MiB would be left free for others"))),
            false => Ok(()),
        }
    }

    /// Removes a dump of this folder.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` when it is not one, `Busy` when it is being taken, `Io`.
    pub fn remove(&self, name: &Path) -> Result<PathBuf> {
        let path = self.find(name);
        let removing = || format!("removing {}", path.shown());
        let files = self.all_files()?;
        let is_same = |other: &Path| fs::canonicalize(other).ok() == fs::canonicalize(&path).ok();
        let found = path.symlink_metadata().context(removing)?;
        if !found.is_file() || !files.iter().any(|(other, _)| is_same(other)) {
            let message = format!("{} is not a dump in {}", path.shown(), self.path.shown());
            return Err(Error::new(Kind::Invalid, message));
        }
        let file = File::open(&path).context(removing)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(Kind::Busy, format!("{} is being taken", path.shown())));
            }
            Err(TryLockError::Error(error)) => return Err(error).context(removing),
            Ok(()) => {}
        }
        fs::remove_file(&path)
            .and_then(|()| private_file::sync_folder(private_file::folder_of(&path)))
            .context(removing)?;
        Ok(path)
    }
}

/// Files that are named as dumps, and their lengths.
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let reading = || format!("reading the folder {}", folder.shown());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(reading)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.context(reading)?.path();
        let is_named = path.extension().is_some_and(|ending| ending == ENDING || ending == UNFINISHED);
        if let Some(found) = path.symlink_metadata().ok().filter(|found| is_named && found.is_file()) {
            files.push((path, found.len()));
        }
    }
    Ok(files)
}

/// Whether a user id is of the system and its services, as QEMU's is, not of a person: those can crash whatever they like. The upper range is
/// of services that get theirs when they are installed or started.
fn is_of_system(uid: u32) -> bool {
    uid < 1000 || (61184..=65519).contains(&uid)
}

/// Whether a dump counts as one of users: also one that does not say whose it is, as it has only begun.
fn may_be_of_users(dump: &StoredDump) -> bool {
    !dump.header.as_ref().is_ok_and(|header| is_of_system(header.about.uid))
}

fn stored(path: PathBuf, len: u64) -> StoredDump {
    let is_finished = path.extension().is_some_and(|ending| ending == ENDING);
    let header = read_header(&path).map(|(header, ..)| header);
    StoredDump { path, len, is_finished, header }
}

/// The header of a dump, its length, and the file.
pub(super) fn read_header(path: &Path) -> Result<(DumpHeader, u64, File)> {
    let reading = || format!("reading the dump {}", path.shown());
    // Opening a FIFO would wait for a writer.
    let opened = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = opened.context(reading)?;
    if !file.metadata().context(reading)?.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{} is not a regular file", path.shown())));
    }
    let mut start = Vec::new();
    (&file).take(MAX_HEADER_LEN as u64).read_to_end(&mut start).context(reading)?;
    let (header, len) = DumpHeader::decode(&start).context(reading)?;
    Ok((header, len as u64, file))
}

/// The last part of a program's path, of letters that are safe in names.
fn plain_name(program: &str) -> String {
    let last = program.rsplit('/').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = last.chars().map(safe).take(MAX_NAME).collect();
    match name.trim_start_matches(['.', '-']) {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nothing_is_made_in_a_folder_that_others_can_write_nor_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let settings = DumpSettings { folder: Some(dir.path().join("dumps")), ..DumpSettings::default() };
        let folder = DumpFolder::of(Path::new("/c.toml"), &settings);
        let about = || About {
            uuid: uuid::Uuid::nil(),
            time: crate::timestamp::Timestamp::from_secs(1),
            pid: 1,
            uid: 0,
            gid: 0,
            signal: 11,
            program: "qemu".into(),
            host: "kvm1".into(),
        };
        let begin = || folder.begin(&about()).map(Draft::discard);
        begin().unwrap();
        for mode in [0o1777, 0o770, 0o702] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = begin().unwrap_err();
            assert!(error.kind() == Kind::Denied && error.to_string().contains("chmod go-w"), "{error}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        begin().unwrap();
        let (lock, other) = (folder.path().join(LOCK), dir.path().join("other"));
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&other, &lock).unwrap();
        assert!(begin().is_err() && !other.exists());
        fs::remove_file(&lock).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &lock, Mode::from_raw_mode(0o600)).unwrap();
        assert!(begin().is_err());
    }

    #[test]
    fn dumps_that_came_while_the_configuration_could_not_be_read_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let settings = DumpSettings { folder: Some(dir.path().join("other")), ..DumpSettings::default() };
        let folder = DumpFolder::of(&config, &settings);
        let lost = DumpFolder::of(&config, &DumpSettings::default()).path().join("qemu-1.dump");
        private_file::create_folder(private_file::folder_of(&lost)).unwrap();
        fs::write(&lost, "").unwrap();
        let listed: Vec<PathBuf> = folder.list().unwrap().into_iter().map(|dump| dump.path).collect();
        assert_eq!(listed, [lost.as_path()]);
        assert!(folder.list_here().unwrap().is_empty(), "it takes no room of the folder");
        assert_eq!(folder.remove(Path::new("qemu-1.dump")).unwrap(), lost);
        assert!(!lost.exists());
    }

    #[test]
    fn names_of_programs_become_names_of_files() {
        for (program, name) in [
            ("/usr/bin/qemu-system-x86_64", "qemu-system-x86_64"),
            ("/tmp/..", "unknown"),
            ("a\nb/c d\u{e9}", "c_d_"),
            ("", "unknown"),
            ("/-rf", "rf"),
        ] {
            assert_eq!(plain_name(program), name);
        }
        assert_eq!(plain_name(&"x".repeat(300)).len(), MAX_NAME);
    }
}
