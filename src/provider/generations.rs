//! The primary keys of one provider on this host: the current one, which wraps new KEKs, and in folders beside its file those of
//! former generations and of generations to come, which only open what was wrapped by them.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::primary_key::PrimaryKey;
use super::private_file;
use crate::error::{Context, Error, Kind, Result};
use crate::text::Show;

/// Most files of primary keys that are looked at in a folder.
const MAX_LISTED: usize = 1024;

/// Where the primary keys of a provider are.
#[derive(Clone, Debug)]
pub struct Generations {
    /// The file of the current one.
    current: PathBuf,
}

/// What a primary key is to its provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// New KEKs are wrapped by it.
    Current,
    /// KEKs were wrapped by it, and have not all been replaced.
    Former,
    /// KEKs will be wrapped by it, once all hosts have it.
    Coming,
}

impl Generations {
    /// Those of a provider whose current primary key is in this file.
    pub fn of(current: PathBuf) -> Self {
        Self { current }
    }

    /// The current primary key.
    ///
    /// # Errors
    /// Those of [`PrimaryKey::load`].
    pub fn current(&self) -> Result<PrimaryKey> {
        let loaded = PrimaryKey::load(&self.current);
        match loaded {
            Err(error) if error.kind() == Kind::KeyUnavailable && self.wiped_mark().exists() => {
                let message = format!(
                    "the primary key file {} was wiped, as the cluster of this host asked: the host was removed from it, or the key was \
                     retired. Only members get its keys: `vmcryptfs cluster status` says what this host is",
                    self.current.shown()
                );
                Err(Error::new(Kind::KeyUnavailable, message))
            }
            loaded => loaded,
        }
    }

    /// A file beside the current one: that is missing since it was wiped, and not to be restored.
    fn wiped_mark(&self) -> PathBuf {
        self.current.with_extension("wiped")
    }

    /// Forgets that the current one was wiped: one comes in its place.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn forget_wiped(&self) -> Result<()> {
        let mark = self.wiped_mark();
        match fs::remove_file(&mark) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("removing {}", mark.shown())),
        }
    }

    /// A primary key by its UUID, wherever it is, and what it is; `None` when it is not on this host.
    ///
    /// # Errors
    /// Those of [`PrimaryKey::load`] but for a missing file, and `Corrupt` when a file has another one than its name says.
    pub fn find(&self, uuid: Uuid) -> Result<Option<(Standing, PrimaryKey)>> {
        if let Some(current) = found(self.current())?.filter(|current| current.uuid() == uuid) {
            return Ok(Some((Standing::Current, current)));
        }
        for standing in [Standing::Former, Standing::Coming] {
            let path = self.path(standing, uuid);
            let Some(key) = found(PrimaryKey::load(&path))? else { continue };
            if key.uuid() != uuid {
                let message = format!("{} holds primary key {}, expected that of its name", path.shown(), key.uuid());
                return Err(Error::new(Kind::Corrupt, message));
            }
            return Ok(Some((standing, key)));
        }
        Ok(None)
    }

    /// Whether there are primary keys beside the current one.
    ///
    /// # Errors
    /// `Io`.
    pub fn has_others(&self) -> Result<bool> {
        Ok(!self.in_folder(Standing::Former)?.is_empty() || !self.coming()?.is_empty())
    }

    /// The UUIDs of the primary keys that are to come.
    ///
    /// # Errors
    /// `Io`.
    pub fn coming(&self) -> Result<Vec<Uuid>> {
        self.in_folder(Standing::Coming)
    }

    fn in_folder(&self, standing: Standing) -> Result<Vec<Uuid>> {
        let folder = self.folder(standing);
        let listing = || format!("listing {}", folder.shown());
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(listing)?,
        };
        let mut uuids = Vec::new();
        for entry in entries.take(MAX_LISTED) {
            let name = entry.context(listing)?.file_name();
            let uuid =
                name.to_str().and_then(|name| name.strip_suffix(".key")).and_then(|uuid| uuid.parse::<Uuid>().ok());
            uuids.extend(uuid);
        }
        uuids.sort();
        Ok(uuids)
    }

    /// Keeps a primary key as one that is to come. One that is here stays as it is.
    ///
    /// # Errors
    /// `Io`; those of [`find`](Self::find).
    pub fn keep_coming(&self, key: &PrimaryKey) -> Result<()> {
        match self.find(key.uuid())? {
            Some(_) => Ok(()),
            None => key.create(&self.path(Standing::Coming, key.uuid())),
        }
    }

    /// Makes a primary key that is here the current one, and keeps the current one as a former one. A crash leaves both.
    ///
    /// # Errors
    /// `KeyUnavailable` when it is not here, `Io`.
    pub fn make_current(&self, uuid: Uuid) -> Result<()> {
        let standing = match self.find(uuid)? {
            Some((Standing::Current, _)) => return Ok(()),
            Some((standing, _)) => standing,
            None => return Err(Error::new(Kind::KeyUnavailable, format!("primary key {uuid} is not on this host"))),
        };
        if let Some(current) = found(self.current())? {
            let path = self.path(Standing::Former, current.uuid());
            if found(PrimaryKey::load(&path))?.is_none() {
                current.create(&path)?;
            }
        }
        let path = self.path(standing, uuid);
        fs::rename(&path, &self.current)
            .and_then(|()| private_file::sync_folder(private_file::folder_of(&self.current)))
            .and_then(|()| private_file::sync_folder(private_file::folder_of(&path)))
            .context(|| format!("making {} the current primary key", path.shown()))?;
        self.forget_wiped()
    }

    /// Makes a primary key that is to come a former one: newer ones are in use already.
    ///
    /// # Errors
    /// `Io`.
    pub fn make_former(&self, uuid: Uuid) -> Result<()> {
        let (from, to) = (self.path(Standing::Coming, uuid), self.path(Standing::Former, uuid));
        private_file::create_folder(private_file::folder_of(&to))?;
        fs::rename(&from, &to)
            .and_then(|()| private_file::sync_folder(private_file::folder_of(&to)))
            .context(|| format!("making {} a former primary key", from.shown()))
    }

    /// Destroys every file of a primary key. Returns whether there was one.
    ///
    /// # Errors
    /// `Io`.
    pub fn wipe(&self, uuid: Uuid) -> Result<bool> {
        let mut wiped = false;
        for standing in [Standing::Former, Standing::Coming] {
            wiped |= private_file::wipe(&self.path(standing, uuid))?;
        }
        // A crash may have left what was to be wiped, without its name.
        match found(self.current())? {
            Some(current) if current.uuid() != uuid => drop(private_file::wipe_former(&self.current)?),
            _ => {
                let was_current = private_file::wipe(&self.current)?;
                if was_current {
                    // Without the mark a message says less. Nothing else depends on it.
                    let _ = private_file::replace(&self.wiped_mark(), &[b"wiped for the cluster\n"]);
                }
                wiped |= was_current;
            }
        }
        Ok(wiped)
    }

    fn path(&self, standing: Standing, uuid: Uuid) -> PathBuf {
        match standing {
            Standing::Current => self.current.clone(),
            Standing::Former | Standing::Coming => self.folder(standing).join(format!("{uuid}.key")),
        }
    }

    /// `keys/shared.former` beside `keys/shared.key`.
    fn folder(&self, standing: Standing) -> PathBuf {
        let current: &Path = &self.current;
        current.with_extension(match standing {
            Standing::Current => "key",
            Standing::Former => "former",
            Standing::Coming => "coming",
        })
    }
}

