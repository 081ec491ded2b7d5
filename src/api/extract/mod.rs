//! What operations take from a request, checked strictly: a value is what the document says, or the request is refused with the place of the error.

mod body;
mod caller;
mod idempotency;
mod objects;
mod text;

pub use body::{Batch, Body, Limits, OptionalBody};
pub use caller::{Caller, SCHEMES, Scope};
pub use idempotency::IdempotencyKey;
pub use text::{Absent, FromText, Path, PathNames, Query};

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use poem::{Request, http::HeaderValue};
use tokio::time::Instant;

use super::{admission::Arrival, budget::Share, trace::Trace};

/// What goes with a request from [`super::edge`] on; clones are the same.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    arrival: Arrival,
    request_id: HeaderValue,
    trace: Trace,
    deadline: Deadline,
    limits: Limits,
    share: Share,
}

impl Context {
    /// How the request came, its id (which is ASCII), its trace, when it must be answered, how large its body may be, and what it holds of the server's memory.
    pub(super) fn new(arrival: Arrival, request_id: HeaderValue, trace: Trace, deadline: Deadline, limits: Limits, share: Share) -> Self {
        Self(Arc::new(Inner { arrival, request_id, trace, deadline, limits, share }))
    }

    /// That of a request.
    ///
    /// # Panics
    ///
    /// For a request that did not come through [`super::edge`].
    pub fn of(request: &Request) -> &Self {
        request.data().expect("the edge gives every request its context")
    }

    /// How it came.
    pub fn arrival(&self) -> &Arrival {
        &self.0.arrival
    }

    /// Its id.
    pub fn request_id(&self) -> &str {
        self.0.request_id.to_str().unwrap_or_default()
    }

    /// Its trace.
    pub(super) fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// When it must be answered.
    pub fn deadline(&self) -> &Deadline {
        &self.0.deadline
    }

    /// How large its body may be.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What it holds of the server's memory.
    pub fn share(&self) -> &Share {
        &self.0.share
    }
}

/// When a request must be answered.
#[derive(Debug)]
pub struct Deadline(Mutex<Instant>);

impl Deadline {
    /// The time from now.
    pub fn after(duration: Duration) -> Self {
        Self(Mutex::new(Instant::now() + duration))
    }

    /// The time.
    pub fn instant(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much later, since it is waited on purpose.
    pub fn extend(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}
