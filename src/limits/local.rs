//! Windows in this server's own memory, for when Redis is away.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use quick_cache::sync::Cache;

use super::{
    Verdict, Window,
    window::{Ask, Decision, Log, decide},
};

/// How many windows are kept; of others what they admitted is forgotten.
const WINDOWS: usize = 4096;

/// The windows. They know nothing of what was admitted while Redis was there, so a subject may get one more window at most.
pub struct Local {
    start: Instant,
    books: Cache<(String, &'static str), Arc<Mutex<Book>>>,
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
    /// Whose.
    pub subject: String,
    /// The window with the limit that counts for the subject, and with what is owed as its weight.
    pub window: Window,
}

impl Default for Local {
    fn default() -> Self {
        Self { start: Instant::now(), books: Cache::new(WINDOWS) }
    }
}

impl Local {
    /// Decides as all servers together would if each gets the same share: of a limit, one of `servers` parts, and at least one request.
    pub fn admit(&self, subject: &str, windows: &[Window], own_limit: Option<u32>, servers: usize) -> Decision {
        let books: Vec<_> = windows.iter().map(|window| self.book(subject, window.name)).collect();
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
        let owed = self.books.iter().filter_map(|((subject, _), book)| {
            let mut book = lock(&book);
            let window = book.window?;
            book.owed = book.owed.min(book.log.count(now_ms, share(&window, 1).length_ms));
            let weight = book.owed.min(window.limit);
            (weight > 0).then_some(Owed { subject, window: Window { weight, ..window } })
        });
        owed.collect()
    }

    /// Redis has heard of this window's weight.
    pub fn paid(&self, subject: &str, window: &Window) {
        let book = self.book(subject, window.name);
        let mut book = lock(&book);
        book.owed = book.owed.saturating_sub(window.weight);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn book(&self, subject: &str, name: &'static str) -> Arc<Mutex<Book>> {
        let made: Result<_, std::convert::Infallible> = self.books.get_or_insert_with(&(subject.to_owned(), name), || Ok(Arc::default()));
        made.unwrap_or_default()
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The window with the limit that counts.
fn effective(window: &Window, own_limit: Option<u32>) -> Window {
    let limit = own_limit.filter(|_| window.own_limit).unwrap_or(window.limit);
    Window { limit, own_limit: false, ..*window }
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
            (0..100).filter(|_| local.admit("a", &[window], own_limit, servers).verdict == Verdict::Admits).count()
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
            local.admit("a", &[window], Some(4), 1);
        }
        local.admit("b", &[Window { weight: 0, ..window }], None, 1);
        let owed = local.owed();
        let [Owed { subject, window: charge }] = &owed[..] else { panic!("{owed:?}") };
        assert_eq!((subject.as_str(), charge.name, charge.limit, charge.weight), ("a", "api", 4, 4));
        assert_eq!(local.owed(), owed, "as long as nobody has said that it is paid");
        local.paid("a", charge);
        assert_eq!(local.owed(), []);
        let verdict = local.admit("a", &[window], Some(4), 1).verdict;
        assert!(matches!(verdict, Verdict::After(_)), "the server itself does not forget it: {verdict:?}");
    }
}
