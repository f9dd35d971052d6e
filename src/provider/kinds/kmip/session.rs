//! A TLS session with one member, over which messages are exchanged one by one.
//!
//! After an error of reading or writing, or an answer that is not understood, a session takes no further request: what
//! comes late can never be taken for the answer to something else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use zeroize::Zeroizing;

use super::dial::{self, Addresses};
use super::message::{Batch, Request, Version};
use super::settings::{Address, Timeouts};
use super::ttlv::{self, HEADER_LEN, Item};
use crate::crypto::random;
use crate::provider::timed::{Deadline, TimedStream};
use crate::provider::{Failure, Trouble};

/// How long a session may rest before it is used again. Servers close theirs after 30 s and more.
const MAX_IDLE: Duration = Duration::from_secs(20);

type TlsStream = StreamOwned<ClientConnection, TimedStream<TcpStream>>;

/// A session, and the version of KMIP that is spoken in it.
#[derive(Debug)]
pub(super) struct Session {
    stream: TlsStream,
    /// The address that it is with.
    peer: SocketAddr,
    config: Arc<ClientConfig>,
    version: Version,
    request_timeout: Duration,
    /// When all must be done.
    total: Deadline,
    /// When TLS and the first request must be done.
    first: Option<Deadline>,
    usable: bool,
    rests_since: Instant,
}

impl Session {
    /// Connects to one of a server's addresses and shakes hands. The version is still to be agreed on.
    pub(super) fn connect(
        address: &Address,
        addresses: &Addresses,
        config: Arc<ClientConfig>,
        timeouts: Timeouts,
        total: Deadline,
    ) -> Result<Self, Failure> {
        let name = ServerName::try_from(address.host().to_owned())
            .map_err(|error| Failure::new(Trouble::Untrusted, format!("the server's name: {error}")))?;
        let found = dial::resolve(address, total.min(Deadline::after(timeouts.connect)))
            .map_err(|error| Failure::io("connecting", &error))?;
        let attempt = move |peer| Self::connect_to(peer, name.clone(), Arc::clone(&config), timeouts, total);
        let session = dial::first_of(&addresses.in_order(found), total, attempt)?;
        addresses.answered(session.peer);
        Ok(session)
    }

    fn connect_to(
        peer: SocketAddr,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
        timeouts: Timeouts,
        total: Deadline,
    ) -> Result<Self, Failure> {
        let client =
            ClientConnection::new(Arc::clone(&config), name).map_err(|error| Failure::tls("starting TLS", &error))?;
        let mut tcp = TimedStream::connect(peer, total.min(Deadline::after(timeouts.connect)))
            .map_err(|error| Failure::io("connecting", &error))?;
        let first = total.min(Deadline::after(timeouts.request));
        tcp.set_deadline(first);
        let mut stream = StreamOwned::new(client, tcp);
        while stream.conn.is_handshaking() {
            let shaken = stream.conn.complete_io(&mut stream.sock);
            shaken.map_err(|error| reason_of_end(&mut stream, "starting TLS", &error))?;
        }
        Ok(Self {
            stream,
            peer,
            config,
            version: Version::OLDEST,
            request_timeout: timeouts.request,
            total,
            first: Some(first),
            usable: true,
            rests_since: Instant::now(),
        })
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The certificate that the server showed.
    pub(super) fn server_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.stream.conn.peer_certificates()?.first()
    }

    /// What was agreed on, for people.
    pub(super) fn tls(&self) -> String {
        let version =
            self.stream.conn.protocol_version().and_then(|version| version.as_str().map(|name| name.replace("v", " ")));
        version.unwrap_or_else(|| "TLS".into()).replace('_', ".")
    }

    /// Whether it may take a request after it rested.
    pub(super) fn is_fresh(&self, config: &Arc<ClientConfig>) -> bool {
        self.usable && Arc::ptr_eq(&self.config, config) && self.rests_since.elapsed() < MAX_IDLE
    }

    /// Whether it may take a request.
    pub(super) fn is_usable(&self) -> bool {
        self.usable
    }

    /// Begins a rest.
    pub(super) fn rest(&mut self) {
        self.first = None;
        self.rests_since = Instant::now();
    }

    /// Ends a rest: what follows must be done by `total`.
    pub(super) fn resume(&mut self, total: Deadline) {
        self.total = total;
    }

    /// Sends one request and returns the payload of its answer.
    pub(super) fn ask(&mut self, request: Request) -> Result<Item, Failure> {
        let mut answers = self.ask_all(vec![request])?;
        answers.pop().unwrap_or_else(|| Err(Failure::garbled("no answer")))
    }

    /// As [`ask`](Self::ask), before the request that needed a connection: both share the time of TLS and the first request.
    pub(super) fn ask_first(&mut self, request: Request) -> Result<Item, Failure> {
        let first = self.first;
        let answer = self.ask(request);
        self.first = first;
        answer
    }

    /// Sends requests in one message; each may be refused on its own.
    pub(super) fn ask_all(&mut self, requests: Vec<Request>) -> Result<Vec<Result<Item, Failure>>, Failure> {
        if !self.usable {
            return Err(Failure::new(Trouble::Unreachable, "the connection broke before"));
        }
        let mut unique = [0; 8];
        random::fill(&mut unique).map_err(|error| Failure::new(Trouble::Faulty, error.chain()))?;
        let batch = Batch::new(self.version, requests, unique);
        self.usable = false; // until the answer is here and understood
        let response = self.exchange(batch.message())?;
        let answers = batch.answers(&response);
        self.usable = !answers.as_ref().is_err_and(|failure| failure.trouble() == Trouble::Garbled);
        answers
    }

    fn exchange(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let deadline = self.first.take().unwrap_or_else(|| self.total.min(Deadline::after(self.request_timeout)));
        self.stream.sock.set_deadline(deadline);
        let sent = self.stream.write_all(message).and_then(|()| self.stream.flush());
        sent.map_err(|error| reason_of_end(&mut self.stream, "sending a request", &error))?;
        let mut header = [0; HEADER_LEN];
        self.read(&mut header)?;
        let len = ttlv::message_len(header).map_err(Failure::garbled)?;
        let mut response = Zeroizing::new(vec![0; len]);
        response[..HEADER_LEN].copy_from_slice(&header);
        self.read(&mut response[HEADER_LEN..])?;
        Ok(response)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        self.stream.read_exact(buffer).map_err(|error| Failure::io("waiting for an answer", &error))
    }
}

/// What a server said before it closed the connection that we were writing to: with TLS 1.2 that is how it refuses a
/// certificate.
fn reason_of_end(stream: &mut TlsStream, doing: &str, error: &io::Error) -> Failure {
    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
        while stream.conn.read_tls(&mut stream.sock).is_ok_and(|len| len > 0) {
            if let Err(reason) = stream.conn.process_new_packets() {
                return Failure::tls(doing, &reason);
            }
        }
    }
    Failure::io(doing, error)
}
