//! A VM folder in memory, to show what crashes and faults in work on keys leave: every storage call of every component counts.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::header::{COPY_LEN, Header, Shape, UnverifiedHeader};
use crate::key::{Dek, KeyId, ProviderName};
use crate::progress::GoOn;
use crate::provider::{NewKey, Providers};
use crate::sector::SectorSize;
use crate::seen::{Floor, Memory};
use crate::storage::Storage;
use crate::storage::memory::{Countdown, CrashStorage, FaultStorage, MemoryStorage};
use crate::store::header_area::{self, StoredHeader};
use crate::vm::access::{Claimed, OfflineDisk, OpenDisk, VmAccess};
use crate::vm::component::Component;
use crate::vm::datastore::Datastore;
use crate::vm::keyring::{self, FetchedKeks, slot_for};
use crate::vm::owner::Owner;
use crate::vm::scan::FoundComponent;

/// One component's backing file.
pub(super) struct Part {
    pub(super) component: Component,
    pub(super) storage: FaultStorage<CrashStorage>,
    pub(super) dek: Arc<Dek>,
}

/// A host with the native providers `local` and `other`, and a VM folder.
pub(super) struct TestVm {
    store: Arc<Datastore>,
    providers: Arc<Providers>,
    pub(super) parts: Vec<Part>,
    pub(super) calls: Arc<Countdown>,
    /// Of this process only: what a power cut leaves may be older.
    memory: Arc<Memory>,
    /// What a list of disks would know of each: generation and sequence.
    noted: Mutex<HashMap<PathBuf, (u32, u64)>>,
}

impl TestVm {
    /// A home and `disks` disks under one KEK of `local`.
    pub(super) fn new(disks: usize) -> Self {
        let store = Arc::new(Datastore::with_providers(&["local", "other"]));
        let providers = Arc::new(store.providers());
        let rig = Self {
            store,
            providers,
            parts: Vec::new(),
            calls: Countdown::fault_after(i64::MAX),
            memory: Arc::default(),
            noted: Mutex::default(),
        };
        let key = rig.make_key("local");
        let paths = std::iter::once(Component::Home)
            .chain((0..disks).map(|number| Component::Disk(format!("{number}.raw").into())));
        let parts = paths.map(|path| rig.part(path, &key)).collect();
        Self { parts, ..rig }
    }

    pub(super) fn make_key(&self, provider: &str) -> KeyId {
        let purpose = NewKey { vm_name: "vm".into(), vm_uuid: random::uuid().unwrap() };
        self.providers.provider(&ProviderName::new(provider).unwrap()).unwrap().create_key(&purpose).unwrap().0
    }

    /// File of a provider's primary key.
    pub(super) fn primary_key_of(&self, provider: &str) -> PathBuf {
        self.store.beside(&format!("keys/{provider}.key"))
    }

    /// With providers that are set up again.
    pub(super) fn with_providers_anew(self) -> Self {
        let providers = Arc::new(self.store.providers());
        Self { providers, ..self }
    }

    fn part(&self, component: Component, key: &KeyId) -> Part {
        let home = component == Component::Home;
        let dek = if home { random::home_dek() } else { random::disk_dek() }.unwrap();
        let disk = Shape::Disk(DiskShape::new(SectorSize::DEFAULT));
        let kek = self.providers.fetch(key).unwrap();
        let slot = slot_for(key, kek.as_ref(), &dek).unwrap();
        let made = Header::new(random::uuid().unwrap(), if home { Shape::Home } else { disk }, String::new(), slot);
        let header = Header { state: None, binds_disks: false, lists_disks: false, ..made }; // as older versions made it
        let image = MemoryStorage::default();
        header_area::create(&image, &header, &dek).unwrap();
        Part { component, storage: self.storage(image.image(), &self.calls), dek: Arc::new(dek) }
    }

    fn storage(&self, image: Vec<u8>, calls: &Arc<Countdown>) -> FaultStorage<CrashStorage> {
        FaultStorage::sharing(CrashStorage::new(image), libc::EIO, Arc::clone(calls))
    }

    /// The same VM on media that hold these images, all durable, with calls that fail as told.
    pub(super) fn with(&self, images: Vec<Vec<u8>>, calls: Arc<Countdown>) -> Self {
        let part = |(part, image): (&Part, Vec<u8>)| Part {
            component: part.component.clone(),
            storage: self.storage(image, &calls),
            dek: Arc::clone(&part.dek),
        };
        let parts = self.parts.iter().zip(images).map(part).collect();
        Self {
            store: Arc::clone(&self.store),
            providers: Arc::clone(&self.providers),
            parts,
            calls,
            memory: Arc::default(),
            noted: Mutex::default(),
        }
    }

    /// What the media hold while power is on.
    pub(super) fn images(&self) -> Vec<Vec<u8>> {
        self.parts.iter().map(|part| all_bytes(part.storage.inner())).collect()
    }

    /// What a power cut now could leave of each component.
    pub(super) fn crash_images(&self) -> Vec<Vec<Vec<u8>>> {
        let images = |part: &Part| {
            part.storage.inner().forget_past();
            part.storage.inner().crash_images().map(|image| image.bytes()).collect()
        };
        self.parts.iter().map(images).collect()
    }

    /// As [`crash_images`](Self::crash_images), for changes of too many sectors to try all subsets.
    pub(super) fn few_crash_images(&self) -> Vec<Vec<Vec<u8>>> {
        let images = |part: &Part| {
            part.storage.inner().forget_past();
            part.storage.inner().sampled_crash_images(1).iter().map(|image| image.bytes()).collect()
        };
        self.parts.iter().map(images).collect()
    }

