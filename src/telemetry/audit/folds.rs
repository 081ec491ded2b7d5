//! Refusals by the thousand: the first few of each subject are told one by one, the rest are counted.
//!
//! What is kept is bounded, whoever sends: so many pairs of a subject and a kind of refusal, and the rest of the world together. Who is known has a table of
//! their own, so that nobody who has very many addresses can hide what a key does.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use super::{Event, FoldedBy};

/// How many refusals of one kind are told one by one, for each subject, until the counts are taken.
const WHOLE: u64 = 5;

/// How many pairs of a subject and a kind are counted apart, of those who are known and of those who are not.
const PAIRS: usize = 1024;

/// Whose refusals are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Whoever comes from an address (of IPv6 from a /64), of whom nothing else is known.
    Address(IpAddr),
    /// Whoever has a key, by its number.
    Key(u128),
    /// Whoever has a key of the configuration, by its place there.
    Configured(usize),
}

/// So many refusals that have no lines of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fold {
    /// From where; nothing for who is known, and for all others.
    pub(super) address: Option<IpAddr>,
    /// Who it was, as the lines before say it.
    pub(super) user: Option<String>,
    /// With which key.
    pub(super) key: Option<String>,
    /// Whether this is of somebody who is known; of all others together that is all that is said.
    pub(super) by: FoldedBy,
    pub(super) action: &'static str,
    pub(super) count: u64,
    pub(super) since: DateTime<Utc>,
}

/// Counts refusals.
#[derive(Default)]
pub(super) struct Folds {
    strangers: Mutex<Counts>,
    known: Mutex<Counts>,
}

/// By subject, which is none for all others, and kind.
type Counts = HashMap<(Option<Subject>, &'static str), Seen>;

struct Seen {
    count: u64,
    /// How many of them were told.
    whole: u64,
    since: DateTime<Utc>,
    user: Option<String>,
    key: Option<String>,
}

impl Folds {
    /// Notes a refusal. Returns its event if it is to be told, which is not made otherwise: of a subject that has many of them this costs a look into a map.
    pub(super) fn note<'a>(&self, subject: Subject, action: &'static str, event: impl FnOnce() -> Event<'a>) -> Option<Event<'a>> {
        let (counts, subject) = match subject {
            Subject::Address(address) => (&self.strangers, Subject::Address(network(address))),
            Subject::Key(_) | Subject::Configured(_) => (&self.known, subject),
        };
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pair = (Some(subject), action);
        if all.len() >= PAIRS && !all.contains_key(&pair) {
            pair.0 = None;
        }
        let whole = if pair.0.is_some() { WHOLE } else { 0 };
        let seen = all.entry(pair).or_insert_with(|| Seen { count: 0, whole, since: Utc::now(), user: None, key: None });
        seen.count += 1;
        if seen.count <= seen.whole {
            let event = event();
            (seen.user, seen.key) = (event.user.clone(), event.key.clone());
            return Some(event);
        }
        if seen.count == seen.whole + 1 {
            seen.since = Utc::now();
        }
        None
    }

    /// What was counted, and begins anew.
    pub(super) fn take(&self) -> Vec<Fold> {
        let all = [(FoldedBy::Address, &self.strangers), (FoldedBy::Key, &self.known)];
        let folds = all.into_iter().flat_map(|(by, counts)| {
            let counts = std::mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner));
            let counted = counts.into_iter().filter(|(_, seen)| seen.count > seen.whole);
            counted.map(move |((subject, action), seen)| seen.into_fold(subject, by, action))
        });
        folds.collect()
    }
}

