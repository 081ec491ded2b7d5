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

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use crate::{
    postgres,
    queue::{Error, Result},
};

/// How many changes are made together at most, and of how many bytes; one that is larger is made with none after it.
const MOST: usize = 64;
const MOST_BYTES: usize = 1024 * 1024;

/// How long a group is waited for: it waits for no lock, so the database is gone then, without a word.
const PATIENCE: Duration = Duration::from_secs(30);

/// Changes of one kind, and how to make them.
pub(super) trait Changes: Send + Sync + 'static {
    /// What is to be done.
    type Change: Send + Sync;
    /// What came of it.
    type Outcome: Send;

    /// How many bytes it has, about.
    fn bytes(change: &Self::Change) -> usize;

    /// Makes changes of one project, in one transaction, and tells what came of each: nothing of those that were left out.
    fn make(&self, project_id: i64, changes: &[&Self::Change]) -> impl Future<Output = Result<Vec<Option<Self::Outcome>>>> + Send;

    /// Makes one change that was left out, however long that takes: nothing if it cannot be made.
    fn make_alone(&self, project_id: i64, change: &Self::Change) -> impl Future<Output = Result<Option<Self::Outcome>>> + Send;

    /// Does what follows from a change that was made, in place of whoever asked for it and has gone.
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
            Joined::First(turn) => {
                let made = self.0.changes.make(project_id, &[&change]).await;
                drop(turn);
                made?.pop().flatten()
            }
            // No answer only if what made it has ended in a panic, of which the log tells.
            Joined::Member(answer) => answer.await.unwrap_or(Err(Error::Unserved))?,
        };
        match made {
            Some(outcome) => Ok(Some(outcome)),
            None => self.0.changes.make_alone(project_id, &change).await,
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
}

impl<C: Changes> Turn<C> {
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
                    if let Err(Ok(Some(outcome))) = answer.send(Ok(outcome)) {
                        shared.changes.follow(project_id, &change, &outcome);
                    }
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
mod tests {
    use std::pin::{Pin, pin};

    use futures_util::{future::join_all, poll};
    use tokio::sync::Semaphore;

    use super::*;

    /// Tenfold what is even; what is odd is left out and made alone; with a 9 nothing can be made, and of what is made with a 7 nothing is known.
    struct Tenfold {
        gate: Semaphore,
        together: Mutex<Vec<Vec<i64>>>,
        alone: Mutex<Vec<i64>>,
        followed: Mutex<Vec<i64>>,
    }

    impl Changes for Tenfold {
        type Change = i64;
        type Outcome = i64;

        fn bytes(change: &i64) -> usize {
            if *change > 1000 { MOST_BYTES / 2 } else { 1 }
        }

        async fn make(&self, _: i64, changes: &[&i64]) -> Result<Vec<Option<i64>>> {
            self.together.lock().unwrap().push(changes.iter().map(|n| **n).collect());
            self.gate.acquire().await.expect("it stays open").forget();
            match changes {
                changes if changes.contains(&&9) => Err(Error::InFlight),
                changes if changes.contains(&&7) => Err(Error::Database(postgres::Error::Busy)),
                changes => Ok(changes.iter().map(|n| (**n % 2 == 0).then_some(**n * 10)).collect()),
            }
        }

        async fn make_alone(&self, _: i64, change: &i64) -> Result<Option<i64>> {
            self.alone.lock().unwrap().push(*change);
            if *change == 9 { Err(Error::InFlight) } else { Ok((*change > 1).then_some(change * 10)) }
        }

        fn follow(&self, _: i64, change: &i64, outcome: &i64) {
            assert_eq!(*outcome, change * 10);
            self.followed.lock().unwrap().push(*change);
        }
    }

    fn groups() -> Groups<Tenfold> {
        Groups::new(Tenfold { gate: Semaphore::new(0), together: Mutex::default(), alone: Mutex::default(), followed: Mutex::default() })
    }

