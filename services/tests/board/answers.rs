//! What a server says that is not an etcd, or not the right one: each call ends with a clear error, and none hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;
use vmcryptfs::cluster::board::{Board, Change, Key};
use vmcryptfs::error::Kind;
use vmcryptfs_services::board::etcd::EtcdBoard;

use crate::etcd::{certificates, endpoint, files};

/// What the server does with each request.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Sends these bytes, and that all is well.
    Says(&'static [u8]),
    /// Says that it is not available, and not why.
    Refuses,
    /// Sends the headers, and nothing more.
    HangsAfterHeaders,
    /// Takes the request, and says nothing.
    Hangs,
    /// Ends the answer in the middle of a message.
    EndsEarly,
    /// Is a web server.
    IsNotFound,
    /// Sends for ever, without a message that ends.
    Trickles,
    /// Takes the connection, and says nothing.
    TakesTheConnectionOnly,
    /// Begins to watch, and ends that at once.
    EndsWatches,
    /// Begins to watch, and sends messages without an event for ever.
    Chatters,
    /// Begins to watch once, and takes connections only after that.
    WatchesOnce,
}

/// That a watch has begun, at revision 1.
const CREATED: [u8; 11] = [0, 0, 0, 0, 6, 0x0a, 2, 0x18, 1, 0x18, 1];
/// A message of a watch without an event, at revision 1.
const NOTHING_NEW: [u8; 9] = [0, 0, 0, 0, 4, 0x0a, 2, 0x18, 1];

async fn answer(does: Does, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let status = if let Does::IsNotFound = does { StatusCode::NOT_FOUND } else { StatusCode::OK };
    if let Does::Hangs = does {
        return std::future::pending().await;
    }
    let response = Response::builder().status(status).header("content-type", "application/grpc").body(()).unwrap();
    let mut body = respond.send_response(response, false)?;
    match does {
        Does::Says(bytes) => {
            body.send_data(Bytes::from_static(bytes), false)?;
            body.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]))
        }
        Does::Refuses => {
            body.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "14".parse().unwrap())]))
        }
        Does::EndsEarly => body.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), true),
        Does::IsNotFound => body.send_data(Bytes::from_static(b"no such page"), true),
        Does::Trickles => {
            body.send_data(Bytes::from_static(&[0, 0, 0x3f, 0xff, 0xff]), false)?;
            loop {
                body.send_data(Bytes::from(vec![0; 1 << 10]), false)?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Does::EndsWatches => {
            body.send_data(Bytes::from_static(&CREATED), false)?;
            body.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]))
        }
        Does::Chatters => {
            body.send_data(Bytes::from_static(&CREATED), false)?;
            loop {
                body.send_data(Bytes::from_static(&NOTHING_NEW), false)?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Does::WatchesOnce => {
            body.send_data(Bytes::from_static(&CREATED), false)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            body.send_data(Bytes::new(), true)
        }
        Does::HangsAfterHeaders | Does::Hangs | Does::TakesTheConnectionOnly => std::future::pending().await,
    }
}

/// Starts a server, which ends with the process. Returns its port.
fn serve(does: Does, dir: &std::path::Path) -> u16 {
    serve_and_count(does, dir).0
}

/// The same, and how often it is connected to.
fn serve_and_count(does: Does, dir: &std::path::Path) -> (u16, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let member = files(dir, "member");
    let chain = CertificateDer::pem_file_iter(&member.cert).unwrap().map(Result::unwrap).collect();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&member.key).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let serve = async move {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let number = count.fetch_add(1, Ordering::Relaxed);
            let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
            tokio::spawn(async move {
                if matches!((does, number), (Does::TakesTheConnectionOnly, _) | (Does::WatchesOnce, 1..)) {
                    return std::future::pending().await;
                }
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let Ok(mut http) = h2::server::handshake(tls).await else { return };
                while let Some(Ok((_, respond))) = http.accept().await {
                    tokio::spawn(answer(does, respond));
                }
            });
        }
    };
    thread::spawn(move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve));
    (port, connections)
}

