//! What of each request goes into the audit log. This is the only place where requests are recorded: every operation passes it
//! ([`super::routes`]), and whether it is recorded follows from what it is.
//!
//! - Who is refused (401, 403, 429, and what is told as if it were not there): told one by one for a while, then counted, by key as soon as it is known, else
//!   by address. What a known key was not allowed to change is told each time, as long as its limit bounds that ([`TOLD_EACH_TIME`]).
//! - Every operation that does more than read, with what came of it; also if nobody is there any more to be told.
//!
//! Of what was sent a line has the ids that servers gave out (numbers, and ids of keys) and the request's id; no other value.

use std::net::IpAddr;

use poem::{
    Request, Response, Result,
    http::{Method, StatusCode, Uri, header},
};
use poem_openapi::{Tags as _, registry::MetaOperation};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Error, Tag,
    admission::{Arrival, Gate, Pass, Principal, Who},
    document,
    error::Aside,
    extract::Context,
    trace::Trace,
};
use crate::{
    access::KeyId,
    telemetry::audit::{AUTHENTICATION_FAILED, Audit, Category, Event, Kind, Outcome, PERMISSION_DENIED, Subject},
};

/// The highest limit, in requests a minute, with which each try to change something has a line of its own: some megabytes a minute for a key. Who may send more,
/// or any number, is told for a while and then counted, as everybody is who only looks.
const TOLD_EACH_TIME: u32 = 10_000;

/// How an operation stands in the audit log.
pub(super) struct Audited {
    action: &'static str,
    category: Category,
    kind: Kind,
}

impl Audited {
    /// Nothing if it only reads what others may read as well.
    pub(super) fn of(operation: &MetaOperation) -> Option<Self> {
        if document::is_safe(operation) {
            return None;
        }
        let is_access = operation.tags.contains(&Tag::Access.name());
        let kind = match operation.method {
            Method::GET if is_access => Kind::Info,
            Method::DELETE => Kind::Deletion,
            _ => Kind::Change,
        };
        Some(Self { action: operation.operation_id?, category: if is_access { Category::Iam } else { Category::Api }, kind })
    }
}

/// A request on its way through an operation.
pub(super) struct Entry<'a> {
    audit: &'a Audit,
    audited: Option<&'a Audited>,
    route: &'a str,
    /// Once it came in, until it is answered.
    open: Option<Open>,
}

struct Open {
    principal: Principal,
    /// Its limit, if it has one.
    limit: Option<u32>,
    context: Context,
    method: Method,
    uri: Uri,
    /// The id of what was made.
    made: Option<Value>,
}

impl<'a> Entry<'a> {
    /// A request for what is at this path of the document.
    pub(super) fn new(audit: &'a Audit, audited: Option<&'a Audited>, route: &'a str) -> Self {
        Self { audit, audited, route, open: None }
    }

    /// It was kept out.
    pub(super) fn refused(&self, request: &Request, gate: &Gate, error: &Error) {
        let context = Context::of(request);
        let (method, arrival, request_id) = (request.method(), context.arrival(), context.request_id());
        let kept_out = KeptOut { method, arrival, request_id, route: Some(self.route), error };
        kept_out.record(self.audit, gate, || *context.trace());
    }

    /// It came in.
    pub(super) fn came_in(&mut self, request: &Request, pass: &Pass) {
        self.open = Some(Open {
            principal: pass.principal.clone(),
            limit: pass.limit(),
            context: Context::of(request).clone(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            made: None,
        });
    }

    /// This is what came of it.
    pub(super) fn answered(&mut self, answer: &Result<Response>) {
        let Some(mut open) = self.open.take() else { return };
        let (status, aside) = match answer {
            Ok(response) => (response.status(), None),
            Err(error) => (error.status(), error.downcast_ref::<Error>().and_then(Error::aside)),
        };
        let refusal = if aside == Some(Aside::Hidden) { Some(PERMISSION_DENIED) } else { refusal(status) };
        if let Some(action) = refusal {
            let event = || Event { status: Some(status.as_u16()), ..open.event(Event::refusal(action), self.route) };
            let is_bounded = open.limit.is_some_and(|limit| limit <= TOLD_EACH_TIME) && !matches!(open.principal.who(), Who::Anybody);
            let is_told_each_time = action == PERMISSION_DENIED && self.changes() && is_bounded;
            return match is_told_each_time {
                true => self.audit.record(&event()),
                false => self.audit.refuse(open.subject(), action, event),
            };
        }
        if let Ok(response) = answer {
            let location = response.headers().get(header::LOCATION);
            open.made = location.and_then(|at| at.to_str().ok()?.rsplit('/').next().and_then(id));
        }
        self.record(&open, Some(status));
    }

    /// Whether it does more than look.
    fn changes(&self) -> bool {
        self.audited.is_some_and(|audited| audited.kind != Kind::Info)
    }

    fn record(&self, open: &Open, status: Option<StatusCode>) {
        let Some(Audited { action, category, kind }) = self.audited else { return };
        let (kind, outcome) = match status {
            Some(StatusCode::CREATED) => (Kind::Creation, Outcome::Success),
            Some(status) if status.is_client_error() => (*kind, Outcome::Failure),
            Some(status) if !status.is_server_error() => (*kind, Outcome::Success),
            // It may have got as far as being done.
            _ => (*kind, Outcome::Unknown),
        };
        let event = Event { status: status.map(|status| status.as_u16()), ..Event::new(action, *category, kind, outcome) };
        self.audit.record(&open.event(event, self.route));
    }
}

/// Its client went away, its time was up, or the server failed.
impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.record(&open, None);
        }
    }
}

