//! The port of an authority: TLS 1.3 and HTTP/1.1, with bounds on all that a stranger can have it spend.
//!
//! A connection costs one task and a small buffer. It has a place among all connections and among those of its address, and ends after a
//! while, whatever it does. Bytes of a body take from a common budget, and from that of its address, as they arrive: a slow body holds
//! little, and slow bodies of one address leave room for others. The work of a call is done on another thread, of a few; the call waits
//! for one for a bounded time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use vmcryptfs::error::{Context, Error, Kind, Result};

use super::Authority;
use super::routes::{self, Answer, Call};
use crate::trust_wire::MAX_BODY;

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Those of one address. One of IPv6 is a network of 64 bits: a machine has as many addresses in it as it likes.
    pub of_address: usize,
    /// Bytes of bodies in memory.
    pub bodies: usize,
    /// Those from one address.
    pub bodies_of_address: usize,
    /// Calls that are worked on at once.
    pub calls: usize,
    /// How long TLS may take to be set up.
    pub handshake: Duration,
    /// How long a head may take, and how long a connection may rest before it.
    pub head: Duration,
    /// How long a body may take.
    pub body: Duration,
    /// How long a call waits for a thread.
    pub wait: Duration,
    /// How long a connection lives.
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            of_address: 64,
            bodies: 64 << 20,
            bodies_of_address: 8 << 20,
            calls: 16,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            wait: Duration::from_secs(5),
            life: Duration::from_secs(120),
        }
    }
}

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 32;
/// How long no connection is taken after one could not be.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

struct Server {
    authority: Arc<Authority>,
    tls: TlsAcceptor,
    limits: Limits,
    connections: Arc<Semaphore>,
    addresses: Arc<Mutex<HashMap<IpAddr, Address>>>,
    bodies: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

/// Serves hosts on threads of its own for as long as the process lives.
///
/// # Errors
/// `Io`, and those of [`Own::tls`](super::own::Own::tls).
pub fn begin(authority: Arc<Authority>, listener: TcpListener, limits: Limits) -> Result<()> {
    let server = Arc::new(Server {
        tls: TlsAcceptor::from(authority.own.tls()?),
        authority,
        limits,
        connections: Arc::new(Semaphore::new(limits.connections)),
        addresses: Arc::default(),
        bodies: Arc::new(Semaphore::new(limits.bodies)),
        calls: Arc::new(Semaphore::new(limits.calls)),
    });
    listener.set_nonblocking(true).context(|| "setting up the port".into())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(limits.calls)
        .thread_name("port")
        .enable_all()
        .build()
        .context(|| "starting the threads of the port".into())?;
    let work = move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => server.take(listener).await,
                Err(error) => tracing::error!("the port is closed: {error}"),
            }
        });
    };
    std::thread::Builder::new()
        .name("port".into())
        .spawn(work)
        .map(drop)
        .context(|| "starting the thread of the port".into())
}

/// What the connections of one address have.
struct Address {
    connections: usize,
    bodies: Arc<Semaphore>,
}

