//! Who is over a limit, remembered for a moment: a flood of refusals is answered without asking Redis.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Standing;

/// How long at most. A limit that was raised, or a window that was reset, is noticed after this time.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How many are remembered.
const SUBJECTS: usize = 10_000;

/// A refusal, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How each window stands, in the order asked.
    pub standings: Vec<Option<Standing>>,
    /// When it would be admitted.
    pub retry_after_ms: Option<u64>,
}

/// What was refused a moment ago.
pub struct Refused(Cache<String, (Instant, Refusal)>);

impl Default for Refused {
    fn default() -> Self {
        Self(Cache::new(SUBJECTS))
    }
}

impl Refused {
    /// The refusal that holds at this time for what is asked under this name.
    pub fn get(&self, name: &str, now: Instant) -> Option<Refusal> {
        let (since, refusal) = self.0.get(name)?;
        let passed = now.saturating_duration_since(since);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        if passed >= REMEMBERED || refusal.retry_after_ms.is_some_and(|wait| wait <= passed_ms) {
            return None;
        }
        Some(Refusal { retry_after_ms: refusal.retry_after_ms.map(|wait| wait - passed_ms), ..refusal })
    }

    /// Remembers it.
    pub fn put(&self, name: String, now: Instant, refusal: Refusal) {
        self.0.insert(name, (now, refusal));
    }

    /// Forgets it.
    pub fn forget(&self, name: &str) {
        self.0.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_until_it_is_over_and_for_a_second_at_most() {
        let (refused, now) = (Refused::default(), Instant::now());
        let wait = |retry_after_ms| Refusal { standings: Vec::new(), retry_after_ms };
        let at = |ms| now + Duration::from_millis(ms);
        refused.put("short".to_owned(), now, wait(Some(300)));
        refused.put("long".to_owned(), now, wait(Some(30_000)));
        refused.put("never".to_owned(), now, wait(None));
        assert_eq!(refused.get("short", at(299)), Some(wait(Some(1))));
        assert_eq!(refused.get("short", at(300)), None);
        assert_eq!(refused.get("long", at(999)), Some(wait(Some(29_001))));
        assert_eq!(refused.get("never", at(999)), Some(wait(None)));
        assert_eq!((refused.get("long", at(1000)), refused.get("never", at(1000)), refused.get("other", now)), (None, None, None));
    }
}
