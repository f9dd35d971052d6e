//! Metrics over HTTP on a Unix socket, for `curl --unix-socket` and proxies of Prometheus.
//!
//! A client that hangs, or sends something else, costs one of a few threads for a few seconds, and holds up nothing else.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::sys::memory;
use crate::sys::socket::SocketPath;
use crate::sys::thread::{caught, may_fail};
use crate::text::Show;

/// What the metrics are.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a client may take to ask, and to take the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that are served at once. More are turned away.
const MAX_CLIENTS: usize = 8;
/// Longest request that is read, in bytes.
const MAX_REQUEST: usize = 8 << 10;
/// How long it takes no client after one could not be taken.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What makes the text of the metrics.
type Source = dyn Fn() -> Result<String> + Send + Sync;

/// Answers HTTP requests on a Unix socket, on threads of their own for as long as the process lives. The socket is made, and removed
/// with what is returned.
///
/// # Errors
/// `Exists` when something else is at the path, `Busy` when another process uses the socket, or `Io`.
pub fn serve(path: &Path, source: impl Fn() -> Result<String> + Send + Sync + 'static) -> Result<SocketPath> {
    let (listener, socket) =
        SocketPath::listen(path).context(|| format!("making the socket of metrics {}", path.shown()))?;
    let source: Arc<Source> = Arc::new(source);
    thread::Builder::new()
        .name("metrics".into())
        .spawn(move || take_clients(&listener, &source))
        .context(|| "starting the thread of metrics".into())?;
    Ok(socket)
}

fn take_clients(listener: &UnixListener, source: &Arc<Source>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let served = stream.and_then(|stream| {
            if clients.load(Ordering::Relaxed) >= MAX_CLIENTS {
                return Ok(()); // what closes the connection
            }
            clients.fetch_add(1, Ordering::Relaxed);
            let (source, present) = (Arc::clone(source), Present(Arc::clone(&clients)));
            let serve = move || {
                let _present = present;
                caught(|| {
                    may_fail("metrics");
                    serve_client(&stream, &*source);
                });
                memory::return_freed();
            };
            thread::Builder::new().name("metrics-request".into()).spawn(serve).map(drop)
        });
        if let Err(error) = served {
            tracing::warn!("{}", Error::io("socket of metrics", error).chain());
            thread::sleep(AFTER_FAILURE);
        }
    }
}

/// A client that is being served.
struct Present(Arc<AtomicUsize>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve_client(stream: &UnixStream, source: &Source) {
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let answer = match head(stream, deadline).as_deref().map(method) {
        None => return,
        Some(Method::Get) => {
            source().map_or_else(|error| failure(&error), |text| answer("200 OK", CONTENT_TYPE, &text))
        }
        Some(Method::Other) => answer("405 Method Not Allowed", "text/plain", "only GET is answered\n"),
        Some(Method::Garbage) => answer("400 Bad Request", "text/plain", "expected an HTTP request\n"),
    };
    write_all(stream, answer.as_bytes(), deadline);
}

fn failure(error: &Error) -> String {
    tracing::warn!("metrics: {}", error.chain());
    answer("500 Internal Server Error", "text/plain", "the mount failed at this; its log says why\n")
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[derive(Debug, Eq, PartialEq)]
enum Method {
    Get,
    Other,
    Garbage,
}

/// What a request line asks for: `GET /metrics HTTP/1.1`. Every path is the same.
fn method(head: &[u8]) -> Method {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None)
            if target.starts_with(b"/") && version.starts_with(b"HTTP/1.") =>
        {
            if method == b"GET" {
                Method::Get
            } else {
                Method::Other
            }
        }
        _ => Method::Garbage,
    }
}

/// What comes before the empty line that ends a request, or as much of it as is read of anything; `None` where nothing comes in time.
fn head(mut stream: &UnixStream, deadline: Instant) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < MAX_REQUEST && !has_ended(&head) {
        stream.set_read_timeout(Some(left(deadline)?)).ok()?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => head.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(head)
}

fn has_ended(head: &[u8]) -> bool {
    head.windows(4).any(|bytes| bytes == b"\r\n\r\n") || head.windows(2).any(|bytes| bytes == b"\n\n")
}

fn write_all(mut stream: &UnixStream, mut bytes: &[u8], deadline: Instant) {
    while let (false, Some(left)) = (bytes.is_empty(), left(deadline)) {
        let written = stream.set_write_timeout(Some(left)).and_then(|()| stream.write(bytes));
        match written {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return, // the client has gone
        }
    }
}

fn left(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn get_is_answered_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let socket = serve(&path, || Ok("a 1\n# EOF\n".into())).unwrap();
        let answer = ask(&path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let expected = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: 10\r\nConnection: close\r\n\r\na 1\n# EOF\n"
        );
        assert_eq!(answer, expected);
        assert!(ask(&path, b"POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        for garbage in [&b"\x16\x03\x01\n\n"[..], b"GET\n\n", b"GET x HTTP/1.1\n\n", &[b'x'; MAX_REQUEST]] {
            assert!(ask(&path, garbage).starts_with("HTTP/1.1 400 "));
        }
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn clients_that_hang_are_few_and_hold_up_nobody_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let _socket = serve(&path, || Ok("# EOF\n".into())).unwrap();
        let hanging: Vec<UnixStream> = (1..MAX_CLIENTS).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(ask(&path, b"GET / HTTP/1.0\r\n\r\n").contains("# EOF"), "one place is left");
        let mut more: Vec<UnixStream> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let turned_away = more.iter_mut().filter_map(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            stream.read(&mut [0]).ok()
        });
        assert!(turned_away.count() >= 2, "connections beyond the limit are closed");
        drop(hanging);
        drop(more);
        let asked = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            let mut stream = UnixStream::connect(&path).unwrap();
            let mut answer = String::new();
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
            answer.contains("# EOF")
        });
        assert!(asked, "places are free again");
    }
}
