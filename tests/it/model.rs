//! The queue against a model of it: random submits, claims, changes, deletions, on real PostgreSQL. After each step the answer, every status, every
//! count and every edge are what the model says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use whatsnext::queue::{
    Bells, Error, Policy, Retry,
    jobs::{Change, NewJob, Resources, Status, Store, Submitted},
};

use crate::support::TestDatabase;

/// What the tasks of the test need: CPUs.
const TASKS: [i32; 3] = [1, 4, 16];

/// Something that is done to the queue. Jobs are named by a number that is taken modulo those that there are.
#[derive(Debug, Clone)]
enum Step {
    Submit { parents: Vec<usize>, task: usize, priority: i32, status: Status },
    Claim { cpu: i32 },
    ClaimAndPutBack,
    SetStatus { job: usize, status: Status },
    SetParents { job: usize, parents: Vec<usize> },
    SetPriorityAndTask { job: usize, priority: i32, task: usize },
    Delete { job: usize },
    DeleteTask { task: usize },
    Clear,
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        3 => Just(Status::Completed), 2 => Just(Status::Failed), 2 => Just(Status::Pending), 1 => Just(Status::Running),
        1 => Just(Status::Cancelled), 1 => Just(Status::Blocked), 1 => Just(Status::Queued),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let parents = || proptest::collection::vec(any::<prop::sample::Index>().prop_map(|index| index.index(usize::MAX)), 0..4);
    let job = || any::<prop::sample::Index>().prop_map(|index| index.index(usize::MAX));
    let asked = prop_oneof![9 => Just(Status::Pending), 1 => status()];
    prop_oneof![
        12 => (parents(), 0..TASKS.len(), -2..3, asked)
            .prop_map(|(parents, task, priority, status)| Step::Submit { parents, task, priority, status }),
        6 => prop_oneof![Just(0), Just(1), Just(5), Just(100)].prop_map(|cpu| Step::Claim { cpu }),
        1 => Just(Step::ClaimAndPutBack),
        12 => (job(), status()).prop_map(|(job, status)| Step::SetStatus { job, status }),
        4 => (job(), parents()).prop_map(|(job, parents)| Step::SetParents { job, parents }),
        2 => (job(), -2..3, 0..TASKS.len()).prop_map(|(job, priority, task)| Step::SetPriorityAndTask { job, priority, task }),
        4 => job().prop_map(|job| Step::Delete { job }),
        1 => (0..TASKS.len()).prop_map(|task| Step::DeleteTask { task }),
        1 => Just(Step::Clear),
    ]
}

/// A job as the model knows it.
#[derive(Debug, Clone, PartialEq)]
struct Job {
    status: Status,
    parents: BTreeSet<i64>,
    task: i64,
    priority: i32,
}

/// The whole queue as the model knows it.
#[derive(Debug, Clone, Default)]
struct Model {
    jobs: BTreeMap<i64, Job>,
}

impl Model {
    fn unmet(&self, job: &Job) -> i32 {
        i32::try_from(job.parents.iter().filter(|parent| self.jobs[parent].status != Status::Completed).count()).unwrap()
    }

    /// Makes PENDING and BLOCKED what the parents say.
    fn settle(&mut self) {
        loop {
            let wrong = self.jobs.iter().find_map(|(id, job)| {
                let blocked = job.parents.iter().any(|parent| self.jobs[parent].status.is_dead());
                let right = if blocked { Status::Blocked } else { Status::Pending };
                (job.status.is_waiting() && job.status != right).then_some((*id, right))
            });
            match wrong {
                Some((id, right)) => self.jobs.get_mut(&id).unwrap().status = right,
                None => return,
            }
        }
    }

    /// The jobs that a claim may give, most urgent first.
    fn ready(&self, tasks: &[i64], cpu: i32) -> Vec<i64> {
        let fits = |task: i64| tasks.iter().zip(TASKS).any(|(id, needs)| *id == task && (cpu == 0 || needs <= cpu));
        let ready = |job: &Job| job.status == Status::Pending && self.unmet(job) == 0 && fits(job.task);
        let mut ids: Vec<i64> = self.jobs.iter().filter(|(_, job)| ready(job)).map(|(id, _)| *id).collect();
        ids.sort_by_key(|id| (-self.jobs[id].priority, *id));
        ids
    }

    fn children(&self, id: i64) -> impl Iterator<Item = (&i64, &Job)> {
        self.jobs.iter().filter(move |(_, job)| job.parents.contains(&id))
    }

    fn is_waited_for(&self, id: i64, except_task: Option<i64>) -> bool {
        self.jobs[&id].status != Status::Completed
            && self.children(id).any(|(_, child)| child.status.is_waiting() && Some(child.task) != except_task)
    }

