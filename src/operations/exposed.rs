//! What is remembered of data keys that a compromised host could read, and whether headers still have them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cluster::Session;
use crate::cluster::exposed::{Exposed, ExposedFile};
use crate::cluster::host::HostFiles;
use crate::error::{Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::key::ProviderName;
use crate::operations::whole;
use crate::progress::to_the_end;
use crate::sys::file::regular_at;
use crate::text::{self, quoted};
use crate::vm::in_use::primary_of;
use crate::vm::inventory::Inventory;
use crate::vm::{disk, folder};
use crate::work::ComponentResult;
use crate::work::rekey::{Rekeyed, Rewrapped};

/// Notes which components of a VM folder, or which disk, have other keys now and data keys that a compromised host of this host's cluster
/// could read with the former ones. Returns the names of those hosts, with commas between them, if there are any.
///
/// # Errors
/// Those of the board and of the host's files.
pub fn note(config: &Path, vm: &Path, rekeyed: &Rekeyed) -> Result<Option<String>> {
    if HostFiles::of(config).membership()?.is_none() {
        return Ok(None);
    }
    let session = Session::open(config)?;
    let mut new: BTreeSet<Exposed> = BTreeSet::new();
    for component in &rekeyed.components {
        new.extend(exposed(&session, vm, component));
    }
    if new.is_empty() {
        return Ok(None);
    }
    let hosts: BTreeSet<Uuid> = new.iter().flat_map(|one| &one.hosts).copied().collect();
    let file = ExposedFile::of(config);
    let mut all = file.load()?;
    all.retain(|old| new.iter().all(|new| new.uuid != old.uuid || new.provider != old.provider));
    all.extend(new);
    file.store(&all)?;
    Ok(Some(session.names_of(&hosts)))
}

fn exposed(session: &Session, vm: &Path, component: &ComponentResult<Rewrapped>) -> Option<Exposed> {
    let former = component.done.former_key.as_ref()?.to_key_id().ok()?;
    let hosts: BTreeSet<Uuid> =
        session.compromised_with(primary_of(&former)?).iter().map(|member| member.host.uuid).collect();
    let (vm, path) = (absolute(vm), absolute(&whole(vm, component.component.path())));
    let (uuid, generation) = data_key_of(&path)?;
    let provider = former.provider().to_string();
    (!hosts.is_empty()).then_some(Exposed { vm, path, uuid, generation, provider, hosts })
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// UUID and generation of the data key that the header of a home or disk names, if it can be read.
fn data_key_of(path: &Path) -> Option<(Uuid, u32)> {
    let stored = match path.is_dir() {
        true => folder::read_home_of_any_state(&folder::open_dir(path).ok()?).ok()??,
        false => disk::read_header(regular_at(path).ok()?).ok()?.1,
    };
    let claims = stored.header.claims();
    // In a deep rekey the new data key is not alone yet.
    let generation = claims.dek_generation.checked_sub(u32::from(claims.transition.is_some()))?;
    Some((claims.uuid, generation))
}

/// Forgets components that have other data keys now, or that others lie in the place of. Does nothing on a host outside of clusters.
///
/// # Errors
/// Those of [`ExposedFile`].
pub fn forget_rekeyed(config: &Path) -> Result<()> {
    let files = HostFiles::of(config);
    if files.membership()?.is_none() {
        return Ok(());
    }
    let _lock = files.lock()?;
    let file = ExposedFile::of(config);
    let (all, mut left) = (file.load()?, file.load()?);
    left.retain(|one| {
        data_key_of(&one.path).is_none_or(|(uuid, generation)| uuid == one.uuid && generation <= one.generation)
    });
    if left == all { Ok(()) } else { file.store(&left) }
}

/// Refuses to end what is known of keys of a provider while a component in one of the datastores, or where it was last seen, has a data
/// key that a compromised host could read with them.
///
/// # Errors
/// `Denied`, with what is to be run; those of the host's files, `Io`.
pub fn refuse_exposed(session: &Session, provider: &ProviderName, datastores: &[PathBuf]) -> Result<()> {
    let known = session.exposed(Some(provider))?;
    let mut vms: BTreeSet<PathBuf> = BTreeSet::new();
    let has_old =
        |(uuid, generation): (Uuid, u32)| known.iter().any(|one| one.uuid == uuid && generation <= one.generation);
    vms.extend(known.iter().filter(|one| data_key_of(&one.path).is_some_and(has_old)).map(|one| one.vm.clone()));
    for datastore in datastores.iter().filter(|_| !known.is_empty()) {
        let inventory = Inventory::take_with_links(&folder::open_dir(datastore)?, &DiskNames::default(), &to_the_end)?;
        for (entry, _, headers) in inventory.components() {
            let claims = headers.stored.as_ref().ok().map(|stored| stored.header.claims());
            if claims.is_some_and(|claims| has_old((claims.uuid, claims.dek_generation))) {
                let vm = entry.vm.as_deref().unwrap_or_else(|| entry.component_path());
                vms.insert(absolute(&whole(datastore, vm)));
            }
        }
    }
    let Some(first) = vms.first() else { return Ok(()) };
    let hosts = known.iter().flat_map(|one| &one.hosts).copied().collect();
    Err(Error::new(
        Kind::Denied,
        format!(
            "{} data keys that {} could read: `vmcryptfs rekey --deep {}` gives such a VM others",
            text::count(vms.len(), "VM still has", "VMs still have"),
            session.names_of(&hosts),
            quoted(first)
        ),
    ))
}
