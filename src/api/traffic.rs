//! What requests there were: how many of each route, method and status, and how long they took.
//!
//! A request finds its route's numbers by the path that it matched, and nothing of what it says becomes a name: methods and statuses that are none of ours are
//! counted together, and so is everything that matches no route. So there are only so many numbers, whatever is sent.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use poem::http::{Method, StatusCode};

use super::trace::Trace;
use crate::measure::{Counter, Distribution, Histogram, Span, Spans, Value};

/// Where the ranges of times end, in microseconds. Claims may wait for a minute.
const TIMES: &[u64] =
    &[500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000, 60_000_000];

/// What methods are counted as.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "other"];

/// What statuses are counted as, besides those that are none of them.
const STATUSES: [u16; 17] = [200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503];

/// The requests of one server; clones are the same.
#[derive(Clone)]
pub struct Traffic(Arc<Inner>);

struct Inner {
    routes: Mutex<Vec<Arc<Route>>>,
    unknown: Arc<Route>,
    gone: Counter,
    uncertified: Counter,
    spans: Option<Spans>,
}

/// A request, when it has been answered.
pub(super) struct Answered<'a> {
    /// Nothing if it matched none.
    pub(super) route: Option<&'a Route>,
    pub(super) method: &'a Method,
    pub(super) status: StatusCode,
    pub(super) took: Duration,
    /// Its id in the log.
    pub(super) id: &'a str,
}

/// A path as the document writes it, and what was asked of it.
pub struct Route {
    path: Box<str>,
    methods: [Requests; METHODS.len()],
}

/// What was asked of a route with one method.
struct Requests {
    times: Histogram,
    statuses: [Counter; STATUSES.len() + 1],
}

/// What was counted of one route and method.
#[derive(Debug)]
pub struct Count {
    /// The route; nothing for what matched none.
    pub route: Arc<Route>,
    /// The method, or `other`.
    pub method: &'static str,
    /// How many requests ended with which status. 0 stands for all others.
    pub statuses: Vec<(u16, u64)>,
    /// How long they took, in microseconds.
    pub times: Distribution,
}

impl Traffic {
    /// No requests yet. Each will be a span, if anybody wants them.
    pub fn new(spans: Option<Spans>) -> Self {
        Self(Arc::new(Inner {
            routes: Mutex::default(),
            unknown: Route::new(""),
            gone: Counter::default(),
            uncertified: Counter::default(),
            spans,
        }))
    }

    /// A new route.
    pub(super) fn route(&self, path: &str) -> Arc<Route> {
        let route = Route::new(path);
        self.0.routes.lock().unwrap_or_else(PoisonError::into_inner).push(route.clone());
        route
    }

    /// A request was answered. Its trace is asked for if it may be wanted.
    pub(super) fn answered(&self, answered: &Answered<'_>, trace: impl FnOnce() -> Trace) {
        let Answered { route, method, status, took, .. } = answered;
        let requests = &route.unwrap_or(&self.0.unknown).methods[place_of(method)];
        requests.times.observe_time(*took);
        let status = STATUSES.iter().position(|known| *known == status.as_u16());
        requests.statuses[status.unwrap_or(STATUSES.len())].one();
        if let Some(spans) = &self.0.spans
            && let trace = trace()
            && trace.is_sampled
        {
            spans.export(answered.span(&trace));
        }
    }

    /// A client went away before it was answered.
    pub(super) fn gone(&self) {
        self.0.gone.one();
    }

    /// How many clients went away before they were answered.
    pub fn clients_gone(&self) -> u64 {
        self.0.gone.get()
    }

    /// A client has shown no certificate that is good.
    pub(super) fn uncertified(&self) {
        self.0.uncertified.one();
    }

    /// How many clients have shown no certificate that is good.
    pub fn clients_uncertified(&self) -> u64 {
        self.0.uncertified.get()
    }

    /// How many spans there was no room for.
    pub fn spans_dropped(&self) -> u64 {
        self.0.spans.as_ref().map_or(0, Spans::dropped)
    }

    /// What was counted; what was never asked is left out.
    pub fn counts(&self) -> Vec<Count> {
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        routes.push(self.0.unknown.clone());
        let counts = routes.iter().flat_map(|route| METHODS.into_iter().zip(&route.methods).map(move |counted| (route, counted)));
        counts.filter_map(|(route, (method, requests))| requests.count(route, method)).collect()
    }
}

impl Answered<'_> {
    /// As OpenTelemetry's conventions for HTTP servers name it.
    fn span(&self, trace: &Trace) -> Span {
        let Self { status, .. } = self;
        let (method, route) = (METHODS[place_of(self.method)], self.route.map_or("", Route::path));
        let end = SystemTime::now();
        Span {
            trace: trace.id,
            id: trace.span,
            parent: trace.parent,
            name: format!("{method} {route}").trim_end().to_owned(),
            start: end.checked_sub(self.took).unwrap_or(end),
            end,
            attributes: vec![
                ("http.request.method", Value::Text(method.to_owned())),
                ("http.route", Value::Text(route.to_owned())),
                ("http.response.status_code", Value::Number(status.as_u16().into())),
                ("whatsnext.request_id", Value::Text(self.id.to_owned())),
            ],
            has_failed: status.is_server_error(),
        }
    }
}

impl Route {
    fn new(path: &str) -> Arc<Self> {
        let requests = || Requests { times: Histogram::new(TIMES), statuses: Default::default() };
        Arc::new(Self { path: path.into(), methods: std::array::from_fn(|_| requests()) })
    }

    /// The path as the document writes it.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl Requests {
    fn count(&self, route: &Arc<Route>, method: &'static str) -> Option<Count> {
        let statuses = STATUSES.into_iter().chain([0]).zip(self.statuses.iter().map(Counter::get));
        let statuses: Vec<(u16, u64)> = statuses.filter(|(_, count)| *count > 0).collect();
        (!statuses.is_empty()).then(|| Count { route: route.clone(), method, statuses, times: self.times.get() })
    }
}

fn place_of(method: &Method) -> usize {
    METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderMap;

    use super::*;

    #[test]
    fn what_is_none_of_ours_is_counted_together() {
        let traffic = Traffic::new(None);
        let route = traffic.route("/jobs/{job_id}");
        let answered = |route: Option<&Route>, method: &Method, status| {
            let answered = Answered { route, method, status, took: Duration::from_millis(3), id: "" };
            traffic.answered(&answered, || Trace::of(&HeaderMap::new()));
        };
        answered(Some(&*route), &Method::GET, StatusCode::OK);
        for n in 0..100 {
            let method = Method::from_bytes(format!("M{n}").as_bytes()).expect("a token");
            answered(Some(&*route), &method, StatusCode::METHOD_NOT_ALLOWED);
            answered(None, &method, StatusCode::from_u16(600 + n).expect("a status"));
        }
        let counts = traffic.counts();
        let seen: Vec<_> = counts.iter().map(|count| (count.route.path(), count.method, &count.statuses[..])).collect();
        assert_eq!(
            seen,
            [("/jobs/{job_id}", "GET", &[(200, 1)][..]), ("/jobs/{job_id}", "other", &[(405, 100)]), ("", "other", &[(0, 100)])]
        );
        assert_eq!((counts[1].times.count(), counts[1].times.sum), (100, 300_000));
    }
}
