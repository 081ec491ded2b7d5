//! Group commit: changes that come while others like them are being made are made together.
//!
//! The first change of a project is made at once, by whoever asks for it. Those that come before it is done wait until it is, and are then made in one
//! transaction, which costs little more than one of them would: so a project's changes need the fewer transactions the more of them there are, and whoever is
//! alone waits for nobody. (DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984.)
//!
//! A group makes what goes the usual way. What would have to wait for a lock, reaches further, or cannot be done, is left out, and whoever asked for it makes it
//! alone; if the database refuses a group, each of them does. So nobody waits for a lock that another one needs, or is told of what is wrong with another one's
//! change. Only where it is not known whether a group was made, or no connection is to be had, all are told so.
//! (Those who wait alone wait in the project's lane, and when they fill it groups wait behind them.)
//!
//! What follows from a change that was made is done by whatever made it, before anybody is told: so it is done also for those who have gone. A change that is being
//! made when whoever asked for it goes away is made to its end, if that takes no longer than a moment ([`Lasting`]).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use crate::{
    postgres,
    queue::{Error, Result, lasting::Lasting},
};

/// How many changes are made together at most, and of how many bytes; one that is larger is made with none after it.
const MOST: usize = 64;
const MOST_BYTES: usize = 1024 * 1024;

/// How long a group is waited for: it waits for no lock, so the database is gone then, without a word.
const PATIENCE: Duration = Duration::from_secs(30);

/// Changes of one kind, and how to make them.
pub(super) trait Changes: Send + Sync + 'static {
    /// What is to be done.
    type Change: Send + Sync + 'static;
    /// What came of it.
    type Outcome: Send + 'static;

    /// How many bytes it has, about.
    fn bytes(change: &Self::Change) -> usize;

    /// Makes changes of one project, in one transaction, and tells what came of each: nothing of those that were left out.
    fn make(&self, project_id: i64, changes: &[&Self::Change]) -> impl Future<Output = Result<Vec<Option<Self::Outcome>>>> + Send;

    /// Makes one change that was left out, however long that takes: nothing if it cannot be made.
    fn make_alone(&self, project_id: i64, change: &Self::Change) -> impl Future<Output = Result<Option<Self::Outcome>>> + Send;

    /// Does what follows from a change that was made, once.
    fn follow(&self, project_id: i64, change: &Self::Change, outcome: &Self::Outcome);
}

/// The groups of one kind of changes; clones are the same.
pub(super) struct Groups<C: Changes>(Arc<Shared<C>>);

struct Shared<C: Changes> {
    changes: C,
    /// By project, for each of which changes are being made: who waits for that to end.
    waiting: Mutex<HashMap<i64, Vec<Member<C>>>>,
}

/// To whoever waits: what came of their change, nothing if it was left out.
type Answer<C> = oneshot::Sender<Result<Option<<C as Changes>::Outcome>>>;

struct Member<C: Changes> {
    /// Whoever asks for it has it, so it does not outlast them.
    change: Weak<C::Change>,
    answer: Answer<C>,
}

/// Whoever asks for a change is the first, or one of those who wait for an answer.
enum Joined<C: Changes> {
    First(Turn<C>),
    Member(oneshot::Receiver<Result<Option<C::Outcome>>>),
}

/// The right to make changes of a project. When it is dropped it goes on to those who wait.
struct Turn<C: Changes> {
    shared: Arc<Shared<C>>,
    project_id: i64,
}

impl<C: Changes> Clone for Groups<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Changes> Groups<C> {
    pub(super) fn new(changes: C) -> Self {
        Self(Arc::new(Shared { changes, waiting: Mutex::default() }))
    }

    /// Makes a change, together with those of others if it must wait for others. Nothing if it cannot be made.
    pub(super) async fn make(&self, project_id: i64, change: C::Change) -> Result<Option<C::Outcome>> {
        let change = Arc::new(change);
        let made = match self.join(project_id, &change) {
            Joined::First(turn) => Lasting::new(turn.make_one(change.clone())).await?,
            // No answer only if what made it has ended in a panic, of which the log tells.
            Joined::Member(answer) => answer.await.unwrap_or(Err(Error::Unserved))?,
        };
        match made {
            Some(outcome) => Ok(Some(outcome)),
            None => Lasting::new(self.0.clone().make_alone(project_id, change)).await,
        }
    }

