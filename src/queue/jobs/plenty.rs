//! Queues so long that counting them anew for each claim would be waste.
//!
//! An answer counts up to [`super::claim::COUNT_CAP`]. Where a look a moment ago found ten times as many, no fleet can have taken so many since that the
//! answer would be another: that would take ten thousand claims a second. So such a queue is looked at now and then, off the claims' way. Jobs that are
//! deleted, archived or made larger by the thousand in that moment are counted for the rest of it, at most a second, by the servers that did not do it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Resources, claim::COUNT_CAP};
use crate::{
    postgres::{Database, query::jobs as sql},
    queue::Result,
};

/// How many jobs are plenty.
const PLENTY: i64 = 10 * COUNT_CAP;

/// How long a look holds, and from when on it is time for another.
const HOLDS: Duration = Duration::from_millis(900);
const FADES: Duration = Duration::from_millis(450);

/// How many queues are remembered. When more are looked at, all are forgotten, which costs a count each.
const REMEMBERED: usize = 1024;

/// A project, as a client with these resources sees it.
type Queue = (i64, Resources);

/// What was seen of queues.
#[derive(Debug, Clone, Default)]
pub(super) struct Plenty {
    seen: Arc<Mutex<HashMap<Queue, Look>>>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    /// When there was plenty.
    at: Option<Instant>,
    /// Whether somebody is looking again.
    looking: bool,
}

impl Plenty {
    /// Whether there was plenty a moment ago.
    pub(super) fn is_known(&self, queue: Queue) -> bool {
        self.locked().get(&queue).and_then(|look| look.at).is_some_and(|at| at.elapsed() < HOLDS)
    }

    /// Notes that a queue is long. If it is time for a look, one is taken in a task of its own.
    pub(super) fn look(&self, database: &Database, queue: Queue) {
        {
            let mut seen = self.locked();
            if seen.len() >= REMEMBERED && !seen.contains_key(&queue) {
                seen.clear();
            }
            let look = seen.entry(queue).or_insert(Look { at: None, looking: false });
            if look.looking || look.at.is_some_and(|at| at.elapsed() < FADES) {
                return;
            }
            look.looking = true;
        }
        let (plenty, database) = (self.clone(), database.clone());
        tokio::spawn(async move {
            let start = Instant::now();
            let is_plenty = count(&database, queue).await.is_ok_and(|count| count == PLENTY);
            plenty.locked().insert(queue, Look { at: is_plenty.then_some(start), looking: false });
        });
    }

    /// Forgets a project of which many jobs were deleted.
    pub(super) fn forget(&self, project_id: i64) {
        self.locked().retain(|(project, _), _| *project != project_id);
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<Queue, Look>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn count(database: &Database, (project_id, resources): Queue) -> Result<i64> {
    let client = database.client().await?;
    let row = sql::COUNT_READY.one(&client, &[&project_id, &resources.cpu, &resources.accelerators, &PLENTY]).await?;
    Ok(row.get("ready"))
}