    fn is_ancestor(&self, of: &BTreeSet<i64>, id: i64) -> bool {
        of.iter().any(|parent| *parent == id || self.is_ancestor(&self.jobs[parent].parents, id))
    }

    fn remove(&mut self, gone: &BTreeSet<i64>) {
        self.jobs.retain(|id, _| !gone.contains(id));
        for job in self.jobs.values_mut() {
            job.parents.retain(|parent| !gone.contains(parent));
        }
    }

    /// What clearing the queue takes: the pending jobs, and the blocked ones below them.
    fn doomed(&self) -> BTreeSet<i64> {
        let mut doomed: BTreeSet<i64> = self.jobs.iter().filter(|(_, job)| job.status == Status::Pending).map(|(id, _)| *id).collect();
        loop {
            let below = |job: &Job| job.status == Status::Blocked && job.parents.iter().any(|parent| doomed.contains(parent));
            let more: Vec<i64> = self.jobs.iter().filter(|(id, job)| !doomed.contains(id) && below(job)).map(|(id, _)| *id).collect();
            if more.is_empty() {
                return doomed;
            }
            doomed.extend(more);
        }
    }
}

/// The real queue beside the model.
struct Pair {
    jobs: Store,
    tasks: whatsnext::queue::tasks::Store,
    project: i64,
    task_ids: Vec<i64>,
    model: Model,
}

impl Pair {
    /// The job that a number stands for, and the number's jobs as parents.
    fn pick(&self, number: usize) -> Option<i64> {
        self.model.jobs.keys().nth(number.checked_rem(self.model.jobs.len())?).copied()
    }

    fn pick_all(&self, numbers: &[usize]) -> BTreeSet<i64> {
        numbers.iter().filter_map(|number| self.pick(*number)).collect()
    }

    fn as_new(job: &Job) -> NewJob {
        NewJob {
            name: "job".to_owned(),
            task_id: job.task,
            parameters: RawValue::from_string("{}".to_owned()).unwrap(),
            status: job.status,
            priority: job.priority,
            retry: Retry::default(),
            not_before: None,
            depends: job.parents.iter().copied().collect(),
        }
    }

