//! When keys were last used, told to the database now and then and never by a request.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::access::{KeyId, Keys};

/// How often a key's last use is written at most.
const INTERVAL: Duration = Duration::from_secs(60);

/// Uses that were not written yet, and when those of a key were.
#[derive(Default)]
pub(super) struct LastUsed(Mutex<HashMap<KeyId, Use>>);

#[derive(Clone, Copy)]
struct Use {
    at: Instant,
    written: Option<Instant>,
}

impl LastUsed {
    /// A key was used.
    pub(super) fn note(&self, id: KeyId) {
        let at = Instant::now();
        self.lock().entry(id).and_modify(|last| last.at = at).or_insert(Use { at, written: None });
    }

    /// Writes what is due. What cannot be written is due again.
    pub(super) async fn write(&self, keys: &Keys) {
        let now = Instant::now();
        let due = |last: &Use| last.written.is_none_or(|written| written + INTERVAL <= now && last.at > written);
        let uses: Vec<(KeyId, Duration)> =
            self.lock().iter().filter(|(_, last)| due(last)).map(|(id, last)| (*id, now.duration_since(last.at))).collect();
        if uses.is_empty() || keys.store.touch(&uses).await.is_err() {
            return;
        }
        let mut all = self.lock();
        for (id, _) in &uses {
            if let Some(last) = all.get_mut(id) {
                last.written = Some(now);
            }
        }
        // Keys that are no longer used are forgotten; if they come again they are written at once.
        all.retain(|_, last| last.at + 2 * INTERVAL > now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<KeyId, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
