//! Fair shares of the pool.
//!
//! Transactions that wait for each other's locks wait with a connection in their hands. Those of one project alone could so take every connection and
//! stop all other projects. So each is in a *lane*, and a lane holds a part of the pool at most; the rest of it waits here, without a connection. (Two projects can
//! still take everything, and so can one where the pool has fewer than four connections.)

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose lane it is, by project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Of changes, which may wait for each other's locks: half of the pool.
    Changes(i64),
    /// Of those who walk past what others have locked: a quarter of it.
    Passing(i64),
}

/// The lanes that are in use.
#[derive(Clone)]
pub(super) struct Lanes {
    pool: usize,
    open: Arc<Mutex<HashMap<Lane, Arc<Semaphore>>>>,
}

/// A place in a lane, free again when dropped.
pub(super) struct Place {
    lane: Lane,
    permit: Option<OwnedSemaphorePermit>,
    lanes: Lanes,
}

impl Lane {
    fn width(self, pool: usize) -> usize {
        match self {
            Self::Changes(_) => (pool / 2).max(1),
            Self::Passing(_) => (pool / 4).max(1),
        }
    }
}

impl Lanes {
    /// Lanes for a pool of so many connections.
    pub(super) fn of_pool(size: usize) -> Self {
        Self { pool: size, open: Arc::default() }
    }

    /// Waits for a place, first come first served.
    pub(super) async fn enter(&self, lane: Lane) -> Place {
        // Made before waiting, so that a waiter that gives up also closes the lane behind it.
        let mut place = Place { lane, permit: None, lanes: self.clone() };
        let open = || Arc::new(Semaphore::new(lane.width(self.pool)));
        let places = self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(lane).or_insert_with(open).clone();
        place.permit = Some(places.acquire_owned().await.expect("lanes are not closed"));
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        let mut open = self.lanes.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is in the lane, or waits for it, holds it too.
        if open.get(&self.lane).is_some_and(|places| Arc::strong_count(places) == 1) {
            open.remove(&self.lane);
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
        let one = Lane::Changes(1);
        let taken = join_all([lanes.enter(one), lanes.enter(one)]).await;
        assert!(lanes.enter(one).now_or_never().is_none(), "the lane is full");
        assert!(lanes.enter(Lane::Changes(2)).now_or_never().is_some(), "another one is not");
        let passing = lanes.enter(Lane::Passing(1)).now_or_never();
        assert!(passing.is_some(), "who walks past locks does not wait for those who wait for locks");
        assert!(lanes.enter(Lane::Passing(1)).now_or_never().is_none(), "and has a quarter");
        drop((taken, passing));
        assert!(lanes.enter(one).now_or_never().is_some(), "it has places again");
        assert!(lanes.open.lock().expect("no panic").is_empty(), "lanes that nobody uses are forgotten");
    }
}
