//! A VM folder as a conversion needs it: its state, its home unlocked, and claimed against other conversions.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header, UnverifiedHeader};
use crate::format::names::DiskNames;
use crate::key::Dek;
use crate::provider::{KeyProvider, Providers};
use crate::storage::claims::Claim;
use crate::storage::{Access, FileStorage};
use crate::store::header_area;
use crate::store::home_file::HomeKeys;
use crate::sys::file::{is_at, open_beneath};
use crate::text::Show;
use crate::vm::folder::{self, NewHome};
use crate::vm::home_state::HomeState;
use crate::vm::{keyring, outer};
use crate::work::convert::form::WrappingKey;
use crate::work::convert::tree::{self, Entry};

/// For how long another header may stand where this folder's is to go, and how often that is looked at.
const GIVES_WAY_WITHIN: Duration = Duration::from_secs(10);
const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// A VM folder whose header, if it has one, is claimed: no other conversion or change of keys is at work.
pub(super) struct ClaimedFolder {
    pub(super) path: PathBuf,
    pub(super) dir: File,
    pub(super) state: HomeState,
    pub(super) home: Option<OpenHome>,
    /// Those that a new home gets.
    disk_names: DiskNames,
}

/// An unlocked home.
pub(super) struct OpenHome {
    pub(super) header: Header,
    pub(super) dek: Dek,
    pub(super) keys: HomeKeys,
    claim: FileStorage,
}

impl ClaimedFolder {
    /// Opens a folder and unlocks its home, if it has one. Claimed for reading, it may be opened so by others, too.
    ///
    /// # Errors
    /// `Busy` when another conversion is at work, `KeyUnavailable`, `Corrupt`, `NotFound`, or `Io`.
    pub(super) fn open(path: &Path, providers: &Providers, access: Access) -> Result<Self> {
        let path = fs::canonicalize(path).context(|| format!("opening folder {}", path.shown()))?;
        let dir = folder::open_dir(&path)?;
        let state = HomeState::of(&dir)?;
        let home = match state.header_file() {
            None => None,
            Some(name) => {
                Some(OpenHome::open(&dir, name, providers, access).context(|| format!("home of {}", path.shown()))?)
            }
        };
        Ok(Self { path, dir, state, home, disk_names: providers.disk_names().clone() })
    }

    /// Lists all of it, as [`tree::list`] does.
    ///
    /// # Errors
    /// As that.
    pub(super) fn walk(&self) -> Result<Vec<Entry>> {
        let home = self.home.as_ref();
        tree::list(
            &self.dir,
            home.map(|home| &home.keys),
            home.map_or(&self.disk_names, |home| &home.header.disk_names),
        )
    }

    /// What the provider calls its key after.
    pub(super) fn vm_name(&self) -> OsString {
        self.path.file_name().unwrap_or(OsStr::new("vm")).to_os_string()
    }

    /// Gives the folder a home whose encryption begins, claimed, and makes sure that the provider opens it again. The key may be
    /// waited for: what lies in the folder is to be looked at again after it.
    ///
    /// # Errors
    /// `Busy` when another conversion began in the meantime, `KeyUnavailable` when the provider gives no key, or `Io`; then this
    /// home is not there.
    pub(super) fn begin(&mut self, providers: &Providers, provider: &Arc<dyn KeyProvider>) -> Result<()> {
        let state = HomeState::Encrypting;
        let Some(name) = state.header_file() else { return Ok(()) };
        outer::refuse(&self.path)?;
        let vm_name = self.vm_name();
        let disk_names = self.disk_names.clone();
        let new = NewHome { file: name, vm_name: &vm_name, label: String::new(), disk_names };
        let (file, made, dek) = new.make(&self.dir, provider).map_err(|error| {
            let is_other = error.kind() == Kind::Exists;
            if is_other {
                Error::with_source(Kind::Busy, "another process encrypts this VM folder", error)
            } else {
                error
            }
        })?;
        let reopened = || -> Result<()> {
            // Two that begin at once, one above the other, see each other here or when they look for what lies below.
            outer::refuse(&self.path)?;
            let stored = folder::read_header(&self.dir, name)?
                .ok_or_else(|| Error::new(Kind::Busy, "the header is gone: something else works on this folder"))?;
            let id = made.slots.first_key().clone();
            let key = WrappingKey { kek: providers.fetch(&id)?, id };
            let dek = key.unlock(&stored.header)?;
            stored.header.verify(&dek).map(drop)
        };
        if let Err(error) = reopened().context(|| "opening the new home again".into()) {
            // Nothing was encrypted under it yet. The error at hand says more than that it could not be removed.
            let _ = folder::remove_header(&self.dir, name, &file);
            return Err(error);
        }
        let claim = FileStorage::new(file);
        self.home = Some(OpenHome { keys: HomeKeys::new(&dek)?, header: made, dek, claim });
        self.state = state;
        Ok(())
    }

    /// Takes back a home that was begun, under which nothing is sealed yet.
    pub(super) fn abandon(&mut self) {
        if let (Some(name), Some(home)) = (self.state.header_file(), self.home.take()) {
            // The error at hand says more; the next run takes up the home that stays.
            let _ = folder::remove_header(&self.dir, name, home.claim.file());
            self.state = HomeState::Clear;
        }
    }

