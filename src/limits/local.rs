//! Windows in this server's own memory, for when Redis is away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use quick_cache::sync::Cache;

use super::{
    Window,
    window::{Ask, Decision, Log, decide},
};

/// How many windows are kept; of others what they admitted is forgotten.
const WINDOWS: usize = 4096;

/// The windows. They know nothing of what was admitted while Redis was there, so a subject may get one more window at most.
pub struct Local {
    start: Instant,
    logs: Cache<(String, &'static str), Arc<Mutex<Log>>>,
}

impl Default for Local {
    fn default() -> Self {
        Self { start: Instant::now(), logs: Cache::new(WINDOWS) }
    }
}

impl Local {
    /// Decides as all servers together would if each gets the same share: of a limit, one of `servers` parts, and at least one request.
    pub fn admit(&self, subject: &str, windows: &[Window], own_limit: Option<u32>, servers: usize) -> Decision {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let logs: Vec<_> = windows.iter().map(|window| self.log(subject, window.name)).collect();
        // One after the other in the order of the windows, which is the same for all requests.
        let mut locked: Vec<_> = logs.iter().map(|log| log.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        let mut asked: Vec<(&mut Log, Ask)> =
            locked.iter_mut().zip(windows).map(|(log, window)| (&mut **log, share(window, own_limit, servers))).collect();
        decide(now_ms, &mut asked)
    }

    fn log(&self, subject: &str, name: &'static str) -> Arc<Mutex<Log>> {
        let made: Result<_, std::convert::Infallible> = self.logs.get_or_insert_with(&(subject.to_owned(), name), || Ok(Arc::default()));
        made.unwrap_or_default()
    }
}

fn share(window: &Window, own_limit: Option<u32>, servers: usize) -> Ask {
    let limit = own_limit.filter(|_| window.own_limit).unwrap_or(window.limit);
    let part = limit / u32::try_from(servers.max(1)).unwrap_or(u32::MAX);
    let limit = if limit == 0 { 0 } else { part.max(1) };
    Ask { limit, length_ms: u64::try_from(window.length.as_millis()).unwrap_or(u64::MAX), weight: window.weight }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Verdict;

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
}
