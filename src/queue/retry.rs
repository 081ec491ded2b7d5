//! What is done after an attempt failed.

/// How often a job is tried. What a job leaves open is what its task says, or else the server's [`Policy`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retry {
    /// How many attempts may fail before the job has.
    pub max_attempts: Option<i32>,
    /// Seconds before the second attempt; twice as long before each further one.
    pub backoff_seconds: Option<i32>,
}

/// What holds where nobody said another thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// As [`Retry::max_attempts`].
    pub max_attempts: i32,
    /// As [`Retry::backoff_seconds`].
    pub backoff_seconds: i32,
    /// How long the lease of a job lasts that was fetched by a client which sends no heartbeats; nothing for no lease.
    pub fetch_lease_seconds: Option<i32>,
}

/// Where waiting stops to grow, in seconds; who asks for more gets that, every time.
pub(super) const LONGEST_BACKOFF_SECONDS: f64 = 3600.0;

impl Default for Policy {
    /// As in `deploy/config/default.toml`.
    fn default() -> Self {
        Self { max_attempts: 3, backoff_seconds: 10, fetch_lease_seconds: None }
    }
}

impl Policy {
    /// How many seconds a job waits after it has failed once more; nothing if it may not be tried again. `failed` is how often it had failed before.
    ///
    /// `attempts/give_back.sql` says the same for many at once.
    pub(super) fn next(&self, retry: Retry, failed: i32) -> Option<f64> {
        if failed + 1 >= retry.max_attempts.unwrap_or(self.max_attempts) {
            return None;
        }
        let base = f64::from(retry.backoff_seconds.unwrap_or(self.backoff_seconds));
        Some((base * 2_f64.powi(failed.min(30))).min(base.max(LONGEST_BACKOFF_SECONDS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_the_one_before_up_to_an_hour_and_the_last_attempt_has_none() {
        let policy = Policy::default();
        let next = |max_attempts, backoff_seconds, failed| policy.next(Retry { max_attempts, backoff_seconds }, failed);
        assert_eq!([0, 1, 2, 3].map(|failed| next(None, None, failed)), [Some(10.0), Some(20.0), None, None]);
        assert_eq!(next(Some(1), None, 0), None);
        assert_eq!([0, 1, 5].map(|failed| next(Some(100), Some(0), failed)), [Some(0.0); 3]);
        assert_eq!([8, 9, 90].map(|failed| next(Some(100), None, failed)), [Some(2560.0), Some(3600.0), Some(3600.0)]);
        assert_eq!([0, 5].map(|failed| next(Some(100), Some(86_400), failed)), [Some(86_400.0); 2]);
    }
}