    /// Changes a job in both, after checking that they agree on whether it may be.
    async fn change(&mut self, id: i64, job: Job) {
        let circular = self.model.is_ancestor(&job.parents, id);
        let changed = self.jobs.update(id, Change { project_id: self.project, job: Self::as_new(&job), only_status: false }).await;
        if circular {
            assert!(matches!(changed, Err(Error::Circular(_))), "expected a circle to be refused, got {changed:?}");
            return;
        }
        self.model.jobs.insert(id, job);
        self.model.settle();
        assert_eq!(changed.expect("the change is sound").status, self.model.jobs[&id].status, "what the update answers");
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Submit { parents, task, priority, status } => {
                let Some(task) = self.task_ids.get(*task).copied() else { return };
                let job = Job { status: *status, parents: self.pick_all(parents), task, priority: *priority };
                let new = Self::as_new(&job);
                let added = self
                    .jobs
                    .create(self.project, new.clone(), None, |_| unreachable!("it is not asked for"))
                    .await
                    .expect("the job is sound");
                let Submitted::Now(added) = added else { panic!("expected it to be added now, got {added:?}") };
                self.model.jobs.insert(added.id, job);
            }
            Step::Claim { cpu } => {
                let ready = self.model.ready(&self.task_ids, *cpu);
                let claim = self.jobs.claim(self.project, Resources { cpu: *cpu, accelerators: 0 }).await.expect("a claim");
                assert_eq!(claim.claimed.as_ref().map(|claimed| claimed.job.id), ready.first().copied(), "the most urgent that fits");
                assert_eq!(claim.num_pending, i64::try_from(ready.len()).unwrap(), "num_pending");
                let waiting = self.model.jobs.values().filter(|job| job.status == Status::Pending && self.model.unmet(job) > 0).count();
                assert_eq!(claim.num_waiting, i64::try_from(waiting).unwrap(), "num_waiting");
                if let Some(id) = ready.first() {
                    self.model.jobs.get_mut(id).unwrap().status = Status::Queued;
                }
            }
            Step::ClaimAndPutBack => {
                let claim = self.jobs.claim(self.project, Resources::default()).await.expect("a claim");
                if let Some(claimed) = claim.claimed {
                    assert!(self.jobs.put_back(claimed.job.id, claimed.job.attempt).await.expect("it goes back"));
                    assert!(!self.jobs.put_back(claimed.job.id, claimed.job.attempt).await.expect("it goes back only once"));
                }
            }
            Step::SetStatus { job, status } => {
                let Some(id) = self.pick(*job) else { return };
                let job = Job { status: *status, ..self.model.jobs[&id].clone() };
                self.change(id, job).await;
            }
            Step::SetParents { job, parents } => {
                let Some(id) = self.pick(*job) else { return };
                let job = Job { parents: self.pick_all(parents), ..self.model.jobs[&id].clone() };
                self.change(id, job).await;
            }
            Step::SetPriorityAndTask { job, priority, task } => {
                let (Some(id), Some(task)) = (self.pick(*job), self.task_ids.get(*task).copied()) else { return };
                let job = Job { priority: *priority, task, ..self.model.jobs[&id].clone() };
                self.change(id, job).await;
            }
            Step::Delete { job } => {
                let Some(id) = self.pick(*job) else { return };
                let deleted = self.jobs.delete(id, Some(self.project)).await;
                if self.model.is_waited_for(id, None) {
                    assert!(matches!(deleted, Err(Error::Waited { .. })), "expected job {id} to be kept, got {deleted:?}");
                } else {
                    deleted.expect("nothing waits for it");
                    self.model.remove(&BTreeSet::from([id]));
                }
            }
            Step::DeleteTask { task } => {
                // The first stays, so that there is always something to make jobs of.
                let Some(task_id) = self.task_ids.get(*task).copied().filter(|_| *task > 0 && *task == self.task_ids.len() - 1) else {
                    return;
                };
                let own: BTreeSet<i64> = self.model.jobs.iter().filter(|(_, job)| job.task == task_id).map(|(id, _)| *id).collect();
                let deleted = self.tasks.delete(task_id).await;
                if own.iter().any(|id| self.model.is_waited_for(*id, Some(task_id))) {
                    assert!(matches!(deleted, Err(Error::Waited { .. })), "expected task {task_id} to be kept, got {deleted:?}");
                } else {
                    deleted.expect("nothing waits for its jobs");
                    self.model.remove(&own);
                    self.task_ids.pop();
                }
            }
            Step::Clear => {
                let doomed = self.model.doomed();
                assert_eq!(self.jobs.clear(self.project).await.expect("it is cleared"), i64::try_from(doomed.len()).unwrap());
                self.model.remove(&doomed);
            }
        }
        self.model.settle();
    }

    /// Fails unless the database says of this project what the model says.
    async fn compare(&self, database: &tokio_postgres::Client, after: &Step) {
        let rows = database
            .query(
                "select j.id, j.status, j.unmet, j.task_id, j.priority,
                        array (select depends_on from dependencies where job_id = j.id) as parents
                 from jobs j where j.project_id = $1",
                &[&self.project],
            )
            .await
            .unwrap();
        let real: BTreeMap<i64, (Job, i32)> = rows
            .iter()
            .map(|row| {
                let status: &str = row.get("status");
                let parents: Vec<i64> = row.get("parents");
                let (task, priority) = (row.get("task_id"), row.get("priority"));
                let job = Job { status: status.parse().unwrap(), parents: parents.into_iter().collect(), task, priority };
                (row.get("id"), (job, row.get("unmet")))
            })
            .collect();
        let wanted: BTreeMap<i64, (Job, i32)> =
            self.model.jobs.iter().map(|(id, job)| (*id, (job.clone(), self.model.unmet(job)))).collect();
        assert_eq!(real, wanted, "expected the database to be as the model after {after:?}");
    }
}

#[test]
fn the_queue_does_what_the_model_says() {
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(TestDatabase::new());
    let client = runtime.block_on(database.connect());
    let pool = database.database();
    let projects = whatsnext::queue::projects::Store::new(pool.clone(), Bells::default());
    let tasks = whatsnext::queue::tasks::Store::new(pool.clone(), Bells::default());
    let jobs = Store::new(pool, Policy::default(), Bells::default());
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&proptest::collection::vec(step(), 1..60), |steps| {
        number.set(number.get() + 1);
        runtime.block_on(async {
            let content = whatsnext::queue::projects::Content {
                name: format!("p{}", number.get()),
                description: String::new(),
                status: whatsnext::queue::projects::Status::Active,
            };
            let project = projects.create(&content).await.unwrap().id;
            let mut task_ids = Vec::new();
            for required_cpu in TASKS {
                let name = format!("t{required_cpu}");
                let content = whatsnext::queue::tasks::Content {
                    name,
                    command_template: None,
                    required_cpu,
                    required_accelerators: 0,
                    retry: Retry::default(),
                };
                task_ids.push(tasks.create(project, &content).await.unwrap().id);
            }
            let mut pair = Pair { jobs: jobs.clone(), tasks: tasks.clone(), project, task_ids, model: Model::default() };
            for step in &steps {
                pair.step(step).await;
                pair.compare(&client, step).await;
            }
        });
        Ok(())
    });
    result.unwrap();
    runtime.block_on(database.assert_graph_is_true());
}
