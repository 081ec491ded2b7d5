//! HTTP/2: the tasks in which the requests of a connection are answered.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::TaskTracker;

use super::socket::time_for;

tokio::task_local! {
    /// How far the answer is that is given in this task.
    static PROGRESS: Arc<Progress>;
}

/// What runs the streams of one connection, and knows how long there have been none.
#[derive(Clone)]
pub(super) struct Streams {
    tasks: TaskTracker,
    write_timeout: Duration,
    activity: Arc<Activity>,
}

struct Activity {
    open: AtomicUsize,
    /// When a stream last began or ended.
    last: Mutex<Instant>,
}

impl Streams {
    /// For a new connection. `tasks` is what a server waits for before it stops.
    pub(super) fn new(tasks: TaskTracker, write_timeout: Duration) -> Self {
        Self { tasks, write_timeout, activity: Arc::new(Activity { open: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }) }
    }

    /// Returns when there has been no stream for so long, or up to twice as long.
    pub(super) async fn idle_for(&self, time: Duration) {
        loop {
            let idle = match self.activity.open.load(Ordering::Acquire) {
                0 => self.activity.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed(),
                _ => Duration::ZERO,
            };
            match time.checked_sub(idle) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left).await,
            }
        }
    }
}

/// One stream among those that are open.
struct Open(Arc<Activity>);

impl Open {
    fn among(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::AcqRel);
        Self(activity.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    /// A stream that ends here before it is done is reset.
    fn execute(&self, stream: F) {
        let open = Open::among(&self.activity);
        let progress = Arc::new(Progress::new(self.write_timeout));
        self.tasks.spawn(PROGRESS.scope(progress.clone(), async move {
            let _open = open;
            tokio::select! {
                biased;
                _ = stream => {}
                () = progress.too_slow() => tracing::debug!("a client reads an answer too slowly, which ends"),
            }
        }));
    }
}

/// How far an answer over HTTP/2 is. The client decides how much of each it takes, whatever becomes of the others, so each has its own clock; it is the one
/// that [`super::socket::Socket`] has for all of them.
pub(super) struct Progress {
    state: Mutex<State>,
    began: Notify,
    write_timeout: Duration,
}

#[derive(Default)]
struct State {
    /// Since the first piece was given.
    deadline: Option<Instant>,
    /// Bytes of the piece that was given last which were not taken yet.
    left: usize,
    waker: Option<Waker>,
}

impl Progress {
    fn new(write_timeout: Duration) -> Self {
        Self { state: Mutex::default(), began: Notify::new(), write_timeout }
    }

    /// That of the stream in whose task this is called, if it is called in one.
    pub(super) fn of_this_stream() -> Option<Arc<Self>> {
        PROGRESS.try_with(Arc::clone).ok()
    }

    /// A piece was given.
    pub(super) fn give(&self, bytes: usize) {
        let mut state = self.state();
        state.left = bytes;
        state.deadline.get_or_insert_with(|| Instant::now() + self.write_timeout);
        self.began.notify_one();
    }

    /// Bytes of it were taken.
    pub(super) fn take(&self, bytes: usize) {
        let mut state = self.state();
        state.left = state.left.saturating_sub(bytes);
        if let Some(deadline) = &mut state.deadline {
            *deadline += time_for(bytes);
        }
        if state.left == 0
            && let Some(waker) = state.waker.take()
        {
            waker.wake();
        }
    }

    /// Whether all that was given was taken.
    pub(super) fn is_taken(&self) -> bool {
        self.state().left == 0
    }

    /// Waits for that.
    pub(super) fn poll_taken(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.left == 0 {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Returns when the client has had all the time that it gets for what it has taken.
    async fn too_slow(&self) {
        loop {
            let deadline = self.state().deadline;
            match deadline {
                None => self.began.notified().await,
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => sleep_until(deadline).await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
