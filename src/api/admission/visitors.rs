//! What is allowed to an address from memory, before anything is asked or calculated for what it brings.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use crate::access::ClientAddress;

/// Of how many addresses a server keeps count.
const ADDRESSES: usize = 10_000;

/// How many of each kind an address has checked at a time. Its failures are counted when they are known, so it may have nearly as many too many of each.
const AT_ONCE: usize = 4;

/// How many tokens of an address over its limit are looked for in a second.
const HEARINGS: u32 = 8;

/// What somebody brings that is not known here. Each kind has places of its own: who brings what is good waits for nobody who makes things up, however long it
/// takes to find out that there is no such thing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Brought {
    /// A key whose id was given out. Only who knows such an id can take these places, and looking at one costs PostgreSQL next to nothing: its record is copied.
    IssuedKey,
    /// A key whose id was made up, or is so new that nobody has told this server yet.
    OtherKey,
    /// A token.
    Token,
}

impl Brought {
    const KINDS: usize = 3;
}

/// The addresses from which somebody has brought what is not known here.
pub(super) struct Visitors(Cache<ClientAddress, Arc<Visitor>>);

struct Visitor {
    places: [Arc<Semaphore>; Brought::KINDS],
    /// How many were heard in the second that began then.
    heard: Mutex<(Instant, u32)>,
}

impl Default for Visitors {
    fn default() -> Self {
        Self(Cache::new(ADDRESSES))
    }
}

impl Visitors {
    /// Waits until one more of these of this address may be checked: until it is dropped.
    pub(super) async fn place(&self, address: ClientAddress, brought: Brought) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.visitor(address).places[brought as usize]).acquire_owned().await.ok()
    }

    /// Whether one more token is looked for although the address is over its limit.
    pub(super) fn may_be_heard(&self, address: ClientAddress, now: Instant) -> bool {
        let visitor = self.visitor(address);
        let mut heard = visitor.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(heard.0) >= Duration::from_secs(1) {
            *heard = (now, 0);
        }
        heard.1 += 1;
        heard.1 <= HEARINGS
    }

    fn visitor(&self, address: ClientAddress) -> Arc<Visitor> {
        let new = || {
            let heard = Mutex::new((Instant::now(), 0));
            let places = std::array::from_fn(|_| Arc::new(Semaphore::new(AT_ONCE)));
            Arc::new(Visitor { places, heard })
        };
        let known: Result<_, std::convert::Infallible> = self.0.get_or_insert_with(&address, || Ok(new()));
        known.unwrap_or_else(|_| new())
    }
}

/// Checks what an address has brought, also if its client goes away meanwhile: whoever does so each time would have no failures.
pub(super) async fn to_the_end<T: Send + 'static>(check: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(check.in_current_span()).await {
        Ok(outcome) => outcome,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, pin::pin};

    use futures_util::{future::join_all, poll};

    use super::*;

    fn address(last: u8) -> ClientAddress {
        IpAddr::from([192, 0, 2, last]).into()
    }

    #[tokio::test]
    async fn an_address_has_few_places_of_each_kind_and_takes_none_from_others() {
        let visitors = Visitors::default();
        for brought in [Brought::OtherKey, Brought::Token, Brought::IssuedKey] {
            let mut places = join_all((0..AT_ONCE).map(|_| visitors.place(address(1), brought))).await;
            let mut waiting = pin!(visitors.place(address(1), brought));
            assert!(poll!(waiting.as_mut()).is_pending(), "{brought:?}");
            assert!(poll!(pin!(visitors.place(address(2), brought))).is_ready(), "{brought:?}");
            places.pop();
            assert!(poll!(waiting.as_mut()).is_ready(), "{brought:?}");
            // They stay taken while the other kinds are looked at.
            std::mem::forget(places);
        }
    }

    #[test]
    fn an_address_is_heard_so_often_in_a_second() {
        let (visitors, start) = (Visitors::default(), Instant::now());
        let heard = |address, ms| (0..100).filter(|_| visitors.may_be_heard(address, start + Duration::from_millis(ms))).count();
        assert_eq!([heard(address(1), 0), heard(address(1), 999), heard(address(2), 999), heard(address(1), 5_000)], [8, 0, 8, 8]);
    }
}
