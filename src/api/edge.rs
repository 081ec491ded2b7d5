//! The outermost layer: what every request goes through, whatever becomes of it.
//!
//! It gives the request an id, a deadline and a span, catches what goes wrong (also panics) and gives it the one shape, and writes one line in the log. Who was
//! over their limit a moment ago is refused before any of that costs anything.

use std::{
    cell::LazyCell,
    collections::HashSet,
    io,
    net::IpAddr,
    ops::{ControlFlow, Deref},
    panic::AssertUnwindSafe,
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Body as _;
use percent_encoding::percent_decode_str;
use poem::{
    Endpoint, Request, Response,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
};
use tokio::time::{Instant, error::Elapsed, timeout_at};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{
    Cors, Draining, Error, State,
    admission::{Arrival, Gate},
    audit::{self, KeptOut},
    budget::{Budget, Share},
    cors,
    extract::{Context, Deadline, Limits},
    reply::protect,
    routes::MatchedPath,
    trace::Trace,
    traffic::{Answered, Route, Traffic},
};
use crate::{
    http::{Head, Service, Whole},
    telemetry::audit::Audit,
};

/// The header that carries a request's id in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the body extractor needs to say that a body was too slow, before the whole request is given up.
const GRACE: Duration = Duration::from_millis(500);

/// The outermost layer.
pub struct Edge<E> {
    inner: E,
    gate: Gate,
    cors: Cors,
    draining: Draining,
    audit: Audit,
    /// Paths that nobody is kept from.
    open: HashSet<String>,
    limits: Limits,
    budget: Budget,
    timeout: Duration,
    traffic: Traffic,
}

impl<E> Edge<E> {
    /// Everything in `inner` must be answered within `timeout`, and the bodies on their way in and out fit in the budget. Nobody is kept from the paths that are
    /// `open`.
    pub fn new(inner: E, state: &State, open: HashSet<String>, limits: Limits, budget: Budget, timeout: Duration) -> Self {
        let State { gate, traffic, cors, draining, audit, .. } = state.clone();
        Self { inner, gate, audit, traffic, cors, draining, open, limits, budget, timeout }
    }

    /// The refusal of whoever was over their limit a moment ago. It comes before the route is looked for, so also where there is none.
    fn refusal(&self, head: &Head<'_>, arrival: &Arrival) -> Option<Error> {
        let refusal = self.gate.refusal(arrival).filter(|_| check_target(head).is_ok())?;
        let path = head.uri.path();
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let is_open = *head.method == Method::OPTIONS || self.open.contains(path);
        (!is_open).then_some(refusal)
    }

    /// What every answer says besides.
    fn complete(&self, headers: &mut HeaderMap, id: HeaderValue, cors: cors::Answer<'_>, version: Version) {
        headers.insert(REQUEST_ID, id);
        cors.add_to(headers);
        if version <= Version::HTTP_11 && self.draining.has_begun() {
            // A proxy that keeps connections takes another one for its next request, before this server closes them all.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// What is known by its head of a request that was let in.
pub struct Met {
    id: HeaderValue,
    trace: Trace,
    start: Instant,
    arrival: Arrival,
    /// What is wrong with its target, if anything is.
    wrong: Option<Error>,
}

impl<E: Endpoint<Output = Response> + 'static> Service for Edge<E> {
    type Met = Met;

    fn meet(&self, head: &Head<'_>) -> ControlFlow<Whole, Met> {
        let (start, arrival, id) = (Instant::now(), self.gate.arrival(head), request_id(head.headers));
        let Some(refusal) = self.refusal(head, &arrival) else {
            return ControlFlow::Continue(Met { id, trace: Trace::of(head.headers), start, arrival, wrong: check_target(head).err() });
        };
        // Mostly nobody wants to know.
        let trace = LazyCell::new(|| Trace::of(head.headers));
        let (text, status) = (text(&id), refusal.status());
        let mut answer = span(text, &trace).in_scope(|| {
            let answered = Answered { route: None, method: head.method, status, took: start.elapsed(), id: text };
            note(&self.traffic, &answered, || *trace);
            self.gate.note_refusal(&arrival, &refusal);
            let kept_out = KeptOut { method: head.method, arrival: &arrival, request_id: text, route: None, error: &refusal };
            kept_out.record(&self.audit, &self.gate, || *trace);
            refusal.into_answer(text)
        });
        self.complete(answer.headers_mut(), id, self.cors.answer(head.method, head.headers), head.version);
        ControlFlow::Break(answer)
    }

    async fn answer(&self, request: Request, met: Met) -> Response {
        let (cors, version) = (self.cors.answer(request.method(), request.headers()), request.version());
        let (id, span) = (met.id.clone(), span(text(&met.id), &&met.trace));
        // In a place of its own, which need not be moved again: it is large.
        let mut response = Box::pin(self.within(request, met)).instrument(span).await;
        self.complete(response.headers_mut(), id, cors, version);
        response
    }

    fn uncertified(&self, client: IpAddr, reason: &'static str) {
        self.traffic.uncertified();
        audit::uncertified(&self.audit, client, reason);
    }
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().expect("ids are printable ASCII")
}

fn span(id: &str, trace: &impl Deref<Target = Trace>) -> Span {
    tracing::info_span!("request", id, trace.id = %trace.id(), span.id = %trace.span_id())
}

/// Counts an answer, and writes a request's line in the log.
fn note(traffic: &Traffic, answered: &Answered<'_>, trace: impl FnOnce() -> Trace) {
    traffic.answered(answered, trace);
    let Answered { route, method, status, took, .. } = answered;
    // The route, not the path: what stands in a path or a query is a parameter's value, which no log carries.
    let (route, duration_ms) = (route.map_or("-", Route::path), took.as_secs_f64() * 1e3);
    tracing::info!(method = method.as_str(), route, status = status.as_u16(), duration_ms, "answered");
}

impl<E: Endpoint<Output = Response>> Edge<E> {
    /// Answers what was let in, in its span.
    async fn within(&self, mut request: Request, met: Met) -> Response {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut line = Line::new(request.method().clone(), &self.traffic, &met);
        let Met { id, trace, arrival, wrong, .. } = met;
        let context = Context::new(arrival, id, trace, Deadline::after(self.timeout), self.limits, self.budget.share());
        request.set_data(context.clone());
        let result = match wrong {
            None => {
                let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
                in_time(context.deadline(), answer).await
            }
            Some(error) => Ok(Ok(Err(error.into()))),
        };
        let (error, path) = match result {
            Ok(Ok(Ok(mut response))) => {
                let path = response.extensions_mut().remove::<MatchedPath>();
                match held(response, context.share(), is_safe) {
                    Ok(mut response) => {
                        protect(response.headers_mut());
                        line.finish(response.status(), path);
                        return response;
                    }
                    Err(error) => (error, path),
                }
            }
            Ok(Ok(Err(error))) => {
                let path = error.data::<MatchedPath>().cloned();
                (Error::from_framework(error), path)
            }
            Ok(Err(panic)) => (Error::internal(format!("panic: {}", panic_text(&*panic))), None),
            Err(_) => (Error::unavailable("The server could not answer in time. Try again in a moment."), None),
        };
        line.finish(error.status(), path);
        let (parts, body) = error.into_answer(context.request_id()).into_parts();
        let mut response = Response::builder().status(parts.status).body(body);
        *response.headers_mut() = parts.headers;
        response
    }
}

/// Waits for an answer until the deadline, which may move meanwhile.
async fn in_time<T>(deadline: &Deadline, answer: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut answer = pin!(answer);
    loop {
        let until = deadline.instant();
        match timeout_at(until + GRACE, &mut answer).await {
            Err(_) if deadline.instant() > until => {}
            answered => return answered,
        }
    }
}

/// Bytes of an answer that is too small to be counted.
const SMALL: usize = 64 * 1024;

/// What an answer can say of itself, for its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bulk {
    /// The server has them in memory anyway.
    Shared,
    /// What they tell of has happened, whatever the method: there is no way back.
    Done,
}

/// An answer that holds its bytes' share of the budget until it is sent. One that tells of something done is sent even if it does not fit: to be told to
/// try again, its client would do it twice.
fn held(mut response: Response, share: &Share, is_safe: bool) -> Result<Response, Error> {
    let bulk = response.extensions().get::<Bulk>().copied();
    if bulk == Some(Bulk::Shared) {
        return Ok(response);
    }
    let body: BoxBody<Bytes, io::Error> = response.take_body().into();
    let length = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let counted = if length > SMALL { length } else { 0 };
    match share.grow_to(counted) {
        Err(error) if is_safe && bulk.is_none() => return Err(error),
        Err(_) => {}
        Ok(()) => share.shrink_to(counted),
    }
    let body = if counted > 0 { share.clone().held_by(body) } else { body };
    response.set_body(poem::Body::from(body));
    Ok(response)
}

/// Refuses a request that has no or two Host headers (RFC 9112, 3.2), or over HTTP/2 one that contradicts `:authority` (RFC 9113, 8.3.1), and a path or
/// query whose percent-encoding says nothing.
fn check_target(&Head { uri, version, headers, .. }: &Head<'_>) -> Result<(), Error> {
    let hosts = headers.get_all(header::HOST).iter().count();
    let authority = uri.authority().filter(|_| version == Version::HTTP_2);
    let is_contradicted = authority.is_some_and(|authority| headers.get(header::HOST).is_some_and(|host| host != authority.as_str()));
    if hosts > 1 || is_contradicted || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Error::bad_request("A request must have one Host header.").closing());
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if !target.contains('%') {
        return Ok(());
    }
    let escapes_are_whole = target.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    });
    if escapes_are_whole && percent_decode_str(target).decode_utf8().is_ok() {
        return Ok(());
    }
    Err(Error::new(StatusCode::BAD_REQUEST, "The path or the query is not valid percent-encoded UTF-8."))
}