/// Messages begin with a byte and their length.
const CASES: [(Does, Kind, &str); 11] = [
    (Does::Says(&[]), Kind::Corrupt, "it is empty"),
    (Does::Says(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Kind::Corrupt, "there are two"),
    (Does::Says(&[0, 0, 0, 0, 2, 0x10, 1]), Kind::Corrupt, "a number where bytes belong"),
    (Does::Says(&[0, 0, 0, 0, 2, 0x12, 9]), Kind::Corrupt, "a field of 9 bytes in the 0 that are there"),
    (Does::Says(&[0, 0, 0, 0, 2, 0x12, 0]), Kind::Corrupt, "other keys than the one asked for"),
    (Does::Says(&[0, 0, 0x40, 0, 1]), Kind::Corrupt, "it has 4194305 bytes, expected at most 4194304"),
    (Does::Says(&[1, 0, 0, 0, 0]), Kind::Corrupt, "compressed"),
    (Does::EndsEarly, Kind::Io, "ends too early"),
    (Does::IsNotFound, Kind::Io, "HTTP status 404"),
    (Does::Hangs, Kind::Io, "no answer within"),
    (Does::TakesTheConnectionOnly, Kind::Io, "no answer within"),
];

#[test]
fn what_is_not_etcd_is_said_to_be_so_and_nothing_hangs() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["member", "host1"]);
    let ask = |does| {
        let board = EtcdBoard::reach(vec![endpoint(serve(does, dir.path()))], files(dir.path(), "host1"), Uuid::nil());
        let begun = Instant::now();
        let error = board.unwrap().read(&Key::document(1)).unwrap_err();
        (error, begun.elapsed())
    };
    let more =
        [(Does::HangsAfterHeaders, Kind::Io, "no answer within"), (Does::Trickles, Kind::Io, "no answer within")];
    thread::scope(|scope| {
        for (does, kind, words) in CASES.into_iter().chain(more) {
            scope.spawn(move || {
                let (error, time) = ask(does);
                assert_eq!(error.kind(), kind, "{does:?}: {}", error.chain());
                assert!(error.chain().contains(words), "{does:?}: {}", error.chain());
                assert!(time < Duration::from_secs(15), "{does:?}: {time:?}");
            });
        }
    });
}

#[test]
fn certificates_that_are_not_the_right_ones_are_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(dir.path(), &["member", "host1"]);
    certificates(other.path(), &["host1"]);
    let port = serve(Does::Hangs, dir.path());
    let read = |files| EtcdBoard::reach(vec![endpoint(port)], files, Uuid::nil())?.read(&Key::document(1));
    let chain = |files| read(files).unwrap_err().chain();
    // It is signed by another authority than the one that this host trusts.
    let untrusted = chain(files(other.path(), "host1"));
    assert!(untrusted.contains("invalid peer certificate"), "{untrusted}");
    let mut own = files(dir.path(), "host1");
    own.key = dir.path().join("member.key");
    assert!(chain(own.clone()).contains("is not the one of certificate"), "{}", chain(own.clone()));
    own.key = dir.path().join("missing.key");
    assert_eq!(read(own).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_watch_of_what_is_not_etcd_neither_spins_nor_waits_for_longer_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["member", "host1"]);
    let watched = |does, time: Duration| {
        let (port, connections) = serve_and_count(does, dir.path());
        let board = EtcdBoard::reach(vec![endpoint(port)], files(dir.path(), "host1"), Uuid::nil()).unwrap();
        let mut watch = board.watch().unwrap();
        let begun = Instant::now();
        let change = watch.wait(time);
        (change, begun.elapsed(), connections.load(Ordering::Relaxed))
    };
    let busy = Duration::from_secs(3); // what a busy machine adds
    thread::scope(|scope| {
        scope.spawn(|| {
            let (port, connections) = serve_and_count(Does::Refuses, dir.path());
            let board = EtcdBoard::reach(vec![endpoint(port)], files(dir.path(), "host1"), Uuid::nil()).unwrap();
            let error = board.watch().map(drop).unwrap_err();
            assert!(error.chain().contains("status 14"), "{}", error.chain());
            assert_eq!(connections.load(Ordering::Relaxed), 1, "a watch that cannot begin is tried by its caller");
        });
        scope.spawn(|| {
            let (change, waited, connections) = watched(Does::EndsWatches, Duration::from_secs(1));
            assert!(matches!(change, Ok(Change::Nothing)) && waited < busy, "{change:?}, {waited:?}");
            assert!((2..=7).contains(&connections), "it connects {connections} times in a second");
        });
        scope.spawn(|| {
            let (change, waited, _) = watched(Does::Chatters, Duration::from_millis(200));
            assert!(matches!(change, Ok(Change::Nothing)) && waited < busy, "{change:?}, {waited:?}");
        });
        scope.spawn(|| {
            let (change, waited, _) = watched(Does::WatchesOnce, Duration::from_millis(500));
            let error = change.unwrap_err();
            assert!(error.chain().contains("no answer") && waited < busy + busy, "{}, {waited:?}", error.chain());
        });
    });
}
