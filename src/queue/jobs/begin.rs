//! Where `fetch_job` begins to look: at the beginning, or, in projects in which so much was claimed and could not be vacuumed that walking past it takes
//! long, at [`Marks`]. As with claims, a more urgent job that became ready since is found a moment later.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use super::{
    Job,
    claims::{Marks, Places},
};
use crate::{
    postgres::{Client, Row, query::jobs as sql},
    queue::Result,
};

/// From when on a fetch is so slow that it is looked what it walks past.
const SLOW: Duration = Duration::from_millis(20);

/// From how many dead rows on that may be why. Machines have other reasons to be slow.
const MANY_DEAD: i64 = 10_000;

/// How long after such a look another one is worth its time, where all is slow.
const SPARED: Duration = Duration::from_secs(1);

/// In how many projects that is remembered.
const REMEMBERED: usize = 256;

/// The projects with marks.
#[derive(Debug, Clone)]
pub(super) struct Beginnings {
    marks: Arc<Cache<i64, Arc<Mutex<Marks>>>>,
    looked: Arc<Cache<i64, Instant>>,
}

impl Default for Beginnings {
    fn default() -> Self {
        Self { marks: Arc::new(Cache::new(REMEMBERED)), looked: Arc::new(Cache::new(REMEMBERED)) }
    }
}

impl Beginnings {
    /// Where to begin in a project. When it is time, one of those who ask looks at all of it again; the others go on meanwhile.
    pub(super) async fn of(&self, client: &Client, project_id: i64) -> Result<Places> {
        let now = Instant::now();
        if self.marks.get(&project_id).is_some_and(|marks| locked(&marks).is_my_turn(now)) {
            self.look(client, project_id).await?;
        }
        Ok(self.marks.get(&project_id).map(|marks| locked(&marks).arrays(Instant::now())).unwrap_or_default())
    }

    /// Notes that a fetch which began there took so long and found a job, or nothing. What goes wrong with that must not undo what was fetched.
    pub(super) async fn note(&self, client: &Client, project_id: i64, from: &Places, took: Duration, found: Option<&Job>) {
        if let (Some(job), Some(marks)) = (found, self.marks.get(&project_id)) {
            locked(&marks).advance(job.task_id, -job.priority, job.id);
        }
        if from.0.is_empty() && took >= SLOW && self.looked.get(&project_id).is_none_or(|at| at.elapsed() >= SPARED) {
            self.look(client, project_id).await.unwrap_or_default();
        }
    }

    /// There may be something before the marks of a project.
    pub(super) fn forget(&self, project_id: i64) {
        self.marks.remove(&project_id);
    }

    /// Looks where the first ready jobs are, and marks them if it takes long to get there.
    async fn look(&self, client: &Client, project_id: i64) -> Result<()> {
        let began = Instant::now();
        self.looked.insert(project_id, began);
        let rows = sql::FIRST_READY.all(client, &[&project_id]).await?;
        let mut marks = Marks::default();
        if rows.iter().any(|row| row.get::<_, i64>("dead") >= MANY_DEAD) {
            let first = |row: &Row| (row.get("task_id"), row.get("rank"), row.get("id"));
            marks.note(began, began.elapsed(), true, rows.iter().map(first));
        }
        match marks.are_used(Instant::now()) {
            true => self.marks.insert(project_id, Arc::new(Mutex::new(marks))),
            false => drop(self.marks.remove(&project_id)),
        }
        Ok(())
    }
}

fn locked(marks: &Mutex<Marks>) -> std::sync::MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}
