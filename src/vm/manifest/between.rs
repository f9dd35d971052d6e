//! A home that is between two forms: what was re-encrypted or decrypted since its manifest was made is not the work of others
//! (docs/FORMAT.md, section 17).

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Context, Result};
use crate::format::header::{Header, StoredState};
use crate::format::home_file::FileId;
use crate::format::manifest::{Entry, EntryKind, ManifestVersion};
use crate::storage::FileStorage;
use crate::store::home_file::{HomeFile, HomeKeys, Value, open_target, open_value};
use crate::vm::attributes::xattr;
use crate::vm::manifest::tree::{is_hole_with_header, link_text, open_file, open_folder, path_of, user_names};

/// What a verb that has begun makes of a home.
pub(super) struct Between<'a> {
    pub(super) dir: &'a File,
    pub(super) header: &'a Header,
    pub(super) keys: &'a HomeKeys,
    /// Whether the manifest was made before all that is under the new DEK of a deep rekey.
    pub(super) is_before_rekey: bool,
    /// That of the manifest.
    pub(super) version: ManifestVersion,
}

impl Between<'_> {
    /// Takes what such a verb has made of an entry for what the manifest says of it. Of the rest a difference is one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn settle(&self, sealed: &[Entry], there: &mut Vec<Entry>) -> Result<()> {
        let is_decrypting = self.header.state == Some(StoredState::Decrypting);
        let turns_disks = is_decrypting || self.header.state == Some(StoredState::ConvertingDisks);
        let sealed: HashMap<&[u8], &Entry> = sealed.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
        for now in there.iter_mut() {
            // A file that lost its header in a crash gets one before it is decrypted.
            let Some(&was) = sealed.get(now.path.as_slice()).filter(|was| was.kind == EntryKind::Empty) else {
                continue;
            };
            if now.kind == EntryKind::File
                && was.values == now.values
                && is_hole_with_header(was, &open_file(self.dir, path_of(now))?, &now.content, self.version)?
            {
                *now = was.clone();
            }
        }
        if !turns_disks && !self.is_before_rekey {
            return Ok(());
        }
        if is_decrypting {
            // A clear file is not the home's: anyone may put one into a folder that is no longer encrypted.
            let is_home_s = |kind| matches!(kind, EntryKind::File | EntryKind::Link | EntryKind::Disk);
            there.retain(|now| is_home_s(now.kind) || sealed.contains_key(now.path.as_slice()));
        }
        let mut paths_of: HashMap<[u8; 16], usize> = HashMap::new();
        sealed.values().for_each(|was| *paths_of.entry(was.id).or_default() += 1);
        for now in there {
            let Some(&was) = sealed.get(now.path.as_slice()).filter(|was| **was != now) else { continue };
            let is_clear = match (was.kind, now.kind) {
                (EntryKind::Disk, EntryKind::Other | EntryKind::Empty) => true,
                (EntryKind::File, EntryKind::Other | EntryKind::Empty) => is_decrypting,
                (EntryKind::Link | EntryKind::Empty, EntryKind::Other) => is_decrypting,
                // A hole with the length of a header is an empty file then.
                (EntryKind::Empty, EntryKind::Empty) => is_decrypting && was.values == now.values,
                _ => false,
            };
            if turns_disks && is_clear {
                *now = was.clone();
            } else if is_decrypting && was.kind == now.kind && !self.opens_values(now, self.keys)? {
                now.values = was.values;
            } else if let Some(old) = self.keys.old().filter(|_| self.is_before_rekey) {
                self.settle_rekeyed((was, now), old, &paths_of)?;
            }
        }
        Ok(())
    }

    /// What is under the new DEK was made, of what had its id, by a process that had both.
    fn settle_rekeyed(
        &self,
        (was, now): (&Entry, &mut Entry),
        old: &HomeKeys,
        paths_of: &HashMap<[u8; 16], usize>,
    ) -> Result<()> {
        let path = path_of(now);
        match (was.kind, now.kind) {
            (EntryKind::File, EntryKind::File) => {
                // A copy of a file gets an id of its own.
                let is_new_copy =
                    paths_of.get(&was.id).is_some_and(|&paths| paths > 1) && !paths_of.contains_key(&now.id);
                let file = FileStorage::new(open_file(self.dir, path)?);
                if (now.id == was.id || is_new_copy) && HomeFile::open(file, old).is_err() {
                    *now = was.clone();
                }
            }
            (EntryKind::Link, EntryKind::Link) => {
                let text = link_text(self.dir, path)?;
                let opens = |keys| open_target(keys, text.as_bytes()).is_ok();
                if opens(self.keys) && !opens(old) {
                    now.content = was.content;
                }
            }
            (was_kind, kind) if was_kind == kind => {
                // One after the other gets its new form where it is.
                let is_rekeyed = self.opens_values(now, self.keys)? && !self.opens_values(now, old)?;
                if is_rekeyed {
                    now.values = was.values;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether all values of what is not replaced open.
    fn opens_values(&self, entry: &Entry, keys: &HomeKeys) -> Result<bool> {
        let path = path_of(entry);
        let (file, id) = match entry.kind {
            EntryKind::Folder => (open_folder(self.dir, path).context(|| "opening it".into())?, None),
            EntryKind::File | EntryKind::Disk => (open_file(self.dir, path)?, Some(FileId(entry.id))),
            EntryKind::Empty => (open_file(self.dir, path)?, None),
            EntryKind::Link | EntryKind::Other => return Ok(true),
        };
        for name in user_names(&file)? {
            let value = xattr(&file, &name)?;
            if open_value(keys, &Value::Xattr { file: id, name: name.as_bytes() }, &value).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
