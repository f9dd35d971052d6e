//! A VM folder as a conversion needs it: its state, its home unlocked, and claimed against other conversions.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, RenameFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header, StoredState};
use crate::format::names::DiskNames;
use crate::key::Dek;
use crate::provider::{KeyProvider, Providers};
use crate::seen::Memory;
use crate::storage::claims::{Claim, FileLocks, LOCAL_PAUSE, retry_while};
use crate::storage::{Access, FileStorage, Storage};
use crate::store::header_area;
use crate::store::home_file::HomeKeys;
use crate::sys::file::{is_at, regular_beneath};
use crate::text::Show;
use crate::vm::folder::{self, NewHome};
use crate::vm::home_state::HomeState;
use crate::vm::inventory::Inventory;
use crate::vm::inventory::misplaced::Misplaced;
use crate::vm::manifest::{Expected, HomeTree, Proof, Purpose};
use crate::vm::owner::Owner;
use crate::vm::{keyring, members, outer, scan};
use crate::work::convert::form::WrappingKey;
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::tree::{self, EmptyFiles, Entry};

/// For how long another header may stand where this folder's is to go.
const GIVES_WAY_WITHIN: Duration = Duration::from_secs(10);

/// A VM folder whose header, if it has one, is claimed: no other conversion or change of keys is at work.
pub(super) struct ClaimedFolder {
    pub(super) path: PathBuf,
    pub(super) dir: File,
    /// By what the header says, or if that says nothing, by its name.
    pub(super) state: HomeState,
    /// The state that the header's name says.
    by_name: HomeState,
    pub(super) home: Option<OpenHome>,
    /// Those that a new home gets.
    disk_names: DiskNames,
}