impl Open {
    fn event<'a>(&'a self, event: Event<'a>, route: &'a str) -> Event<'a> {
        let (user, key) = match self.principal.who() {
            Who::Anybody => ("anybody".to_owned(), None),
            Who::Configured(place) => (configured(*place), None),
            Who::Key(record) | Who::Token { key: record, .. } => {
                (owner(record.user.as_ref().map(|user| user.id), record.id), Some(record.id.to_string()))
            }
        };
        let mut target = target(route, self.uri.path());
        target.extend(self.made.clone().map(|made| ("made".to_owned(), made)));
        Event {
            user: Some(user),
            key,
            by_token: matches!(self.principal.who(), Who::Token { .. }),
            source: Some(self.context.arrival().ip()),
            request_id: Some(self.context.request_id()),
            method: Some(self.method.as_str()),
            route: Some(route),
            trace: Some(self.context.trace().id().to_string()),
            target,
            ..event
        }
    }

    fn subject(&self) -> Subject {
        match self.principal.who() {
            Who::Anybody => Subject::Address(self.context.arrival().ip()),
            Who::Configured(place) => Subject::Configured(*place),
            Who::Key(record) | Who::Token { key: record, .. } => of_key(record.id),
        }
    }
}

/// Somebody who was kept out, perhaps before it was known what from.
pub(super) struct KeptOut<'a> {
    pub(super) method: &'a Method,
    pub(super) arrival: &'a Arrival,
    pub(super) request_id: &'a str,
    /// Where to, if that is known.
    pub(super) route: Option<&'a str>,
    /// What they were told.
    pub(super) error: &'a Error,
}

impl KeptOut<'_> {
    /// Records it.
    pub(super) fn record(&self, audit: &Audit, gate: &Gate, trace: impl FnOnce() -> Trace) {
        let Self { method, arrival, request_id, route, error } = *self;
        let status = error.status();
        let Some(action) = refusal(status) else { return };
        // Who is over a limit of their own has shown that they are who they say.
        let subject = match error.aside() {
            Some(Aside::LimitOf(id)) => of_key(id),
            Some(Aside::LimitOfConfigured(place)) => Subject::Configured(place),
            Some(Aside::Hidden) | None => Subject::Address(arrival.ip()),
        };
        audit.refuse(subject, action, || {
            let (user, key) = match error.aside() {
                Some(Aside::LimitOf(id)) => (Some(owner(gate.user_of(id), id)), Some(id.to_string())),
                Some(Aside::LimitOfConfigured(place)) => (Some(configured(place)), None),
                Some(Aside::Hidden) | None => (None, None),
            };
            let claimed_key = arrival.claimed_key().filter(|_| key.is_none()).map(|id| id.to_string());
            Event {
                by_token: key.is_some() && arrival.has_token(),
                user,
                key,
                claimed_key,
                source: Some(arrival.ip()),
                request_id: Some(request_id),
                method: Some(method.as_str()),
                status: Some(status.as_u16()),
                route,
                trace: Some(trace().id().to_string()),
                ..Event::refusal(action)
            }
        });
    }
}

/// A client has shown no certificate that is good, and why that is so.
pub(super) fn uncertified(audit: &Audit, client: IpAddr, reason: &'static str) {
    audit.refuse(Subject::Address(client), AUTHENTICATION_FAILED, || Event {
        reason: Some(reason),
        source: Some(client),
        ..Event::refusal(AUTHENTICATION_FAILED)
    });
}

/// Whose refusals are counted together.
fn of_key(id: KeyId) -> Subject {
    Subject::Key(Uuid::from(id).as_u128())
}

/// Who a key speaks for.
fn owner(user: Option<i64>, key: KeyId) -> String {
    user.map_or_else(|| format!("key:{key}"), |user| format!("user:{user}"))
}

fn configured(place: usize) -> String {
    format!("configuration:{}", place + 1)
}

/// What a status that keeps somebody out is called.
fn refusal(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some(AUTHENTICATION_FAILED),
        StatusCode::FORBIDDEN => Some(PERMISSION_DENIED),
        StatusCode::TOO_MANY_REQUESTS => Some("limit_exceeded"),
        _ => None,
    }
}

/// The ids that stand in a path, under the names that the document gives them in its route.
fn target(route: &str, path: &str) -> Map<String, Value> {
    let named = route.split('/').zip(path.split('/')).filter_map(|(name, text)| {
        let name = name.strip_prefix('{')?.strip_suffix('}')?;
        Some((name.to_owned(), id(text)?))
    });
    named.collect()
}

/// An id that a server gave out: a number, or a key's. Whatever else somebody writes there is not repeated.
fn id(text: &str) -> Option<Value> {
    match text.parse::<i64>() {
        Ok(number) => Some(number.into()),
        Err(_) => text.parse::<KeyId>().ok().map(|id| id.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_servers_give_out_are_repeated() {
        let key = KeyId::make().to_string();
        assert_eq!((id("17"), id(&key)), (Some(17.into()), Some(key.into())));
        for other in ["", "node-1", "wn_01ARZ3NDEKTSV4RRFFQ69G5FAV_secret", "1e3", "99999999999999999999"] {
            assert_eq!(id(other), None, "{other}");
        }
    }

    #[test]
    fn the_ids_of_a_path_have_the_names_that_its_route_gives_them() {
        let target = |path| Value::Object(target("/jobs/{job_id}/attempts/{number}/start", path));
        assert_eq!(target("/jobs/17/attempts/2/start"), serde_json::json!({"job_id": 17, "number": 2}));
        assert_eq!(target("/jobs/17/attempts/x/start/"), serde_json::json!({"job_id": 17}));
    }
}