/// A connection's share of what its address may have.
struct Place {
    addresses: Arc<Mutex<HashMap<IpAddr, Address>>>,
    address: IpAddr,
    bodies: Arc<Semaphore>,
    _connection: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.addresses.lock();
        if let Some(address) = addresses.get_mut(&self.address) {
            address.connections -= 1;
            if address.connections == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// What counts as one address.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What a body has of both budgets.
struct Budget {
    of_all: Arc<Semaphore>,
    of_address: Arc<Semaphore>,
    held: Option<[OwnedSemaphorePermit; 2]>,
}

impl Budget {
    fn new(of_all: &Arc<Semaphore>, of_address: &Arc<Semaphore>) -> Self {
        Self { of_all: Arc::clone(of_all), of_address: Arc::clone(of_address), held: None }
    }

    /// Takes this many bytes more, if they are there.
    fn take(&mut self, len: usize) -> bool {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let more = |budget: &Arc<Semaphore>| Arc::clone(budget).try_acquire_many_owned(len).ok();
        let Some(more) = more(&self.of_address).zip(more(&self.of_all)) else { return false };
        match &mut self.held {
            Some([of_address, of_all]) => {
                of_address.merge(more.0);
                of_all.merge(more.1);
            }
            none => *none = Some([more.0, more.1]),
        }
        true
    }
}

impl Server {
    async fn take(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            match listener.accept().await {
                // One without a place is closed: it is not worth a handshake.
                Ok((stream, peer)) => {
                    if let Some(place) = self.place(peer.ip()) {
                        let server = Arc::clone(&self);
                        tokio::spawn(async move { server.serve(stream, place).await });
                    }
                }
                Err(error) => {
                    tracing::warn!("taking a connection: {error}");
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    fn place(&self, address: IpAddr) -> Option<Place> {
        let address = counted(address);
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let mut addresses = self.addresses.lock();
        let bodies = || Arc::new(Semaphore::new(self.limits.bodies_of_address));
        let found = addresses.entry(address).or_insert_with(|| Address { connections: 0, bodies: bodies() });
        if found.connections >= self.limits.of_address {
            return None;
        }
        found.connections += 1;
        let bodies = Arc::clone(&found.bodies);
        drop(addresses);
        Some(Place { addresses: Arc::clone(&self.addresses), address, bodies, _connection: connection })
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, place: Place) {
        let (address, bodies) = (place.address, Arc::clone(&place.bodies));
        let limits = self.limits;
        let work = async move {
            stream.set_nodelay(true).ok(); // an answer is one write, and only slower without it
            let Ok(Ok(stream)) = timeout(limits.handshake, self.tls.accept(stream)).await else { return };
            let service = service_fn(move |request| {
                let (server, budget) = (Arc::clone(&self), Budget::new(&self.bodies, &bodies));
                async move { Ok::<_, Infallible>(server.answer(request, budget).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(MAX_HEAD)
                .max_headers(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!("{address}: {error}");
            }
        };
        timeout(limits.life, work).await.ok(); // one that lives longer is closed
        drop(place);
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, budget: Budget) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        match self.call(head, body, budget).await {
            // What is left of a body is not read.
            Ok(answer) if answer.status == StatusCode::PAYLOAD_TOO_LARGE => response(answer, false),
            Ok(answer) => response(answer, true),
            Err(error) => response(routes::refused(&error), false),
        }
    }

    async fn call(&self, Parts { method, uri, .. }: Parts, body: Incoming, mut budget: Budget) -> Result<Answer> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Ok(routes::too_long());
        }
        let whole = timeout(self.limits.body, read(body, &mut budget)); // the budget is held until the answer is there
        let late = |_| Error::new(Kind::Busy, "the body took too long");
        let Some(body) = whole.await.map_err(late)?? else {
            return Ok(routes::too_long());
        };
        let busy = || Error::new(Kind::Busy, "the authority has too much to do: try again");
        let turn = timeout(self.limits.wait, Arc::clone(&self.calls).acquire_owned()).await;
        let turn = turn.ok().and_then(std::result::Result::ok).ok_or_else(busy)?;
        let authority = Arc::clone(&self.authority);
        let done = spawn_blocking(move || {
            let _turn = turn; // held for as long as the work lasts, also if the client has gone
            let (path, query) = (uri.path(), uri.query().unwrap_or_default());
            routes::answer(&authority, &Call { method: &method, path, query, body: &body })
        });
        done.await.map_err(|error| Error::with_source(Kind::Io, "the authority failed at this: this is a bug", error))
    }
}

/// A body; `None` for one that is too long.
async fn read(mut body: Incoming, budget: &mut Budget) -> Result<Option<Vec<u8>>> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::with_source(Kind::Invalid, "a body that ends early", error))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY {
            return Ok(None);
        }
        if !budget.take(data.len()) {
            return Err(Error::new(Kind::Busy, "too many large requests at once: try again"));
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(whole))
}

fn response(Answer { status, content_type, body }: Answer, keeps: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    if !keeps {
        headers.insert(CONNECTION, http::HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
