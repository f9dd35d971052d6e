//! The files of a home, from clear to sealed and back: all but disks.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Context, Result};
use crate::storage::Access;
use crate::store::home_file::{HomeKeys, open_target, seal_target};
use crate::sys::file::folder_beneath;
use crate::text::Show;
use crate::vm::attributes::give_times;
use crate::vm::manifest::Expected;
use crate::vm::open_form::OpenForm;
use crate::work::convert::attributes::{self, ChangeTime, Sealing};
use crate::work::convert::form::TargetForm;
use crate::work::convert::replace::{ReplaceContext, SourceFile};
use crate::work::convert::tree::{Entry, EntryForm, by_inode, read_text};

/// Which way.
#[derive(Clone, Copy)]
pub(super) enum Direction<'e> {
    Encrypt,
    /// What is decrypted must be what the home's manifest says, if it has one.
    Decrypt(Option<&'e Expected>),
}

impl Direction<'_> {
    /// The form that a target has.
    pub(super) fn target<'k>(self, site: &ReplaceContext<'k, '_>) -> TargetForm<'k> {
        match self {
            Self::Encrypt => TargetForm::Home(site.keys),
            Self::Decrypt(_) => TargetForm::Clear,
        }
    }
}

/// Gives all files, links and folders of a home their other form, but for those that `skip` says are disks. Their names
/// are durable then.
///
/// # Errors
/// `Stopped`, `Busy`, `Corrupt` or `Io`, naming the file. What was done stays done.
pub(super) fn convert(
    site: &ReplaceContext<'_, '_>,
    entries: &[Entry],
    direction: Direction<'_>,
    skip: impl Fn(&Entry) -> bool,
) -> Result<()> {
    let wanted = |entry: &&Entry| match direction {
        Direction::Encrypt => matches!(entry.found, EntryForm::Clear(_)) && !skip(entry),
        Direction::Decrypt(_) => entry.found == EntryForm::Sealed,
    };
    for names in by_inode(entries.iter().filter(wanted)) {
        let first = &names[0].path;
        site.pace.turn_to(first.shown().to_string());
        file(site, &names, direction).context(|| first.shown().to_string())?;
    }
    for entry in entries.iter().rev() {
        site.pace.tell()?;
        link_or_folder(site, entry, direction).context(|| entry.path.shown().to_string())?;
    }
    Ok(())
}

fn file(site: &ReplaceContext<'_, '_>, names: &[&Entry], direction: Direction<'_>) -> Result<()> {
    let original = SourceFile::claim(site.root, &names[0].path, Access::Write, |storage| match direction {
        Direction::Encrypt => OpenForm::clear(storage),
        Direction::Decrypt(_) => OpenForm::home(storage, site.keys),
    })?;
    original.refuse_exchanged(&names[0].stat)?;
    if let Direction::Decrypt(expected) = direction {
        original.refuse_unexpected(&names[0].path, site.keys, expected)?;
    }
    let paths: Vec<&Path> = names.iter().map(|entry| entry.path.as_path()).collect();
    site.replace(&original, &paths, &direction.target(site))
}

/// Links are replaced like files; a folder's xattrs are converted where they are. Each folder comes after what it holds,
/// and gets back the times that it had before that was replaced.
fn link_or_folder(site: &ReplaceContext<'_, '_>, entry: &Entry, direction: Direction<'_>) -> Result<()> {
    match (entry.found, direction) {
        (EntryForm::ClearLink, Direction::Encrypt) => {
            let text = read_text(site.root, &entry.path)?;
            let sealed = seal_target(site.keys, text.as_bytes())?;
            site.replace_link(&entry.path, &entry.stat, OsStr::new(&sealed), ChangeTime::Later)
        }
        (EntryForm::SealedLink, Direction::Decrypt(expected)) => {
            let sealed = read_text(site.root, &entry.path)?;
            expected.map_or(Ok(()), |expected| expected.check_link(&entry.path, &sealed))?;
            let text = open_target(site.keys, sealed.as_bytes())?;
            site.replace_link(&entry.path, &entry.stat, OsStr::from_bytes(&text), ChangeTime::Kept)
        }
        (EntryForm::Folder, _) => {
            let dir = folder_beneath(site.root, &entry.path).context(|| "opening it".into())?;
            let (clear, sealed) = (Sealing::Clear, Sealing::By(site.keys, None));
            let (from, to) = match direction {
                Direction::Encrypt => (clear, sealed),
                Direction::Decrypt(expected) => {
                    if let Some(expected) = expected
                        && attributes::all_open(&dir, sealed)?
                    {
                        expected.check_values(&entry.path, &dir)?;
                    }
                    (sealed, clear)
                }
            };
            attributes::convert_in_place(&dir, from, to, || Ok(()))?;
            if !entry.path.as_os_str().is_empty() {
                give_times(&entry.stat, &dir)?;
            }
            dir.sync_all().context(|| "making names durable".into())
        }
        _ => Ok(()),
    }
}

/// The target of a sealed symbolic link.
///
/// # Errors
/// `Corrupt`, or `Io`.
pub(super) fn opened_target(root: &File, keys: &HomeKeys, path: &Path) -> Result<Vec<u8>> {
    open_target(keys, read_text(root, path)?.as_bytes())
}
