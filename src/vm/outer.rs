//! VM folders are not nested: what a mount of the outer one writes is sealed by the outer home, and erasing the inner one, say,
//! would leave that readable.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::file::stat_at;
use crate::text::Show;
use crate::vm::home_state::HomeState;

/// The VM folder, in whatever state, in which something lies, and the header by which it is one. What is to be made at `path`
/// need not be there.
///
/// # Errors
/// `NotFound` when there is no such place, or `Io`.
pub fn of(path: &Path) -> Result<Option<(PathBuf, &'static str)>> {
    let parent = match fs::canonicalize(path) {
        Ok(path) => path.parent().map(Path::to_path_buf),
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(fs::canonicalize(parent).context(|| format!("finding {}", parent.shown()))?)
        }
    };
    let Some(parent) = parent else { return Ok(None) };
    // To look above it, it need not be readable.
    let dir = rustix::fs::open(&parent, ABOVE, Mode::empty());
    let found = at_or_above(&File::from(dir.context(|| format!("opening folder {}", parent.shown()))?))?;
    Ok(found.and_then(|(above, header)| Some((parent.ancestors().nth(above)?.to_path_buf(), header))))
}

/// Refuses a new VM folder in another one.
///
/// # Errors
/// `Denied`, or those of [`of`].
pub fn refuse(path: &Path) -> Result<()> {
    match of(path)? {
        None => Ok(()),
        Some((outer, header)) => Err(Error::new(
            Kind::Denied,
            format!("{} is in a VM folder, {}, which has a {header}: {NOT_NESTED}", path.shown(), outer.shown()),
        )),
    }
}

/// The same of a new VM folder in a directory that is served as a datastore.
///
/// # Errors
/// `Denied`, or `Io`.
pub(super) fn refuse_in(datastore: &File) -> Result<()> {
    let place = match at_or_above(datastore)? {
        None => return Ok(()),
        Some((0, header)) => format!("this datastore became a VM folder, by its {header}; remount it"),
        Some((_, header)) => format!("this datastore lies in a VM folder, by a {header} above it"),
    };
    Err(Error::new(Kind::Denied, format!("{place}: {NOT_NESTED}")))
}

const ABOVE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NOT_NESTED: &str = "there is no VM folder within another";

/// How far above a directory, itself included, a home's header lies, and its name.
fn at_or_above(dir: &File) -> Result<Option<(usize, &'static str)>> {
    let states = [HomeState::Encrypting, HomeState::Encrypted, HomeState::Decrypting];
    let mut dir = dir.try_clone().context(|| "opening a folder".into())?;
    let mut own = id(&dir)?;
    for above in 0.. {
        // What this user may not look at shows nothing.
        let mut headers = states.iter().filter_map(|state| state.header_file());
        if let Some(header) = headers.find(|name| stat_at(&dir, name.as_ref()).is_ok()) {
            return Ok(Some((above, header)));
        }
        let Ok(parent) = rustix::fs::openat(&dir, "..", ABOVE, Mode::empty()) else { break };
        dir = File::from(parent);
        let parent = id(&dir)?;
        if own == parent {
            break;
        }
        own = parent;
    }
    Ok(None)
}

fn id(dir: &File) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir).context(|| "looking above a folder".into())?;
    Ok((stat.st_dev, stat.st_ino))
}
