//! How many requests came in, and why the others did not.

use poem::http::StatusCode;

use super::Class;
use crate::{api::Error, measure::Counter};

/// How asking to come in can end, and the statuses that say so.
const OUTCOMES: [(&str, StatusCode); 5] = [
    ("admitted", StatusCode::OK),
    ("malformed", StatusCode::BAD_REQUEST),
    ("unauthorized", StatusCode::UNAUTHORIZED),
    ("limited", StatusCode::TOO_MANY_REQUESTS),
    ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
];

/// Counts.
#[derive(Default)]
pub(super) struct Tally([[Counter; OUTCOMES.len()]; Class::ALL.len()]);

/// How often a request of a class ended like this.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// The class.
    pub class: &'static str,
    /// `admitted`, or why not.
    pub outcome: &'static str,
    /// How often.
    pub count: u64,
}

impl Tally {
    /// A request came in, or did not because of that.
    pub(super) fn note(&self, class: Class, refusal: Option<&Error>) {
        let status = refusal.map_or(StatusCode::OK, Error::status);
        // What is none of these is a failure of the server.
        let outcome = OUTCOMES.iter().position(|(_, known)| *known == status).unwrap_or(OUTCOMES.len() - 1);
        self.0[class as usize][outcome].one();
    }

    pub(super) fn counts(&self) -> Vec<Count> {
        let of = |(class, counters): (Class, &[Counter; OUTCOMES.len()])| {
            let counts = counters.iter().map(Counter::get).zip(OUTCOMES);
            counts.map(|(count, (outcome, _))| Count { class: class.name(), outcome, count }).collect::<Vec<_>>()
        };
        Class::ALL.into_iter().zip(&self.0).flat_map(of).collect()
    }
}
