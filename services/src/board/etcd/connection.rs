//! One connection to one member of etcd: TCP, TLS, HTTP/2, and calls of gRPC in it.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use vmcryptfs::cluster::board::address::Endpoint;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::tls_files::TlsFiles;

use super::failure::{Failure, Status};

/// Longest answer, in bytes: a record or a thousand names, with what is around them.
pub(super) const MAX_ANSWER: usize = 4 << 20;
/// Bytes that a member may send before they are read.
const WINDOW: u32 = 1 << 20;
/// Largest set of headers, in bytes.
const MAX_HEADERS: u32 = 64 << 10;
/// Longest message of an error that is kept, in characters.
const MAX_REASON: usize = 300;
/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A connection. It is closed when this is dropped.
pub(super) struct Connection {
    send: SendRequest<Bytes>,
    place: String,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Awaits what must not take longer than `time`.
pub(super) async fn within<T>(
    time: Duration,
    doing: &str,
    work: impl Future<Output = std::result::Result<T, Failure>>,
) -> std::result::Result<T, Failure> {
    match tokio::time::timeout(time, work).await {
        Ok(done) => done,
        Err(_) => Err(Failure::Unreachable(format!("{doing}: no answer within {} ms", time.as_millis()))),
    }
}

impl Connection {
    /// Connects. Certificates are read from their files each time: they are renewed while a daemon runs.
    pub(super) async fn open(endpoint: &Endpoint, files: &TlsFiles) -> std::result::Result<Self, Failure> {
        let mut config = files.client().map_err(Failure::Ours)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| Failure::Ours(Error::new(Kind::Invalid, format!("{endpoint} is not a name of a server"))))?;
        let lost = |doing: &str, error: &dyn std::error::Error| Failure::Unreachable(format!("{doing}: {error}"));
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|error| Failure::Unreachable(Error::io("connecting", error).chain()))?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let tls = tls.map_err(|error| {
            let trouble = format!("TLS: {error}");
            if error.kind() == ErrorKind::InvalidData {
                Failure::Untrusted(trouble)
            } else {
                Failure::Unreachable(trouble)
            }
        })?;
        let mut http = h2::client::Builder::new();
        http.initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .enable_push(false);
        let (send, connection) = http.handshake(tls).await.map_err(|error| lost("HTTP/2", &error))?;
        let driver = tokio::spawn(async move {
            // Each call on it sees how it ended.
            let _ = connection.await;
        });
        Ok(Self { send, place: format!("https://{endpoint}"), driver })
    }

    /// Begins a call. `is_whole`: there is one message and no other.
    pub(super) async fn begin(&self, path: &str, message: &[u8], is_whole: bool) -> std::result::Result<Call, Failure> {
        let lost = |error: h2::Error| Failure::Unreachable(format!("sending a request: {error}"));
        let request = Request::post(format!("{}{path}", self.place))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // A member that has lost the others must not let a call wait, or say what it last knew.
            .header("hasleader", "true")
            .body(())
            .map_err(|error| Failure::Ours(Error::with_source(Kind::Invalid, "a request to etcd", error)))?;
        let mut send = self.send.clone().ready().await.map_err(lost)?;
        let (response, mut body) = send.send_request(request, false).map_err(lost)?;
        // A member may refuse before it has read all.
        let sent = body.send_data(framed(message), is_whole);
        let response = response.await.map_err(|error| lost(sent.err().unwrap_or(error)))?;
        let (head, received) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(Failure::Unreachable(format!("it answers with HTTP status {}", head.status)));
        }
        match Status::of(&head.headers) {
            Some(status) if !status.is_ok() => Err(status.failure()),
            _ => Ok(Call { body, received, buffer: BytesMut::new() }),
        }
    }

    /// A call with one message each way.
    pub(super) async fn call(&self, path: &str, message: &[u8]) -> std::result::Result<Bytes, Failure> {
        let mut call = self.begin(path, message, true).await?;
        let wrong =
            |found: &str| Failure::Ours(Error::new(Kind::Corrupt, format!("etcd's answer is not one: {found}")));
        let answer = call.next().await?.ok_or_else(|| wrong("it is empty"))?;
        match call.next().await? {
            None => Ok(answer),
            Some(_) => Err(wrong("there are two")),
        }
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0); // not compressed
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX)); // records are far shorter
    frame.put_slice(message);
    frame.freeze()
}

