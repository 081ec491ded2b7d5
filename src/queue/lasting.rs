//! Work that goes on for a moment when nobody waits for it any more.
//!
//! A request's future is dropped when its client goes away. In the moment of a commit nobody would know then what came of it, and what follows from it would
//! not be done. What takes longer than a moment waits for somebody else, and is given up, which frees its connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};

/// How long work goes on.
const MOMENT: Duration = Duration::from_millis(100);

/// Work that costs nothing more than its box while somebody waits for it, and is a task of its own from then on.
#[must_use]
pub(in crate::queue) struct Lasting<T: Send + 'static>(Option<Work<T>>);

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<T: Send + 'static> Lasting<T> {
    pub(in crate::queue) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Lasting<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out meanwhile: what ends in a panic does not go on.
        let mut work = self.0.take().expect("it has not ended");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Lasting<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(timeout(MOMENT, work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::AssertUnwindSafe, sync::Arc};

    use futures_util::{FutureExt as _, poll};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_goes_on_for_a_moment_and_is_given_up_then() {
        let gate = Arc::new(Semaphore::new(0));
        let (sender, mut ends) = mpsc::unbounded_channel();
        let work = |name: &'static str| {
            let (gate, sender) = (gate.clone(), sender.clone());
            Lasting::new(async move {
                gate.acquire().await.expect("it stays open").forget();
                sender.send(name).expect("somebody hears it");
            })
        };
        let mut left = work("left");
        assert!(poll!(&mut left).is_pending());
        drop(left);
        gate.add_permits(1);
        let ended = timeout(Duration::from_secs(10), ends.recv()).await.expect("it ends though nobody waits for it");
        assert_eq!(ended, Some("left"));
        let mut stuck = work("stuck");
        assert!(poll!(&mut stuck).is_pending());
        drop(stuck);
        // Only the gate's own, and this test's, are left when it is given up.
        timeout(Duration::from_secs(10), async {
            while Arc::strong_count(&gate) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("it is given up");
        gate.add_permits(1);
        work("waited for").await;
        assert_eq!(ends.recv().await, Some("waited for"), "what was given up does not end");
    }

    #[tokio::test]
    async fn what_ends_in_a_panic_does_not_go_on() {
        let counted = Arc::new(());
        let held = counted.clone();
        let panics = Lasting::new(async move {
            let _held = held;
            panic!("as it should");
        });
        let ended: Result<(), _> = AssertUnwindSafe(panics).catch_unwind().await;
        assert!(ended.is_err() && Arc::strong_count(&counted) == 1);
    }
}