    /// No power cut now, and no damage of a copy after it, leaves a disk that is older than a list of disks would know.
    pub(super) fn assert_none_below_noted(&self) {
        let noted = self.noted.lock();
        for (part, images) in self.parts.iter().zip(self.few_crash_images()) {
            let Some(least) = noted.get(part.component.path()) else { continue };
            for copy in images
                .iter()
                .flat_map(|image| copies(part, image))
                .filter_map(|copy| UnverifiedHeader::decode(copy).ok())
            {
                let there = (copy.claims().dek_generation, copy.claims().sequence);
                assert!(there >= *least, "{}: {there:?} is there, {least:?} was noted", part.component);
            }
        }
    }

    /// How many disks a list of disks would have learned of.
    pub(super) fn count_noted(&self) -> usize {
        self.noted.lock().len()
    }

    /// The header in an image and the DEK that its slots give.
    pub(super) fn open(&self, part: &Part, image: &[u8]) -> Result<(StoredHeader, Dek)> {
        let stored = header_area::load(&MemoryStorage::new(image.to_vec()), part.component.kind())?;
        let dek = keyring::unlock_by(&stored.header, &self.providers)?;
        Ok((stored, dek))
    }

    /// Wrapped DEKs in both copies of an image, whatever their state.
    pub(super) fn wrapped(part: &Part, image: &[u8]) -> Vec<Vec<u8>> {
        let headers = copies(part, image).into_iter().filter_map(|copy| UnverifiedHeader::decode(copy).ok());
        headers.flat_map(|header| header.claims().slots.to_vec()).map(|slot| slot.wrapped.0).collect()
    }

    /// Whether bytes are anywhere in a header copy, be it whole or not.
    pub(super) fn holds(part: &Part, image: &[u8], bytes: &[u8]) -> bool {
        copies(part, image).iter().any(|copy| copy.windows(bytes.len()).any(|window| window == bytes))
    }
}

fn copies<'i>(part: &Part, image: &'i [u8]) -> [&'i [u8]; 2] {
    part.component.kind().copy_offsets().map(|offset| {
        let at = usize::try_from(offset).unwrap();
        &image[at..at + COPY_LEN]
    })
}

fn all_bytes(storage: &CrashStorage) -> Vec<u8> {
    let mut image = vec![0; usize::try_from(storage.len().unwrap()).unwrap()];
    storage.read_at(0, &mut image).unwrap();
    image
}

impl VmAccess for TestVm {
    fn path(&self) -> PathBuf {
        "vm".into()
    }

    fn providers(&self) -> Arc<Providers> {
        Arc::clone(&self.providers)
    }

    fn components(&self, _go_on: &GoOn<'_>) -> Result<Vec<FoundComponent>> {
        let found = |part: &Part| FoundComponent {
            path: part.component.path().to_path_buf(),
            kind: part.component.kind(),
            header: header_area::load(&part.storage, part.component.kind()),
            cipher_len: 0,
            inode: None,
            deep_rekey: None,
        };
        Ok(self.parts.iter().map(found).collect())
    }

    fn known_dek(&self, _header: &UnverifiedHeader) -> Option<Arc<Dek>> {
        None
    }

    fn claim(&self, component: &Component) -> Result<Box<dyn Claimed + '_>> {
        let part = self.parts.iter().find(|part| part.component == *component);
        part.map(|part| Box::new(part) as Box<dyn Claimed>).ok_or_else(|| Error::new(Kind::NotFound, "no such part"))
    }

    fn claim_exclusive(&self, component: &Component, _go_on: &GoOn<'_>) -> Result<Box<dyn Claimed + '_>> {
        self.claim(component)
    }

    /// It has no list.
    fn home_of_disks(&self, _keks: &FetchedKeks) -> Result<Option<Owner>> {
        Ok(None)
    }

    /// It has no list.
    fn floor(&self, _path: &Path) -> Option<Arc<dyn Floor>> {
        None
    }

    fn note_newer(&self, path: &Path, disk: &Header) -> Result<()> {
        self.noted.lock().insert(path.to_path_buf(), (disk.dek_generation, disk.sequence));
        Ok(())
    }

    fn accept_older(&self, _path: &Path, _disk: &Header) -> Result<()> {
        Ok(())
    }

    /// It has no disks of others.
    fn refuse_foreign(&self, _path: &Path, _disk: &Header, _keks: &FetchedKeks) -> Result<()> {
        Ok(())
    }

    fn forget(&self, _header: &UnverifiedHeader) {}

    fn open_disk(&self, path: &Path, keks: &FetchedKeks) -> Result<Box<dyn OpenDisk + '_>> {
        let part = self.parts.iter().find(|part| part.component.path() == path);
        let part = part.ok_or_else(|| Error::new(Kind::NotFound, "no such part"))?;
        Ok(Box::new(OfflineDisk::open(self, path, &part.storage, keks, Engine::default())?))
    }

    fn folder_if_unused(&self) -> Option<&File> {
        None
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn remember_dek(&self, _header: &UnverifiedHeader, _dek: &Dek) {}
}

impl Claimed for &Part {
    fn storage(&self) -> &dyn Storage {
        &self.storage
    }

    fn sync(&self) -> Result<()> {
        self.storage.sync()
    }
}
