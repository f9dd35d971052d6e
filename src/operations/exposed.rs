//! What is remembered of data keys that a compromised host could read, and whether headers still have them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cluster::Session;
use crate::cluster::exposed::{Exposed, ExposedFile, compromised_with, merged, names_of};
use crate::cluster::host::{HostFiles, Membership};
use crate::error::{Error, Kind, Result};
use crate::format::cluster::Document;
use crate::format::header::Header;
use crate::format::names::DiskNames;
use crate::key::ProviderName;
use crate::operations::whole;
use crate::progress::to_the_end;
use crate::sys::file::regular_at;
use crate::text::{self, quoted};
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::vm::in_use::primary_of;
use crate::vm::inventory::Inventory;
use crate::vm::scan::{self, FoundComponent};
use crate::vm::{disk, folder};

/// Notes which components of a VM folder, or which disk, have data keys that a compromised host of this host's cluster could read with
/// the keys that wrap them now. To be called before these are replaced: that may end in the middle, and no header tells afterwards.
/// Returns the names of the hosts that could read them, also by keys that were replaced before, with commas between them, if there are any.
///
/// # Errors
/// Those of the host's files.
pub fn note(config: &Path, vm: &Path) -> Result<Option<String>> {
    let files = HostFiles::of(config);
    let Some(membership) = files.membership()? else { return Ok(None) };
    let Ok(located) = Located::find(vm) else { return Ok(None) }; // the rekey says why
    let document = newest_known(config, &files, &membership)?;
    let headers = headers_of(&located);
    let mut new: BTreeSet<Exposed> = BTreeSet::new();
    for (path, header) in &headers {
        new.extend(exposed(&document, vm, path, header));
    }
    let _lock = files.lock()?;
    let file = ExposedFile::of(config);
    let before = file.load()?;
    let all = merged(before.clone(), &new);
    if all != before {
        file.store(&all)?;
    }
    // What was seen to is not said once more, unless it is so again.
    let (seen_to, now): (_, BTreeSet<&Uuid>) =
        (files.seen_to().unwrap_or_default(), new.iter().flat_map(|one| &one.hosts).collect());
    let here: BTreeSet<(Uuid, u32)> = headers.iter().filter_map(|(_, header)| data_key_of(header)).collect();
    let is_here = |one: &&Exposed| here.contains(&(one.uuid, one.generation));
    let hosts = all.iter().filter(is_here).flat_map(|one| &one.hosts);
    let hosts = hosts.filter(|host| now.contains(host) || !seen_to.contains(host)).copied().collect::<BTreeSet<Uuid>>();
    Ok((!hosts.is_empty()).then(|| names_of(&document, &hosts)))
}

/// The newest document. Where the board does not give it, the last one that this host has acted on: by that it has the keys that it has.
fn newest_known(config: &Path, files: &HostFiles, membership: &Membership) -> Result<Document> {
    match Session::open(config) {
        Ok(session) => Ok(session.document().clone()),
        Err(error) => files.document(membership)?.ok_or(error),
    }
}

/// The headers of a VM folder, or that of a disk, as far as they can be read, and where their components are.
fn headers_of(located: &Located) -> Vec<(PathBuf, Header)> {
    if let Component::Disk(below) = &located.component {
        let path = located.folder.join(below);
        let read = regular_at(&path).ok().and_then(|file| disk::read_header(file).ok());
        return read.map(|(_, stored)| (path, stored.header.claims().clone())).into_iter().collect();
    }
    let found = folder::open_dir(&located.folder).and_then(|dir| scan::scan(&dir)).unwrap_or_default();
    let of = |found: &FoundComponent| {
        let path = whole(&located.folder, found.component().path());
        Some((path, found.unverified()?.claims().clone()))
    };
    found.iter().filter_map(of).collect()
}

