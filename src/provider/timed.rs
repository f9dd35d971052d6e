//! A connection on which everything ends at one point in time.
//!
//! A timeout of the socket restarts with every byte, so a peer that drips its answer would never meet it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A point in time at which every wait ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Deadline(Instant);

impl Deadline {
    /// That much from now on.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The time left; `None` if there is none.
    pub fn left(self) -> Option<Duration> {
        Some(self.0.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Whether it has come.
    pub fn passed(self) -> bool {
        self.left().is_none()
    }

    pub(super) fn time_left(self) -> io::Result<Duration> {
        self.left().ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

/// A socket whose waits can be limited, one by one.
pub trait Limited: Read + Write {
    /// How long the next read may wait.
    ///
    /// # Errors
    /// The system's.
    fn limit_read(&self, time: Duration) -> io::Result<()>;

    /// How long the next write may wait.
    ///
    /// # Errors
    /// The system's.
    fn limit_write(&self, time: Duration) -> io::Result<()>;
}

impl Limited for TcpStream {
    fn limit_read(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_write(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

impl Limited for UnixStream {
    fn limit_read(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_write(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

/// The connection. Reads and writes fail with `TimedOut` when the deadline has passed.
#[derive(Debug)]
pub struct TimedStream<S> {
    socket: S,
    deadline: Deadline,
}

impl<S> TimedStream<S> {
    /// A socket that is connected.
    pub fn new(socket: S, deadline: Deadline) -> Self {
        Self { socket, deadline }
    }

    /// Lets what follows end at another time.
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// The socket, for what does not wait.
    pub fn socket(&self) -> &S {
        &self.socket
    }
}

impl TimedStream<TcpStream> {
    /// Connects to an address of a server.
    pub(super) fn connect(address: SocketAddr, deadline: Deadline) -> io::Result<Self> {
        let tcp = TcpStream::connect_timeout(&address, deadline.time_left()?)?;
        tcp.set_nodelay(true)?;
        Ok(Self::new(tcp, deadline))
    }
}

impl<S: Limited> Read for TimedStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.limit_read(self.deadline.time_left()?)?;
        self.socket.read(buffer).map_err(timed_out)
    }
}

impl<S: Limited> Write for TimedStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.limit_write(self.deadline.time_left()?)?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Sockets say that they would block when their timeout has passed.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

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
