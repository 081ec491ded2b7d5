//! What many clients see while everything breaks, and whether it can have happened on a queue that keeps its promises.
//!
//! `WHATSNEXT_HISTORY_SECONDS` says for how long it breaks, `WHATSNEXT_HISTORY_SEED` what is done in which order; of that, what happens depends on time.

mod broken;
mod check;
mod clients;
mod faults;
mod log;
mod random;
mod workload;
mod world;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Api, id, within};
use check::{State, check, unseen};
use clients::Clients;
use faults::{FAULTS, Fleet};
use log::{Ending, Event, Log, Operation, Outcome};
use random::Random;
use workload::{ACCELERATORS, CPUS, clients_of};
use world::{Guard, Scene, Stage, World};

const CROWDS: [&str; 3] = ["red", "green", "blue"];

/// How long what is left may take once nothing breaks any more.
const PATIENCE: Duration = Duration::from_secs(120);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Makes a project with tasks of 1, 2 and 3 CPUs and one that needs an accelerator, registers clients, and sets the scene in a folder.
async fn prepare(api: &Api, folder: &Path, servers: Vec<String>, clients: &[String]) -> Scene {
    let project = id(&api.post("/projects", json!({"name": "history"})).await.expect(201));
    let mut tasks = Vec::new();
    for (cpu, accelerators) in [(1, 0), (2, 0), (3, 0), (1, 1)] {
        let name = format!("{cpu} cpus, {accelerators} accelerators");
        let task = json!({"name": name, "project_id": project, "required_cpu": cpu, "required_accelerators": accelerators});
        tasks.push(id(&api.post("/tasks", task).await.expect(201)));
    }
    for client in clients {
        let client = json!({"id": client, "name": client, "entity": "lab", "available_cpu": CPUS, "available_accelerators": ACCELERATORS});
        api.post("/clients/register", client).await.expect(201);
    }
    let scene = Scene { servers, project, tasks, stage: Stage::Busy };
    scene.write(folder);
    scene
}

/// How often each kind of operation was asked for, and of outcome was seen.
fn summary(history: &[Event]) -> String {
    let count = |is_it: fn(&Event) -> bool| history.iter().filter(|event| is_it(event)).count();
    let submitted: usize = history.iter().map(|event| if let Outcome::Submitted(ids) = &event.outcome { ids.len() } else { 0 }).sum();
    let [fetched, accepted, stale, unknown, again] = [
        count(|event| matches!(event.outcome, Outcome::Fetched(Some(_)))),
        count(|event| event.outcome == Outcome::Accepted && matches!(event.operation, Operation::Report { .. })),
        count(|event| event.outcome == Outcome::Refused(409) && matches!(event.operation, Operation::Report { .. })),
        count(|event| event.outcome == Outcome::Unknown),
        count(|event| {
            matches!(event.operation, Operation::Retry { .. } | Operation::RetryAll { .. }) && !matches!(event.outcome, Outcome::Refused(_))
        }),
    ];
    let [completed, begun, beaten, cancelled, deleted] = [
        count(|event| event.outcome == Outcome::Accepted && matches!(event.operation, Operation::Report { ending: Ending::Complete, .. })),
        count(|event| matches!((&event.operation, &event.outcome), (Operation::Start { .. }, Outcome::Extended { .. }))),
        count(|event| matches!(event.outcome, Outcome::Extended { .. } | Outcome::Beaten { .. })),
        count(|event| matches!((&event.operation, &event.outcome), (Operation::Cancel { .. }, Outcome::Became { .. }))),
        count(|event| matches!((&event.operation, &event.outcome), (Operation::Delete { .. }, Outcome::Accepted))),
    ];
    format!(
        "{} operations: {submitted} jobs submitted, {fetched} fetched, {begun} begun, {beaten} times extended, {accepted} reports accepted ({completed} completions), {stale} too late, {cancelled} cancelled, {again} retries, \
         {deleted} deleted, {unknown} unknown",
        history.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "who runs it for long wants to know what was done")]
async fn nothing_is_lost_or_done_twice_while_everything_breaks() {
    let seconds = setting("WHATSNEXT_HISTORY_SECONDS").unwrap_or(20);
    let seed = setting("WHATSNEXT_HISTORY_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    eprintln!("WHATSNEXT_HISTORY_SEED={seed}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::start(folder.path()).await;
    let clients: Vec<String> = CROWDS.iter().flat_map(|crowd| clients_of(crowd)).collect();
    fleet.scene = prepare(fleet.api(), folder.path(), fleet.bases(), &clients).await;
    let mut crowds: Vec<Clients> = CROWDS.iter().map(|crowd| Clients::start(folder.path(), crowd, random.next())).collect();

    let (began, mut faults) = (Instant::now(), Vec::new());
    // At first each once, then any.
    while faults.len() < FAULTS || began.elapsed() < Duration::from_secs(seconds) {
        let which = if faults.len() < FAULTS { faults.len() } else { random.below(FAULTS as u64) as usize };
        faults.push(fleet.break_something(which, &mut crowds, &mut random).await);
    }
    fleet.set(Stage::Calm);
    let (database, world) = (fleet.connect().await, World::open(folder.path(), Guard::Attempt));
    // What is stuck is the checker's to tell.
    let done = tokio::time::timeout(PATIENCE, within(PATIENCE * 2, "everything is done", async || is_done(&database, &world).await)).await;
    fleet.set(Stage::Over);
    for crowd in crowds {
        crowd.end().await;
    }
    let history = Log::read_all(folder.path());
    let wrong = check(&history, &State::read(&database).await);
    let mut counts = std::collections::BTreeMap::new();
    for fault in &faults {
        *counts.entry(*fault).or_insert(0) += 1;
    }
    let what = format!("seed {seed}, {} faults {counts:?}, {}", faults.len(), summary(&history));
    assert!(wrong.is_empty(), "expected a history that can have happened; {what}:\n{}", wrong.join("\n"));
    let unseen = unseen(&history);
    assert!(unseen.is_empty(), "expected that clients got something done; {what}:\n{}", unseen.join("\n"));
    assert!(done.is_ok(), "expected everything to be done within {PATIENCE:?}; {what}");
    eprintln!("nothing wrong: {what}");
}

/// Whether nothing is left to do. What was fetched without a lease, by who died or never got the answer, waits for somebody to notice: here it is noticed.
async fn is_done(database: &tokio_postgres::Client, world: &World) -> bool {
    let open = "select count(*) from jobs where status in ('PENDING', 'QUEUED', 'RUNNING')";
    let left = "select job_id from attempts where ended_at is null and lease_seconds is null and claimed_at < clock_timestamp() - interval '5 seconds'";
    for row in database.query(left, &[]).await.unwrap() {
        world.ask(&mut Random::new(0), Operation::Done { job: row.get("job_id") }).await;
    }
    database.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0
}
