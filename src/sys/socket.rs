//! Unix sockets that other processes find by a path.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;

/// The path of a socket, which is removed with it.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    id: Id,
}

impl SocketPath {
    /// Makes a listening socket that only its owner may connect to. A socket whose process has died is replaced.
    ///
    /// # Errors
    /// `AlreadyExists` for anything but a socket, `AddrInUse` for one that is in use.
    pub fn listen(path: &Path) -> io::Result<(UnixListener, Self)> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "it is there already, and is not a socket"));
            }
            Ok(_) if is_listened_to(path)? => {
                return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there"));
            }
            Ok(_) => fs::remove_file(path)?,
        }
        Self::make(path)
    }

    /// As [`listen`](Self::listen), and replaces whatever is at the path, also a socket that is in use.
    ///
    /// # Errors
    /// Of the system.
    pub fn replace(path: &Path) -> io::Result<(UnixListener, Self)> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Self::make(path),
        }
    }

    fn make(path: &Path) -> io::Result<(UnixListener, Self)> {
        let socket = unconnected(SocketFlags::CLOEXEC)?;
        fchmod(&socket, Mode::from_raw_mode(0o600))?; // before it has a name
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, BACKLOG)?;
        let own = Self { path: path.to_path_buf(), id: id_of(path)? };
        Ok((UnixListener::from(socket), own))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Another process may have replaced it since. A leftover does no harm: the next one to listen there replaces it.
        if id_of(&self.path).is_ok_and(|found| found == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode number, and the time of birth where that is known: numbers are used again.
type Id = (u64, u64, Option<SystemTime>);

fn id_of(path: &Path) -> io::Result<Id> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino(), found.created().ok()))
}

/// Connects to a socket without waiting.
///
/// # Errors
/// Of the system; `WouldBlock` when its queue of connections is full: a stopped process would be waited for.
pub fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let socket = unconnected(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether a process listens on a socket. Does not wait for one that is busy.
fn is_listened_to(path: &Path) -> io::Result<bool> {
    match connect_at_once(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(true),
    }
}

fn unconnected(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_left_is_replaced_and_what_is_used_or_no_socket_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (listener, own) = SocketPath::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SocketPath::listen(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(listener);
        let (_listener, second) = SocketPath::listen(&path).unwrap();
        drop(own);
        assert!(path.exists(), "it is another one's now");
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert_eq!(SocketPath::listen(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
