//! What goes wrong with a request, told in one shape (`problem.rs`).
//!
//! An [`Error`] has two messages: `detail` is for the caller, `cause` for the log. What is not one of ours (an unknown route, a panic, an error of the
//! framework) becomes one in [`Error::from_framework`], so that there is no second shape.

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

use poem::{
    error::{MethodNotAllowedError, NotFoundError, ResponseError},
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaResponses, Registry},
    types::Type as _,
};
use serde_json::Value;

use super::problem::{Invalid, Problem, Written, problem_meta};
use crate::{access::KeyId, http::Whole, postgres, queue};

/// Seconds after which trying again makes sense while a store is away or busy.
pub(super) const RETRY_SECONDS: u32 = 1;

/// Something that went wrong with a request.
#[derive(Debug, Clone)]
pub struct Error(Arc<Wrong>);

#[derive(Debug, Clone)]
struct Wrong {
    status: StatusCode,
    detail: String,
    errors: Vec<Invalid>,
    current_attempt: Option<i32>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
    aside: Option<Aside>,
    /// What has been told somebody already.
    written: OnceLock<Written>,
}

/// What the audit log is to know of an error, and its caller is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aside {
    /// It is told as if there were nothing, to who may not know that there is something.
    Hidden,
    /// It is the limit of this key that was used up, and it is that key.
    LimitOf(KeyId),
    /// The same of a key of the configuration, by its place there.
    LimitOfConfigured(usize),
}

impl Error {
    /// A refusal with this status; `detail` is for the caller.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Arc::new(Wrong {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            current_attempt: None,
            headers: Vec::new(),
            cause: None,
            aside: None,
            written: OnceLock::new(),
        }))
    }

    /// The same with something changed.
    fn with(mut self, change: impl FnOnce(&mut Wrong)) -> Self {
        let wrong = Arc::make_mut(&mut self.0);
        wrong.written = OnceLock::new();
        change(wrong);
        self
    }

    /// 400: what the request says does not fit together.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 422 because of one value.
    pub fn invalid(loc: Vec<Value>, kind: &'static str, msg: impl Into<String>) -> Self {
        let msg = msg.into();
        let place: Vec<String> = loc.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), ToOwned::to_owned)).collect();
        let detail = format!("Invalid request: {}: {msg}.", place.join("."));
        let invalid = Invalid { loc, msg, kind: kind.to_owned() };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(|wrong| wrong.errors.push(invalid))
    }

    /// 500. The caller learns that it happened, the log learns what.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "The server failed to handle this request. Its log says why, under this request's id.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail).with_cause(cause)
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS))
    }

    /// The same with another header.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.with(|wrong| wrong.headers.push((name, value)))
    }

    /// The same, after which the connection is closed: what else comes over it is no request.
    #[must_use]
    pub fn closing(self) -> Self {
        self.with_header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// The same with something for the log.
    #[must_use]
    pub fn with_cause(self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.with(|wrong| wrong.cause = Some(cause.into().into()))
    }

    /// The same, of which the audit log is to know this. The answer stays as it is.
    #[must_use]
    pub(super) fn with_aside(self, aside: Aside) -> Self {
        self.with(|wrong| wrong.aside = Some(aside))
    }

    /// What the audit log is to know.
    pub(super) fn aside(&self) -> Option<Aside> {
        self.0.aside
    }

    /// Takes ours as they are and gives every other error of the framework our shape.
    pub fn from_framework(error: poem::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(ours) => return ours,
            Err(error) => error,
        };
        if error.is::<NotFoundError>() {
            return Self::new(StatusCode::NOT_FOUND, "There is no such path here. The OpenAPI document lists those that there are.");
        }
        if error.is::<MethodNotAllowedError>() {
            return Self::new(StatusCode::METHOD_NOT_ALLOWED, "This path does not take that method.");
        }
        if error.status().is_client_error() {
            let status = error.status();
            return Self::new(status, "The request could not be read.").with_cause(error.to_string());
        }
        Self::internal(error.to_string())
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The answer, with the request's id in it. A 5xx is logged with all its causes; what a client does wrong is its own affair.
    pub fn into_answer(self, request_id: &str) -> Whole {
        let Wrong { status, detail, cause, written, .. } = &*self.0;
        if status.is_server_error() {
            let chain = cause.as_deref().map(chain).unwrap_or_default();
            tracing::error!(status = status.as_u16(), detail, cause = chain, "request failed");
        }
        written.get_or_init(|| self.0.write()).answer(request_id)
    }
}

impl Wrong {
    fn write(&self) -> Written {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            current_attempt: self.current_attempt,
            request_id: String::new(),
        };
        Written::new(&problem, self.status, &self.headers)
    }
}

