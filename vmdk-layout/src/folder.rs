//! The files of a VM folder: what each one is, and whether it belongs to the VM.

mod role;

pub use role::{Role, Side};

use std::collections::HashMap;

use crate::descriptor::Descriptor;
use crate::name::{last_component, strip_suffix_ignoring_case};
use crate::vmx::Vmx;

/// Why a file is taken to be the VM's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Belongs {
    /// It is the `.vmx` file, or the `.vmx` file names it.
    Named,
    /// A disk that belongs to the VM is made of it, or builds on it.
    PartOfDisk,
    /// Its name is that of the VM, or of one of its disks, with an ending of VMware's.
    ByName,
    /// VMware calls it the same in every VM folder, such as `vmware.log`.
    Common,
    /// Nothing says that it does: it came from elsewhere, or is another VM's.
    No,
}

/// One file of a VM folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VmFile {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Whether it belongs to the VM.
    pub belongs: Belongs,
}

/// Sorts out the files of a VM folder.
///
/// `names` are the folder's entries. `vmx_name` and `vmx` are the VM's configuration, and `descriptors` the disk
/// descriptors that the caller could read, by file name; with more of them, more is certain. Roles follow names, and a
/// descriptor's presence tells descriptors from disks that are one file: see [`Role::with_content`].
pub fn vm_files<'a>(
    names: impl IntoIterator<Item = &'a str>,
    vmx_name: &str,
    vmx: &Vmx,
    descriptors: &[(&str, &Descriptor)],
) -> Vec<VmFile> {
    let known = Known::of(vmx_name, vmx, descriptors);
    let file = |name: &str| VmFile { name: name.to_owned(), role: Role::of_name(name), belongs: known.belongs(name) };
    names.into_iter().map(file).collect()
}

/// Names that belong to the VM, and stems that its files' names begin with.
struct Known {
    names: HashMap<String, Belongs>,
    stems: Vec<String>,
}

/// Settings that name files of the VM.
const NAMING: [&str; 8] = [
    "nvram",
    "extendedConfigFile",
    "checkpoint.vmState",
    "sched.swap.derivedName",
    "migrate.hostlog",
    "vmx.log.fileName",
    "log.fileName",
    "vmxstats.filename",
];

impl Known {
    fn of(vmx_name: &str, vmx: &Vmx, descriptors: &[(&str, &Descriptor)]) -> Self {
        let mut names = HashMap::from([(vmx_name.to_lowercase(), Belongs::Named)]);
        let mut stems = vec![stem(vmx_name).to_lowercase()];
        stems.extend(vmx.value("displayName").map(str::to_lowercase));
        let named = NAMING.iter().filter_map(|key| vmx.value(key)).filter(|path| !path.is_empty());
        names.extend(named.map(|path| (last_component(path).to_lowercase(), Belongs::Named)));
        let mut disks: Vec<String> = Vec::new();
        for disk in vmx.disks() {
            // A disk in another folder is not this folder's, even if a file here has the same name.
            if let Ok(Some(name)) = disk.file_name() {
                names.insert(name.as_str().to_lowercase(), Belongs::Named);
                disks.push(name.as_str().to_lowercase());
            }
        }
        let by_name: HashMap<_, _> =
            descriptors.iter().map(|(name, descriptor)| (name.to_lowercase(), descriptor)).collect();
        let add = |names: &mut HashMap<_, _>, part: &str| {
            names.entry(part.to_lowercase()).or_insert(Belongs::PartOfDisk);
        };
        while let Some(disk) = disks.pop() {
            stems.push(stem(&disk).to_owned());
            let Some(descriptor) = by_name.get(&disk) else { continue };
            for extent in descriptor.extents() {
                if let Ok(Some(name)) = extent.file_name() {
                    add(&mut names, name.as_str());
                }
            }
            if let Some(path) = descriptor.value("changeTrackPath") {
                add(&mut names, last_component(path));
            }
            if let Some(parent) = descriptor.parent().and_then(|parent| parent.in_folder().ok()) {
                let parent = parent.as_str().to_lowercase();
                if !names.contains_key(&parent) {
                    add(&mut names, &parent);
                    disks.push(parent); // each name is entered once, so a loop of parents ends here
                }
            }
        }
        stems.retain(|stem| !stem.is_empty());
        Self { names, stems }
    }

    fn belongs(&self, name: &str) -> Belongs {
        let lower = name.to_lowercase();
        if let Some(belongs) = self.names.get(&lower) {
            return *belongs;
        }
        let role = Role::of_name(name);
        if role == Role::Other {
            return Belongs::No;
        }
        // Locks are called after what they lock, `x.vmdk.lck`; VMX swap is `vmx-x-<hash>.vswp`.
        let locked = strip_suffix_ignoring_case(&lower, ".lck").unwrap_or(&lower).trim_start_matches(".lck-");
        if self.names.contains_key(locked) {
            return Belongs::ByName;
        }
        let own = locked.strip_prefix("vmx-").unwrap_or(locked);
        let after =
            |stem: &String| own.strip_prefix(stem.as_str()).is_some_and(|rest| rest.starts_with(['-', '.', '_']));
        if self.stems.iter().any(after) {
            return Belongs::ByName;
        }
        if role::is_common(&lower) { Belongs::Common } else { Belongs::No }
    }
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests;
