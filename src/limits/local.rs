//! Windows in this server's own memory, for when Redis is away.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use quick_cache::sync::Cache;

use super::{
    Verdict, Window,
    window::{Ask, Decision, Log, MAX_LIMIT, decide},
};

/// How many windows are kept of each kind of subject; of others what they admitted is forgotten.
const WINDOWS: usize = 4096;

/// The windows. They know nothing of what was admitted while Redis was there, so a subject may get one more window at most.
pub struct Local {
    start: Instant,
    keys: Books,
    addresses: Books,
}

type Books = Cache<(String, &'static str), Arc<Mutex<Book>>>;

/// What kind of subject it is. Whoever comes from many addresses makes a server forget no keys' windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key, of which there are as many as were given out.
    Key,
    /// An address, alone or with what is presented from there: anybody may have any number.
    Address,
}

/// What one window of a subject has admitted.
#[derive(Default)]
struct Book {
    log: Log,
    /// How many of those Redis has not heard of, and of which window they are.
    owed: u32,
    window: Option<Window>,
}

/// What this server has admitted and Redis has not heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Of what kind the subject is.
    pub kind: Kind,
    /// Whose.
    pub subject: String,
    /// The window with the limit that counts for the subject, and with what is owed as its weight.
    pub window: Window,
}

impl Default for Local {
    fn default() -> Self {
        Self { start: Instant::now(), keys: Cache::new(WINDOWS), addresses: Cache::new(WINDOWS) }
    }
}

impl Local {
    /// Decides as all servers together would if each gets the same share: of a limit, one of `servers` parts, and at least one request.
    pub fn admit(&self, kind: Kind, subject: &str, windows: &[Window], own_limit: Option<u32>, servers: usize) -> Decision {
        let books: Vec<_> = windows.iter().map(|window| self.book(kind, subject, window.name)).collect();
        // One after the other in the order of the windows, which is the same for all requests.
        let mut locked: Vec<_> = books.iter().map(|book| lock(book)).collect();
        let windows: Vec<Window> = windows.iter().map(|window| effective(window, own_limit)).collect();
        let mut asked: Vec<(&mut Log, Ask)> =
            locked.iter_mut().zip(&windows).map(|(book, window)| (&mut book.log, share(window, servers))).collect();
        let decision = decide(self.now_ms(), &mut asked);
        if decision.verdict == Verdict::Admits {
            for (book, window) in locked.iter_mut().zip(windows) {
                book.owed = book.owed.saturating_add(window.weight);
                book.window = Some(window);
            }
        }
        decision
    }

    /// What Redis should hear of now that it is back. What has left its window is not owed any more.
    pub fn owed(&self) -> Vec<Owed> {
        let now_ms = self.now_ms();
        let of = |kind: Kind| {
            self.books(kind).iter().filter_map(move |((subject, _), book)| {
                let mut book = lock(&book);
                let window = book.window?;
                book.owed = book.owed.min(book.log.count(now_ms, share(&window, 1).length_ms));
                let weight = book.owed.min(window.limit);
                (weight > 0).then_some(Owed { kind, subject, window: Window { weight, ..window } })
            })
        };
        of(Kind::Key).chain(of(Kind::Address)).collect()
    }

