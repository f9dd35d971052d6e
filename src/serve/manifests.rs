//! The manifests of homes that are served: each is compared when its home is first used, opened before the first change, and closed
//! when the home is locked or the folder is served no more.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::{HOME_FILE, is_reserved};
use crate::progress::to_the_end;
use crate::seen::Past;
use crate::serve::{BackingId, CLOSE_RACE_TIMEOUT, ServedFolder};
use crate::storage::claims::wait_for_claim;
use crate::store::home_file::HomeKeys;
use crate::sys::file::{path_of, stat_at};
use crate::vm::access::claim_exclusive;
use crate::vm::component::Component;
use crate::vm::folder;
use crate::vm::home::Home;
use crate::vm::manifest::{HomeTree, Keeper, Proof, Purpose, is_there};

/// What was found of homes, by their VM folders.
#[derive(Default)]
pub(super) struct Manifests {
    used: Mutex<HashMap<BackingId, Used>>,
    news: Mutex<Vec<ManifestNews>>,
}

/// A home that was used or compared. Its proof is there once it was compared; until then others wait for that.
type Used = Arc<Mutex<Option<Compared>>>;

#[derive(Clone)]
struct Compared {
    home: Uuid,
    proof: Arc<Proof>,
    /// Whether it was not only compared.
    is_used: bool,
}

fn device_of(dir: &File) -> Option<u64> {
    rustix::fs::fstat(dir).ok().map(|stat| stat.st_dev)
}

/// Makes durable what the folder's file system has, and returns its device. The kernel asks no FUSE server to do that.
fn synced_device(root: &File) -> Option<u64> {
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
    let kind = rustix::fs::fstatfs(root).ok()?.f_type;
    (kind != FUSE_SUPER_MAGIC && rustix::fs::syncfs(root).is_ok()).then(|| device_of(root)).flatten()
}

/// What was found of a home that is not as it was left, or of which that is not known.
#[derive(Clone, Debug)]
pub struct ManifestNews {
    /// The VM folder, on the backing side.
    pub folder: PathBuf,
    /// The home's UUID.
    pub uuid: Uuid,
    /// What was found.
    pub proof: Arc<Proof>,
}

impl ServedFolder {
    /// Compares a home that is used for the first time with its manifest, and says how that is kept from now on.
    pub(super) fn keeper(&self, vm: BackingId, dir: &File, home: &Home) -> Result<Option<Keeper>> {
        let memory = self.keyring.memory();
        let tree = HomeTree { dir, header: &home.header, keys: &home.keys, memory, go_on: &to_the_end };
        let is_kept = tree.is_kept();
        if !is_kept && self.options.manifest.is_none() {
            return Ok(None);
        }
        let proof = self.compared(vm, &tree, true);
        if self.options.read_only || home.past.gone_back().is_some() {
            return Ok(None);
        }
        Keeper::new(dir, memory, &proof, self.options.manifest.is_some()).map(Some)
    }

    /// What a home's manifest proved when the home was first used, or until it is, in the background.
    fn compared(&self, vm: BackingId, tree: &HomeTree<'_>, is_used: bool) -> Arc<Proof> {
        let used = Arc::clone(self.manifests.used.lock().entry(vm).or_default());
        let mut known = used.lock();
        known.take_if(|before| is_used && !before.is_used);
        let compared = known.get_or_insert_with(|| {
            let proof = Arc::new(tree.prove().unwrap_or_else(|error| Proof::failed(&error)));
            let home = tree.header.uuid;
            if !proof.findings.is_empty() || proof.unproven_since.is_some() {
                let (folder, proof) = (path_of(tree.dir), Arc::clone(&proof));
                self.manifests.news.lock().push(ManifestNews { folder, uuid: home, proof });
            }
            Compared { home, proof, is_used }
        });
        compared.is_used |= is_used;
        Arc::clone(&compared.proof)
    }

    /// What was found since the last call.
    pub fn manifest_news(&self) -> Vec<ManifestNews> {
        std::mem::take(&mut self.manifests.news.lock())
    }