/// The caller's id for the request if it is one (at most 128 printable ASCII characters), or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_usable = |given: &&HeaderValue| {
        let given = given.as_bytes();
        (1..=128).contains(&given.len()) && given.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
    };
    match headers.get(&REQUEST_ID).filter(is_usable) {
        Some(given) => given.clone(),
        None => {
            let mut text = Uuid::encode_buffer();
            HeaderValue::from_str(Uuid::now_v7().hyphenated().encode_lower(&mut text)).expect("a UUID is ASCII")
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of an unknown kind")
}

/// A request's line in the log. Written also when the client goes away and the request is dropped.
struct Line<'a> {
    method: Method,
    traffic: &'a Traffic,
    trace: Trace,
    id: HeaderValue,
    start: Instant,
    written: bool,
}

impl<'a> Line<'a> {
    fn new(method: Method, traffic: &'a Traffic, met: &Met) -> Self {
        Self { method, traffic, trace: met.trace, id: met.id.clone(), start: met.start, written: false }
    }

    fn finish(&mut self, status: StatusCode, path: Option<MatchedPath>) {
        self.written = true;
        let Self { method, id, .. } = &*self;
        let route = path.as_ref().map(|path| &*path.0);
        let answered = Answered { route, method, status, took: self.start.elapsed(), id: text(id) };
        note(self.traffic, &answered, || self.trace);
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.written {
            self.traffic.gone();
            let duration_ms = self.start.elapsed().as_secs_f64() * 1e3;
            tracing::info!(method = self.method.as_str(), duration_ms, "the client went away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is told to try again does it twice.
    #[test]
    fn an_answer_that_does_not_fit_is_refused_only_if_nothing_was_done() {
        let budget = Budget::new(2 * SMALL);
        let answer = || Response::builder().body(vec![0; 3 * SMALL]);
        assert!(held(answer(), &budget.share(), true).is_err(), "a GET can be sent again");
        assert!(held(answer(), &budget.share(), false).is_ok(), "a POST was done");
        let mut claim = answer();
        claim.extensions_mut().insert(Bulk::Done);
        assert!(held(claim, &budget.share(), true).is_ok(), "a claim was made");
        let fits = held(Response::builder().body(vec![0; 2 * SMALL]), &budget.share(), true).expect("it fits");
        assert!(budget.share().grow_to(1).is_err(), "it holds all there is");
        drop(fits);
        assert!(budget.share().grow_to(2 * SMALL).is_ok(), "and gives it back");
    }
}
