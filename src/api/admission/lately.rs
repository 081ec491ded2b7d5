//! What was found out a moment ago.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use crate::{api::Error, coalesce::Together};

/// How long it is good.
const MOMENT: Duration = Duration::from_secs(1);

/// What was found out within the last second: once for all who want to know it.
pub(super) struct Lately<K: Eq + Hash, V> {
    /// With when it was asked for.
    found: Cache<K, (Instant, V)>,
    asked: Together<K, Result<V, Error>>,
}

impl<K: Copy + Eq + Hash, V: Clone> Lately<K, V> {
    /// With room for so many.
    pub(super) fn new(most: usize) -> Self {
        Self { found: Cache::new(most), asked: Together::default() }
    }

    /// What was found out, if that is not too long ago.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.found.get(key).filter(|(since, _)| since.elapsed() < MOMENT).map(|(_, found)| found)
    }

    /// Something was found out.
    pub(super) fn note(&self, key: K, found: V) {
        self.found.insert(key, (Instant::now(), found));
    }

    /// The same, after it was asked for where nothing is known: by one at a time.
    ///
    /// # Errors
    ///
    /// Those of whoever asks. They are not remembered.
    pub(super) async fn get_or_ask<F: Future<Output = Result<V, Error>>>(&self, key: K, ask: impl FnOnce() -> F) -> Result<V, Error> {
        if let Some(found) = self.get(&key) {
            return Ok(found);
        }
        let ask = async || {
            // It may have been answered while this one waited for their turn.
            if let Some(found) = self.get(&key) {
                return Ok(found);
            }
            let asked = Instant::now();
            let found = ask().await?;
            self.found.insert(key, (asked, found.clone()));
            Ok(found)
        };
        self.asked.ask(key, ask).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn however_many_want_to_know_it_is_asked_once() {
        let (lately, asked) = (Lately::new(10), AtomicUsize::new(0));
        let get = || {
            lately.get_or_ask("key", || async {
                yield_now().await;
                Ok(asked.fetch_add(1, Ordering::Relaxed))
            })
        };
        assert!(join_all((0..100).map(|_| get())).await.into_iter().all(|found| found.is_ok_and(|found| found == 0)));
        assert_eq!((lately.get(&"key"), lately.get(&"other")), (Some(0), None));
        lately.note("key", 7);
        assert_eq!(get().await.ok(), Some(7));
    }

    #[tokio::test]
    async fn what_failed_or_is_old_is_asked_again() {
        let lately = Lately::new(10);
        let failed = lately.get_or_ask((), || async { Err(Error::unavailable("not now")) }).await;
        assert!(failed.is_err());
        assert_eq!(lately.get_or_ask((), || async { Ok(1) }).await.ok(), Some(1));
        let old = Instant::now().checked_sub(MOMENT).expect("the machine runs for a second");
        lately.found.insert((), (old, 1));
        assert_eq!(lately.get_or_ask((), || async { Ok(2) }).await.ok(), Some(2));
    }
}
