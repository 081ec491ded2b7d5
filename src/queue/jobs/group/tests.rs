use std::pin::{Pin, pin};

use futures_util::{future::join_all, poll};
use tokio::sync::Semaphore;

use super::*;

/// Tenfold what is even; what is odd is left out and made alone, which a 5 has to wait for; with a 9 nothing can be made, and of what is made with a 7
/// nothing is known.
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
        if *change == 5 {
            self.gate.acquire().await.expect("it stays open").forget();
        }
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

async fn within_seconds(mut is_so: impl AsyncFnMut() -> bool) {
    let look = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), look).await.expect("it is so within ten seconds");
}

impl Groups<Tenfold> {
    fn open(&self, changes: usize) {
        self.0.changes.gate.add_permits(changes);
    }

    fn together(&self) -> Vec<Vec<i64>> {
        self.0.changes.together.lock().unwrap().clone()
    }

    fn followed(&self) -> Vec<i64> {
        self.0.changes.followed.lock().unwrap().clone()
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
    let mut followed = groups.followed();
    followed.sort_unstable();
    assert_eq!(followed, [2, 3, 4, 6, 8], "what follows is done once for each that was made");
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
    assert_eq!(groups.followed(), [2, 4, 6], "also for the one who went away");
}

#[tokio::test]
async fn what_follows_is_done_for_whoever_went_away_while_theirs_was_made_by_itself() {
    let groups = groups();
    drop(begun(&groups, &[2]).await);
    groups.open(1);
    within_seconds(async || groups.followed() == [2]).await;
    let mut alone = begun(&groups, &[5]).await;
    groups.open(1);
    within_seconds(async || poll!(alone[0].as_mut()).is_pending() && groups.alone() == [5]).await;
    drop(alone);
    groups.open(1);
    within_seconds(async || groups.followed() == [2, 5]).await;
    assert!(groups.0.waiting().is_empty());
}

#[tokio::test]
async fn whoever_goes_away_leaves_it_to_the_others() {
    let groups = groups();
    let mut changes = begun(&groups, &[2, 4, 6, 8]).await;
    drop(changes.remove(2));
    drop(changes.remove(0));
    groups.open(2);
    assert_eq!(join_all(changes).await, [Some(Some(40)), Some(Some(80))]);
    assert_eq!(groups.together(), [vec![2], vec![4, 8]], "who has gone before it was made is not made");
    assert!(groups.0.waiting().is_empty());
    // What takes longer than a moment keeps nobody.
    let mut changes = begun(&groups, &[10, 12]).await;
    drop(changes.remove(0));
    within_seconds(async || groups.together().len() == 4).await;
    groups.open(1);
    assert_eq!(changes.remove(0).await, Some(Some(120)));
    assert_eq!(groups.followed(), [2, 4, 8, 12], "it was given up");
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
