//! A small KMIP server that can be told to misbehave. It ends when its value is dropped.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{NamedGroup, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use vmcryptfs::provider::kinds::kmip::tag::{self, Operation};
use vmcryptfs::provider::kinds::kmip::ttlv::{self, Item, Tag, Value};

use crate::fake_store::{Store, number, text};
use crate::site::Site;

/// What is wrong with the answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Connections are accepted, and that is all.
    NoTls,
    /// Requests are read and not answered.
    Silent,
    /// Answers come a byte at a time.
    Drip,
    /// Answers wait until there is another fault.
    Held,
    /// Answers come this late.
    Late(Duration),
    /// What is asked for is done, and the connection closed.
    LoseAnswer,
    /// As `LoseAnswer`, once, only of Create.
    LoseOneCreate,
    /// The connection is closed after each answer.
    CloseAfterAnswer,
    /// Half of an answer, and the connection is closed.
    Half,
    /// No TTLV at all.
    Garbage,
    /// An answer that announces 4 GiB.
    Huge,
    /// An answer of 10,000 nested structures.
    Nested,
    WrongBatchId,
    WrongOperation,
    WrongCount,
    /// The answer is about another key.
    WrongKey,
    /// The key has 16 bytes.
    ShortKey,
    /// The key says that it is of 3DES.
    WrongAlgorithm,
    /// The key is 32 zeros.
    ConstantKey,
    /// Ids of keys end with a control character.
    ControlId,
    /// Ids of keys have 513 bytes.
    LongId,
    /// Failed, for no reason that KMIP has.
    Refuse(u32),
}

pub(crate) struct FakeServer {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    store: Arc<Store>,
    fault: Mutex<Fault>,
    versions: Vec<(i32, i32)>,
    ended: AtomicBool,
    requests: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
    tls: Arc<ServerConfig>,
}

pub(crate) const ALL_VERSIONS: [(i32, i32); 6] = [(2, 1), (1, 4), (1, 3), (1, 2), (1, 1), (1, 0)];

impl FakeServer {
    /// A member of the cluster that has these keys.
    pub(crate) fn start(site: &Site, store: &Arc<Store>) -> Self {
        Self::start_with(site, store, &ALL_VERSIONS)
    }

    pub(crate) fn start_with(site: &Site, store: &Arc<Store>, versions: &[(i32, i32)]) -> Self {
        Self::start_tls(site, store, versions, rustls::ALL_VERSIONS, |_| true)
    }

    /// With these versions of TLS and groups of key exchange.
    pub(crate) fn start_tls(
        site: &Site,
        store: &Arc<Store>,
        versions: &[(i32, i32)],
        tls_versions: &[&'static SupportedProtocolVersion],
        has_group: impl Fn(NamedGroup) -> bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            store: Arc::clone(store),
            fault: Mutex::new(Fault::None),
            versions: versions.to_vec(),
            ended: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            connections: Mutex::default(),
            tls: tls(site, tls_versions, has_group),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if accepting.ended.load(Ordering::Relaxed) {
                    break;
                }
                accepting.connections.lock().push(tcp.try_clone().unwrap());
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    let connection = tcp.try_clone().unwrap();
                    shared.serve(tcp).ok(); // what ended it is nobody's concern
                    connection.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Self { shared, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.shared.fault.lock() = fault;
    }

    /// Requests that were received.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for connection in self.shared.connections.lock().drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
        TcpStream::connect(("127.0.0.1", self.port)).ok(); // wakes the accepting thread
    }
}

fn tls(
    site: &Site,
    versions: &[&'static SupportedProtocolVersion],
    has_group: impl Fn(NamedGroup) -> bool,
) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(&site.server.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&site.server.key).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| has_group(group.name()));
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.ca.cert()).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap())
}

