//! What of each request goes into the audit log. This is the only place where requests are recorded: every operation passes it
//! ([`super::routes`]), and whether it is recorded follows from what it is.
//!
//! - Who is refused (401, 403, 429): told one by one for a while, then counted by address.
//! - Every operation that does more than read, with what came of it; also if nobody is there any more to be told.
//!
//! Of what was sent a line has the ids that servers gave out (numbers, and ids of keys) and the request's id; no other value.

use poem::{
    Request, Response, Result,
    http::{Method, StatusCode, header},
};
use poem_openapi::{Tags as _, registry::MetaOperation};
use serde_json::{Map, Value};

use super::{
    Tag,
    admission::{Arrival, Principal, Who},
    document,
    extract::{Context, PathNames},
    trace::Trace,
};
use crate::{
    access::KeyId,
    telemetry::audit::{AUTHENTICATION_FAILED, Audit, Category, Event, Kind, Outcome},
};

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
    context: Context,
    method: Method,
    target: Map<String, Value>,
}

impl<'a> Entry<'a> {
    /// A request for what is at this path of the document.
    pub(super) fn new(audit: &'a Audit, audited: Option<&'a Audited>, route: &'a str) -> Self {
        Self { audit, audited, route, open: None }
    }

    /// It was kept out.
    pub(super) fn refused(&self, request: &Request, status: StatusCode) {
        let context = Context::of(request);
        let trace = || *context.trace();
        refused(self.audit, request.method(), context.arrival(), trace, context.request_id(), Some(self.route), status);
    }

    /// It came in.
    pub(super) fn came_in(&mut self, request: &Request, names: &PathNames, principal: &Principal) {
        let target = if self.audited.is_some() { target(request, names) } else { Map::new() };
        self.open =
            Some(Open { principal: principal.clone(), context: Context::of(request).clone(), method: request.method().clone(), target });
    }

    /// This is what came of it.
    pub(super) fn answered(&mut self, answer: &Result<Response>) {
        let Some(mut open) = self.open.take() else { return };
        let status = match answer {
            Ok(response) => response.status(),
            Err(error) => error.status(),
        };
        if let Some(action) = refusal(status) {
            return self.audit.refuse(open.context.arrival().ip(), action, || Event {
                status: Some(status.as_u16()),
                ..open.event(Event::refusal(action), self.route)
            });
        }
        if let Ok(response) = answer
            && let Some(made) = response.headers().get(header::LOCATION).and_then(|at| at.to_str().ok()?.rsplit('/').next().and_then(id))
        {
            open.target.insert("made".to_owned(), made);
        }
        self.record(&open, Some(status));
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
            Who::Configured(position) => (format!("configuration:{}", position + 1), None),
            Who::Key(record) | Who::Token { key: record, .. } => match &record.user {
                Some(user) => (format!("user:{}", user.id), Some(record.id.to_string())),
                None => (format!("key:{}", record.id), Some(record.id.to_string())),
            },
        };
        Event {
            user: Some(user),
            key,
            by_token: matches!(self.principal.who(), Who::Token { .. }),
            source: Some(self.context.arrival().ip()),
            request_id: Some(self.context.request_id()),
            method: Some(self.method.as_str()),
            route: Some(route),
            trace: Some(self.context.trace().id().to_string()),
            target: self.target.clone(),
            ..event
        }
    }
}

/// Somebody was kept out, perhaps before it was known what from.
pub(super) fn refused(
    audit: &Audit,
    method: &Method,
    arrival: &Arrival,
    trace: impl FnOnce() -> Trace,
    request_id: &str,
    route: Option<&str>,
    status: StatusCode,
) {
    let Some(action) = refusal(status) else { return };
    audit.refuse(arrival.ip(), action, || Event {
        claimed_key: arrival.claimed_key().map(|id| id.to_string()),
        source: Some(arrival.ip()),
        request_id: Some(request_id),
        method: Some(method.as_str()),
        status: Some(status.as_u16()),
        route,
        trace: Some(trace().id().to_string()),
        ..Event::refusal(action)
    });
}

/// What a status that keeps somebody out is called.
fn refusal(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some(AUTHENTICATION_FAILED),
        StatusCode::FORBIDDEN => Some("permission_denied"),
        StatusCode::TOO_MANY_REQUESTS => Some("limit_exceeded"),
        _ => None,
    }
}

/// The ids that stand in a path, under the names that the document gives them.
fn target(request: &Request, names: &PathNames) -> Map<String, Value> {
    let named = names.0.iter().enumerate().filter_map(|(number, name)| {
        let text = request.raw_path_param(&format!("param{number}"))?;
        Some((name.clone(), id(text)?))
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
}