/// A call, as a stream of messages each way.
pub(super) struct Call {
    body: h2::SendStream<Bytes>,
    received: RecvStream,
    buffer: BytesMut,
}

impl Call {
    /// Sends one message more.
    pub(super) fn send(&mut self, message: &[u8]) -> std::result::Result<(), Failure> {
        let sent = self.body.send_data(framed(message), false);
        sent.map_err(|error| Failure::Unreachable(format!("sending a request: {error}")))
    }

    /// The next message; `None` at the end. When it is given up while it waits, nothing is lost.
    pub(super) async fn next(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = take_message(&mut self.buffer).map_err(Failure::Ours)? {
                return Ok(Some(message));
            }
            let lost = |error: h2::Error| Failure::Unreachable(format!("reading an answer: {error}"));
            let Some(data) = self.received.data().await else { break };
            let data = data.map_err(lost)?;
            self.received.flow_control().release_capacity(data.len()).map_err(lost)?;
            self.buffer.extend_from_slice(&data);
        }
        let trailers = self.received.trailers().await;
        let trailers = trailers.map_err(|error| Failure::Unreachable(format!("reading an answer: {error}")))?;
        match trailers.as_ref().and_then(Status::of) {
            Some(status) if !status.is_ok() => Err(status.failure()),
            Some(_) if self.buffer.is_empty() => Ok(None),
            _ => Err(Failure::Unreachable("reading an answer: it ends too early".into())),
        }
    }
}

/// A message that is there in full.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some((&compressed, rest)) = buffer.split_first() else { return Ok(None) };
    let wrong = |found: String| Err(Error::new(Kind::Corrupt, format!("etcd's answer is not one: {found}")));
    if compressed != 0 {
        return wrong("it is compressed, which was not asked for".into());
    }
    let Some(mut len) = rest.first_chunk::<4>().map(<[u8; 4]>::as_slice) else { return Ok(None) };
    let len = len.get_u32() as usize;
    if len > MAX_ANSWER {
        return wrong(format!("it has {len} bytes, expected at most {MAX_ANSWER}"));
    }
    if buffer.len() < PREFIX + len {
        return Ok(None);
    }
    let mut frame = buffer.split_to(PREFIX + len);
    Ok(Some(frame.split_off(PREFIX).freeze()))
}

impl Status {
    /// What headers or trailers say of how a call ended.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        let reason = headers.get("grpc-message").map(|reason| unescaped(reason.as_bytes())).unwrap_or_default();
        Some(Self { code, reason })
    }
}

/// A text in which bytes are written as %XX.
fn unescaped(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.first_chunk::<2>().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).chars().take(MAX_REASON).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut buffer = BytesMut::from(&framed(b"one")[..]);
        buffer.extend_from_slice(&framed(b"")[..3]);
        assert_eq!(take_message(&mut buffer).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(take_message(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&[0, 0]);
        assert_eq!(take_message(&mut buffer).unwrap().as_deref(), Some(&b""[..]));
        assert!(buffer.is_empty());
        let too_long = take_message(&mut BytesMut::from(&[0, 0xff, 0, 0, 0][..])).unwrap_err();
        assert!(too_long.chain().contains("it has 4278190080 bytes, expected at most 4194304"));
        assert!(take_message(&mut BytesMut::from(&[1][..])).unwrap_err().chain().contains("compressed"));
    }

    #[test]
    fn reasons_are_read_as_they_were_meant() {
        assert_eq!(unescaped(b"a%20b%zz%4"), "a b%zz%4");
        assert_eq!(unescaped("%".repeat(1000).as_bytes()).len(), MAX_REASON);
    }
}
