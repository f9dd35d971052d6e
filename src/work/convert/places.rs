//! Where the files lead that disk images and symbolic links of a VM folder name, once its files have another form.
//!
//! A name that leads to a file of the folder by the folder's own place leads to ciphertext after the folder was encrypted: a guest
//! would read that, and write its plaintext over it. One that is relative and stays in the folder is right in a mount, too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::store::home_file::HomeKeys;
use crate::store::raw_image::ImageFile;
use crate::text::{Show, quoted};
use crate::vm::open_form::OpenForm;
use crate::vm::references::{self, Reference, Role};
use crate::work::convert::choice::open_file;
use crate::work::convert::home_files::opened_target;
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::tree::{Entry, EntryForm, read_text};

/// What a name in a VM folder leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Leads {
    /// A file of the folder, of this path below it, wherever the folder is.
    Within(PathBuf),
    /// A file of the folder, of this path below it, by the place that the folder has.
    ByOldPlace(PathBuf),
    /// Something else.
    Outside,
}

/// Names of one VM folder's files that a conversion makes wrong, and others that are worth knowing.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those that lead into the folder by its place, each with what repairs it.
    pub(super) by_old_place: Vec<String>,
    /// Those that lead out of it, or may.
    pub(super) outside: Vec<String>,
    /// Images, and what they name in the folder.
    pub(super) linked: Vec<(PathBuf, PathBuf)>,
}

/// A VM folder whose names are looked at.
pub(super) struct Place<'a> {
    /// Its path, without symbolic links.
    pub(super) path: &'a Path,
    pub(super) root: &'a File,
    pub(super) entries: &'a [Entry],
    /// Whether what a path ends with is enough to take it for that of a file of the folder, which may be mounted anywhere.
    pub(super) anywhere: bool,
}

