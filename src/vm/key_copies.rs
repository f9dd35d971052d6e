//! Other places that hold a wrapped DEK of a component: a clone with the same keys, a copy, a saved header.
//!
//! Wrapping has no random part, so a DEK under one KEK is the same bytes wherever it is wrapped.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::error::Result;
use crate::format::header::UnverifiedHeader;
use crate::format::names::DiskNames;
use crate::sys::file::stat_at;
use crate::vm::inventory::{Entry, Inventory, What};
use crate::vm::{folder, scan};

/// Wrapped DEKs of components.
#[derive(Debug, Default)]
pub struct KeyCopies {
    wrapped: HashSet<Vec<u8>>,
}

impl KeyCopies {
    /// Those of a VM folder and all that it holds, or of one file.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(path: &Path) -> Result<Self> {
        let inventory = match path.is_dir() {
            true => Inventory::take(&folder::open_dir(path)?, &DiskNames::default())?,
            false => Inventory::of_file(path, &DiskNames::default())?,
        };
        let headers = inventory.components().filter_map(|(_, _, headers)| headers.unverified());
        Ok(Self { wrapped: headers.flat_map(wrapped).cloned().collect() })
    }

    /// What holds one of them in a datastore, with what it is, for people: components of its VM folders, and files beside those.
    /// What lies deeper, or cannot be read, is not looked at.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn within(&self, datastore: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
        let root = folder::open_dir(datastore)?;
        let components = scan::scan(&root)?.into_iter();
        let components =
            components.filter(|component| component.unverified().is_some_and(|header| self.are_in(header)));
        let mut found: Vec<_> = components.map(|component| (component.path, COMPONENT)).collect();
        for name in folder::sorted_names(&root)? {
            let is_file = stat_at(&root, &name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
            let inventory =
                is_file.then(|| Inventory::of_file(&datastore.join(&name), &DiskNames::default()).ok()).flatten();
            let what = inventory.and_then(|inventory| inventory.entries.first().and_then(|entry| self.what(entry)));
            found.extend(what.map(|what| (PathBuf::from(name), what)));
        }
        Ok(found)
    }

    fn what(&self, entry: &Entry) -> Option<&'static str> {
        if let What::SavedHeader(Ok(saved)) = &entry.what {
            return self.are_in(&saved.header).then_some("a saved header, with the wrapped data key");
        }
        let header = entry.headers()?.1.unverified()?;
        self.are_in(header).then_some(COMPONENT)
    }

    fn are_in(&self, header: &UnverifiedHeader) -> bool {
        wrapped(header).any(|key| self.wrapped.contains(key))
    }
}

const COMPONENT: &str = "a clone or copy, with the same data key";

fn wrapped(header: &UnverifiedHeader) -> impl Iterator<Item = &Vec<u8>> {
    header.claims().slots.iter().map(|slot| &slot.wrapped.0)
}
