//! Wakes who makes jobs ready when their time comes, if a job was added or changed here whose time is nearer than the next look.
//!
//! Only what is submitted or changed can be: a job that backs off waits for a whole second at least, which is as long as anybody sleeps. The times are compared by this
//! server's clock, which decides no more than when somebody looks; whether a job is due the database's says.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// One sleeper's alarm.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// When the sleeper looks again. Nothing while it looks: it may have looked past what comes now.
    next: Mutex<Option<Instant>>,
    nearer: Notify,
}

impl Alarm {
    /// A job was added, or changed, that is due then.
    pub(super) fn set(&self, due: DateTime<Utc>) {
        let due = Instant::now() + (due - Utc::now()).to_std().unwrap_or_default();
        if self.next().is_none_or(|next| due < next) {
            self.nearer.notify_one();
        }
    }

    /// Sleeps so long, or until the next look has to be sooner.
    pub(super) async fn sleep(&self, time: Duration) {
        *self.next() = Some(Instant::now() + time);
        let _ = timeout(time, self.nearer.notified()).await;
        *self.next() = None;
    }

    fn next(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn whoever_sleeps_is_woken_by_what_is_nearer_and_by_what_came_while_it_looked() {
        let alarm = Alarm::default();
        let sleeps = async |time: Duration| timeout(Duration::from_millis(200), alarm.sleep(time)).await.is_err();
        alarm.set(Utc::now() + LONG * 10);
        assert!(!sleeps(LONG).await, "it may have looked past it");
        assert!(sleeps(LONG).await, "nothing was added");
        let (slept, ()) = tokio::join!(sleeps(LONG), async { alarm.set(Utc::now() + LONG * 2) });
        assert!(slept, "the next look is soon enough");
        for due in [LONG / 2, Duration::ZERO] {
            let (slept, ()) = tokio::join!(sleeps(LONG), async { alarm.set(Utc::now() + due) });
            assert!(!slept, "the next look would be too late for what is due in {due:?}");
        }
        let (slept, ()) = tokio::join!(sleeps(LONG), async { alarm.set(DateTime::<Utc>::MAX_UTC) });
        assert!(slept, "nobody waits for the end of time");
    }
}
