//! Reading that takes keys, and changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::header::ComponentKind;
use crate::gate::{Object, Operation, Trail};
use crate::key::KeyId;
use crate::operations::whole;
use crate::progress::{OnProgress, to_the_end};
use crate::provider::Providers;
use crate::storage::claims::FileLocks;
use crate::store::header_area::StoredHeader;
use crate::store::home_file::HomeKeys;
use crate::sys::file::regular_at;
use crate::text::Show;
use crate::vm::inventory::Inventory;
use crate::vm::inventory::misplaced::Misplaced;
use crate::vm::keyring::Keyring;
use crate::vm::owner::Owner;
use crate::vm::scan::FoundComponent;
use crate::vm::vmdk::{self, FoundFile, VmdkInventory};
use crate::vm::{disk, folder, scan};

/// Reads which files of a VM folder belong to a VMDK: the home's key opens their descriptors.
pub struct ReadVmdks<'a> {
    /// The VM folder.
    pub folder: &'a Path,
    /// The same, open.
    pub dir: &'a File,
    /// The home's header.
    pub home: &'a StoredHeader,
    /// The files of the folder.
    pub files: &'a [FoundFile],
    /// Configuration file.
    pub config: &'a Path,
}

/// What the home's key shows of a VM folder.
pub struct OpenedFolder {
    /// Its VMDKs.
    pub vmdks: VmdkInventory,
    /// What is not as the home says of its disks.
    pub misplaced: Vec<Misplaced>,
}

impl Operation for ReadVmdks<'_> {
    const NAME: EventName = EventName::Info;
    type Outcome = OpenedFolder;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<OpenedFolder> {
        let Self { dir, home, files, config, .. } = self;
        let keyring = Keyring::new(Providers::load(config)?);
        let dek = keyring.dek(&home.header).context(|| "unlocking the home".into())?;
        let header = home.header.clone().verify(&dek)?;
        trail.event().uuid(header.uuid);
        let keys = HomeKeys::of(&header, &dek)?; // in a deep rekey, files may be under either DEK
        let owner = Owner::of(dir, (&header, &dek), &FileLocks, keyring.memory())?;
        let (_, misplaced) = Inventory::take_compared(dir, &owner, &header.disk_names, &to_the_end)?;
        Ok(OpenedFolder { vmdks: vmdk::vmdks(dir, files, (&keys, &owner), &keyring), misplaced })
    }
}

/// Lists the keys that open components, each with its state: all of them are fetched.
pub struct ListKeys<'a> {
    /// A VM folder or datastore, with its disks, or a disk.
    pub path: &'a Path,
    /// Configuration file.
    pub config: &'a Path,
}

/// Keys that open components.
pub struct ListedKeys {
    /// Of all components.
    pub slots: Vec<ListedSlot>,
    /// Components that were erased, for people.
    pub erased: Vec<String>,
}

/// A slot. Field names are part of the stable JSON output.
#[derive(Serialize)]
pub struct ListedSlot {
    /// Of the component.
    #[serde(with = "crate::text::path")]
    pub path: PathBuf,
    /// `home` or `disk`.
    pub kind: &'static str,
    /// Of the component.
    pub uuid: uuid::Uuid,
    /// Number of the slot.
    pub slot: usize,
    /// Whose key it is.
    pub provider: String,
    /// What the provider calls it.
    pub key_id: String,
    /// What the provider says of it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it says nothing, or the key is not to be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Operation for ListKeys<'_> {
    const NAME: EventName = EventName::KeyList;
    type Outcome = ListedKeys;

    fn object(&self) -> Object {
        Object::at(self.path.to_path_buf())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<ListedKeys> {
        let found = components(self.path)?;
        let providers = Providers::load(self.config)?;
        let headers = found.iter().filter_map(FoundComponent::unverified);
        let ids: BTreeSet<KeyId> = headers.flat_map(|header| header.claims().slots.key_ids().cloned()).collect();
        let keks = providers.fetch_all(ids);
        let states: HashMap<&KeyId, Result<String>> =
            keks.iter().map(|(id, kek)| (id, state(&providers, id, kek.as_ref().err()))).collect();
        let mut listed = ListedKeys { slots: Vec::new(), erased: Vec::new() };
        for component in &found {
            let header = component.header.as_ref().map_err(|error| Error::new(error.kind(), error.chain()));
            let header = match header.context(|| component.path.shown().to_string()) {
                Err(error) if component.is_erased() => {
                    listed.erased.push(error.chain());
                    continue;
                }
                header => header?.header.claims(),
            };
            listed.slots.extend(header.slots.iter().enumerate().map(|(slot, key)| {
                let state = &states[&key.key_id];
                ListedSlot {
                    path: component.path.clone(),
                    kind: component.kind.word(),
                    uuid: header.uuid,
                    slot,
                    provider: key.key_id.provider().to_string(),
                    key_id: key.key_id.id().to_owned(),
                    state: state.as_ref().ok().cloned(),
                    problem: state.as_ref().err().map(Error::chain),
                }
            }));
        }
        Ok(listed)
    }
}

/// A key's state at its provider; a key that cannot be fetched has a problem, whatever its state.
fn state(providers: &Providers, id: &KeyId, unavailable: Option<&Error>) -> Result<String> {
    if let Some(error) = unavailable {
        return Err(Error::new(error.kind(), error.chain()));
    }
    let (id, provider) = providers.provider_of(id)?;
    Ok(provider.key_state(&id)?.to_string())
}

fn components(path: &Path) -> Result<Vec<FoundComponent>> {
    let name = whole(path, Path::new(""));
    if !path.is_dir() {
        let file = regular_at(path).context(|| format!("opening {}", path.shown()))?;
        let cipher_len = file.metadata().context(|| path.shown().to_string())?.len();
        let (_, stored) = disk::read_header(file).context(|| path.shown().to_string())?;
        let kind = ComponentKind::Disk;
        return Ok(vec![FoundComponent {
            path: name,
            kind,
            header: Ok(stored),
            cipher_len,
            inode: None,
            deep_rekey: None,
        }]);
    }
    let mut found = scan::scan(&folder::open_dir(path)?)?;
    if found.is_empty() {
        scan::refuse_lost_home(path)?;
        return Err(Error::new(
            Kind::Invalid,
            format!("{} is not an encrypted VM folder and contains none", path.shown()),
        ));
    }
    for component in &mut found {
        component.path = whole(path, &component.path);
    }
    Ok(found)
}
