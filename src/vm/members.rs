//! The file with the list of a home's disks: read once and when it changes, and changed so that no crash leaves a disk outside of it.

mod change;
mod stored;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{HOME_FILE, Header};
use crate::format::members::{COPY_OFFSETS, MAGIC, MEMBERS_PREFIX, MemberList, MembersKey, file_name, state_mark};
use crate::key::Dek;
use crate::seen::{Floor, GoneBack, Memory, Past, Point};
use crate::storage::claims::{Claim, Claims, FileLocks, wait_for_claim};
use crate::storage::{FileStorage, Storage};
use crate::sys::file::{readable, regular_beneath, stat_at};
use crate::vm::draft::Draft;
pub use change::ListChange;
use stored::{Copies, read};

/// For how long a change waits for that of another mount or verb.
const OTHER_CHANGE: Duration = Duration::from_secs(10);
/// Two changes in a row may tear both copies for a reader.
const READS: usize = 3;

/// The list of the disks of one home.
pub struct Members {
    dir: File,
    /// The home's.
    header: Header,
    name: String,
    memory: Arc<Memory>,
    /// The second one is that before a deep rekey of the home which is under way.
    keys: Vec<MembersKey>,
    claims: &'static dyn Claims,
    known: Mutex<Option<Known>>,
    changing: Mutex<()>,
}

struct Known {
    stamp: Stamp,
    /// What the file says.
    stored: Arc<MemberList>,
    /// What holds. The file allows more until the names that this process has changed are durable.
    list: Arc<MemberList>,
    /// How what the file says compares with what this host has seen of the list.
    past: Past,
    /// The copy of what the file says, or of one before it, that this process has made durable.
    durable: Option<usize>,
}

/// Tells the file from a later state of it.
type Stamp = (u64, i64, u64);

impl Members {
    /// That of a verified home; `None` for one that has no list.
    ///
    /// # Errors
    /// `Corrupt` when the list is damaged or gone, `Unsupported` for one of a later version, or `Io`.
    pub fn open(
        dir: &File,
        (home, dek): (&Header, &Dek),
        claims: &'static dyn Claims,
        memory: &Arc<Memory>,
    ) -> Result<Option<Arc<Self>>> {
        if !home.lists_disks {
            return Ok(None);
        }
        let dir = dir.try_clone().context(|| "opening the VM folder once more".into())?;
        let (known, changing) = (Mutex::default(), Mutex::default());
        let members = Self {
            dir,
            header: home.clone(),
            name: file_name(home.uuid),
            memory: Arc::clone(memory),
            keys: keys(home, dek)?,
            claims,
            known,
            changing,
        };
        members.list()?;
        Ok(Some(Arc::new(members)))
    }

