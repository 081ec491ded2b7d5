//! Claims by clients that are registered: with a lease, no more than the client has, and waiting for what is not there yet.
//!
//! Claims of one project that arrive at a server while it serves others are served together, in one transaction (`round`), first come first served
//! (`assign`). Who finds nothing and may wait is *parked*: it holds no connection to any store. One task a project wakes when one of the [`Bells`](crate::queue::Bells) rings because there
//! may be something new, or looks by itself now and then; then those that are parked come before those that have just arrived. Between a job and its bell
//! lies a moment in which one that just arrives may take it.

mod assign;
mod look;
mod marks;
mod round;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Handover, Job, Resources, Store};
use crate::{
    measure::Held,
    postgres::{Row, query::claims as sql},
    queue::{Error, Result},
};
pub(super) use marks::{Marks, Places};
use round::{Found, Round};

/// How many claims one transaction serves.
const TOGETHER: usize = 64;

/// How long those that are parked wait before it is looked again without anybody ringing: from so long to twice as long.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);

/// What a client claims.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The client, which must be registered.
    pub client_id: String,
    /// How many jobs at most.
    pub max_jobs: usize,
    /// How long each is its own, unless it says more.
    pub lease_seconds: i32,
    /// What it gives for these jobs in all. Less is given if it has less.
    pub limit: Resources,
    /// Only jobs of these tasks; nothing for all.
    pub task_ids: Option<Vec<i64>>,
}

/// A job that was claimed.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The job; its attempt is the client's.
    pub job: Job,
    /// Its task's name.
    pub task_name: String,
    /// How the task makes a command of the job's parameters.
    pub command_template: Option<String>,
    /// Until when it is the client's.
    pub lease_expires_at: DateTime<Utc>,
}

/// The claims of one server; clones are the same.
#[derive(Clone)]
pub struct Claims {
    jobs: Store,
    queues: Arc<Mutex<HashMap<i64, Vec<Claim>>>>,
    numbers: Arc<AtomicU64>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// More than anybody has.
const ANYTHING: Resources = Resources { cpu: i32::MAX, accelerators: i32::MAX };

/// A task of which jobs are ready, and what these need.
struct Head {
    task_id: i64,
    needs: Resources,
}

/// A claim that waits for its answer.
struct Claim {
    wish: Wish,
    until: Instant,
    /// What its client had in all when it was last looked at.
    has: Resources,
    /// In the order in which they came.
    number: u64,
    /// It is counted until it is answered.
    _held: Held,
    /// Whether it has found nothing before.
    is_parked: bool,
    answer: oneshot::Sender<Result<Handover<Vec<Granted>>>>,
}

impl Claim {
    /// The most that it could use, whatever its client holds now.
    fn limit(&self) -> Resources {
        let Self { wish: Wish { limit, .. }, has, .. } = self;
        Resources { cpu: limit.cpu.min(has.cpu), accelerators: limit.accelerators.min(has.accelerators) }
    }

    /// Whether it could take such a job with no more than this.
    fn could_take(&self, head: &Head, limit: Resources) -> bool {
        head.needs.cpu <= limit.cpu
            && head.needs.accelerators <= limit.accelerators
            && self.wish.task_ids.as_ref().is_none_or(|tasks| tasks.contains(&head.task_id))
    }
}

impl Claims {
    /// Claims on these jobs. `tasks` is what a server waits for before it exits; when `closing` is cancelled, nobody waits any more.
    pub fn new(jobs: Store, tasks: TaskTracker, closing: CancellationToken) -> Self {
        Self { jobs, queues: Arc::default(), numbers: Arc::default(), tasks, closing }
    }