/// One for each provider of its keys that a compromised host had.
fn exposed(document: &Document, vm: &Path, path: &Path, header: &Header) -> Vec<Exposed> {
    let Some((uuid, generation)) = data_key_of(header) else { return Vec::new() };
    let mut readers: BTreeMap<&ProviderName, BTreeSet<Uuid>> = BTreeMap::new();
    for primary in header.slots.key_ids().filter_map(primary_of) {
        if let Some((provider, hosts)) = compromised_with(document, primary) {
            readers.entry(provider).or_default().extend(hosts);
        }
    }
    let (vm, path) = (absolute(vm), absolute(path));
    let exposed = |(provider, hosts): (&ProviderName, BTreeSet<Uuid>)| Exposed {
        vm: vm.clone(),
        path: path.clone(),
        uuid,
        generation,
        provider: provider.to_string(),
        hosts,
    };
    readers.into_iter().map(exposed).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// UUID and generation of the data key that a header names. In a deep rekey the new one is not alone yet.
fn data_key_of(header: &Header) -> Option<(Uuid, u32)> {
    let generation = header.dek_generation.checked_sub(u32::from(header.transition.is_some()))?;
    Some((header.uuid, generation))
}

/// The same of what lies at a path, if that is a home or disk whose header can be read.
fn data_key_at(path: &Path) -> Option<(Uuid, u32)> {
    let stored = match path.is_dir() {
        true => folder::read_home_of_any_state(&folder::open_dir(path).ok()?).ok()??,
        false => disk::read_header(regular_at(path).ok()?).ok()?.1,
    };
    data_key_of(stored.header.claims())
}

/// Forgets components that have other data keys now, or that others lie in the place of. Does nothing on a host outside of clusters.
///
/// # Errors
/// Those of [`ExposedFile`].
pub fn forget_rekeyed(config: &Path) -> Result<()> {
    let has_other = |one: &Exposed| {
        data_key_at(&one.path).is_some_and(|(uuid, generation)| uuid != one.uuid || generation > one.generation)
    };
    match HostFiles::of(config).membership()? {
        Some(_) => forget(config, has_other),
        None => Ok(()),
    }
}

/// A folder may hang, such as a share whose server is gone. Nobody who needs the host's files waits for that.
fn forget(config: &Path, has_other: impl Fn(&Exposed) -> bool) -> Result<()> {
    let file = ExposedFile::of(config);
    let rekeyed: Vec<Exposed> = file.load()?.into_iter().filter(has_other).collect();
    if rekeyed.is_empty() {
        return Ok(());
    }
    let _lock = HostFiles::of(config).lock()?;
    let mut all = file.load()?;
    all.retain(|one| !rekeyed.contains(one));
    file.store(&all)
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
    vms.extend(known.iter().filter(|one| data_key_at(&one.path).is_some_and(has_old)).map(|one| one.vm.clone()));
    for datastore in datastores.iter().filter(|_| !known.is_empty()) {
        let inventory = Inventory::take_with_links(&folder::open_dir(datastore)?, &DiskNames::default(), &to_the_end)?;
        for (entry, _, headers) in inventory.components() {
            let header = headers.stored.as_ref().ok().map(|stored| stored.header.claims());
            if header.and_then(data_key_of).is_some_and(has_old) {
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
            names_of(session.document(), &hosts),
            quoted(first)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_not_locked_while_headers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let (files, file) = (HostFiles::of(&config), ExposedFile::of(&config));
        drop(files.lock().unwrap()); // makes their folder
        let exposed = |path: &str| Exposed {
            vm: path.into(),
            path: path.into(),
            uuid: Uuid::nil(),
            generation: 0,
            provider: "shared".into(),
            hosts: BTreeSet::new(),
        };
        file.store(&["/a", "/b"].map(exposed).into()).unwrap();
        let is_a = |one: &Exposed| files.is_free().unwrap() && one.path == Path::new("/a");
        forget(&config, is_a).unwrap();
        assert_eq!(file.load().unwrap(), [exposed("/b")].into());
    }
}
