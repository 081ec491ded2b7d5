//! What all lists have in common.

use super::types::{Limit, Skip};
use crate::queue::Page;

/// A page as a request asks for it.
pub(super) fn page<Id>(limit: Limit, skip: Skip, after: Id) -> Page<Id> {
    Page { after, skip: skip.get(), limit: limit.get() }
}

/// The default `limit` of most lists.
pub(super) fn ten() -> Limit {
    Limit::new(10).expect("in range")
}

/// The default `limit` of the list of clients.
pub(super) fn hundred() -> Limit {
    Limit::new(100).expect("in range")
}

/// The default `skip`.
pub(super) fn zero() -> Skip {
    Skip::new(0).expect("in range")
}

/// The default `after_id`: below every id.
pub(super) fn start() -> i64 {
    0
}
