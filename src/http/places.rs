//! How much one address may hold at once.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::access::{ClientAddress, TrustedProxies};

/// How often the log says that an address has all that it may.
const SAID: Duration = Duration::from_secs(60);

/// Who holds how much.
pub(super) struct Places {
    /// Requests over HTTP/2 at once, of all connections together.
    streams: Arc<Semaphore>,
    for_each: usize,
    exempt: TrustedProxies,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    places: HashMap<ClientAddress, usize>,
    said: Option<Instant>,
}

/// One connection, or one request over HTTP/2.
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<ClientAddress>,
    _stream: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// `for_each` address, 0 for any number; `exempt` are those who speak for many. There are so many `streams` for all of them.
    pub(super) fn new(streams: usize, for_each: usize, exempt: TrustedProxies) -> Arc<Self> {
        Arc::new(Self { streams: Arc::new(Semaphore::new(streams)), for_each, exempt, held: Mutex::default() })
    }

    /// A place for a connection of this address, if it does not hold as many as it may.
    pub(super) fn for_connection(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let is_counted = self.for_each > 0 && !self.exempt.contains(address);
        self.take(is_counted.then(|| address.into()), None)
    }

    fn take(self: &Arc<Self>, address: Option<ClientAddress>, stream: Option<OwnedSemaphorePermit>) -> Option<Place> {
        if let Some(address) = address {
            let mut held = self.held();
            let count = held.places.entry(address).or_default();
            if *count >= self.for_each {
                if held.said.is_none_or(|said| said.elapsed() >= SAID) {
                    held.said = Some(Instant::now());
                    tracing::warn!(%address, limit = self.for_each, "an address has all the connections that it may, more are closed at once");
                }
                return None;
            }
            *count += 1;
        }
        Some(Place { places: self.clone(), address, _stream: stream })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A place for a request over this connection, beside others.
    pub(super) fn for_stream(&self) -> Option<Self> {
        let stream = self.places.streams.clone().try_acquire_owned().ok()?;
        self.places.take(self.address, Some(stream))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        if let Entry::Occupied(mut held) = self.places.held().places.entry(address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gives_them_back() {
        let places = Places::new(2, 3, "10.0.0.1".parse().expect("a network"));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let [one, other] = ["2001:db8::1", "2001:db8::2"].map(|text| places.for_connection(address(text)).expect("there is room"));
        let stream = other.for_stream().expect("there is room");
        assert!(one.for_stream().is_none(), "three of three of the /64 are taken");
        assert!(places.for_connection(address("2001:db8::3")).is_none());
        let neighbour = places.for_connection(address("2001:db8:0:1::1")).expect("another network");
        let second = neighbour.for_stream().expect("there is room");
        drop(one);
        assert!(other.for_stream().is_none(), "both streams are taken");
        drop(second);
        assert!(other.for_stream().is_some());
        let proxied: Vec<_> = (0..10).map(|_| places.for_connection(address("::ffff:10.0.0.1"))).collect();
        assert!(proxied.iter().all(Option::is_some), "a trusted proxy speaks for many");
        drop((other, stream, neighbour));
        assert!(places.held().places.is_empty(), "nobody is remembered who has gone");
    }
}