    /// Changes the state of the home, durably. The claim stays: it is on the file, not on its name.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn turn(&mut self, to: HomeState) -> Result<()> {
        let (Some(from), Some(name)) = (self.state.header_file(), to.header_file()) else {
            return Err(Error::new(Kind::Invalid, "a home without a header changes no state"));
        };
        if from != name {
            self.rename_header(from, name).context(|| format!("renaming {from} to {name}"))?;
            self.state = to;
        }
        self.sync()
    }

    /// Renames the header to a name that must be free. Another process that begins a home of that name sees this header and
    /// removes its own: its name is waited for.
    fn rename_header(&self, from: &str, to: &str) -> rustix::io::Result<()> {
        let begun = Instant::now();
        loop {
            let renamed = rustix::fs::renameat_with(&self.dir, from, &self.dir, to, RenameFlags::NOREPLACE);
            match renamed.or_else(|error| match error {
                // Some network file systems cannot refuse to replace; a link of that name can.
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => self.link_header(from, to),
                other => Err(other),
            }) {
                Err(rustix::io::Errno::EXIST) if begun.elapsed() < GIVES_WAY_WITHIN => thread::sleep(LOOKS_EVERY),
                renamed => return renamed,
            }
        }
    }

    fn is_own(&self, name: &str) -> bool {
        let home = self.home.as_ref();
        home.is_some_and(|home| is_at(&self.dir, Path::new(name), home.claim.file()).unwrap_or(false))
    }

    /// Renames the header in two steps. Between them it has both names, which counts as the state of the former.
    fn link_header(&self, from: &str, to: &str) -> rustix::io::Result<()> {
        match rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty()) {
            Err(rustix::io::Errno::EXIST) if self.is_own(to) => {}
            other => other?,
        }
        rustix::fs::unlinkat(&self.dir, from, AtFlags::empty())
    }

    /// Removes the header, once nothing needs it any more.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn end(&mut self) -> Result<()> {
        self.sync()?;
        if let Some(name) = self.state.header_file() {
            rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()).context(|| format!("removing {name}"))?;
        }
        self.home = None;
        self.state = HomeState::Clear;
        self.sync()
    }

    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.dir).context(|| "making names durable".into())
    }

    /// The home, which every caller has made sure of.
    pub(super) fn unlocked(&self) -> Result<&OpenHome> {
        self.home.as_ref().ok_or_else(|| {
            Error::new(Kind::Denied, format!("{} is not encrypted: it has no home header", self.path.shown()))
        })
    }
}

impl OpenHome {
    fn open(dir: &File, name: &str, providers: &Providers, access: Access) -> Result<Self> {
        let claim = claim(dir, name, access)?;
        // Another conversion may have turned the home into another state, or ended it, before the claim.
        if !is_at(dir, Path::new(name), claim.file()).context(|| format!("looking for {name}"))? {
            return Err(Error::new(Kind::Busy, "the header is gone: something else works on this folder"));
        }
        let stored = header_area::load(&claim, ComponentKind::Home).context(|| format!("reading {name}"))?;
        let dek = unlock(&stored.header, providers)?;
        let header = stored.header.verify(&dek)?;
        if header.transition.is_some() {
            return Err(Error::new(Kind::Busy, "its deep rekey is not finished: `vmcryptfs rekey --deep` resumes it"));
        }
        Ok(Self { keys: HomeKeys::new(&dek)?, header, dek, claim })
    }

    /// Makes sure that no mount of any process or host can still use the home, whose files are about to lose their keys.
    ///
    /// # Errors
    /// `Busy`.
    pub(super) fn claim_alone(&self) -> Result<()> {
        self.claim.claim(Claim::HomeExclusive)
    }
}

/// Obtains the DEK of a header through the providers.
///
/// # Errors
/// As [`keyring::unlock`].
pub(super) fn unlock(header: &UnverifiedHeader, providers: &Providers) -> Result<Dek> {
    let keks = providers.fetch_all(header.claims().slots.key_ids().cloned());
    keyring::unlock(header, &keks)
}

fn claim(dir: &File, name: &str, access: Access) -> Result<FileStorage> {
    let flags = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
    let file = open_beneath(dir, Path::new(name), flags | OFlags::NOFOLLOW, Mode::empty())
        .context(|| format!("opening {name}"))?;
    let storage = FileStorage::new(file);
    storage.claim(access).context(|| "another change of this VM folder is at work".into())?;
    Ok(storage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::HOME_FILE;
    use crate::vm::datastore::Datastore;

    #[test]
    fn name_of_the_header_is_waited_for_until_another_home_gives_way() {
        let store = Datastore::new(&["other"]);
        let (vm, providers) = (store.path("vm"), store.providers());
        fs::create_dir(&vm).unwrap();
        let mut folder = ClaimedFolder::open(&vm, &providers, Access::Write).unwrap();
        folder.begin(&providers, &providers.default_provider().unwrap().1).unwrap();
        fs::copy(store.path("other").join(HOME_FILE), vm.join(HOME_FILE)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                fs::remove_file(vm.join(HOME_FILE)).unwrap();
            });
            folder.turn(HomeState::Encrypted).unwrap();
        });
        assert_eq!(HomeState::of(&folder.dir).unwrap(), HomeState::Encrypted);
        let stored = folder::read_header(&folder.dir, HOME_FILE).unwrap().unwrap();
        assert_eq!(stored.header.claims().uuid, folder.unlocked().unwrap().header.uuid);
    }
}