impl Shared {
    /// Serves one connection until something fails.
    fn serve(&self, tcp: TcpStream) -> io::Result<()> {
        while *self.fault.lock() == Fault::NoTls && !self.ended.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls)).unwrap(), tcp);
        loop {
            let mut header = [0; ttlv::HEADER_LEN];
            stream.read_exact(&mut header)?;
            let mut message = vec![0; ttlv::message_len(header).unwrap()];
            message[..ttlv::HEADER_LEN].copy_from_slice(&header);
            stream.read_exact(&mut message[ttlv::HEADER_LEN..])?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.react(&mut stream, &ttlv::decode(&message).unwrap())?;
        }
    }

    fn react(&self, stream: &mut impl Write, request: &Item) -> io::Result<()> {
        let operation = request.find(tag::BATCH_ITEM).and_then(|item| item.enumeration_of(tag::OPERATION));
        let fault = *self.fault.lock();
        // Versions are agreed on in any case: faults are about keys.
        let fault = if operation == Some(Operation::DiscoverVersions as u32) { Fault::None } else { fault };
        let answer = self.answer(request, fault);
        let closed = || Err(io::ErrorKind::ConnectionAborted.into());
        match fault {
            Fault::Silent => return Ok(()),
            Fault::Drip => {
                for byte in answer {
                    stream.write_all(&[byte])?;
                    stream.flush()?;
                    thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
            Fault::Held => {
                while *self.fault.lock() == Fault::Held && !self.ended.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Fault::Late(time) => thread::sleep(time),
            Fault::LoseAnswer => return closed(),
            Fault::LoseOneCreate if operation == Some(Operation::Create as u32) => {
                *self.fault.lock() = Fault::None;
                return closed();
            }
            Fault::Half => {
                stream.write_all(&answer[..answer.len() / 2])?;
                stream.flush()?;
                return closed();
            }
            Fault::Garbage => {
                return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").and_then(|()| stream.flush());
            }
            Fault::Huge => {
                return stream.write_all(b"\x42\x00\x7b\x01\xff\xff\xff\xf8 and so on").and_then(|()| stream.flush());
            }
            Fault::Nested => {
                stream.write_all(&nested(10_000))?;
                return stream.flush();
            }
            _ => {}
        }
        stream.write_all(&answer)?;
        stream.flush()?;
        if fault == Fault::CloseAfterAnswer { closed() } else { Ok(()) }
    }

    fn answer(&self, request: &Item, fault: Fault) -> Vec<u8> {
        let version = request.find(tag::REQUEST_HEADER).and_then(|header| header.find(tag::PROTOCOL_VERSION)).unwrap();
        let tagged = version.integer_of(tag::PROTOCOL_VERSION_MAJOR) == Some(2);
        let items: Vec<Item> = request.all(tag::BATCH_ITEM).map(|item| self.answer_one(item, tagged, fault)).collect();
        let count = i32::try_from(items.len()).unwrap() + i32::from(fault == Fault::WrongCount);
        let header = [version.clone(), Item::new(tag::BATCH_COUNT, Value::Integer(count))];
        let header = std::iter::once(Item::structure(tag::RESPONSE_HEADER, header));
        Item::structure(tag::RESPONSE_MESSAGE, header.chain(items).collect::<Vec<_>>()).encode().to_vec()
    }

    fn answer_one(&self, item: &Item, tagged: bool, fault: Fault) -> Item {
        let operation = item.enumeration_of(tag::OPERATION).unwrap();
        let mut id = item.bytes_of(tag::UNIQUE_BATCH_ITEM_ID).unwrap().to_vec();
        let result = match fault {
            Fault::Refuse(reason) => Err(reason),
            _ if operation == Operation::DiscoverVersions as u32 => {
                Ok(self.versions.iter().map(version_item).collect())
            }
            _ if operation == Operation::Query as u32 => Ok(vec![text(tag::VENDOR_IDENTIFICATION, "fake")]),
            _ => self.store.perform(operation, item.find(tag::REQUEST_PAYLOAD).unwrap(), tagged),
        };
        id[0] ^= u8::from(fault == Fault::WrongBatchId);
        let operation = operation ^ u32::from(fault == Fault::WrongOperation);
        let answered =
            [number(tag::OPERATION, operation), Item::new(tag::UNIQUE_BATCH_ITEM_ID, Value::Bytes(id.into()))];
        let rest = match result {
            Ok(payload) => vec![
                number(tag::RESULT_STATUS, tag::SUCCESS),
                distort(&Item::structure(tag::RESPONSE_PAYLOAD, payload), fault),
            ],
            Err(reason) => vec![
                number(tag::RESULT_STATUS, tag::OPERATION_FAILED),
                number(tag::RESULT_REASON, reason),
                text(tag::RESULT_MESSAGE, "refused by the fake server"),
            ],
        };
        Item::structure(tag::BATCH_ITEM, answered.into_iter().chain(rest).collect::<Vec<_>>())
    }
}

fn version_item(&(major, minor): &(i32, i32)) -> Item {
    let part = |tag: Tag, number: i32| Item::new(tag, Value::Integer(number));
    Item::structure(
        tag::PROTOCOL_VERSION,
        [part(tag::PROTOCOL_VERSION_MAJOR, major), part(tag::PROTOCOL_VERSION_MINOR, minor)],
    )
}

/// Changes what an answer says.
fn distort(item: &Item, fault: Fault) -> Item {
    let value = match (&item.value, item.tag, fault) {
        (Value::Structure(items), ..) => Value::Structure(items.iter().map(|item| distort(item, fault)).collect()),
        (_, tag::UNIQUE_IDENTIFIER, Fault::WrongKey) => Value::Text(b"another".to_vec()),
        (Value::Bytes(key), tag::KEY_MATERIAL, Fault::ShortKey) => Value::Bytes(key[..16].to_vec().into()),
        (Value::Bytes(key), tag::KEY_MATERIAL, Fault::ConstantKey) => Value::Bytes(vec![0; key.len()].into()),
        (Value::Text(id), tag::UNIQUE_IDENTIFIER, Fault::ControlId) if !id.ends_with(b"\x07") => {
            Value::Text([&id[..], b"\x07"].concat())
        }
        (Value::Text(id), tag::UNIQUE_IDENTIFIER, Fault::LongId) => {
            let zeros = vec![b'0'; 513_usize.saturating_sub(id.len())];
            Value::Text([b"key-", &zeros[..], &id[b"key-".len()..]].concat())
        }
        (_, tag::CRYPTOGRAPHIC_ALGORITHM, Fault::WrongAlgorithm) => Value::Enumeration(2),
        (same, ..) => same.clone(),
    };
    Item::new(item.tag, value)
}

fn nested(depth: usize) -> Vec<u8> {
    let header = |inner: usize| {
        let len = u32::try_from(inner * 8).unwrap().swap_bytes().to_le_bytes();
        [[0x42, 0, 0x7b, 1], len].concat()
    };
    (0..depth).rev().flat_map(header).collect()
}