    /// Claims jobs of a project, and waits for the first if there are none. None after that time.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the project or the client.
    pub async fn claim(&self, project_id: i64, wish: Wish, wait: Duration) -> Result<Handover<Vec<Granted>>> {
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + wait;
        let is_first = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = !queues.contains_key(&project_id);
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let claim = Claim { wish, until, has: ANYTHING, number, is_parked: false, _held: self.jobs.tally.claims.hold(), answer };
            queues.entry(project_id).or_default().push(claim);
            is_first
        };
        if is_first {
            self.tasks.spawn(self.clone().serve(project_id));
        } else {
            self.jobs.bells.nudge(project_id);
        }
        // Only if what served it has ended in a panic, of which the log tells.
        answered.await.unwrap_or(Err(Error::Unserved))
    }

    /// Serves a project as long as anybody claims.
    async fn serve(self, project_id: i64) {
        let mut serving = Serving { queues: self.queues.clone(), project_id, is_done: false };
        let bell = self.jobs.bells.hear(project_id);
        let marks = Mutex::default();
        let mut parked: Vec<Claim> = Vec::new();
        let mut look_again = next_look();
        loop {
            let Some(new) = self.arrived(project_id, parked.is_empty()) else {
                serving.is_done = true;
                return;
            };
            let is_late = Instant::now() >= look_again;
            let is_time = bell.has_rung() || is_late;
            if is_time {
                look_again = next_look();
            }
            if is_time && !parked.is_empty() {
                parked.extend(new);
                let may_have_grown = bell.have_clients_grown() || is_late;
                parked = self.look_again(project_id, &marks, parked, may_have_grown).await;
            } else {
                parked.extend(self.serve_all(project_id, &marks, new).await);
            }
            let now = Instant::now();
            let is_over = |claim: &Claim| claim.until <= now || claim.answer.is_closed() || self.closing.is_cancelled();
            for claim in parked.extract_if(.., |claim| is_over(claim)) {
                drop(claim.answer.send(Ok(self.handover(Vec::new()))));
            }
            if let Some(first) = parked.iter().map(|claim| claim.until).min() {
                tokio::select! {
                    () = bell.wait() => {}
                    () = self.closing.cancelled() => {}
                    () = sleep_until(first) => {}
                    () = sleep_until(look_again) => {}
                }
            }
        }
    }

    /// Serves those that just came, and those that are parked as far as there is anything that they could have.
    async fn look_again(&self, project_id: i64, marks: &Mutex<Marks>, mut claims: Vec<Claim>, may_have_grown: bool) -> Vec<Claim> {
        // While the database is away, those that just came are told so.
        let heads = self.heads(project_id, &claims).await.unwrap_or_default();
        if may_have_grown {
            self.measure(&heads, &mut claims).await.unwrap_or_default();
        }
        let is_hopeful = |claim: &Claim| !claim.is_parked || heads.iter().any(|head| claim.could_take(head, claim.limit()));
        let (hopeful, mut rest): (Vec<Claim>, Vec<Claim>) = claims.into_iter().partition(is_hopeful);
        if hopeful.is_empty() {
            return rest;
        }
        self.jobs.tally.woken.add(hopeful.len() as u64);
        rest.extend(self.serve_all(project_id, marks, hopeful).await);
        // Whoever came first is served first, also the next time.
        rest.sort_by_key(|claim| claim.number);
        rest
    }

    /// Looks what clients have now, of those that could have taken more when they were last looked at if they had had it.
    async fn measure(&self, heads: &[Head], claims: &mut [Claim]) -> Result<()> {
        let is_short = |claim: &&mut Claim| {
            let with = |limit| heads.iter().any(|head| claim.could_take(head, limit));
            claim.is_parked && !with(claim.limit()) && with(claim.wish.limit)
        };
        let mut short: HashMap<String, Vec<&mut Claim>> = HashMap::new();
        for claim in claims.iter_mut().filter(is_short) {
            short.entry(claim.wish.client_id.clone()).or_default().push(claim);
        }
        if short.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = short.keys().map(String::as_str).collect();
        let client = self.jobs.database.client().await?;
        for row in sql::SIZES.all(&client, &[&ids]).await? {
            let has = Resources { cpu: row.get("available_cpu"), accelerators: row.get("available_accelerators") };
            for claim in short.get_mut(row.get::<_, &str>("id")).into_iter().flatten() {
                claim.has = has;
            }
        }
        Ok(())
    }

