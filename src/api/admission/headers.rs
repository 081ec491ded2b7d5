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
    let [window, reset] = [*window_seconds, whole_seconds(standing.reset_ms, *window_seconds)].map(|number| number.to_string());
    [
        (RATE_LIMIT_POLICY, value(["\"", policy, "\";q=", &limit, ";w=", &window])),
        (RATE_LIMIT, value(["\"", policy, "\";r=", &remaining, ";t=", &reset])),
    ]
}

/// Rounded up, so that who waits for it is admitted, but never to more than the window is said to be. It is a millisecond longer (`admit.lua`), for which the
/// server waits ([`super::decide`]).
fn whole_seconds(ms: u64, window_seconds: u64) -> u64 {
    ms.div_ceil(1000).min(window_seconds)
}

/// 429.
pub(super) fn too_many(retry_after_ms: Option<u64>, told: Option<&Told>) -> Error {
    let window_seconds = told.map_or(u64::MAX, |told| told.window_seconds);
    let seconds = retry_after_ms.map_or(1, |wait| whole_seconds(wait, window_seconds).max(1));
    let error = Error::new(StatusCode::TOO_MANY_REQUESTS, format!("Rate limit exceeded. Try again in {seconds} seconds."))
        .with_header(header::RETRY_AFTER, HeaderValue::from(seconds));
    let fields = told.map(fields).into_iter().flatten();
    fields.fold(error, |error, (name, value)| error.with_header(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Verdict;

    fn told(reset_ms: u64) -> Told {
        let standing = Standing { limit: 10, remaining: 0, reset_ms, verdict: Verdict::Admits };
        Told { policy: "default", window_seconds: 60, standing }
    }

    #[test]
    fn nobody_is_told_to_wait_for_longer_than_the_window_is_said_to_be() {
        for (ms, seconds) in [(60_001, 60), (60_000, 60), (59_001, 60), (59_000, 59), (1_001, 2), (1, 1)] {
            let [(_, policy), (_, limit)] = fields(&told(ms));
            assert_eq!(policy, "\"default\";q=10;w=60");
            assert_eq!(limit, format!("\"default\";r=0;t={seconds}"), "{ms} ms");
            let refusal = too_many(Some(ms), Some(&told(ms))).into_answer("");
            assert_eq!(refusal.headers()[header::RETRY_AFTER], seconds.to_string(), "{ms} ms");
            assert_eq!(refusal.headers()[RATE_LIMIT], limit, "{ms} ms");
        }
    }
}