    /// What the list says now.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn list(&self) -> Result<Arc<MemberList>> {
        self.list_unless(|_| false)
    }

    /// The same, read again if what is known `is_old` although the file seems to be what it was: its times may be coarse.
    fn list_unless(&self, is_old: impl Fn(&MemberList) -> bool) -> Result<Arc<MemberList>> {
        let mut tries = READS;
        loop {
            let now = stat_at(&self.dir, OsStr::new(&self.name)).map(|stat| stamp(&stat));
            let before = match (&now, self.known.lock().as_ref()) {
                (Ok(now), Some(known)) if known.stamp == *now && !is_old(&known.list) => {
                    return Ok(Arc::clone(&known.list));
                }
                (_, known) => known.map(|known| known.stamp),
            };
            let (Copies { list: stored, other, .. }, stamp) = self.read(&self.file(OFlags::RDONLY)?)?;
            tries -= 1;
            if let Some(list) = self.learn(before, stored, other.as_ref(), (stamp, tries == 0))? {
                return Ok(list);
            }
        }
    }

    /// Goes by what was read of the file while nothing kept others from changing it. `None` if it may be older than what they have
    /// written and made known during the read: then it is to be read again, unless this `is_last`.
    fn learn(
        &self,
        before: Option<Stamp>,
        stored: MemberList,
        other: Option<&MemberList>,
        (stamp, is_last): (Stamp, bool),
    ) -> Result<Option<Arc<MemberList>>> {
        let mut known = self.known.lock();
        if let Some(known) = known.as_mut().filter(|known| known.stamp.0 == stamp.0 && *known.stored == stored) {
            known.stamp = stamp;
            return Ok(Some(Arc::clone(&known.list)));
        }
        if let Some(known) = known.as_ref().filter(|known| Some(known.stamp) != before) {
            return Ok(is_last.then(|| Arc::clone(&known.list)));
        }
        let past = meet(&self.memory, &self.header, &stored, other)?;
        if past.gone_back().is_some() && !is_last {
            return Ok(None);
        }
        let list = Arc::new(stored);
        *known = Some(Known { stamp, stored: Arc::clone(&list), list: Arc::clone(&list), past, durable: None });
        Ok(Some(list))
    }

    /// Refuses what `refuse` does by the list as it is now.
    ///
    /// # Errors
    /// Those of `refuse`, or as [`open`](Self::open).
    pub fn judge(&self, refuse: impl Fn(&MemberList) -> Result<()>) -> Result<()> {
        refuse(&*self.list_unless(|list| refuse(list).is_err())?)
    }

    /// How what the list said when it was read last compares with what this host has seen of it.
    pub fn past(&self) -> Option<Past> {
        self.known.lock().as_ref().map(|known| known.past.clone())
    }

    /// Refuses changes of a home whose list has gone back, and of its disks. That it had gone back is not believed without another look.
    ///
    /// # Errors
    /// `ReadOnly`, with what was seen and what is there; or as [`open`](Self::open).
    pub fn allow_changes(&self) -> Result<()> {
        if self.past().is_some_and(|past| past.gone_back().is_some()) {
            self.list_unless(|_| true)?;
        }
        self.past().map_or(Ok(()), |past| past.allow_changes())
    }

    /// Takes what the list says for the newest, if it has gone back; returns what was seen and what is there.
    ///
    /// # Errors
    /// Those of [`Memory::accept`], or as [`open`](Self::open).
    pub fn accept(&self) -> Result<Option<GoneBack>> {
        self.list()?;
        let gone_back = self.past().map(|past| past.still_gone_back()).transpose()?.flatten();
        if let Some(gone_back) = &gone_back {
            self.file(OFlags::RDWR)?.sync()?; // no power cut may leave less
            self.memory.accept(gone_back)?;
        }
        Ok(gone_back)
    }

    /// Begins a change, while no other process changes the list.
    ///
    /// # Errors
    /// `Busy` while another one does so for long, `ReadOnly` for a list that has gone back, or as [`open`](Self::open).
    pub fn begin(&self) -> Result<ListChange<'_>> {
        let alone = self.changing.lock();
        let file = self.file(OFlags::RDWR)?;
        wait_for_claim(OTHER_CHANGE, || file.claim(Claim::Exclusive))
            .context(|| "changing the VM's list of disks".into())?;
        let (Copies { list: stored, copy, other }, stamp) = self.read(&file)?;
        let is_ours = |known: &&Known| known.stamp == stamp && *known.stored == stored;
        let of_known = |known: &Known| (Arc::clone(&known.list), known.past.clone(), known.durable);
        let ours = self.known.lock().as_ref().filter(is_ours).map(of_known);
        let (list, past, durable) = match ours {
            Some(ours) => ours,
            None => (Arc::new(stored.clone()), meet(&self.memory, &self.header, &stored, other.as_ref())?, None),
        };
        past.allow_changes()?;
        let durable = match durable {
            Some(durable) => durable,
            None => {
                file.sync()?; // what another process wrote may not be
                copy
            }
        };
        let is_put_off = list.disks != stored.disks;
        let list = MemberList::clone(&list);
        Ok(ListChange { members: self, file, stored, list, past, is_put_off, durable, _alone: alone })
    }

    /// Makes the list say what is, durably and in both copies, if that was put off.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), or `Io`.
    pub fn settle(&self) -> Result<()> {
        let is_put_off = self.known.lock().as_ref().is_some_and(|known| known.list.disks != known.stored.disks);
        if !is_put_off {
            return Ok(());
        }
        self.list()?; // a change of the file's attributes alone is no change of another process
        let mut change = self.begin()?;
        let list = change.list.clone();
        change.sync_names()?;
        change.make(list)
    }

    fn file(&self, flags: OFlags) -> Result<FileStorage> {
        open_list(&self.dir, self.header.uuid, flags).map(|file| FileStorage::with_claims(file, self.claims))
    }

    fn read(&self, file: &FileStorage) -> Result<(Copies, Stamp)> {
        let mut tries = READS;
        loop {
            let stat = rustix::fs::fstat(file.file()).context(|| "reading attributes".into())?;
            match read(file, &self.keys) {
                Err(error) if error.kind() == Kind::Corrupt && tries > 1 => tries -= 1,
                read => return read.map(|copies| (copies, stamp(&stat))),
            }
        }
    }
}

impl Floor for Members {
    fn least(&self, disk: Uuid) -> Result<Option<(u32, u64)>> {
        Ok(self.list()?.least(disk))
    }
}

/// Opens the file with the list of a home's disks.
fn open_list(dir: &File, home: Uuid, flags: OFlags) -> Result<File> {
    let name = file_name(home);
    regular_beneath(dir, Path::new(&name), flags).map_err(|error| {
        let error = Error::io("opening it", error);
        let list = format!("the VM's list of disks, {name}");
        if error.kind() == Kind::NotFound {
            Error::new(Kind::Corrupt, format!("{list}, is gone: {REMEDY}"))
        } else if error.kind() == Kind::Corrupt {
            Error::new(Kind::Corrupt, format!("{list}: {}: {REMEDY}", error.chain()))
        } else {
            Error::with_source(error.kind(), list, error)
        }
    })
}

/// Why a list cannot be read, for what does what is advised.
pub fn without_remedy(error: &Error) -> String {
    error.chain().replace(&format!(": {REMEDY}"), "")
}

