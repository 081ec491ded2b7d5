//! Which keys there are, as far as it takes to tell an id that was given out from one that was made up, without asking anybody.

use std::{
    collections::HashSet,
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::access::KeyId;

/// The ids of keys that were given out. It may lack those that others gave out in the last seconds, and may have some that have ended since.
#[derive(Default)]
pub(super) struct Issued {
    ids: RwLock<HashSet<KeyId>>,
    is_complete: AtomicBool,
}

impl Issued {
    /// How many it holds, 16 bytes each and some more; the newest.
    pub(super) const MOST: usize = 100_000;

    pub(super) fn contains(&self, id: KeyId) -> bool {
        self.ids.read().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&id)
    }

    /// Some more.
    pub(super) fn add(&self, ids: Vec<KeyId>) {
        let mut all = self.ids.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let room = Self::MOST.saturating_sub(all.len());
        let new: Vec<KeyId> = ids.into_iter().filter(|id| !all.contains(id)).collect();
        if new.len() > room {
            // Then those that have ended make room, or the oldest.
            self.is_old();
        }
        all.extend(new.into_iter().take(room));
    }

    /// All of them.
    pub(super) fn set(&self, ids: Vec<KeyId>) {
        *self.ids.write().unwrap_or_else(std::sync::PoisonError::into_inner) = ids.into_iter().collect();
        self.is_complete.store(true, Ordering::Relaxed);
    }

    /// It may lack some.
    pub(super) fn is_old(&self) {
        self.is_complete.store(false, Ordering::Relaxed);
    }

    /// Whether it would rather be told all.
    pub(super) fn wants_all(&self) -> bool {
        !self.is_complete.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_held_than_there_is_room_for() {
        let issued = Issued::default();
        let id = KeyId::make();
        assert!(issued.wants_all() && !issued.contains(id));
        issued.set(vec![id]);
        issued.add(vec![id]);
        assert!(issued.contains(id) && !issued.wants_all());
        issued.add((0..Issued::MOST).map(|_| KeyId::make()).collect());
        assert_eq!(issued.ids.read().unwrap().len(), Issued::MOST);
        assert!(issued.wants_all());
    }
}
