//! A datastore with VM folders, and beside it the configuration of its host.
//!
//! Tests of the program have this file in their testkit, unit tests in `vm::datastore`; there `vmcryptfs` is the crate itself.

#![allow(dead_code, reason = "no test crate uses all of it")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use vmcryptfs::format::header::{ComponentKind, Header, StoredState};
use vmcryptfs::format::names::DiskNames;
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::{self, KeyProvider, NewKey, Providers};
use vmcryptfs::sector::SectorSize;
use vmcryptfs::storage::claims::FileLocks;
use vmcryptfs::storage::{FileStorage, Storage};
use vmcryptfs::store::header_area;
use vmcryptfs::vm::disk::{self, NewDisk};
use vmcryptfs::vm::owner::Owner;
use vmcryptfs::vm::{folder, keyring};

/// A temporary folder with `config.toml` and the datastore `vms`.
pub(crate) struct Datastore(TempDir);

impl Datastore {
    /// With the native provider `local`, and VM folders under keys of it.
    pub(crate) fn new(vms: &[&str]) -> Self {
        let made = Self::with_providers(&["local"]);
        vms.iter().for_each(|name| _ = made.make_vm(name));
        made
    }

    /// With native providers, of which the first is the default.
    pub(crate) fn with_providers(names: &[&str]) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        for name in names {
            let (name, none) = (ProviderName::new(*name).unwrap(), provider::Arguments::default());
            provider::add(&made.config(), &name, "native", &none, false).unwrap();
        }
        fs::create_dir(made.path("")).unwrap();
        made
    }

    /// A path below the datastore.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.beside("vms").join(below)
    }

    /// A path beside the datastore.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.beside("config.toml")
    }

    /// The providers as they are configured now.
    pub(crate) fn providers(&self) -> Providers {
        Providers::load(&self.config()).unwrap()
    }

    /// The default provider.
    pub(crate) fn default_provider(&self) -> Arc<dyn KeyProvider> {
        self.providers().default_provider().unwrap().1
    }

    pub(crate) fn make_vm(&self, below: &str) -> Header {
        make_vm(&self.path(below), &self.default_provider())
    }

    /// Makes a disk of 1 MiB under a key of its own.
    pub(crate) fn make_disk(&self, below: &str) {
        let provider = self.default_provider();
        let purpose = NewKey { vm_name: "vm".into(), vm_uuid: uuid::Uuid::from_bytes([1; 16]) };
        let (key, _) = provider.create_key(&purpose).unwrap();
        make_disk(&self.path(below), &provider, &key);
    }
}

/// Writes a configuration file as the program wants it: readable by its owner only.
pub(crate) fn write_config(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Makes a VM folder, and the folders that it lies in.
pub(crate) fn make_vm(path: &Path, provider: &Arc<dyn KeyProvider>) -> Header {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    folder::create(path, provider, &DiskNames::default()).unwrap_or_else(|error| panic!("{}", error.chain())).0
}

/// Makes a home's header say this under its key, in both copies; `None`: nothing, as older versions did.
pub(crate) fn write_state(header: &Path, providers: &Providers, state: Option<StoredState>) {
    rewrite(header, ComponentKind::Home, providers, |header| Header { state, ..header });
}

/// Makes a VM folder's home one that an older version made, whose disks need not name it.
pub(crate) fn make_old(header: &Path, providers: &Providers) {
    rewrite(header, ComponentKind::Home, providers, |header| Header {
        state: None,
        binds_disks: false,
        lists_disks: false,
        ..header
    });
}

/// Makes a VM folder's home one that has no list of its disks.
pub(crate) fn make_unlisted(header: &Path, providers: &Providers) {
    rewrite(header, ComponentKind::Home, providers, |header| Header { lists_disks: false, ..header });
}

/// Changes a component's header under its key, in both copies.
pub(crate) fn rewrite(path: &Path, kind: ComponentKind, providers: &Providers, change: impl FnOnce(Header) -> Header) {
    let storage = FileStorage::new(File::options().read(true).write(true).open(path).unwrap());
    let stored = header_area::load(&storage, kind).unwrap();
    let keks = providers.fetch_all(stored.header.claims().slots.key_ids().cloned());
    let dek = keyring::unlock(&stored.header, &keks).unwrap();
    let changed = change(stored.header.verify(&dek).unwrap());
    header_area::update_both(&storage, stored.in_use, changed, &dek, &|| storage.sync()).unwrap();
}

/// Makes a disk of 1 MiB.
pub(crate) fn make_disk(path: &Path, provider: &Arc<dyn KeyProvider>, key_id: &KeyId) {
    let (sector_size, plain_len) = (SectorSize::DEFAULT, 1 << 20);
    let kek = provider.fetch_key(key_id).unwrap();
    let dir = File::open(path.parent().unwrap()).unwrap();
    let home = folder::read_home(&dir).unwrap().map(|home| home.header);
    let owner = home.as_ref().map(|home| home.claims().uuid);
    let new = NewDisk { owner, sector_size, plain_len, label: String::new(), mode: 0o600, durable: false };
    let name = path.file_name().unwrap();
    let Some(home) = home else {
        disk::create(&dir, name, &new, (key_id, &*kek), |_| Ok(())).unwrap();
        return;
    };
    let key = home.claims().slots.first_key().clone();
    let dek = keyring::unlock(&home, &[(key.clone(), provider.fetch_key(&key))].into()).unwrap();
    let owner = Owner::of(&dir, (&home.verify(&dek).unwrap(), &dek), &FileLocks, &Arc::default()).unwrap();
    owner.with_new_disk(Path::new(name), |announce| disk::create(&dir, name, &new, (key_id, &*kek), announce)).unwrap();
}
