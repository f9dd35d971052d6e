//! Where the control sockets of a user's mounts are.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::effective_uid;
use crate::text::Show;

/// Directory of all control sockets of this user, made when missing.
///
/// # Errors
/// `Denied` when another user could change it, or `Io`.
pub(super) fn socket_dir() -> Result<PathBuf> {
    let uid = effective_uid();
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| uid != 0 && !dir.is_empty()) {
        Some(runtime) => own_dir(uid, PathBuf::from(runtime).join("vmcryptfs")),
        None if uid == 0 => own_dir(uid, "/run/vmcryptfs".into()),
        None => shared_dir(uid, format!("/tmp/vmcryptfs-{uid}").into(), state_dir()),
    }
}

/// A directory in a folder where anyone can make one, and another user may have been quicker: then the one in this user's own
/// folder. Once that is there it is used in any case, so that all processes of the user agree.
fn shared_dir(uid: u32, dir: PathBuf, own: Option<PathBuf>) -> Result<PathBuf> {
    match own {
        Some(own) if own.is_dir() => own_dir(uid, own),
        None => own_dir(uid, dir),
        Some(own) => own_dir(uid, dir).or_else(|error| {
            if error.kind() != Kind::Denied {
                return Err(error);
            }
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&own);
            made.context(|| format!("creating {}", own.shown()))?;
            tracing::warn!("control sockets are in {}: {}", own.shown(), error.chain());
            own_dir(uid, own)
        }),
    }
}

/// A directory for sockets in the XDG state folder.
fn state_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("vmcryptfs/run"))
}

fn own_dir(uid: u32, dir: PathBuf) -> Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("creating {}", dir.shown()), error));
        }
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(&dir).context(|| format!("looking at {}", dir.shown()))?;
    if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o077 != 0 {
        return Err(Error::new(
            Kind::Denied,
            format!("{} must be a directory of user {uid} that no other user may enter (mode 0700)", dir.shown()),
        ));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folder_that_another_user_made_first_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let (uid, shared, own) = (effective_uid(), dir.path().join("shared"), dir.path().join("state/vmcryptfs/run"));
        let chosen = |own: Option<&PathBuf>| shared_dir(uid, shared.clone(), own.cloned());
        assert_eq!(chosen(Some(&own)).unwrap(), shared, "nobody was there");
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o755)).unwrap(); // as good as someone else's
        assert_eq!(chosen(None).unwrap_err().kind(), Kind::Denied);
        assert_eq!(chosen(Some(&own)).unwrap(), own);
        assert_eq!(std::fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        std::fs::remove_dir(&shared).unwrap();
        assert_eq!(chosen(Some(&own)).unwrap(), own, "sockets may be there");
    }
}
