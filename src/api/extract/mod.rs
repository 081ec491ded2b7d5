//! What operations take from a request, checked strictly: a value is what the document says, or the request is refused with the place of the error.

mod body;
mod caller;
mod idempotency;
mod objects;
mod text;

pub use body::{Batch, Body, Limits};
pub use caller::{Caller, SCHEMES, Scope};
pub use idempotency::IdempotencyKey;
pub use text::{Absent, FromText, Path, PathNames, Query};

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When the request must be answered. Set by [`super::edge`]; clones are the same.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// The time from now.
    pub fn after(duration: Duration) -> Self {
        Self(Arc::new(Mutex::new(Instant::now() + duration)))
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