/// What is not there is not an error here.
fn found(loaded: Result<PrimaryKey>) -> Result<Option<PrimaryKey>> {
    match loaded {
        Ok(key) => Ok(Some(key)),
        Err(error) if error.kind() == Kind::KeyUnavailable => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_the_current_one_and_the_former_stays_until_it_is_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::of(dir.path().join("shared.key"));
        let keys: Vec<PrimaryKey> = (0..3).map(|_| PrimaryKey::generate().unwrap()).collect();
        let standing = |key: &PrimaryKey| generations.find(key.uuid()).unwrap().map(|(standing, _)| standing);
        keys[0].create(&dir.path().join("shared.key")).unwrap();
        keys[1..].iter().for_each(|key| generations.keep_coming(key).unwrap());
        assert_eq!(generations.coming().unwrap().len(), 2);
        generations.make_current(keys[2].uuid()).unwrap();
        generations.make_current(keys[2].uuid()).unwrap();
        generations.make_former(keys[1].uuid()).unwrap();
        assert!(generations.coming().unwrap().is_empty());
        assert_eq!(
            keys.iter().map(standing).collect::<Vec<_>>(),
            [Standing::Former, Standing::Former, Standing::Current].map(Some)
        );
        assert_eq!(
            (generations.wipe(keys[0].uuid()).unwrap(), generations.wipe(keys[0].uuid()).unwrap()),
            (true, false)
        );
        assert_eq!(standing(&keys[0]), None);
        assert_eq!(generations.make_current(keys[0].uuid()).unwrap_err().kind(), Kind::KeyUnavailable);
        assert!(generations.wipe(keys[2].uuid()).unwrap());
        let gone = || generations.current().map(drop).unwrap_err();
        assert_eq!(gone().kind(), Kind::KeyUnavailable);
        assert!(gone().chain().contains("was wiped, as the cluster") && !gone().chain().contains("backup"));
        // One that came in its place, and was lost, was not wiped.
        generations.keep_coming(&keys[0]).unwrap();
        generations.make_current(keys[0].uuid()).unwrap();
        fs::remove_file(dir.path().join("shared.key")).unwrap();
        assert!(gone().chain().contains("restore it from its backup"), "{}", gone().chain());
    }

    /// A crash between the two steps leaves the former key twice: it counts as the current one, and the next attempt goes on.
    #[test]
    fn what_was_interrupted_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::of(dir.path().join("shared.key"));
        let (old, new) = (PrimaryKey::generate().unwrap(), PrimaryKey::generate().unwrap());
        old.create(&dir.path().join("shared.key")).unwrap();
        generations.keep_coming(&new).unwrap();
        old.create(&generations.path(Standing::Former, old.uuid())).unwrap();
        assert_eq!(generations.find(old.uuid()).unwrap().unwrap().0, Standing::Current);
        generations.make_current(new.uuid()).unwrap();
        assert_eq!(generations.find(old.uuid()).unwrap().unwrap().0, Standing::Former);
        assert_eq!(generations.current().unwrap().uuid(), new.uuid());
    }
}
