//! One connection, from its first byte to its last.

use std::{io, net::SocketAddr, ops::ControlFlow, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http_body_util::combinators::BoxBody;
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use poem::{
    Addr,
    http::{Method, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Limits, announced,
    answer::Answer,
    connection::{Connection, Outbox, Signing},
    places::{Place, Places},
    rest::{self, Rest},
    service::{Head, Service},
    socket::Socket,
    streams::{Progress, Streams},
    timer::Timer,
    tls::{self, Tls},
};

/// The largest request line with headers, in bytes. hyper looks when it has to read more, so what comes at once may be about twice as large.
const HEAD_LIMIT: usize = 64 * 1024;

/// The largest list of headers over HTTP/2, in bytes as RFC 9113 counts them. Beyond it the answer is 431, far beyond it the connection ends; so it does
/// for more CONTINUATION frames than such a list can need.
const HEADER_LIST_LIMIT: u32 = 16 * 1024;

/// Requests at once over one connection.
const STREAMS: u32 = 100;

/// How many bytes of a body may be on their way that nobody has asked for yet, for one request and for one connection: these are no share of
/// `in_flight_limit_bytes`.
const WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// How many requests may be taken back before the server has seen them, and for how many the server may say that they were wrong, until the connection ends.
const UNSEEN_RESETS: usize = 20;
const WRONG_STREAMS: usize = 64;

/// How long a client has to notice that a connection over HTTP/2 is about to end, on which it has no requests.
const FAREWELL: Duration = Duration::from_secs(1);

/// What all connections share.
pub(super) struct Shared<S> {
    pub(super) service: S,
    pub(super) limits: Limits,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) places: Arc<Places>,
    /// Cancelled when requests in flight are to be the last.
    pub(super) stop: CancellationToken,
    /// What must end before the server does.
    pub(super) tasks: TaskTracker,
}

/// Why a connection ended.
pub(super) type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A connection on which requests can begin.
struct Opened {
    client: SocketAddr,
    local: SocketAddr,
    io: Signing,
    outbox: Outbox,
    is_h2: bool,
    place: Place,
}

/// Answers all requests of a connection.
pub(super) async fn hold<S: Service>(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared<S>>) -> Ended {
    let opened = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return Ok(()),
        opened = open(stream, peer, &shared) => opened?,
    };
    let Opened { client, local, io, outbox, is_h2, place } = opened;
    let (limits, stop) = (shared.limits.clone(), shared.stop.clone());
    let streams = Streams::new(shared.tasks.clone(), limits.write_timeout);
    let place = Arc::new(place);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (shared, outbox, place) = (shared.clone(), outbox.clone(), place.clone());
        async move {
            let stream = match Progress::of_this_stream() {
                // Which tells the client that nothing was done.
                Some(progress) => Some((progress, place.for_stream().ok_or(h2::Error::from(Reason::REFUSED_STREAM))?)),
                None => None,
            };
            let is_bodiless = stream.is_some() && request.method() == Method::HEAD;
            let (method, uri, headers) = (request.method(), request.uri(), request.headers());
            let head = Head { method, uri, version: request.version(), headers, peer: client.ip() };
            let mut response = match shared.service.meet(&head) {
                ControlFlow::Continue(met) => {
                    // In a place of its own: what is not needed for a refusal is large to move.
                    let answered = Box::pin(answer(&shared, request, met, (local, client), stream.is_none())).await;
                    answered.map(|(body, connection)| Answer::new(body, connection, outbox, stream))
                }
                ControlFlow::Break(refusal) => {
                    if stream.is_none() && !request.body().is_end_stream() && rest::is_coming(request.headers()) {
                        shared.tasks.spawn(rest::drain(request.into_body()));
                    }
                    refusal.map(|body| Answer::whole(body, stream))
                }
            };
            if let Some(hsts) = shared.tls.as_ref().and_then(|tls| tls.hsts()) {
                response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
            }
            if is_bodiless {
                leave_out_body(&mut response);
            }
            Ok::<_, h2::Error>(response)
        }
    });
    let builder = builder(&streams, &limits, is_h2);
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        ended = served.as_mut() => return ended,
        () = stop.cancelled() => {}
        () = streams.idle_for(limits.head_timeout), if is_h2 => {}
    }
    served.as_mut().graceful_shutdown();
    // Over HTTP/2 a client has to take its leave, and may never have begun.
    let parted = async {
        sleep(FAREWELL).await;
        streams.idle_for(FAREWELL).await;
    };
    tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = parted, if is_h2 => Ok(()),
    }
}

/// Answers a request that was let in; `sides` are this one's address and its client's. Of what its client still sends over HTTP/1.1 a little is read.
async fn answer<S: Service>(
    shared: &Shared<S>,
    request: hyper::Request<Incoming>,
    met: S::Met,
    (local, client): (SocketAddr, SocketAddr),
    is_h1: bool,
) -> hyper::Response<(BoxBody<Bytes, io::Error>, Connection)> {
    let leaves_rest = is_h1 && !request.body().is_end_stream() && rest::is_coming(request.headers());
    let scheme = if shared.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let (local, remote) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(client)));
    let mut request: poem::Request = (request, local, remote, scheme).into();
    let connection = Connection::default();
    request.set_data(connection.clone());
    let rest = leaves_rest.then(|| Rest::of(&mut request));
    let response = shared.service.answer(request, met).await;
    if let Some(drained) = rest.and_then(Rest::drained) {
        shared.tasks.spawn(drained);
    }
    hyper::Response::from(response).map(|body| (body, connection))
}

/// An answer to HEAD (RFC 9110, 9.3.2). Over HTTP/1.1 hyper does this.
fn leave_out_body(response: &mut hyper::Response<Answer>) {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    response.body_mut().leave_out();
}

/// Whatever comes before the first request. Each step has its time.
async fn open<S: Service>(mut stream: TcpStream, peer: SocketAddr, shared: &Shared<S>) -> io::Result<Opened> {
    let limits = &shared.limits;
    let (client, first) = match limits.announced_by.contains(peer.ip()) {
        true => timeout(limits.head_timeout, announced::read(&mut stream, peer)).await??,
        false => (peer, Bytes::new()),
    };
    let place = shared.places.for_connection(client.ip()).ok_or_else(|| io::Error::other("its address has all that it may"))?;
    let local = stream.local_addr()?;
    let outbox = Outbox::default();
    let socket = Socket::new(stream, first, outbox.clone(), limits.write_timeout)?;
    let (io, is_h2) = match &shared.tls {
        None => (Signing::new(Box::pin(socket), outbox.clone()), false),
        Some(tls) => {
            let accepted = timeout(limits.head_timeout, tls.accept(socket)).await?;
            if let Some(reason) = accepted.as_ref().err().and_then(tls::uncertified) {
                shared.service.uncertified(client.ip(), reason);
            }
            let stream = accepted?;
            let is_h2 = tls::speaks_h2(&stream);
            (Signing::new(Box::pin(stream), outbox.clone()), is_h2)
        }
    };
    Ok(Opened { client, local, io, outbox, is_h2, place })
}

fn builder(streams: &Streams, limits: &Limits, is_h2: bool) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams.clone());
    builder.http1().timer(Timer::default()).header_read_timeout(limits.head_timeout).max_buf_size(HEAD_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST_LIMIT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(WRONG_STREAMS)
        // Who does not answer a PING is gone, whatever is open.
        .keep_alive_interval(limits.head_timeout)
        .keep_alive_timeout(limits.head_timeout);
    if is_h2 { builder.http2_only() } else { builder.http1_only() }
}
