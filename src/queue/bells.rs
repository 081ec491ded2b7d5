//! Bells: who waits for jobs of a project hears that there may be some, here and, over the `wire`, at other servers.

mod wire;

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::sleep,
};

use self::wire::Rung;
use super::Result;

pub use self::wire::Wire;

/// The bells of all projects in which anybody waits here; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    bells: Arc<Mutex<HashMap<i64, Weak<Bell>>>>,
    watches: Watches,
    elsewhere: Option<mpsc::Sender<Rung>>,
}

/// The bell of one project.
#[derive(Debug, Default)]
pub(in crate::queue) struct Bell {
    rung: AtomicBool,
    notify: Notify,
}

/// Who waits with which client: the project, and whether the client has more room since that was last asked.
type Watches = Arc<Mutex<HashMap<String, Vec<(i64, Arc<AtomicBool>)>>>>;

/// Somebody who waits, and is told when their client has more room. Forgotten when dropped.
#[derive(Debug)]
pub(in crate::queue) struct Watch {
    client_id: String,
    has_more: Arc<AtomicBool>,
    watches: Watches,
}

/// Rings when it is dropped, so also if a request's client goes away and nobody waits any more for what the request does.
#[must_use]
pub(in crate::queue) struct Ringing<'a> {
    bells: &'a Bells,
    project_id: i64,
    gives: Gives,
    /// Whether it was done, if that is known.
    is_done: Option<bool>,
}

/// When what is begun gives jobs to claim. Those that it holds meanwhile are passed over by whoever claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    IfDone,
    UnlessDone,
    Anyway,
}

impl Bells {
    /// There may be something to claim, here and elsewhere.
    pub fn ring(&self, project_id: i64) {
        self.ring_here(project_id);
        self.tell(|| Rung::Project(project_id));
    }

    /// There will be something to claim when what is begun now is done.
    pub(in crate::queue) fn ring_after(&self, project_id: i64) -> Ringing<'_> {
        Ringing { bells: self, project_id, gives: Gives::IfDone, is_done: None }
    }

    /// What is begun now holds jobs, which will be there to claim again if it is not done.
    pub(in crate::queue) fn ring_unless(&self, project_id: i64) -> Ringing<'_> {
        Ringing { bells: self, project_id, gives: Gives::UnlessDone, is_done: None }
    }

    /// What is begun now holds jobs, which may be there to claim whether it is done or not.
    pub(in crate::queue) fn ring_anyway(&self, project_id: i64) -> Ringing<'_> {
        Ringing { bells: self, project_id, gives: Gives::Anyway, is_done: None }
    }

    /// A client has more room than before, here and elsewhere: what was too large for it may not be any more, whatever project it waits in.
    pub fn ring_for_client(&self, client_id: &str) {
        self.ring_here_for_client(client_id);
        self.tell(|| Rung::Client(client_id.to_owned()));
    }

    fn tell(&self, rung: impl FnOnce() -> Rung) {
        if let Some(elsewhere) = &self.elsewhere {
            // If others cannot be told fast enough, which they cannot without Redis, they look by themselves.
            elsewhere.try_send(rung()).ok();
        }
    }

    /// There may be something to claim, as another server says.
    fn ring_here(&self, project_id: i64) {
        if let Some(bell) = self.find(project_id) {
            bell.ring();
        }
    }

    fn ring_here_for_client(&self, client_id: &str) {
        let mut projects = Vec::new();
        for (project_id, has_more) in lock(&self.watches).get(client_id).into_iter().flatten() {
            has_more.store(true, Ordering::Release);
            projects.push(*project_id);
        }
        for project_id in projects {
            self.ring_here(project_id);
        }
    }

    /// Everybody looks, and takes their client for one that has more room.
    fn ring_all_here(&self) {
        for (_, has_more) in lock(&self.watches).values().flatten() {
            has_more.store(true, Ordering::Release);
        }
        let bells: Vec<_> = lock(&self.bells).values().filter_map(Weak::upgrade).collect();
        for bell in bells {
            bell.ring();
        }
    }

    /// Somebody came, which is no reason for those who wait to look again.
    pub(in crate::queue) fn nudge(&self, project_id: i64) {
        if let Some(bell) = self.find(project_id) {
            bell.notify.notify_one();
        }
    }

    /// The bell of a project, there as long as somebody holds it.
    pub(in crate::queue) fn hear(&self, project_id: i64) -> Arc<Bell> {
        let bell = Arc::new(Bell::default());
        let mut bells = lock(&self.bells);
        bells.retain(|_, bell| bell.strong_count() > 0);
        bells.insert(project_id, Arc::downgrade(&bell));
        bell
    }

    /// Tells from now on whether a client has more room, and rings the project's bell then.
    pub(in crate::queue) fn watch(&self, project_id: i64, client_id: &str) -> Watch {
        let (client_id, has_more) = (client_id.to_owned(), Arc::default());
        lock(&self.watches).entry(client_id.clone()).or_default().push((project_id, Arc::clone(&has_more)));
        Watch { client_id, has_more, watches: self.watches.clone() }
    }

    fn find(&self, project_id: i64) -> Option<Arc<Bell>> {
        lock(&self.bells).get(&project_id).and_then(Weak::upgrade)
    }
}