    fn join(&self, project_id: i64, change: &Arc<C::Change>) -> Joined<C> {
        match self.0.waiting().entry(project_id) {
            Entry::Vacant(place) => {
                place.insert(Vec::new());
                Joined::First(Turn { shared: self.0.clone(), project_id })
            }
            Entry::Occupied(mut members) => {
                let (answer, answered) = oneshot::channel();
                members.get_mut().push(Member { change: Arc::downgrade(change), answer });
                Joined::Member(answered)
            }
        }
    }
}

impl<C: Changes> Shared<C> {
    fn waiting(&self) -> MutexGuard<'_, HashMap<i64, Vec<Member<C>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_alone(self: Arc<Self>, project_id: i64, change: Arc<C::Change>) -> Result<Option<C::Outcome>> {
        let made = self.changes.make_alone(project_id, &change).await?;
        self.follow(project_id, &change, made.as_ref());
        Ok(made)
    }

    fn follow(&self, project_id: i64, change: &C::Change, made: Option<&C::Outcome>) {
        if let Some(outcome) = made {
            self.changes.follow(project_id, change, outcome);
        }
    }
}

impl<C: Changes> Turn<C> {
    /// Makes the first change.
    async fn make_one(self, change: Arc<C::Change>) -> Result<Option<C::Outcome>> {
        let (shared, project_id) = (self.shared.clone(), self.project_id);
        let made = shared.changes.make(project_id, &[&change]).await;
        drop(self);
        let made = made?.pop().flatten();
        shared.follow(project_id, &change, made.as_ref());
        Ok(made)
    }

    /// Makes changes together.
    async fn make(self, members: Vec<(Arc<C::Change>, Answer<C>)>) {
        let Self { shared, project_id } = &self;
        let (shared, project_id) = (shared.clone(), *project_id);
        let changes: Vec<&C::Change> = members.iter().map(|(change, _)| &**change).collect();
        let made = timeout(PATIENCE, shared.changes.make(project_id, &changes)).await;
        let made = made.unwrap_or(Err(Error::Database(postgres::Error::Busy)));
        drop((changes, self));
        match made {
            Ok(made) => {
                for ((change, answer), outcome) in members.into_iter().zip(made) {
                    shared.follow(project_id, &change, outcome.as_ref());
                    drop(answer.send(Ok(outcome)));
                }
            }
            Err(error) if error.is_refusal() => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, count = members.len(), "changes could not be made together and are made one by one");
                members.into_iter().for_each(|(_, answer)| drop(answer.send(Ok(None))));
            }
            Err(error) => {
                let error = Arc::new(error);
                members.into_iter().for_each(|(_, answer)| drop(answer.send(Err(Error::Shared(error.clone())))));
            }
        }
    }

    /// Those who are made next, of whoever waits: at least one, if there is one.
    fn next(members: &mut Vec<Member<C>>) -> Vec<(Arc<C::Change>, Answer<C>)> {
        let (mut next, mut rest, mut bytes) = (Vec::new(), Vec::new(), 0);
        for member in members.drain(..) {
            // Who has gone took what they asked for with them.
            let Some(change) = member.change.upgrade() else { continue };
            bytes += C::bytes(&change);
            if next.is_empty() || (next.len() < MOST && bytes <= MOST_BYTES) {
                next.push((change, member.answer));
            } else {
                rest.push(member);
            }
        }
        *members = rest;
        next
    }
}

impl<C: Changes> Drop for Turn<C> {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        let Entry::Occupied(mut members) = waiting.entry(self.project_id) else { return };
        let next = Self::next(members.get_mut());
        if next.is_empty() {
            members.remove();
            return;
        }
        drop(waiting);
        let turn = Self { shared: self.shared.clone(), project_id: self.project_id };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(turn.make(next));
        }
    }
}

#[cfg(test)]
mod tests;