    /// Redis has heard of this window's weight.
    pub fn paid(&self, Owed { kind, subject, window }: &Owed) {
        let book = self.book(*kind, subject, window.name);
        let mut book = lock(&book);
        book.owed = book.owed.saturating_sub(window.weight);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn books(&self, kind: Kind) -> &Books {
        match kind {
            Kind::Key => &self.keys,
            Kind::Address => &self.addresses,
        }
    }

    fn book(&self, kind: Kind, subject: &str, name: &'static str) -> Arc<Mutex<Book>> {
        let made: Result<_, std::convert::Infallible> =
            self.books(kind).get_or_insert_with(&(subject.to_owned(), name), || Ok(Arc::default()));
        made.unwrap_or_default()
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The window with the limit that counts, which Redis must be able to keep as well.
fn effective(window: &Window, own_limit: Option<u32>) -> Window {
    let limit = own_limit.filter(|_| window.own_limit).unwrap_or(window.limit);
    Window { limit: limit.min(MAX_LIMIT), own_limit: false, ..*window }
}

fn share(window: &Window, servers: usize) -> Ask {
    let part = window.limit / u32::try_from(servers.max(1)).unwrap_or(u32::MAX);
    let limit = if window.limit == 0 { 0 } else { part.max(1) };
    Ask { limit, length_ms: u64::try_from(window.length.as_millis()).unwrap_or(u64::MAX), weight: window.weight }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn servers_share_a_limit_and_each_has_at_least_one() {
        let window = Window { name: "api", limit: 10, length: Duration::from_secs(60), weight: 1, own_limit: true };
        let admitted = |own_limit, servers| {
            let local = Local::default();
            (0..100).filter(|_| local.admit(Kind::Key, "a", &[window], own_limit, servers).verdict == Verdict::Admits).count()
        };
        assert_eq!(admitted(None, 1), 10);
        assert_eq!(admitted(None, 3), 3);
        assert_eq!(admitted(None, 50), 1);
        assert_eq!(admitted(Some(40), 2), 20);
        assert_eq!(admitted(Some(0), 2), 100, "no limit");
    }

    #[test]
    fn what_was_admitted_is_owed_until_it_is_paid() {
        let window = Window { name: "api", limit: 10, length: Duration::from_secs(60), weight: 1, own_limit: true };
        let local = Local::default();
        for _ in 0..5 {
            local.admit(Kind::Key, "a", &[window], Some(4), 1);
        }
        local.admit(Kind::Key, "b", &[Window { weight: 0, ..window }], None, 1);
        let owed = local.owed();
        let [all @ Owed { subject, window: charge, .. }] = &owed[..] else { panic!("{owed:?}") };
        assert_eq!((subject.as_str(), charge.name, charge.limit, charge.weight), ("a", "api", 4, 4));
        assert_eq!(local.owed(), owed, "as long as nobody has said that it is paid");
        local.paid(all);
        assert_eq!(local.owed(), []);
        let verdict = local.admit(Kind::Key, "a", &[window], Some(4), 1).verdict;
        assert!(matches!(verdict, Verdict::After(_)), "the server itself does not forget it: {verdict:?}");
    }
    #[test]
    fn what_redis_is_to_hear_of_is_no_more_than_it_can_keep() {
        let window = Window { name: "api", limit: 10, length: Duration::from_secs(60), weight: 1, own_limit: true };
        let local = Local::default();
        local.admit(Kind::Key, "a", &[window], Some(u32::MAX), 1);
        local.admit(Kind::Address, "b", &[Window { limit: u32::MAX, ..window }], None, 1);
        assert_eq!(local.owed().iter().map(|owed| owed.window.limit).collect::<Vec<_>>(), [MAX_LIMIT, MAX_LIMIT]);
    }

    #[test]
    fn a_flood_from_many_addresses_makes_it_forget_no_key() {
        let window = Window { name: "api", limit: 10, length: Duration::from_secs(60), weight: 1, own_limit: true };
        let local = Local::default();
        let admit = |kind, subject: &str| local.admit(kind, subject, &[window], None, 1).verdict;
        while admit(Kind::Key, "key") == Verdict::Admits {}
        for n in 0..4 * WINDOWS {
            admit(Kind::Address, &format!("a:{n}"));
        }
        assert!(matches!(admit(Kind::Key, "key"), Verdict::After(_)), "its window is still full");
        let owed = local.owed();
        assert_eq!(owed.iter().find(|owed| owed.subject == "key").map(|owed| owed.window.weight), Some(10));
        assert!(owed.len() <= WINDOWS + 1, "{} addresses are kept", owed.len());
    }
}
