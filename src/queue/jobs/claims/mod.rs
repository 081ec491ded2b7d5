//! Claims by clients that are registered: with a lease, no more than the client has, and waiting for what is not there yet.
//!
//! Claims of one project that arrive at a server while it serves others are served together, in one transaction (`round`), first come first served
//! (`assign`). Who finds nothing and may wait is *parked*: it holds no connection to any store. One task a project (`serve`) wakes when one of the
//! [`Bells`](crate::queue::Bells) rings because there may be something new, or looks by itself now and then; then those that are parked come before those that
//! have just arrived. Between a job and its bell lies a moment in which one that just arrives may take it.

mod assign;
mod look;
mod marks;
mod outlook;
mod round;
mod serve;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::outlook::Outlook;
use super::{Handover, Job, Resources, Store};
use crate::{
    measure::Held,
    postgres::query::projects,
    queue::{Error, Owner, Result, Thing, bells::Watch},
};
pub(super) use marks::{Marks, Places};

/// What a client claims.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The client, which must be registered.
    pub client_id: String,
    /// Who claims for it: nothing for whoever may speak for all clients.
    pub speaker: Option<Owner>,
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
    /// What it holds of its client.
    pub holds: Resources,
    /// Until when it is the client's.
    pub lease_expires_at: DateTime<Utc>,
}

/// The claims of one server; clones are the same.
#[derive(Clone)]
pub struct Claims {
    jobs: Store,
    queues: Arc<Mutex<HashMap<i64, Vec<Claim>>>>,
    numbers: Arc<AtomicU64>,
    /// Clients, with keys that are not those that registered them, and have succeeded them.
    successors: Arc<Cache<(String, String), ()>>,
    outlook: Arc<Outlook>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// Of how many clients it is remembered that another key speaks for them.
const REMEMBERED: usize = 10_000;

/// More than anybody has.
const ANYTHING: Resources = Resources { cpu: i32::MAX, accelerators: i32::MAX };

/// A task of which jobs are ready, and what these need.
#[derive(Debug, Clone, Copy)]
struct Head {
    task_id: i64,
    needs: Resources,
}

/// A claim that waits for its answer.
struct Claim {
    wish: Wish,
    until: Instant,
    /// What its client had left when it was last looked at.
    room: Resources,
    /// Tells when it has more.
    watch: Watch,
    /// In the order in which they came.
    number: u64,
    /// It is counted until it is answered.
    _held: Held,
    /// Whether it has found nothing before.
    is_parked: bool,
    answer: oneshot::Sender<Result<Handover<Vec<Granted>>>>,
}

impl Claim {
    /// The most that it could use, as far as is known.
    fn limit(&self) -> Resources {
        let Self { wish: Wish { limit, .. }, room, .. } = self;
        Resources { cpu: limit.cpu.min(room.cpu), accelerators: limit.accelerators.min(room.accelerators) }
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
        let successors = Arc::new(Cache::new(REMEMBERED));
        let outlook = Arc::new(Outlook::new(&jobs.database));
        Self { jobs, queues: Arc::default(), numbers: Arc::default(), successors, outlook, tasks, closing }
    }

    /// Claims jobs of a project, and waits for the first if there are none. None after that time.
    ///
    /// # Errors
    ///
    /// [`Error::OthersClient`]; [`Error::Unregistered`] for the client; [`Error::NotFound`] for the project.
    pub async fn claim(&self, project_id: i64, mut wish: Wish, wait: Duration) -> Result<Handover<Vec<Granted>>> {
        let until = Instant::now() + wait;
        let Some(speaker) = wish.speaker.clone() else { return self.ask(project_id, wish, until).await };
        // A round knows nothing of successors. It is asked first all the same: most clients are those of the keys that speak for them.
        let pair = (wish.client_id.clone(), speaker.key.clone());
        if self.successors.get(&pair).is_none() {
            match self.ask(project_id, wish.clone(), until).await {
                Err(Error::OthersClient(_)) => {}
                asked => return asked,
            }
        }
        wish.speaker = Some(self.owner(&speaker, project_id, &wish.client_id).await?);
        let client_id = wish.client_id.clone();
        self.successors.insert(pair, ());
        match self.ask(project_id, wish, until).await {
            // By the time of the round it was somebody else's, or gone.
            Err(Error::OthersClient(_)) => {
                Err(self.owner(&speaker, project_id, &client_id).await.err().unwrap_or(Error::OthersClient(client_id)))
            }
            asked => asked,
        }
    }

    /// Whose the client is for which somebody claims.
    async fn owner(&self, speaker: &Owner, project_id: i64, client_id: &str) -> Result<Owner> {
        let connection = self.jobs.database.client().await?;
        if let Some(owner) = speaker.owner_of(&connection, client_id).await? {
            return Ok(owner);
        }
        let project = projects::GET.maybe(&connection, &[&project_id]).await?;
        Err(project.map_or(Error::NotFound(Thing::Project(project_id)), |_| Error::Unregistered(client_id.to_owned())))
    }

    /// [`Error::OthersClient`] also where only the speaker's key is not known to have succeeded another one, or where there is no client.
    async fn ask(&self, project_id: i64, wish: Wish, until: Instant) -> Result<Handover<Vec<Granted>>> {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = !queues.contains_key(&project_id);
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let watch = self.jobs.bells.watch(project_id, &wish.client_id);
            let held = self.jobs.tally.claims.hold();
            let claim = Claim { wish, until, room: ANYTHING, watch, number, is_parked: false, _held: held, answer };
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

    fn handover(&self, granted: Vec<Granted>) -> Handover<Vec<Granted>> {
        let attempts = granted.iter().map(|granted| (granted.job.id, granted.job.attempt)).collect();
        Handover::new(granted, attempts, self.jobs.clone(), self.tasks.clone())
    }
}
