//! Refusals by the thousand: the first few from each address are told one by one, the rest are counted.
//!
//! What is kept is bounded, whoever sends: so many addresses, and the rest of the world together.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

/// How many refusals of one kind are told one by one, for each address, until the counts are taken.
const WHOLE: u64 = 5;

/// How many addresses are counted apart.
const ADDRESSES: usize = 1024;

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It has a line of its own.
    Whole,
    /// It is counted.
    Counted,
}

/// So many refusals that have no lines of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fold {
    /// From where; nothing for all others.
    pub(super) address: Option<IpAddr>,
    pub(super) action: &'static str,
    pub(super) count: u64,
    pub(super) since: DateTime<Utc>,
}

/// Counts refusals.
#[derive(Default)]
pub(super) struct Folds(Mutex<HashMap<(Option<IpAddr>, &'static str), Seen>>);

struct Seen {
    count: u64,
    /// How many of them were told.
    whole: u64,
    since: DateTime<Utc>,
}

impl Folds {
    /// Notes a refusal. Of an address that has many of them this costs a look into a map.
    pub(super) fn note(&self, address: IpAddr, action: &'static str) -> Told {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subject = (Some(network(address)), action);
        if all.len() >= ADDRESSES && !all.contains_key(&subject) {
            subject.0 = None;
        }
        let whole = if subject.0.is_some() { WHOLE } else { 0 };
        let seen = all.entry(subject).or_insert_with(|| Seen { count: 0, whole, since: Utc::now() });
        seen.count += 1;
        if seen.count <= seen.whole {
            return Told::Whole;
        }
        if seen.count == seen.whole + 1 {
            seen.since = Utc::now();
        }
        Told::Counted
    }

    /// What was counted, and begins anew.
    pub(super) fn take(&self) -> Vec<Fold> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let counted = all.into_iter().filter(|(_, seen)| seen.count > seen.whole);
        counted.map(|((address, action), seen)| Fold { address, action, count: seen.count - seen.whole, since: seen.since }).collect()
    }
}

/// What counts as one address: of IPv6 a /64, as for limits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_told_and_the_rest_are_counted_for_each_address() {
        let folds = Folds::default();
        let told = |address: &str, times: usize| {
            (0..times).filter(|_| folds.note(address.parse().expect("an address"), "x") == Told::Whole).count()
        };
        assert_eq!((told("192.0.2.1", 100), told("192.0.2.2", 3)), (5, 3));
        assert_eq!((told("2001:db8:1:2::1", 4), told("2001:db8:1:2:ffff::1", 4)), (4, 1), "a /64 is one");
        let mut taken: Vec<_> = folds.take().into_iter().map(|fold| (fold.address.map(|at| at.to_string()), fold.count)).collect();
        taken.sort();
        assert_eq!(taken, [(Some("192.0.2.1".to_owned()), 95), (Some("2001:db8:1:2::".to_owned()), 3)]);
        assert_eq!((folds.take(), told("192.0.2.1", 1)), (Vec::new(), 1));
    }

    #[test]
    fn whoever_has_very_many_addresses_is_counted_as_one() {
        let folds = Folds::default();
        for address in 0..100_000_u32 {
            folds.note(std::net::Ipv4Addr::from_bits(address).into(), "x");
        }
        let taken = folds.take();
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].address, taken[0].count), (None, 100_000 - ADDRESSES as u64));
    }
}