impl Place<'_> {
    /// Looks at the files in the clear, those that `keys` open, and links. Disks are added by [`image`](Self::image).
    ///
    /// # Errors
    /// `Corrupt` for sealed files, `Stopped`, or `Io`.
    pub(super) fn files(
        &self,
        keys: Option<&HomeKeys>,
        (names, pace): (&mut Names, &ProgressCounter<'_>),
    ) -> Result<()> {
        for entry in self.entries {
            pace.tell()?;
            match entry.found {
                EntryForm::Clear(_) | EntryForm::Sealed => self.image(entry, open_file(self.root, entry, keys)?, names),
                EntryForm::ClearLink => self.link(entry, read_text(self.root, &entry.path)?.as_bytes(), names),
                EntryForm::SealedLink => {
                    if let Some(keys) = keys {
                        self.link(entry, &opened_target(self.root, keys, &entry.path)?, names);
                    }
                }
                EntryForm::Folder | EntryForm::Disk | EntryForm::FormNeutral | EntryForm::UnreadableOrForeign => {}
            }
        }
        Ok(())
    }

    /// Looks at what an image names.
    pub(super) fn image(&self, entry: &Entry, form: OpenForm, names: &mut Names) {
        let image = entry.path.shown();
        if vmdk_layout::Role::of_name(&image.to_string()) == vmdk_layout::Role::FlatExtent {
            return; // it names nothing, whatever its guest wrote
        }
        match references::of(&ImageFile::new(Arc::new(form))) {
            Ok(found) => found.iter().for_each(|reference| self.reference(entry, reference, names)),
            Err(error) => names.outside.push(format!("which files {image} names is not known: {}", error.chain())),
        }
    }

    fn reference(&self, entry: &Entry, reference: &Reference, names: &mut Names) {
        let what = match reference.role {
            Role::Backing(_) => "backing file",
            Role::Data => "data file",
            Role::Extent => "extent",
            Role::Parent => "parent",
        };
        let (image, path) = (entry.path.shown(), reference.path.shown());
        match self.leads(&entry.path, &reference.path) {
            Leads::Within(target) => {
                names.linked.push((entry.path.clone(), target));
                if reference.role == Role::Data && reference.path.is_relative() {
                    names.outside.push(format!(
                        "QEMU looks for data file {path} of {image} in the folder that it is started in"
                    ));
                }
            }
            Leads::Outside => names.outside.push(format!("{what} {path} of {image} is not in this folder")),
            Leads::ByOldPlace(target) => {
                names.linked.push((entry.path.clone(), target.clone()));
                let repair = Self::repair(entry, reference, &target);
                names.by_old_place.push(format!("{image} names its {what} by this folder's place, {path}: {repair}"));
            }
        }
    }

    fn link(&self, entry: &Entry, target: &[u8], names: &mut Names) {
        let target = Path::new(OsStr::from_bytes(target));
        let link = entry.path.shown();
        match self.leads(&entry.path, target) {
            Leads::Within(_) => {}
            Leads::Outside => {
                names.outside.push(format!("link {link} leads to {}, not in this folder", target.shown()))
            }
            Leads::ByOldPlace(inside) => names.by_old_place.push(format!(
                "link {link} leads to {} by this folder's place: ln -sfn {} {}",
                inside.shown(),
                quoted(&relative(&entry.path, &inside)),
                quoted(&entry.path)
            )),
        }
    }

    /// Where a name leads that stands in the file at `from`.
    fn leads(&self, from: &Path, to: &Path) -> Leads {
        let path = self.path.join(from.parent().unwrap_or(Path::new(""))).join(to);
        let path = resolved(&path);
        match path.strip_prefix(self.path) {
            Ok(inside) if to.is_relative() && stays_within(from, to) => return Leads::Within(inside.to_path_buf()),
            Ok(inside) => return Leads::ByOldPlace(inside.to_path_buf()),
            Err(_) => {}
        }
        if let Some(inside) = self.identified(&path) {
            return Leads::ByOldPlace(inside);
        }
        let is_own = |entry: &&Entry| self.anywhere && !entry.path.as_os_str().is_empty() && to.ends_with(&entry.path);
        let own = self.entries.iter().filter(is_own).max_by_key(|entry| entry.path.components().count());
        own.map_or(Leads::Outside, |entry| Leads::ByOldPlace(entry.path.clone()))
    }

    /// What a path is below the folder that reaches it by another place that it has, as a bind mount gives it: the file or a folder
    /// above it is one of the folder's own, whatever it is called there.
    fn identified(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors().find_map(|above| {
            let found = fs::metadata(above).ok()?;
            let is_it = |entry: &&Entry| (entry.stat.st_dev, entry.stat.st_ino) == (found.dev(), found.ino());
            let own = self.entries.iter().find(is_it)?;
            // Joined with nothing, the path of a file would end with a slash.
            let rest = path.strip_prefix(above).ok().filter(|rest| !rest.as_os_str().is_empty());
            Some(rest.map_or_else(|| own.path.clone(), |rest| own.path.join(rest)))
        })
    }

    /// What makes the name right, at any place.
    fn repair(entry: &Entry, reference: &Reference, target: &Path) -> String {
        let (image, name) = (quoted(&entry.path), quoted(&relative(&entry.path, target)));
        match &reference.role {
            Role::Backing(format) => {
                // Never what its content looks like: a guest has written that, and QEMU would follow what it names.
                let format = format.as_deref().unwrap_or("FORMAT");
                format!("qemu-img rebase -u -F {} -b {name} {image}", quoted(Path::new(format)))
            }
            // A relative name would not count from the image, but from where QEMU is started.
            Role::Data => format!(
                "qemu-img amend -f qcow2 -o data_file=MOUNTPOINT/{} {image}, with the place that the mount will have",
                quoted(target)
            ),
            Role::Extent | Role::Parent => format!("it must say {name}"),
        }
    }
}

/// Whether a relative name never leaves the folder on its way, whatever lies there.
fn stays_within(from: &Path, to: &Path) -> bool {
    let mut depth = from.components().count().saturating_sub(1);
    for component in to.components() {
        match component {
            Component::ParentDir => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return false,
            },
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// A path without symbolic links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let known =
        path.ancestors().find_map(|above| Some((fs::canonicalize(above).ok()?, path.strip_prefix(above).ok()?)));
    let Some((mut resolved, rest)) = known else { return path.to_path_buf() };
    for component in rest.components() {
        match component {
            Component::ParentDir => _ = resolved.pop(),
            Component::Normal(name) => resolved.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    resolved
}

/// The name of one file of a folder as it stands in another.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let from = from.parent().unwrap_or(Path::new(""));
    let common = from.components().zip(to.components()).take_while(|(from, to)| from == to).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_on_their_way_are_known() {
        for (from, to, stays) in [
            ("a", "b", true),
            ("a", "../b", false),
            ("x/a", "../b", true),
            ("x/a", "../../vm/b", false),
            ("a", "x/../b", true),
            ("a", "./b", true),
            ("a", "/b", false),
        ] {
            assert_eq!(stays_within(Path::new(from), Path::new(to)), stays, "{from} {to}");
        }
    }

    #[test]
    fn names_within_a_folder_are_relative() {
        for (from, to, name) in
            [("a", "b", "b"), ("x/a", "b", "../b"), ("x/a", "x/b", "b"), ("x/y/a", "z/b", "../../z/b")]
        {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(name));
        }
    }
}