    /// Changes of project 1, each begun and waiting for its answer.
    async fn begun<'a>(groups: &'a Groups<Tenfold>, changes: &[i64]) -> Vec<Pin<Box<impl Future<Output = Option<Option<i64>>> + use<'a>>>> {
        let mut begun = Vec::new();
        for change in changes.iter().copied() {
            let mut change = Box::pin(async move { groups.make(1, change).await.ok() });
            assert!(poll!(change.as_mut()).is_pending());
            begun.push(change);
        }
        begun
    }

    impl Groups<Tenfold> {
        fn open(&self, changes: usize) {
            self.0.changes.gate.add_permits(changes);
        }

        fn together(&self) -> Vec<Vec<i64>> {
            self.0.changes.together.lock().unwrap().clone()
        }

        fn alone(&self) -> Vec<i64> {
            let mut alone = self.0.changes.alone.lock().unwrap().clone();
            alone.sort_unstable();
            alone
        }
    }

    #[tokio::test]
    async fn the_first_is_made_at_once_and_those_who_come_meanwhile_together() {
        let groups = groups();
        let changes = begun(&groups, &[2, 4, 6, 3, 1]).await;
        let mut other = pin!(groups.make(2, 8));
        assert!(poll!(other.as_mut()).is_pending());
        assert_eq!(groups.together(), [vec![2], vec![8]], "another project's waits for nobody");
        groups.open(3);
        assert_eq!(join_all(changes).await, [Some(Some(20)), Some(Some(40)), Some(Some(60)), Some(Some(30)), Some(None)]);
        assert_eq!(other.await.expect("it was made"), Some(80));
        assert_eq!(groups.together(), [vec![2], vec![8], vec![4, 6, 3, 1]]);
        assert_eq!(groups.alone(), [1, 3], "those that were left out");
        assert!(groups.0.waiting().is_empty(), "nothing is left of projects in which nothing happens");
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_is_not_told_to_the_others() {
        let groups = groups();
        let changes = begun(&groups, &[2, 4, 9, 6]).await;
        groups.open(2);
        assert_eq!(join_all(changes).await, [Some(Some(20)), Some(Some(40)), None, Some(Some(60))]);
        assert_eq!(groups.together(), [vec![2], vec![4, 9, 6]]);
        assert_eq!(groups.alone(), [4, 6, 9], "all of the group that failed");
    }

    #[tokio::test]
    async fn where_it_is_not_known_whether_a_group_was_made_nobody_makes_it_again() {
        let groups = groups();
        let changes = begun(&groups, &[2, 4, 7]).await;
        groups.open(2);
        assert_eq!(join_all(changes).await, [Some(Some(20)), None, None]);
        assert_eq!((groups.together(), groups.alone()), (vec![vec![2], vec![4, 7]], vec![]));
    }

    #[tokio::test]
    async fn what_follows_is_done_for_whoever_went_away_while_it_was_made() {
        let groups = groups();
        let mut changes = begun(&groups, &[2, 4, 6]).await;
        groups.open(1);
        assert_eq!(changes.remove(0).await, Some(Some(20)));
        while groups.together().len() < 2 {
            tokio::task::yield_now().await;
        }
        drop(changes.remove(0));
        groups.open(1);
        assert_eq!(changes.remove(0).await, Some(Some(60)), "it was made with the one who went away");
        assert_eq!(*groups.0.changes.followed.lock().unwrap(), [4], "those who are there do it themselves");
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_it_to_the_others() {
        let groups = groups();
        let mut changes = begun(&groups, &[2, 4, 6, 8]).await;
        drop(changes.remove(2));
        drop(changes.remove(0));
        groups.open(1);
        assert_eq!(join_all(changes).await, [Some(Some(40)), Some(Some(80))]);
        assert_eq!(groups.together(), [vec![2], vec![4, 8]], "who has gone before it was made is not made");
        assert!(groups.0.waiting().is_empty());
    }

    #[tokio::test]
    async fn a_group_has_a_size() {
        let groups = groups();
        let count = i64::try_from(MOST).unwrap() + 5;
        let all: Vec<i64> = (0..=count).map(|n| n * 2).collect();
        let changes = begun(&groups, &all).await;
        groups.open(3);
        assert_eq!(join_all(changes).await, all.iter().map(|n| Some(Some(n * 10))).collect::<Vec<_>>());
        assert_eq!(groups.together().iter().map(Vec::len).collect::<Vec<_>>(), [1, MOST, 5]);
        let changes = begun(&groups, &[0, 2000, 2002, 2004, 2]).await;
        groups.open(3);
        assert!(join_all(changes).await.iter().all(Option::is_some));
        assert_eq!(groups.together()[3..], [vec![0], vec![2000, 2002], vec![2004, 2]], "in bytes, too");
    }
}