/// An error and what caused it, for the log.
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl std::error::Error for Error {}

impl ResponseError for Error {
    fn status(&self) -> StatusCode {
        self.0.status
    }
}

impl From<queue::Error> for Error {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Database(error) => error.into(),
            queue::Error::Shared(error) => match &*error {
                queue::Error::Database(error) => of_database(error).with_cause(chain(error)),
                error => of_queue(error),
            },
            error => of_queue(&error),
        }
    }
}

fn of_queue(error: &queue::Error) -> Error {
    use queue::Error::{
        Archived, Circular, Database, Held, InFlight, NameTaken, NotFound, NotNow, OnlyStatus, OtherProject, OtherRequest, OthersClient,
        PageTooLarge, Shared, Stale, UnknownDependency, UnknownProject, UnknownTask, Unregistered, Unserved, Waited,
    };
    let refused = |status| Error::new(status, error.to_string());
    match error {
        NotFound(_) | Unregistered(_) => refused(StatusCode::NOT_FOUND),
        OnlyStatus | OthersClient(_) => refused(StatusCode::FORBIDDEN),
        Stale { current, .. } => refused(StatusCode::CONFLICT).with(|wrong| wrong.current_attempt = Some(*current)),
        NameTaken(_) | Waited { .. } | NotNow { .. } | InFlight => refused(StatusCode::CONFLICT),
        Held(_) => Error::unavailable(error.to_string()),
        OtherRequest => Error::invalid(vec!["header".into(), "Idempotency-Key".into()], "invalid", error.to_string()),
        UnknownProject(_) | UnknownTask { .. } | UnknownDependency { .. } | Circular(_) | OtherProject(..) | Archived(_) => {
            refused(StatusCode::BAD_REQUEST)
        }
        PageTooLarge(_) => Error::invalid(vec!["query".into(), "limit".into()], "out_of_range", error.to_string()),
        Database(error) => of_database(error),
        Unserved => Error::internal(error.to_string()),
        Shared(error) => of_queue(error),
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        of_database(&error).with_cause(error)
    }
}

fn of_database(error: &postgres::Error) -> Error {
    match error {
        postgres::Error::Crowded => {
            Error::unavailable("The server sends as many large pages as it can. Try again in a moment, or ask for fewer at once.")
        }
        postgres::Error::Busy => {
            Error::unavailable("The server has more to do than it has connections to its database. Try again in a moment.")
        }
        error if error.is_transient() => Error::unavailable("The database is not available right now. Try again in a moment."),
        error => Error::internal(error.to_string()),
    }
}

/// A status that an operation can end with, besides those that all of them share ([`mod@super::document`]).
pub trait Outcome {
    /// The status and what it means.
    const STATUSES: &'static [(u16, &'static str)];
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])* $name:ident = $status:literal),* $(,)?) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug)]
            pub struct $name;
            impl Outcome for $name {
                const STATUSES: &'static [(u16, &'static str)] = &[($status, concat!($($doc),*))];
            }
        )*
    };
}

outcomes! {
    /// The request names something that does not exist, or does not fit together.
    BadRequest = 400,
    /// What the path names does not exist.
    NotFound = 404,
    /// It contradicts what is there; the detail says what.
    Conflict = 409,
}

/// The operation has no outcome of its own.
#[derive(Debug)]
pub struct Nothing;

impl Outcome for Nothing {
    const STATUSES: &'static [(u16, &'static str)] = &[];
}

impl<A: Outcome, B: Outcome> Outcome for (A, B) {
    const STATUSES: &'static [(u16, &'static str)] = &[A::STATUSES[0], B::STATUSES[0]];
}

impl<A: Outcome, B: Outcome, C: Outcome> Outcome for (A, B, C) {
    const STATUSES: &'static [(u16, &'static str)] = &[A::STATUSES[0], B::STATUSES[0], C::STATUSES[0]];
}

/// An [`Error`] of an operation that documents the outcomes `O`.
#[derive(Debug)]
pub struct Refusal<O = Nothing>(Error, PhantomData<fn() -> O>);

impl<O, E: Into<Error>> From<E> for Refusal<O> {
    fn from(error: E) -> Self {
        Self(error.into(), PhantomData)
    }
}

impl<O> From<Refusal<O>> for poem::Error {
    fn from(refusal: Refusal<O>) -> Self {
        refusal.0.into()
    }
}

impl<O: Outcome> ApiResponse for Refusal<O> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: O::STATUSES.iter().map(|(status, description)| problem_meta(*status, description.trim_start())).collect(),
        }
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}
