//! A TCP connection on which everything ends at one point in time.
//!
//! A timeout of the socket restarts with every byte, so a server that drips its answer would never meet it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::settings::Address;

/// A point in time at which every wait ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The time left; `None` if there is none.
    pub(super) fn left(self) -> Option<Duration> {
        Some(self.0.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    pub(super) fn passed(self) -> bool {
        self.left().is_none()
    }

    fn time_left(self) -> io::Result<Duration> {
        self.left().ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

/// The connection. Reads and writes fail with `TimedOut` when the deadline has passed.
#[derive(Debug)]
pub(super) struct TimedStream {
    tcp: TcpStream,
    deadline: Deadline,
}

impl TimedStream {
    /// Connects to an address of a server.
    pub(super) fn connect(address: SocketAddr, deadline: Deadline) -> io::Result<Self> {
        let tcp = TcpStream::connect_timeout(&address, deadline.time_left()?)?;
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, deadline })
    }

    pub(super) fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }
}

/// Addresses of a name that are tried. An answer to the name may hold thousands.
const MAX_ADDRESSES: usize = 16;

/// The addresses of a server, at least one. Resolving a name has no timeout, so it is done on a thread that may outlive
/// this call.
pub(super) fn resolve(address: &Address, deadline: Deadline) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = address.host().parse() {
        return Ok(vec![SocketAddr::new(ip, address.port())]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = (address.host().to_owned(), address.port());
    thread::Builder::new().name("resolve".into()).spawn(move || {
        let found = name.to_socket_addrs().map(|found| found.take(MAX_ADDRESSES).collect::<Vec<_>>());
        sender.send(found).ok(); // the caller may have given up
    })?;
    let found = receiver.recv_timeout(deadline.time_left()?).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.deadline.time_left()?))?;
        self.tcp.read(buffer).map_err(timed_out)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.deadline.time_left()?))?;
        self.tcp.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// Sockets say that they would block when their timeout has passed.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn a_dripping_peer_does_not_stretch_the_deadline() {
        let (listener, address) = listener();
        thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            while peer.write_all(b".").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let start = Instant::now();
        let mut stream = TimedStream::connect(address, Deadline::after(Duration::from_millis(300))).unwrap();
        let error = stream.read_exact(&mut [0; 1000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    #[test]
    fn a_silent_peer_is_given_up_at_the_deadline() {
        let (_listener, address) = listener();
        let mut stream = TimedStream::connect(address, Deadline::after(Duration::from_millis(100))).unwrap();
        let error = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        stream.set_deadline(Deadline::after(Duration::ZERO));
        assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
