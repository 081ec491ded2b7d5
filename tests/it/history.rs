//! What many clients see while everything breaks, and whether it can have happened on a queue that keeps its promises.
//!
//! `WHATSNEXT_HISTORY_SECONDS` says for how long it breaks, `WHATSNEXT_HISTORY_SEED` what is done in which order; of that, what happens depends on time.

mod check;
mod faults;
mod log;
mod workload;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Api, Server, TestDatabase, id, within};
use check::{State, check};
use faults::Fleet;
use log::{Ending, Event, Offer, Operation, Outcome};
use workload::{CPUS, Guard, LEASE, Random, World};

const CLIENTS: usize = 10;
const SUBMITTERS: usize = 4;

/// How long what is left may take once nothing breaks any more.
const PATIENCE: Duration = Duration::from_secs(120);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Makes a project with tasks of 1, 2 and 3 CPUs, and registers clients.
async fn prepare(api: &Api, clients: &[String]) -> (i64, Vec<i64>) {
    let project = id(&api.post("/projects", json!({"name": "history"})).await.expect(201));
    let mut tasks = Vec::new();
    for cpu in 1..=3 {
        let task = json!({"name": format!("{cpu} cpus"), "project_id": project, "required_cpu": cpu});
        tasks.push(id(&api.post("/tasks", task).await.expect(201)));
    }
    for client in clients {
        let client = json!({"id": client, "name": client, "entity": "lab", "available_cpu": CPUS, "available_accelerators": 0});
        api.post("/clients/register", client).await.expect(201);
    }
    (project, tasks)
}

/// How often each kind of outcome was seen.
fn summary(history: &[Event]) -> String {
    let count = |is_it: fn(&Event) -> bool| history.iter().filter(|event| is_it(event)).count();
    let submitted = count(|event| matches!(event.outcome, Outcome::Submitted(_)));
    let accepted = count(|event| event.outcome == Outcome::Accepted);
    let stale = count(|event| event.outcome == Outcome::Refused(409));
    let unknown = count(|event| event.outcome == Outcome::Unknown);
    format!("{} operations: {submitted} jobs submitted, {accepted} reports accepted, {stale} too late, {unknown} unknown", history.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "who runs it for long wants to know what was done")]
async fn nothing_is_lost_or_done_twice_while_everything_breaks() {
    let seconds = setting("WHATSNEXT_HISTORY_SECONDS").unwrap_or(15);
    let seed = setting("WHATSNEXT_HISTORY_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    eprintln!("WHATSNEXT_HISTORY_SEED={seed}");
    let mut random = Random::new(seed);
    let mut fleet = Fleet::start().await;
    let mut clients: Vec<String> = (0..CLIENTS).map(|n| format!("client-{n}")).collect();
    clients.push("killed".to_owned());
    let (project, tasks) = prepare(fleet.api(), &clients).await;
    let world = World::new(fleet.bases(), project, tasks, Guard::Attempt);
    let submitters: Vec<_> = (0..SUBMITTERS).map(|_| tokio::spawn(world.clone().submit(random.fork()))).collect();
    let workers: Vec<_> = clients[..CLIENTS].iter().map(|client| tokio::spawn(world.clone().work(client.clone(), random.fork()))).collect();

    let (began, mut faults) = (Instant::now(), Vec::new());
    // At first each once, then any.
    while faults.len() < 5 || began.elapsed() < Duration::from_secs(seconds) {
        let which = if faults.len() < 5 { faults.len() as u64 } else { random.below(5) };
        faults.push(fleet.break_something(which, &world, &mut random).await);
    }
    world.calm_down();
    for submitter in submitters {
        submitter.await.unwrap();
    }
    let database = fleet.connect().await;
    let open = "select count(*) from jobs where status in ('PENDING', 'QUEUED', 'RUNNING')";
    let is_done = async || database.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0;
    // What is stuck is the checker's to tell.
    let done = tokio::time::timeout(PATIENCE, within(PATIENCE * 2, "everything is done", is_done)).await;
    world.end();
    for worker in workers {
        worker.await.unwrap();
    }
    let history = world.log.events();
    let wrong = check(&history, &State::read(&database).await);
    let what = format!("seed {seed}, {} faults ({}), {}", faults.len(), faults.join(", "), summary(&history));
    assert!(wrong.is_empty(), "expected a history that can have happened; {what}:\n{}", wrong.join("\n"));
    assert!(done.is_ok(), "expected everything to be done within {PATIENCE:?}; {what}");
    eprintln!("nothing wrong: {what}");
}

/// One client is thought dead and comes back, after another one was given its job: both report.
async fn come_back(guard: Guard) -> Vec<String> {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, tasks) = prepare(&server.api, &["one".to_owned(), "other".to_owned()]).await;
    let world = World::new(vec![format!("http://{}", server.address)], project, tasks, guard);
    let mut random = Random::new(1);
    assert!(matches!(world.ask(&mut random, Operation::Submit { parents: vec![] }, world.tasks[0]).await, Outcome::Submitted(_)));
    let one = claimed(&world, "one").await;
    tokio::time::sleep(LEASE).await;
    let other = claimed(&world, "other").await;
    for Offer { job, attempt, .. } in [one, other] {
        world.ask(&mut random, Operation::Report { job, attempt, ending: Ending::Complete }, 0).await;
    }
    let wrong = check(&world.log.events(), &State::read(&database.connect().await).await);
    server.stop().await;
    wrong
}

/// Claims until there is something.
async fn claimed(world: &World, client: &str) -> Offer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let claim = Operation::Claim { client: client.to_owned() };
        if let Outcome::Claimed(mut offers) = world.ask(&mut Random::new(1), claim, 1).await
            && let Some(offer) = offers.pop()
        {
            return offer;
        }
        assert!(Instant::now() < deadline, "expected a job for {client}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_are_not_guarded_by_their_attempt_are_caught() {
    assert_eq!(come_back(Guard::Attempt).await, [""; 0]);
    let wrong = come_back(Guard::None).await;
    let twice = "More than one completion of job 1 was accepted: of attempts 1 and 2.";
    assert!(wrong.iter().any(|wrong| wrong == twice), "expected {twice:?} among\n{}", wrong.join("\n"));
}
