//! The time-out of a connection's next request, which nearly never comes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use hyper::rt;
use tokio::time::{Sleep, sleep_until};

/// A connection's clock. hyper sets it anew for each request; here that writes down the time, and only when a connection has waited for as long as it was first
/// told is the runtime's clock set again.
#[derive(Clone, Default)]
pub(super) struct Timer(Arc<Mutex<Alarm>>);

#[derive(Default)]
struct Alarm {
    /// When whoever waits is to be woken.
    at: Option<Instant>,
    /// Set to that time or to an earlier one.
    clock: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn alarm(&self) -> MutexGuard<'_, Alarm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl rt::Timer for Timer {
    fn sleep(&self, duration: std::time::Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.alarm().at = Some(deadline);
        Box::pin(Waiting(self.clone()))
    }
}

/// Waits for the alarm; a connection waits for one at a time.
struct Waiting(Timer);

impl rt::Sleep for Waiting {}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Alarm { at, clock } = &mut *self.0.alarm();
        let Some(at) = at.map(tokio::time::Instant::from_std) else { return Poll::Pending };
        let clock = clock.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if clock.deadline() > at {
            clock.as_mut().reset(at);
        }
        loop {
            ready!(clock.as_mut().poll(context));
            if clock.deadline() >= at {
                return Poll::Ready(());
            }
            clock.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::rt::Timer as _;

    use super::*;

    #[tokio::test]
    async fn it_rings_at_the_time_that_was_said_last() {
        let (timer, start) = (Timer::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        // As a connection does: it waits, is answered, and waits again.
        for ms in [50, 80, 120] {
            let mut waiting = timer.sleep_until(at(ms));
            assert!(futures_util::poll!(&mut waiting).is_pending() || start.elapsed() >= Duration::from_millis(ms));
        }
        timer.sleep_until(at(150)).await;
        assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
        let mut later = timer.sleep_until(at(3_600_000));
        assert!(futures_util::poll!(&mut later).is_pending());
        timer.sleep_until(at(200)).await;
        assert!((200..3_600_000).contains(&start.elapsed().as_millis()), "an earlier time than before: {:?}", start.elapsed());
        timer.sleep_until(at(100)).await;
    }
}
