//! Connections: the accept loop, TLS, their time-outs and number, and how they end.
//!
//! The loop is ours and not `poem::Server`, which sets no TCP_NODELAY, waits for ever for a request's headers, and spins when the process has no file
//! descriptor left. hyper speaks HTTP/1.1, and HTTP/2 where TLS agreed on it; what answers is a [`Service`], which may refuse by the head alone.
//!
//! | | HTTP/1.1 | HTTP/2 |
//! | --- | --- | --- |
//! | idle, or slow to begin | [`Limits::head_timeout`] | the same to twice as long without a request (`streams.rs`) |
//! | slow to read | its socket (`socket.rs`) | each answer has the same clock (`streams.rs`), and the socket for all of them |
//! | answered ([`Connection::when_sent`]) | its bytes were flushed to the socket | the same: an answer's stream lasts until all of it was taken (`answer.rs`) |
//! | bodies that nobody reads | the next 64 KiB are thrown away, for half a second (`rest.rs`) | their streams are reset |
//! | too many | [`Limits::connections`], and for each address (`places.rs`) | requests count as connections do, more are refused as undone |

mod announced;
mod answer;
mod connection;
mod conversation;
mod listen;
mod places;
mod rest;
mod service;
mod socket;
mod streams;
mod timer;
mod tls;

use std::{io, iter, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{access::TrustedProxies, measure::Gauge};
use conversation::Shared;
use places::Places;

pub use connection::Connection;
pub use listen::{ListenError, listen};
pub use service::{Head, Service, Whole};
pub use tls::{Tls, TlsError};

/// How long the loop rests when a connection cannot be accepted, which is when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(100);

/// How many connections are taken at most when the listener closes; as many as the kernel holds.
const WAITING: usize = 1024;

/// How long a connection of the last moment has for its first request. hyper closes at once what nothing has come over yet.
const FIRST: Duration = Duration::from_millis(500);

/// Limits of connections, and who announces them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, and besides requests at once over HTTP/2.
    pub connections: usize,
    /// How many of both together one address may have, 0 for any number.
    pub for_each_address: usize,
    /// Whose addresses may have any number: they speak for many.
    pub exempt: TrustedProxies,
    /// From when a connection waits for a request until its headers are there; then it is closed. So this is also how long an idle connection stays, and
    /// how long the TLS handshake may take.
    pub head_timeout: Duration,
    /// How long an answer may wait for its client to read, at first; a client that reads is given more ([`Connection`]).
    pub write_timeout: Duration,
    /// From when no more connections are accepted until what is still open is cut.
    pub drain_timeout: Duration,
    /// Whose connections begin with a PROXY header; nobody's if there are none.
    pub announced_by: TrustedProxies,
    /// Counts those that are open.
    pub open: Gauge,
}

/// Serves requests until `stop` is cancelled; then accepts nothing more, lets requests in flight finish within the limit, and returns. With `tls` over
/// HTTPS only.
pub async fn serve<S: Service>(listener: TcpListener, service: S, limits: Limits, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let drain_timeout = limits.drain_timeout;
    let cut = CancellationToken::new();
    let tasks = TaskTracker::new();
    let places = Places::new(limits.connections, limits.for_each_address, limits.exempt.clone());
    let finish = CancellationToken::new();
    let shared = Arc::new(Shared { service, limits, tls, places, stop: finish.clone(), tasks: tasks.clone() });
    let take = |stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit| {
        let (shared, cut, held) = (shared.clone(), cut.clone(), shared.limits.open.hold());
        tasks.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                ended = conversation::hold(stream, peer, shared) => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error = &*error, "a connection ended early");
                    }
                }
            }
            drop((permit, held));
        });
    };
    let mut last = None;
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            permit = connections.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                last = Some(Instant::now());
                take(stream, peer, permit);
            }
            Err(error) if is_of_the_connection(&error) => tracing::debug!(%error, "a connection was gone before it was accepted"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                sleep(REST).await;
            }
        }
    }
    for (stream, peer) in close(listener) {
        if let (Ok(stream), Ok(permit)) = (TcpStream::from_std(stream), connections.clone().try_acquire_owned()) {
            last = Some(Instant::now());
            take(stream, peer, permit);
        }
    }
    tasks.close();
    let finished = async {
        if let Some(last) = last {
            sleep_until(last + FIRST).await;
        }
        finish.cancel();
        tasks.wait().await;
    };
    if timeout(drain_timeout, finished).await.is_err() {
        tracing::warn!("requests were still running near the end of shutdown_timeout_seconds and were cut");
        cut.cancel();
        // What the connections held is given back by then, a job that was on its way to a client among it.
        tasks.wait().await;
    }
}

/// Closes a listener. Returns who has connected by then, as the kernel says, and not as the runtime has heard: they would be reset otherwise, and a proxy may
/// have sent a request already.
fn close(listener: TcpListener) -> Vec<(std::net::TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let accepted = iter::from_fn(|| match listener.accept() {
        Err(error) if !is_of_the_connection(&error) => None,
        accepted => Some(accepted),
    });
    let mut connected: Vec<_> = accepted.take(WAITING).filter_map(Result::ok).collect();
    drop(listener);
    connected.retain(|(stream, _)| stream.set_nonblocking(true).is_ok());
    connected
}

/// Whether an accept failed because of that one connection, so that the next can be accepted at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted
    )
}
