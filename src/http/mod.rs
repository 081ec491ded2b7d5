//! Connections: the accept loop, their time-outs and number, and how they end.
//!
//! The loop is ours and not `poem::Server`, which sets no TCP_NODELAY, waits for ever for a request's headers, and spins when the process has no file
//! descriptor left. hyper speaks HTTP/1.1 here; everything above it is a poem [`Endpoint`]. HTTP/2 comes with TLS: it takes a body before there is room to
//! send it, so that [`Connection::when_sent`] must then know more than that the connection was flushed, and idle connections must end.

mod announced;
mod connection;
mod listen;
mod timer;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulShutdown, Watcher},
};
use poem::{
    Addr, Endpoint, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::access::TrustedProxies;
use connection::Socket;
use timer::Timer;

pub use connection::Connection;
pub use listen::{ListenError, listen};

/// How long the loop rests when a connection cannot be accepted, which is when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(100);

/// The largest request line with headers, in bytes. hyper looks when it has to read more, so what comes at once may be about twice as large.
const HEAD_LIMIT: usize = 64 * 1024;

/// Limits of connections, and who announces them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// From when a connection waits for a request until its headers are there; then it is closed. So this is also how long an idle connection stays.
    pub head_timeout: Duration,
    /// How long an answer may wait for its client to read, at first; a client that reads is given more ([`Connection`]).
    pub write_timeout: Duration,
    /// From when no more connections are accepted until what is still open is cut.
    pub drain_timeout: Duration,
    /// Whose connections begin with a PROXY header; nobody's if there are none.
    pub announced_by: TrustedProxies,
}

/// Serves `endpoint` until `stop` is cancelled; then accepts nothing more, lets requests in flight finish within the limit, and returns.
pub async fn serve<E>(listener: TcpListener, endpoint: E, limits: Limits, stop: CancellationToken)
where
    E: Endpoint<Output = Response> + 'static,
{
    let endpoint = Arc::new(endpoint);
    let drain_timeout = limits.drain_timeout;
    let limits = Arc::new(limits);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let open = TaskTracker::new();
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
                let (endpoint, limits, watcher, cut) = (endpoint.clone(), limits.clone(), graceful.watcher(), cut.clone());
                open.spawn(async move {
                    let served = connection(stream, peer, endpoint, &limits, watcher);
                    tokio::select! {
                        () = cut.cancelled() => {}
                        served = served => {
                            if let Err(error) = served {
                                tracing::debug!(%peer, error = &*error, "a connection ended early");
                            }
                        }
                    }
                    drop(permit);
                });
            }
            Err(error) if is_of_the_connection(&error) => tracing::debug!(%error, "a connection was gone before it was accepted"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                sleep(REST).await;
            }
        }
    }
    drop(listener);
    if timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running near the end of shutdown_timeout_seconds and were cut");
        cut.cancel();
    }
    // What the connections held is given back by then, a job that was on its way to a client among it.
    open.close();
    open.wait().await;
}

async fn connection<E>(
    mut stream: TcpStream,
    peer: SocketAddr,
    endpoint: Arc<E>,
    limits: &Limits,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    E: Endpoint<Output = Response> + 'static,
{
    let (client, first) = match limits.announced_by.contains(peer.ip()) {
        true => timeout(limits.head_timeout, announced::read(&mut stream, peer)).await??,
        false => (peer, Bytes::new()),
    };
    let local = LocalAddr(Addr::SocketAddr(stream.local_addr()?));
    let remote = RemoteAddr(Addr::SocketAddr(client));
    let connection = Connection::default();
    let socket = Socket::new(stream, first, connection.clone(), limits.write_timeout)?;
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (endpoint, local, remote, connection) = (endpoint.clone(), local.clone(), remote.clone(), connection.clone());
        async move {
            let mut request: poem::Request = (request, local, remote, Scheme::HTTP).into();
            request.set_data(connection);
            Ok::<_, Infallible>(hyper::Response::from(endpoint.get_response(request).await))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(Timer::default()).header_read_timeout(limits.head_timeout).max_buf_size(HEAD_LIMIT);
    Ok(watcher.watch(builder.serve_connection(TokioIo::new(socket), service)).await?)
}

/// Whether an accept failed because of that one connection, so that the next can be accepted at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted
    )
}
