//! Fair shares of the pool.
//!
//! Transactions that wait for each other's locks wait with a connection in their hands. Those of one project alone could so take every connection and
//! stop all other projects. So each is in a *lane*, and a lane holds at most half of the pool; the rest of it waits here, without a connection. (Two projects can
//! still take everything, and a pool of one connection has only one lane.)

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The lanes that are in use.
#[derive(Clone)]
pub(super) struct Lanes {
    width: usize,
    open: Arc<Mutex<HashMap<i64, Arc<Semaphore>>>>,
}

/// A place in a lane, free again when dropped.
pub(super) struct Place {
    key: i64,
    permit: Option<OwnedSemaphorePermit>,
    lanes: Lanes,
}

impl Lanes {
    /// Lanes for a pool of so many connections.
    pub(super) fn of_pool(size: usize) -> Self {
        Self { width: (size / 2).max(1), open: Arc::default() }
    }

    /// Waits for a place, first come first served.
    pub(super) async fn enter(&self, key: i64) -> Place {
        // Made before waiting, so that a waiter that gives up also closes the lane behind it.
        let mut place = Place { key, permit: None, lanes: self.clone() };
        let lane = self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert_with(|| self.lane()).clone();
        place.permit = Some(lane.acquire_owned().await.expect("lanes are not closed"));
        place
    }

    fn lane(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.width))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        let mut open = self.lanes.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is in the lane, or waits for it, holds it too.
        if open.get(&self.key).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test]
    async fn a_lane_takes_half_of_the_pool_and_others_have_theirs() {
        let lanes = Lanes::of_pool(5);
        let taken = join_all([lanes.enter(1), lanes.enter(1)]).await;
        assert!(lanes.enter(1).now_or_never().is_none(), "the lane is full");
        assert!(lanes.enter(2).now_or_never().is_some(), "another one is not");
        drop(taken);
        assert!(lanes.enter(1).now_or_never().is_some(), "it has places again");
        assert!(lanes.open.lock().expect("no panic").is_empty(), "lanes that nobody uses are forgotten");
    }
}
