//! What operations take from a request, checked strictly: a value is what the document says, or the request is refused with the place of the error.

mod body;
mod caller;
mod objects;
mod text;

pub use body::{Batch, Body, Limits};
pub use caller::{Caller, SCHEMES, Scope};
pub use text::{Absent, FromText, Path, PathNames, Query};

use std::time::Duration;

use tokio::time::Instant;

/// When the request must be answered. Set by [`super::edge`].
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The time from now.
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    /// The time.
    pub fn instant(self) -> Instant {
        self.0
    }
}
