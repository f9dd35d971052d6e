//! Content of private files is overwritten, also where a crash left it under another name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::write::{NEW, replace};
use super::{beside, folder_of, sync_folder};
use crate::error::{Context, Kind, Result};
use crate::text::Show;

/// As [`replace`], and overwrites the content that was there, as a wipe does.
///
/// # Errors
/// `Io`.
pub fn replace_and_wipe(path: &Path, parts: &[&[u8]]) -> Result<()> {
    wipe_former(path)?;
    let former = former_of(path);
    match fs::hard_link(path, &former) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return replace(path, parts),
        linked => linked.context(|| format!("naming the former content of {}", path.shown()))?,
    }
    replace(path, parts)?;
    overwrite_and_remove(&former, &open_to_overwrite(&former)?)
}

/// The name of content that is to be overwritten, while it is.
fn former_of(path: &Path) -> PathBuf {
    beside(path, ".former")
}

/// Wipes the content that [`replace_and_wipe`] and [`wipe`] left when a crash ended them. Returns whether there was some. What no writer has
/// finished goes as well.
pub(crate) fn wipe_former(path: &Path) -> Result<bool> {
    let former = former_of(path);
    let looking = || format!("looking for the former content of {}", path.shown());
    let wiped = match (inode_of(path).context(looking)?, inode_of(&former).context(looking)?) {
        (_, None) => false,
        (Some(current), Some(of_crash)) if current == of_crash => {
            fs::remove_file(&former).context(looking)?;
            false
        }
        (_, Some(_)) => overwrite_and_remove(&former, &open_to_overwrite(&former)?).map(|()| true)?,
    };
    wipe_unfinished(path)?;
    Ok(wiped)
}

/// Wipes what [`replace`] and [`create`](super::create) left beside a file when a crash ended them. It loses its name first: what a
/// writer has finished in the meantime stays.
fn wipe_unfinished(path: &Path) -> Result<()> {
    let looking = || format!("looking for what was not finished of {}", path.shown());
    let entries = match fs::read_dir(folder_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context(looking)?,
    };
    let former = former_of(path);
    for entry in entries {
        let name = entry.context(looking)?.file_name();
        if !is_unfinished(path, &name) {
            continue;
        }
        match fs::rename(path.with_file_name(&name), &former) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                renamed.context(looking)?;
                overwrite_and_remove(&former, &open_to_overwrite(&former)?)?;
            }
        }
    }
    Ok(())
}

/// Whether a name is one under which a writer makes a new file of this path, before that has its own.
fn is_unfinished(path: &Path, name: &OsStr) -> bool {
    let fresh = beside(path, ".new");
    let is_beside = |of: &Path| {
        let start = beside(of, NEW);
        let number = name.as_bytes().strip_prefix(start.file_name().unwrap_or_default().as_bytes());
        number.is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit))
    };
    fresh.file_name() == Some(name) || is_beside(path) || is_beside(&fresh)
}

/// What tells a file from all others, if it is there.
fn inode_of(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some((found.dev(), found.ino()))),
    }
}

/// Overwrites a file's content with zeros and removes it. Where the file system or the medium keeps older blocks, those stay.
///
/// The file loses its name first: a crash leaves no zeros where a key is looked for. The next call ends what a crash ended.
/// Returns whether there was something.
pub(crate) fn wipe(path: &Path) -> Result<bool> {
    let of_crash = wipe_former(path)?;
    let file = match open_to_overwrite(path) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(of_crash),
        file => file?,
    };
    let former = former_of(path);
    fs::rename(path, &former)
        .and_then(|()| sync_folder(folder_of(path)))
        .context(|| format!("taking the name of {}", path.shown()))?;
    overwrite_and_remove(&former, &file).map(|()| true)
}

fn open_to_overwrite(path: &Path) -> Result<File> {
    let opened = File::options().write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path);
    opened.context(|| format!("wiping {}", path.shown()))
}

fn overwrite_and_remove(path: &Path, mut file: &File) -> Result<()> {
    let wiping = || format!("wiping {}", path.shown());
    let len = file.metadata().context(wiping)?.len();
    io::copy(&mut io::repeat(0).take(len), &mut file).and_then(|_| file.sync_all()).context(wiping)?;
    fs::remove_file(path).and_then(|()| sync_folder(folder_of(path))).context(wiping)
}

#[cfg(test)]
mod tests {
    use super::super::create;
    use super::*;

    #[test]
    fn content_that_is_replaced_is_overwritten_also_after_a_crash_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let (file, former) = (dir.path().join("file"), dir.path().join(".file.former"));
        let replaced_by = |content: &[u8]| {
            let before = File::open(&file).unwrap();
            replace_and_wipe(&file, &[content]).unwrap();
            let mut left = Vec::new();
            (&before).read_to_end(&mut left).unwrap();
            assert!(!former.exists());
            assert_eq!(fs::read(&file).unwrap(), content);
            left
        };
        replace_and_wipe(&file, &[b"first"]).unwrap();
        assert_eq!(replaced_by(b"second"), [0; 5]);
        // It ended before the new content was in its place, and after that.
        fs::hard_link(&file, &former).unwrap();
        assert_eq!(replaced_by(b"third"), [0; 6]);
        fs::write(&former, "of a crash").unwrap();
        let of_crash = File::open(&former).unwrap();
        assert_eq!(replaced_by(b"fourth"), [0; 5]);
        let mut left = Vec::new();
        (&of_crash).read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; 10]);
    }

    #[test]
    fn a_wipe_that_a_crash_ended_leaves_no_zeros_in_the_place_of_a_key_and_is_ended_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (file, former) = (dir.path().join("file"), dir.path().join(".file.former"));
        assert!(!wipe(&file).unwrap());
        create(&file, &[b"secret"]).unwrap();
        let before = File::open(&file).unwrap();
        assert!(wipe(&file).unwrap());
        let mut left = Vec::new();
        (&before).read_to_end(&mut left).unwrap();
        assert_eq!((left, file.exists(), former.exists()), (vec![0; 6], false, false));
        // It ended after the name was taken, before the zeros.
        create(&file, &[b"secret"]).unwrap();
        let before = File::open(&file).unwrap();
        fs::rename(&file, &former).unwrap();
        assert!(wipe(&file).unwrap());
        let mut left = Vec::new();
        (&before).read_to_end(&mut left).unwrap();
        assert_eq!((left, former.exists()), (vec![0; 6], false));
        assert!(!wipe(&file).unwrap());
        // What a link leads to is not ours to overwrite.
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(wipe(&file).is_err());
        assert_eq!((fs::read(&elsewhere).unwrap(), file.is_symlink()), (b"kept".to_vec(), true));
    }

    #[test]
    fn what_no_writer_has_finished_is_wiped_with_its_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let unfinished = [".file.new", ".file.new-0123456789abcdef", "..file.new.new-0123456789abcdef"];
        let of_others = [".file.newer.lock", ".file.new-0123", ".other.new", ".file.lock"];
        for content in [None, Some(b"key")] {
            unfinished.iter().chain(&of_others).for_each(|name| fs::write(dir.path().join(name), "secret").unwrap());
            content.iter().for_each(|content| create(&file, &[*content]).unwrap());
            let before = unfinished.map(|name| File::open(dir.path().join(name)).unwrap());
            assert_eq!(wipe(&file).unwrap(), content.is_some(), "there was a file");
            for mut left in before {
                let mut content = Vec::new();
                left.read_to_end(&mut content).unwrap();
                assert_eq!(content, [0; 6]);
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), of_others.len());
        }
        assert!(!wipe(&dir.path().join("no folder/file")).unwrap());
    }
}