    /// What each task's most urgent ready job needs, of those that the largest of these claims would take.
    async fn heads(&self, project_id: i64, claims: &[Claim]) -> Result<Vec<Head>> {
        let most = |of: fn(&Resources) -> i32| claims.iter().map(|claim| of(&claim.wish.limit)).max().unwrap_or_default();
        let (cpu, accelerators) = (most(|limit| limit.cpu), most(|limit| limit.accelerators));
        let client = self.jobs.database.client().await?;
        let rows = sql::HEADS.all(&client, &[&project_id, &cpu, &accelerators]).await?;
        let head = |row: &Row| Head {
            task_id: row.get("task_id"),
            needs: Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") },
        };
        Ok(rows.iter().map(head).collect())
    }

    /// The claims that arrived since. If there are none, and nobody is parked, the project is served no longer.
    fn arrived(&self, project_id: i64, is_idle: bool) -> Option<Vec<Claim>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = std::mem::take(queues.entry(project_id).or_default());
        if arrived.is_empty() && is_idle {
            queues.remove(&project_id);
            return None;
        }
        Some(arrived)
    }

    /// Answers what can be answered; returns the rest, in the same order.
    async fn serve_all(&self, project_id: i64, marks: &Mutex<Marks>, claims: Vec<Claim>) -> Vec<Claim> {
        let mut left = Vec::new();
        let mut claims = claims.into_iter().filter(|claim| !claim.answer.is_closed()).peekable();
        while claims.peek().is_some() {
            let together: Vec<Claim> = claims.by_ref().take(TOGETHER).collect();
            self.jobs.tally.rounds.observe(together.len() as u64);
            let wishes: Vec<Wish> = together.iter().map(|claim| claim.wish.clone()).collect();
            let newcomers = together.iter().filter(|claim| !claim.is_parked).map(|claim| claim.wish.client_id.as_str()).collect();
            let round = self.jobs.database.transaction(&Round { project_id, wishes: &wishes, newcomers, marks }).await;
            let found = match round {
                Ok(found) => found,
                Err(error) => {
                    let is_transient = matches!(&error, Error::Database(error) if error.is_transient());
                    let error = Arc::new(error);
                    for claim in together {
                        // Whoever waits may live to see the database again.
                        if claim.is_parked && is_transient {
                            left.push(claim);
                        } else {
                            drop(claim.answer.send(Err(Error::Shared(error.clone()))));
                        }
                    }
                    continue;
                }
            };
            for (claim, Found { jobs, has, is_there }) in together.into_iter().zip(found) {
                match jobs {
                    Ok(jobs) if jobs.is_empty() && is_there => left.push(Claim { has, is_parked: true, ..claim }),
                    // Nothing for who has signed off. If the request is gone already, the handover comes back here and is dropped.
                    Ok(jobs) => {
                        self.jobs.tally.granted.add(jobs.len() as u64);
                        drop(claim.answer.send(Ok(self.handover(jobs))));
                    }
                    Err(error) => drop(claim.answer.send(Err(error))),
                }
            }
        }
        left
    }

    fn handover(&self, granted: Vec<Granted>) -> Handover<Vec<Granted>> {
        let attempts = granted.iter().map(|granted| (granted.job.id, granted.job.attempt)).collect();
        Handover::new(granted, attempts, self.jobs.clone(), self.tasks.clone())
    }
}

/// Sees to it that a project is served anew if the task that served it was ended by a panic.
struct Serving {
    queues: Arc<Mutex<HashMap<i64, Vec<Claim>>>>,
    project_id: i64,
    is_done: bool,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_done {
            self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.project_id);
        }
    }
}

/// When those who wait look again though nobody rang.
fn next_look() -> Instant {
    Instant::now() + LOOK_AGAIN.mul_f64(1.0 + jitter())
}

/// From 0 to 1, another one each time.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}
