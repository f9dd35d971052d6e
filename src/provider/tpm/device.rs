//! The way to a TPM: the kernel's device, or the socket of an emulator. One command at a time, and none waits for ever.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::error::{Context, Error, Kind, Result};
use crate::text::Show;

/// Longest response, in bytes; that of the kernel's driver.
const MAX_RESPONSE: usize = 4096;
/// Tag, size and response code.
const HEADER_LEN: usize = 10;
/// Time between two tries at what is busy.
const PAUSE: Duration = Duration::from_millis(20);

/// An open TPM, and the time until which all that is asked of it must be answered.
#[derive(Debug)]
pub(super) struct Device {
    path: PathBuf,
    /// `None` only while it is dropped.
    file: Option<File>,
    limit: Duration,
    until: Instant,
    /// Whether a command was sent that has no response yet.
    in_flight: bool,
}

impl Device {
    /// Opens a TPM, which has `limit` for all that follows.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none or it is busy all the time, `Denied`, `Invalid` for another file.
    pub(super) fn open(path: &Path, limit: Duration) -> Result<Self> {
        let until = Instant::now() + limit;
        let file = open(path, until).map_err(|error| {
            let (kind, advice) = if error.kind() == io::ErrorKind::NotFound {
                (Kind::KeyUnavailable, "this host has no TPM 2.0, or its driver is not loaded")
            } else if error.kind() == io::ErrorKind::PermissionDenied {
                (Kind::Denied, "its group, mostly tss, may use it")
            } else if error.kind() == io::ErrorKind::InvalidInput {
                (Kind::Invalid, "expected the device /dev/tpmrm0, or an emulator's socket")
            } else {
                (Kind::KeyUnavailable, "expected a TPM 2.0")
            };
            Error::with_source(kind, format!("no TPM at {} ({advice})", path.shown()), error)
        })?;
        Ok(Self { path: path.to_path_buf(), file: Some(file), limit, until, in_flight: false })
    }

    /// Sends a whole command, and returns the whole response.
    ///
    /// # Errors
    /// `KeyUnavailable` when it does not come in time or is not one, `Io`.
    pub(super) fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        self.in_flight = true;
        let answered = self.send(command).and_then(|()| self.receive());
        let response = answered.context(|| format!("talking to the TPM {}", self.path.shown()));
        self.in_flight = response.is_err();
        response.or_else(|error| self.late(error))
    }

    /// Waits a moment before a command that was answered by "not now" is sent again.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is no more time.
    pub(super) fn pause(&self) -> Result<()> {
        if Instant::now() + PAUSE >= self.until {
            return Err(self.too_late());
        }
        thread::sleep(PAUSE);
        Ok(())
    }

    fn late(&self, error: Error) -> Result<Vec<u8>> {
        match error.os_error() == Some(Errno::TIMEDOUT.raw_os_error()) {
            true => Err(self.too_late()),
            false => Err(error),
        }
    }

    fn too_late(&self) -> Error {
        let text = format!("the TPM {} did not answer within {:?}", self.path.shown(), self.limit);
        Error::new(Kind::KeyUnavailable, text)
    }

    fn send(&mut self, command: &[u8]) -> io::Result<()> {
        let mut rest = command;
        while !rest.is_empty() {
            self.wait(PollFlags::OUT)?;
            match self.file()?.write(rest) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if is_temporary(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let (mut response, mut len) = (vec![0; MAX_RESPONSE], 0);
        loop {
            self.wait(PollFlags::IN)?;
            match self.file()?.read(&mut response[len..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => len += read,
                Err(error) if is_temporary(&error) => continue,
                Err(error) => return Err(error),
            }
            let Some(header) = response[..len].first_chunk::<HEADER_LEN>() else { continue };
            let [_, _, size @ .., _, _, _, _] = header;
            let expected = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
            if !(HEADER_LEN..=MAX_RESPONSE).contains(&expected) || len > expected {
                return Err(invalid(format!("a response of {expected} bytes of which {len} came")));
            }
            if len == expected {
                response.truncate(len);
                return Ok(response);
            }
        }
    }

    fn wait(&mut self, flags: PollFlags) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let file = self.file()?;
        match poll(&mut [PollFd::new(&file, flags)], Some(&left)) {
            Ok(0) => Err(Errno::TIMEDOUT.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Device {
    /// Closing the kernel's device waits for the response to a command that was sent, which may never come.
    fn drop(&mut self) {
        let file = self.file.take();
        if self.in_flight {
            thread::Builder::new().spawn(|| drop(file)).ok(); // without a thread it is closed here
        }
    }
}

fn open(path: &Path, until: Instant) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_socket() {
        return Ok(File::from(connect_before(path, until)?));
    }
    if !kind.is_char_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a device nor a socket"));
    }
    File::options().read(true).write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn connect_before(path: &Path, until: Instant) -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match connect(socket.as_fd(), &address) {
            Ok(()) => return Ok(socket),
            // More clients wait than it lets queue.
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() + PAUSE < until => thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