    /// What was found of the home with this UUID, for people, unless that was accepted since.
    pub fn manifest_finding(&self, below: &Path, home: Uuid) -> Option<String> {
        let dir = self.dir(below).ok()?;
        let used = self.manifests.used.lock().get(&BackingId::of_file(&dir).ok()?).cloned()?;
        let compared = used.lock().clone().filter(|compared| compared.home == home)?;
        let unproven = compared.proof.describe_unproven();
        let found = compared.proof.describe().filter(|_| {
            let is_still = self.with_tree(&dir, |tree, _| Ok(tree.is_found(&compared.proof)));
            is_still.unwrap_or(true)
        });
        let said: Vec<String> = found.into_iter().chain(unproven).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// Compares all homes that have a manifest and were not used yet; `false` if some are locked.
    pub fn compare_manifests(&self) -> bool {
        self.vm_folders().iter().fold(true, |all, dir| {
            let compared = || -> Result<()> {
                let vm = BackingId::of_file(dir)?;
                let is_known = self.manifests.used.lock().contains_key(&vm);
                if !is_known && is_there(dir) {
                    self.with_tree(dir, |tree, _| Ok(self.compared(vm, tree, false)))?;
                }
                Ok(())
            };
            compared().is_ok() && all
        })
    }

    /// Renews the manifests of homes that change.
    pub fn renew_manifests(&self) {
        self.seal(Purpose::Renew, None, |_| true);
    }

    /// Closes the manifests of homes, by their UUIDs. Nothing of them is open.
    pub fn close_manifests(&self, of: impl Fn(Uuid) -> bool) {
        self.leave_homes();
        self.seal(Purpose::Close, None, of);
    }

    /// Closes the manifests of all homes. The folder is served no more: nothing of it changes by this process.
    pub fn close_all_manifests(&self) {
        /// With more homes than this, one sync of the file system is quicker than one for each file and folder.
        const MANY: usize = 8;
        self.leave_homes();
        let are_many = !self.options.read_only && self.manifests.used.lock().len() > MANY;
        let synced = if are_many { synced_device(&self.root) } else { None };
        self.seal(Purpose::Close, synced, |_| true);
    }

    fn leave_homes(&self) {
        let _ = self.settle_names(); // what is not settled by this is decided when the home is next opened
        self.homes.forget();
    }

    /// `synced` is the device whose file system is durable by now, if one is.
    fn seal(&self, purpose: Purpose, synced: Option<u64>, of: impl Fn(Uuid) -> bool) {
        if self.options.read_only || self.manifests.used.lock().is_empty() {
            return;
        }
        for dir in self.vm_folders() {
            let known = || {
                let used = self.manifests.used.lock().get(&BackingId::of_file(&dir).ok()?).cloned()?;
                used.lock().clone().filter(|compared| compared.is_used && of(compared.home))
            };
            let Some(compared) = known() else { continue };
            let sealed = self.with_tree(&dir, |tree, past| {
                past.allow_changes()?;
                if !tree.is_kept() && self.options.manifest.is_none() {
                    return Ok(());
                }
                // Another mount that has the home in use closes it later.
                let alone = (purpose == Purpose::Close)
                    .then(|| {
                        wait_for_claim(CLOSE_RACE_TIMEOUT, || {
                            claim_exclusive(&dir, &Component::Home, self.options.claims, &to_the_end)
                        })
                        .ok()
                    })
                    .flatten();
                let purpose = if alone.is_some() { purpose } else { Purpose::Renew };
                let is_synced = alone.is_some() && synced.is_some_and(|device| device_of(&dir) == Some(device));
                tree.seal_synced(purpose, &compared.proof, is_synced)
            });
            if let Err(error) = sealed {
                let (folder, uuid) = (path_of(&dir), compared.home);
                let proof = Arc::new(Proof::not_sealed(&error));
                self.manifests.news.lock().push(ManifestNews { folder, uuid, proof });
            }
        }
    }

    /// Does something with the tree of a home that is unlocked.
    fn with_tree<T>(&self, dir: &File, work: impl FnOnce(&HomeTree<'_>, &Past) -> Result<T>) -> Result<T> {
        let stored =
            folder::read_home(dir)?.ok_or_else(|| Error::new(Kind::NotFound, "the VM folder's header is gone"))?;
        let dek = self.keyring.dek(&stored.header)?;
        let header = stored.header.clone().verify(&dek)?;
        let past = self.keyring.past(&stored.header, &dek, None)?;
        let keys = HomeKeys::of(&header, &dek)?;
        let memory = self.keyring.memory();
        work(&HomeTree { dir, header: &header, keys: &keys, memory, go_on: &to_the_end }, &past)
    }

    /// The VM folders that are served. Those that cannot be opened are passed over.
    fn vm_folders(&self) -> Vec<File> {
        if self.is_vm {
            return self.dir(Path::new("")).into_iter().collect();
        }
        let names: Vec<OsString> = folder::sorted_names(&self.root).unwrap_or_default();
        let dirs = names.iter().filter(|name| !is_reserved(name)).filter_map(|name| self.dir(Path::new(name)).ok());
        dirs.filter(|dir| stat_at(dir, HOME_FILE.as_ref()).is_ok()).collect()
    }
}