impl Seen {
    fn into_fold(self, subject: Option<Subject>, by: FoldedBy, action: &'static str) -> Fold {
        let address = match subject {
            Some(Subject::Address(address)) => Some(address),
            Some(Subject::Key(_) | Subject::Configured(_)) | None => None,
        };
        Fold { address, user: self.user, key: self.key, by, action, count: self.count - self.whole, since: self.since }
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

    /// How many of so many refusals are told.
    fn told(folds: &Folds, subject: Subject, action: &'static str, times: usize) -> usize {
        let user = match subject {
            Subject::Address(_) => None,
            Subject::Key(number) => Some(format!("key:{number}")),
            Subject::Configured(place) => Some(format!("configuration:{place}")),
        };
        let event = || Event { user: user.clone(), key: user.clone(), ..Event::refusal(action) };
        (0..times).filter(|_| folds.note(subject, action, event).is_some()).count()
    }

    fn at(address: &str) -> Subject {
        Subject::Address(address.parse().expect("an address"))
    }

    #[test]
    fn the_first_are_told_and_the_rest_are_counted_for_each_address() {
        let folds = Folds::default();
        assert_eq!((told(&folds, at("192.0.2.1"), "x", 100), told(&folds, at("192.0.2.2"), "x", 3)), (5, 3));
        let (first, second) = (at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::1"));
        assert_eq!((told(&folds, first, "x", 4), told(&folds, second, "x", 4)), (4, 1), "a /64 is one");
        let taken = folds.take();
        assert!(taken.iter().all(|fold| fold.by == FoldedBy::Address), "{taken:?}");
        let mut taken: Vec<_> = taken.into_iter().map(|fold| (fold.address.map(|at| at.to_string()), fold.count)).collect();
        taken.sort();
        assert_eq!(taken, [(Some("192.0.2.1".to_owned()), 95), (Some("2001:db8:1:2::".to_owned()), 3)]);
        assert_eq!((folds.take(), told(&folds, at("192.0.2.1"), "x", 1)), (Vec::new(), 1));
    }

    #[test]
    fn whoever_is_known_is_counted_by_kind_and_named() {
        let folds = Folds::default();
        let [one, other, configured] = [Subject::Key(1), Subject::Key(2), Subject::Configured(1)];
        let noted = [(one, "x", 9), (one, "y", 2), (other, "x", 6), (configured, "x", 7)]
            .map(|(of, action, times)| told(&folds, of, action, times));
        assert_eq!(noted, [5, 2, 5, 5]);
        let taken = folds.take();
        assert!(taken.iter().all(|fold| fold.by == FoldedBy::Key), "{taken:?}");
        let mut taken: Vec<_> = taken.into_iter().map(|fold| (fold.user, fold.key, fold.action, fold.count, fold.address)).collect();
        taken.sort();
        let expected = |name: &str, count| (Some(name.to_owned()), Some(name.to_owned()), "x", count, None);
        assert_eq!(taken, [expected("configuration:1", 2), expected("key:1", 4), expected("key:2", 1)]);
    }

    #[test]
    fn whoever_has_very_many_addresses_is_counted_as_one_and_hides_no_key() {
        let folds = Folds::default();
        for address in 0..100_000_u32 {
            told(&folds, Subject::Address(std::net::Ipv4Addr::from_bits(address).into()), "x", 1);
        }
        assert_eq!(told(&folds, Subject::Key(1), "x", 1), 1, "expected a key to be told of, whatever strangers do");
        assert_eq!(others(&folds), [(FoldedBy::Address, 100_000 - PAIRS as u64)]);
    }

    #[test]
    fn very_many_keys_take_no_more_room_than_that() {
        let folds = Folds::default();
        for number in 0..10_000 {
            told(&folds, Subject::Key(number), "x", 1);
        }
        assert_eq!(others(&folds), [(FoldedBy::Key, 10_000 - PAIRS as u64)]);
    }

    #[test]
    fn strangers_and_those_who_are_known_are_told_apart_where_nobody_is_named() {
        let folds = Folds::default();
        for number in 0..2_000_u32 {
            told(&folds, Subject::Address(std::net::Ipv4Addr::from_bits(number).into()), "x", 1);
            told(&folds, Subject::Key(number.into()), "x", 1);
        }
        told(&folds, Subject::Configured(0), "x", 7);
        assert_eq!(others(&folds), [(FoldedBy::Address, 2_000 - PAIRS as u64), (FoldedBy::Key, 2_007 - PAIRS as u64)]);
    }

    /// How many were counted in which of the tables, if none of them is named.
    fn others(folds: &Folds) -> Vec<(FoldedBy, u64)> {
        let taken = folds.take();
        assert!(taken.iter().all(|fold| fold.address.is_none() && fold.user.is_none() && fold.key.is_none()), "{taken:?}");
        taken.into_iter().map(|fold| (fold.by, fold.count)).collect()
    }
}