/// An unlocked home.
pub(super) struct OpenHome {
    pub(super) header: Header,
    in_use: usize,
    pub(super) dek: Dek,
    pub(super) keys: HomeKeys,
    /// What its disks are compared with.
    pub(super) owner: Owner,
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
        let by_name = HomeState::of(&dir)?;
        let of_home = || format!("home of {}", path.shown());
        let home = by_name.header_file().map(|name| OpenHome::open(&dir, name, providers, access).context(of_home));
        let home = home.transpose()?;
        let state = by_name.confirm(home.as_ref().and_then(|home| home.header.state)).context(of_home)?;
        Ok(Self { path, dir, state, by_name, home, disk_names: providers.disk_names().clone() })
    }

    /// What to say of a home that is neither encrypted nor clear.
    pub(super) fn unfinished(&self) -> Option<&'static str> {
        self.state.unfinished(self.home.as_ref().and_then(|home| home.header.state))
    }

    /// Refuses to resume what only the name of the header says, unless that is to be believed: anyone can rename it.
    ///
    /// # Errors
    /// `Busy`.
    pub(super) fn refuse_unproven(&self, resume_by_name: bool) -> Result<()> {
        let is_proven = self.home.as_ref().is_none_or(|home| home.header.state.is_some());
        match self.unfinished() {
            Some(why) if !is_proven && !resume_by_name => {
                Err(Error::new(Kind::Busy, format!("{}: {why}", self.path.shown())))
            }
            _ => Ok(()),
        }
    }

    /// Lists all of it, as [`tree::list`] does. Each name is a safe point.
    ///
    /// # Errors
    /// As that; `Stopped`.
    pub(super) fn walk(&self, pace: &ProgressCounter<'_>) -> Result<Vec<Entry>> {
        self.look(pace).map(|(entries, _)| entries)
    }

    /// The same, and what of it is not as the home says of its disks.
    ///
    /// # Errors
    /// As [`walk`](Self::walk), and those of the home's list of disks.
    pub(super) fn look(&self, pace: &ProgressCounter<'_>) -> Result<(Vec<Entry>, Vec<Misplaced>)> {
        let go_on = || pace.tell();
        let (keys, (inventory, misplaced)) = match &self.home {
            None => (None, (Inventory::take_watched(&self.dir, &self.disk_names, &go_on)?, Vec::new())),
            Some(home) => {
                let names = &home.header.disk_names;
                (Some(&home.keys), Inventory::take_compared(&self.dir, &home.owner, names, &go_on)?)
            }
        };
        let empty = match self.state {
            HomeState::Encrypted if self.converts_disks() => EmptyFiles::OfHomeButDisks,
            HomeState::Encrypted => EmptyFiles::OfHome,
            HomeState::Clear | HomeState::Encrypting | HomeState::Decrypting => EmptyFiles::Either,
        };
        Ok((tree::list(&self.dir, (keys, empty), inventory, &go_on)?, misplaced))
    }

    /// What the home's manifest proves, if there is one. A home that is not as it was left is refused.
    ///
    /// # Errors
    /// `Corrupt`, with what is found; `Io`, `Stopped`.
    pub(super) fn refuse_changed(&self, memory: &Arc<Memory>, pace: &ProgressCounter<'_>) -> Result<Option<Proof>> {
        let prove = |tree: &HomeTree<'_>| if tree.is_kept() { tree.prove().map(Some) } else { Ok(None) };
        let proof = self.with_tree(memory, pace, prove)?.flatten();
        proof.iter().try_for_each(Proof::refuse_changed).context(|| self.path.shown().to_string())?;
        Ok(proof)
    }

    /// What the home's manifest, of which that was proven, says of each file that is about to be decrypted. One that is open is closed:
    /// the home is claimed alone.
    ///
    /// # Errors
    /// `Corrupt`, `Io`, `Stopped`.
    pub(super) fn expected(
        &self,
        proof: Option<&Proof>,
        memory: &Arc<Memory>,
        pace: &ProgressCounter<'_>,
    ) -> Result<Option<Expected>> {
        let Some(proof) = proof else { return Ok(None) };
        self.with_tree(memory, pace, |tree| tree.seal(Purpose::Replace, proof)).context(|| "its manifest".into())?;
        self.sealed_entries(memory, pace)
    }

    /// What the home's manifest says of each file, if it is closed.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(super) fn sealed_entries(&self, memory: &Arc<Memory>, pace: &ProgressCounter<'_>) -> Result<Option<Expected>> {
        let expected = self.with_tree(memory, pace, |tree| tree.expected());
        Ok(expected.context(|| "its manifest".into())?.flatten())
    }

    /// Removes the manifest, if there is one: nothing is left of what it says.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn remove_manifest(&self, memory: &Arc<Memory>, pace: &ProgressCounter<'_>) -> Result<()> {
        self.with_tree(memory, pace, |tree| if tree.is_kept() { tree.remove() } else { Ok(()) }).map(drop)
    }

    /// `None` without a home.
    fn with_tree<T>(
        &self,
        memory: &Arc<Memory>,
        pace: &ProgressCounter<'_>,
        work: impl FnOnce(&HomeTree<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(OpenHome { header, keys, .. }) = &self.home else { return Ok(None) };
        work(&HomeTree { dir: &self.dir, header, keys, memory, go_on: &|| pace.tell() }).map(Some)
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
            let _ = folder::remove_header(&self.dir, name, (&file, made.uuid));
            return Err(error);
        }
        let claim = FileStorage::new(file);
        let owner = Owner::of(&self.dir, (&made, &dek), &FileLocks, &Memory::of(providers))?;
        self.home = Some(OpenHome { keys: HomeKeys::new(&dek)?, header: made, in_use: 0, dek, owner, claim });
        (self.state, self.by_name) = (state, state);
        Ok(())
    }

    /// Takes back a home that was begun, under which nothing is sealed yet.
    pub(super) fn abandon(&mut self) {
        if let (Some(name), Some(home)) = (self.state.header_file(), self.home.take()) {
            // The error at hand says more; the next run takes up the home that stays.
            let _ = folder::remove_header(&self.dir, name, (home.claim.file(), home.header.uuid));
            (self.state, self.by_name) = (HomeState::Clear, HomeState::Clear);
        }
    }

    /// Changes the state of the home, durably. The claim stays: it is on the file, not on its name. A header says that its home is
    /// encrypted only under the name of such a one: it gets that name before it says so, and says another thing before it loses it.
    ///
    /// # Errors
    /// `Io`; then another run finishes it.
    pub(super) fn turn(&mut self, to: HomeState) -> Result<()> {
        match to {
            HomeState::Clear => return Err(Error::new(Kind::Invalid, "a home with a header does not become clear")),
            HomeState::Encrypting => self.write_state(StoredState::Encrypting)?,
            HomeState::Decrypting => self.write_state(StoredState::Decrypting)?,
            HomeState::Encrypted => {}
        }
        if let (Some(from), Some(name)) = (self.by_name.header_file(), to.header_file())
            && from != name
        {
            self.rename_header(from, name).context(|| format!("renaming {from} to {name}"))?;
        }
        (self.state, self.by_name) = (to, to);
        self.sync()?;
        if to == HomeState::Encrypted { self.write_state(StoredState::ConvertingDisks) } else { Ok(()) }
    }

    /// Whether disks in the clear are those that an interrupted conversion left.
    pub(super) fn converts_disks(&self) -> bool {
        self.home.as_ref().is_some_and(|home| home.header.state == Some(StoredState::ConvertingDisks))
    }

    /// Records that disks are converted from now on. The header of an older version says nothing of it unless all is decrypted, which
    /// gives it a state anyway.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn begin_disks(&mut self, of_all: bool) -> Result<()> {
        let is_due = self.home.as_ref().is_some_and(|home| match home.header.state {
            None => of_all && self.state == HomeState::Encrypted,
            stored => stored == Some(StoredState::Encrypted),
        });
        if is_due { self.write_state(StoredState::ConvertingDisks) } else { Ok(()) }
    }

    /// Records that disks in the clear are none of an interrupted conversion from now on.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn end_disks(&mut self) -> Result<()> {
        if self.converts_disks() { self.write_state(StoredState::Encrypted) } else { Ok(()) }
    }

    /// In both copies, so that neither shows a former state.
    fn write_state(&mut self, state: StoredState) -> Result<()> {
        let Some(home) = self.home.as_mut().filter(|home| home.header.state != Some(state)) else { return Ok(()) };
        let header = Header { state: Some(state), ..home.header.clone() };
        let sync = || Storage::sync(&home.claim).context(|| "making the header durable".into());
        (home.in_use, home.header) = header_area::update_both(&home.claim, home.in_use, header, &home.dek, &sync)?;
        Ok(())
    }

    /// Renames the header to a name that must be free. Another process that begins a home of that name sees this header and
    /// removes its own: its name is waited for.
    fn rename_header(&self, from: &str, to: &str) -> rustix::io::Result<()> {
        let is_taken = |error: &rustix::io::Errno| *error == rustix::io::Errno::EXIST;
        retry_while((GIVES_WAY_WITHIN, LOCAL_PAUSE), is_taken, || {
            let renamed = rustix::fs::renameat_with(&self.dir, from, &self.dir, to, RenameFlags::NOREPLACE);
            renamed.or_else(|error| match error {
                // Some network file systems cannot refuse to replace; a link of that name can.
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => self.link_header(from, to),
                other => Err(other),
            })
        })
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
        if let Some(name) = self.by_name.header_file() {
            rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()).context(|| format!("removing {name}"))?;
        }
        if let Some(home) = self.home.take() {
            members::remove(&self.dir, home.header.uuid)?;
        }
        (self.state, self.by_name) = (HomeState::Clear, HomeState::Clear);
        self.sync()
    }

    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.dir).context(|| "making names durable".into())
    }

    /// The home, which every caller has made sure of.
    pub(super) fn unlocked(&self) -> Result<&OpenHome> {
        self.home.as_ref().ok_or_else(|| {
            let clear =
                || Error::new(Kind::Denied, format!("{} is not encrypted: it has no home header", self.path.shown()));
            scan::refuse_lost_home(&self.path).err().unwrap_or_else(clear)
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
        let (dek, in_use) = (keyring::unlock_by(&stored.header, providers)?, stored.in_use);
        let header = stored.header.verify(&dek)?;
        if header.transition.is_some() {
            return Err(Error::new(
                Kind::Busy,
                "its deep rekey is not finished: `vmcryptfs rekey --deep VM_FOLDER` resumes it",
            ));
        }
        let owner = Owner::of(dir, (&header, &dek), &FileLocks, &Memory::of(providers))?;
        owner.allow_changes()?; // what is made of it would be taken for the newest
        Ok(Self { keys: HomeKeys::new(&dek)?, header, in_use, dek, owner, claim })
    }

    /// Makes sure that no mount of any process or host can still use the home, whose files are about to lose their keys.
    ///
    /// # Errors
    /// `Busy`.
    pub(super) fn claim_alone(&self) -> Result<()> {
        self.claim.claim(Claim::HomeExclusive)
    }
}

fn claim(dir: &File, name: &str, access: Access) -> Result<FileStorage> {
    let flags = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
    let file = regular_beneath(dir, Path::new(name), flags).context(|| format!("opening {name}"))?;
    let storage = FileStorage::new(file);
    storage.claim(access).context(|| "another change of this VM folder is at work".into())?;
    Ok(storage)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::format::header::{COPY_LEN, HOME_FILE};
    use crate::vm::datastore::Datastore;

    /// The header's file after each step of an update of both copies, a torn one included, from one file to the other.
    fn images(before: &[u8], after: &[u8]) -> Vec<Vec<u8>> {
        let mut images = vec![before.to_vec()];
        // The update may begin with either copy; each is written as a whole, or torn in the middle of a write.
        for order in [[0, 1], [1, 0]] {
            let mut image = before.to_vec();
            for copy in order {
                let at = usize::try_from(ComponentKind::Home.copy_offsets()[copy]).unwrap();
                for end in [at + 4096, at + COPY_LEN] {
                    image[at..end].copy_from_slice(&after[at..end]);
                    images.push(image.clone());
                }
            }
        }
        images
    }

    /// Each change of state, cut off after any of its steps, leaves a folder that the same change finishes.
    #[test]
    fn a_crash_in_any_change_of_state_leaves_one_that_is_finished() {
        use HomeState::{Decrypting, Encrypted, Encrypting};
        for (from, to) in
            [(Encrypting, Encrypted), (Encrypted, Decrypting), (Encrypting, Decrypting), (Decrypting, Encrypting)]
        {
            let store = Datastore::new(&["vm"]);
            let (vm, providers) = (store.path("vm"), store.providers());
            let open = || ClaimedFolder::open(&vm, &providers, Access::Write).unwrap();
            open().turn(from).unwrap();
            let file = |state: HomeState| vm.join(state.header_file().unwrap());
            let before = fs::read(file(from)).unwrap();
            open().turn(to).unwrap();
            let after = fs::read(file(to)).unwrap();
            let renamed_first = to == Encrypted;
            let cut = images(&before, &after).into_iter();
            let mut crashes: Vec<_> = cut.map(|image| (if renamed_first { to } else { from }, image)).collect();
            crashes.push(if renamed_first { (from, before) } else { (to, after.clone()) });
            for (name, image) in crashes {
                fs::remove_file(file(HomeState::of(&folder::open_dir(&vm).unwrap()).unwrap())).unwrap();
                fs::write(file(name), image).unwrap();
                let mut folder = open();
                assert!([from, to].contains(&folder.state), "{from:?} {to:?} {name:?}");
                folder.turn(to).unwrap();
                drop(folder);
                assert_eq!(open().state, to);
                assert_eq!(fs::read(file(to)).unwrap().len(), after.len());
            }
        }
    }

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