impl Watch {
    /// Whether the client may have more room than when this was last asked.
    pub(in crate::queue) fn has_more(&self) -> bool {
        self.has_more.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = lock(&self.watches);
        if let Entry::Occupied(mut of_client) = watches.entry(mem::take(&mut self.client_id)) {
            of_client.get_mut().retain(|(_, has_more)| !Arc::ptr_eq(has_more, &self.has_more));
            if of_client.get().is_empty() {
                of_client.remove();
            }
        }
    }
}

impl Ringing<'_> {
    /// This came of it. What was refused was not done; what failed on the way may have been.
    pub(in crate::queue) fn end<T>(mut self, result: &Result<T>) {
        self.is_done = match result {
            Ok(_) => Some(true),
            Err(error) if error.is_transient() => None,
            Err(_) => Some(false),
        };
    }
}

/// How long after nobody waits for it any more the database may still do what it was sent. (Then it is told to stop, which may come too late.)
const AFTERWARDS: Duration = Duration::from_millis(100);

impl Drop for Ringing<'_> {
    fn drop(&mut self) {
        let is_silent = match self.gives {
            Gives::IfDone => self.is_done == Some(false),
            Gives::UnlessDone => self.is_done == Some(true),
            Gives::Anyway => false,
        };
        if !is_silent {
            self.bells.ring(self.project_id);
        }
        if let (None, Ok(runtime)) = (self.is_done, Handle::try_current()) {
            let (bells, project_id) = (self.bells.clone(), self.project_id);
            runtime.spawn(async move {
                sleep(AFTERWARDS).await;
                bells.ring(project_id);
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bell {
    pub(in crate::queue) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether it has rung since it was last asked.
    pub(in crate::queue) fn has_rung(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Until something happens.
    pub(in crate::queue) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// The same, and whoever waits next is told of it too.
    pub(in crate::queue) async fn stirs(&self) {
        self.notify.notified().await;
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::queue::Error;

    #[test]
    fn only_those_who_wait_with_a_client_hear_that_it_has_more() {
        let bells = Bells::default();
        let (here, there) = (bells.hear(1), bells.hear(2));
        let (one, other, else_) = (bells.watch(1, "a"), bells.watch(1, "b"), bells.watch(2, "b"));
        bells.ring_for_client("a");
        assert!(one.has_more() && !one.has_more(), "it is told once");
        assert!(!other.has_more() && !else_.has_more(), "others are not");
        assert!(here.has_rung() && !there.has_rung(), "its project's bell has rung");
        drop(other);
        bells.ring_for_client("b");
        assert!(else_.has_more() && there.has_rung(), "in whatever project it waits");
        assert!(!here.has_rung(), "nobody waits there any more");
        drop((one, else_));
        assert!(lock(&bells.watches).is_empty(), "who waits no longer is forgotten");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_rings_when_it_is_given_up_and_once_more() {
        let bells = Bells::default();
        let bell = bells.hear(1);
        bells.ring_after(1).end(&Err::<(), _>(Error::Unserved));
        assert!(!bell.has_rung(), "it was refused");
        bells.ring_after(1).end(&Ok(()));
        assert!(bell.has_rung(), "it was done");
        sleep(AFTERWARDS * 2).await;
        assert!(!bell.has_rung(), "and that was all");
        bells.ring_unless(1).end(&Ok(()));
        assert!(!bell.has_rung(), "what it held is gone");
        bells.ring_unless(1).end(&Err::<(), _>(Error::Unserved));
        assert!(bell.has_rung(), "what it held is there");
        for done in [Ok(()), Err(Error::Unserved)] {
            bells.ring_anyway(1).end(&done);
            assert!(bell.has_rung(), "what it held may be there");
        }
        let request = async {
            let _ringing = bells.ring_after(1);
            std::future::pending::<()>().await;
        };
        timeout(Duration::from_millis(1), request).await.expect_err("it never ends");
        assert!(bell.has_rung(), "it may have been done");
        timeout(Duration::from_secs(10), async {
            while !bell.has_rung() {
                bell.wait().await;
            }
        })
        .await
        .expect("it may have been done only then");
    }
}