/// What to do about a list that is lost.
const REMEDY: &str = "`vmcryptfs adopt VM_FOLDER` rebuilds it from the disks that are there";

/// Makes the list of a home, durably, in place of one that may be there.
///
/// # Errors
/// `Invalid` for a list that is too long, or `Io`.
pub(crate) fn create(dir: &File, home: Uuid, dek: &Dek, list: &MemberList) -> Result<()> {
    let doing = || "making the VM's list of disks".to_owned();
    let list = MemberList { sequence: list.sequence.max(1), ..list.clone() };
    let bytes = MembersKey::new(home, dek)?.encode(&list)?;
    let draft = Draft::new(dir, "")?;
    let file = FileStorage::new(draft.make_file(Mode::from_raw_mode(0o600)).context(doing)?);
    if let Ok(home) = stat_at(dir, OsStr::new(HOME_FILE)) {
        // Who makes it may be root, and its user another one. Where that is not allowed, that user will be told of it.
        let owner = (Uid::from_raw(home.st_uid), Gid::from_raw(home.st_gid));
        match rustix::fs::fchown(file.file(), Some(owner.0), Some(owner.1)) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            failed => failed.context(doing)?,
        }
    }
    COPY_OFFSETS.into_iter().try_for_each(|offset| file.write_at(offset, &bytes)).context(doing)?;
    file.sync().context(doing)?;
    draft.replace(dir, OsStr::new(&file_name(home))).context(doing)?;
    let dir = readable(dir).context(doing)?;
    rustix::fs::fsync(dir).context(doing)
}

/// Whether a file is the list of some home's disks, by its name and its content.
///
/// # Errors
/// `Io`.
pub(crate) fn is_list(file: &File, name: &OsStr) -> Result<bool> {
    if !name.as_bytes().starts_with(MEMBERS_PREFIX.as_bytes()) {
        return Ok(false);
    }
    COPY_OFFSETS.into_iter().try_fold(false, |found, offset| {
        let mut magic = [0; MAGIC.len()];
        let len = file.read_at(&mut magic, offset).context(|| "reading its beginning".into())?;
        Ok(found || (len == magic.len() && magic == MAGIC))
    })
}

/// Removes the list of a home that is gone; one without a list has none.
///
/// # Errors
/// `Io`.
pub(crate) fn remove(dir: &File, home: Uuid) -> Result<()> {
    match rustix::fs::unlinkat(dir, file_name(home), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.context(|| "removing the VM's list of disks".into()),
    }
}

/// Gives the list of a home in transition, which may be under the old DEK, to the new one.
///
/// # Errors
/// As [`Members::open`], or `Io`.
pub(crate) fn reseal(dir: &File, home: &Header, dek: &Dek, memory: &Arc<Memory>) -> Result<()> {
    match Members::open(dir, (home, dek), &FileLocks, memory)? {
        Some(members) => create(dir, home.uuid, dek, &MemberList::clone(&*members.list()?)),
        None => Ok(()),
    }
}

/// The list of a home in a VM folder, and how it compares with what this host has seen of it.
///
/// # Errors
/// As [`Members::open`].
pub(crate) fn list_in(dir: &File, home: &Header, dek: &Dek, memory: &Arc<Memory>) -> Result<(MemberList, Past)> {
    let file = open_list(dir, home.uuid, OFlags::RDONLY)?;
    let Copies { list, other, .. } = read(&FileStorage::new(file), &keys(home, dek)?)?;
    let past = meet(memory, home, &list, other.as_ref())?;
    Ok((list, past))
}

/// The least sequence that a list of a home's disks must have which is made in place of one that is lost.
///
/// # Errors
/// As [`Members::open`].
pub(crate) fn next_sequence(home: &Header, former: &MemberList, memory: &Memory) -> Result<u64> {
    let known = memory.list_sequence(&point(home, former)?);
    Ok(former.sequence.max(known).saturating_add(1))
}

/// Compares a list with what this host has seen of it. Of two copies one is durable, and it is not newer than the other: a host
/// remembers no more than the smaller says.
fn meet(memory: &Arc<Memory>, home: &Header, list: &MemberList, other: Option<&MemberList>) -> Result<Past> {
    let durable = other.map(|other| point(home, other)).transpose()?;
    Ok(memory.meet_list(&point(home, list)?, durable))
}

fn point(home: &Header, list: &MemberList) -> Result<Point> {
    Ok(Point::of_list(home, list.sequence, state_mark(list)?))
}

fn keys(home: &Header, dek: &Dek) -> Result<Vec<MembersKey>> {
    let mut keys = vec![MembersKey::new(home.uuid, dek)?];
    if let Some(old) = home.transition.as_ref().map(|transition| transition.old_dek(dek)).transpose()?.flatten() {
        keys.push(MembersKey::new(home.uuid, &old)?);
    }
    Ok(keys)
}

fn stamp(stat: &Stat) -> Stamp {
    (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests;
