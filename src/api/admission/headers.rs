//! What answers say of limits: the fields of the IETF draft "RateLimit header fields for HTTP", and `Retry-After`.

use bytes::Bytes;
use poem::http::{HeaderName, HeaderValue, StatusCode, header};

use crate::{api::Error, limits::Standing};

pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How a window is told of: which policy it is, and how it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// The policy's name: `default`, or `degraded` for a server's share while Redis is away.
    pub(super) policy: &'static str,
    pub(super) window_seconds: u64,
    pub(super) standing: Standing,
}

/// The two fields.
pub(super) fn fields(told: &Told) -> [(HeaderName, HeaderValue); 2] {
    let Told { policy, window_seconds, standing } = told;
    let value = |names_and_numbers: [&str; 6]| {
        HeaderValue::from_maybe_shared(Bytes::from(names_and_numbers.concat())).expect("names and numbers are ASCII")
    };
    let [limit, remaining] = [standing.limit, standing.remaining].map(|number| number.to_string());
    let [window, reset] = [*window_seconds, standing.reset_ms.div_ceil(1000)].map(|number| number.to_string());
    [
        (RATE_LIMIT_POLICY, value(["\"", policy, "\";q=", &limit, ";w=", &window])),
        (RATE_LIMIT, value(["\"", policy, "\";r=", &remaining, ";t=", &reset])),
    ]
}

/// 429. `Retry-After` is rounded up, so that who waits for it is admitted.
pub(super) fn too_many(retry_after_ms: Option<u64>, told: Option<&Told>) -> Error {
    let seconds = retry_after_ms.map_or(1, |wait| wait.div_ceil(1000).max(1));
    let error = Error::new(StatusCode::TOO_MANY_REQUESTS, format!("Rate limit exceeded. Try again in {seconds} seconds."))
        .with_header(header::RETRY_AFTER, HeaderValue::from(seconds));
    let fields = told.map(fields).into_iter().flatten();
    fields.fold(error, |error, (name, value)| error.with_header(name, value))
}
