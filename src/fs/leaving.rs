//! Files that lose a name.

use std::ffi::OsStr;
use std::fs::File;

use rustix::fs::FileType;

use crate::error::Result;
use crate::fs::backing;
use crate::fs::stat::Stat;
use crate::serve::is_of_reserve;

/// What a name leads to that is about to be removed, or to be given to another file.
pub(super) struct Leaving {
    pub(super) stat: Stat,
    /// The file itself, by which it is reached once no name leads to it; `None` when there are too few descriptors.
    file: Option<File>,
}

/// A file that has lost a name.
pub(super) struct Left {
    /// What it was before.
    pub(super) stat: Stat,
    /// The file itself.
    pub(super) file: Option<File>,
    /// How many names it still has on disk.
    pub(super) links: u64,
}

impl Leaving {
    /// Looks at a name that is about to go.
    ///
    /// # Errors
    /// `NotFound`, or `Io`.
    pub(super) fn at(dir: &File, name: &OsStr) -> Result<Self> {
        match backing::any_at(dir, name) {
            Ok(file) => Ok(Self { stat: backing::stat(&file)?, file: Some(file).filter(|file| !is_of_reserve(file)) }),
            Err(_) => Ok(Self { stat: backing::stat_at(dir, name)?, file: None }),
        }
    }

    /// Looks at the file once more, now that the name is gone.
    pub(super) fn left(self) -> Left {
        let Self { stat, file } = self;
        let links = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            0
        } else {
            let now = file.as_ref().and_then(|file| backing::stat(file).ok());
            now.map_or(stat.st_nlink.saturating_sub(1), |now| now.st_nlink)
        };
        Left { stat, file, links }
    }
}
