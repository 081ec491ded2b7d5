//! Ten thousand claims that wait at once.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_postgres::Client;

use crate::support::{Process, TestDatabase, store_url, within};

const CLAIMS: usize = 10_000;
const SERVERS: usize = 3;

/// The claims come in so many waves, each when the one before it waits.
const WAVES: usize = 10;

/// How much memory each may take: its connection, its request, and what waits.
const BYTES: u64 = 64 * 1024;

const PATIENCE: Duration = Duration::from_secs(60);

/// A claim that waits, and which job it got.
struct Waiting {
    server: usize,
    wave: usize,
    answer: JoinHandle<Option<i64>>,
}

/// A claim on a connection of its own, of a client of its own. The answer is a job's id.
async fn claim(address: SocketAddr, project: i64, client: usize) -> Option<i64> {
    let body = json!({"client_id": format!("client-{client}"), "wait_seconds": 60, "lease_seconds": 3600}).to_string();
    let head = format!("POST /projects/{project}/claims HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    body["jobs"][0]["job"]["id"].as_i64()
}

/// What was committed or rolled back in the test's database so far.
async fn transactions(database: &Client) -> i64 {
    let count = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    database.query_one(count, &[]).await.unwrap().get(0)
}

/// They cost a server little each, the stores nothing each, and are served as they came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "it measures")]
async fn ten_thousand_claims_may_wait_and_are_served_in_their_order() {
    // This process holds a socket for each, and servers inherit the limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        most > CLAIMS as u64 + 2000,
        "expected that so many files may be open as there are claims, and some more: raise `ulimit -Hn` ({most})"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let database = TestDatabase::new().await;
    // All of them come from here.
    let settings = [("LOG_FILTER", "warn"), ("MAX_CONNECTIONS_PER_ADDRESS", "0")];
    let servers = join_all((0..SERVERS).map(|_| Process::start_with(&database, &settings))).await;
    let api = &servers[0].api;
    let (project, task) = api.project_with_task("p").await;
    let watcher = database.connect().await;
    let register = "insert into clients (id, name, entity, available_cpu, available_accelerators, last_heartbeat)
                    select 'client-' || n, 'c', 'lab', 1, 0, now() - interval '1 hour' from generate_series(0, $1::bigint - 1) as n";
    watcher.execute(register, &[&(CLAIMS as i64)]).await.unwrap();
    let before: Vec<u64> = servers.iter().map(Process::resident_bytes).collect();

    let mut waiting = Vec::new();
    for wave in 0..WAVES {
        for n in wave * CLAIMS / WAVES..(wave + 1) * CLAIMS / WAVES {
            let server = n % SERVERS;
            waiting.push(Waiting { server, wave, answer: tokio::spawn(claim(servers[server].address(), project, n)) });
        }
        let heard = "select count(*) from clients where last_heartbeat > now() - interval '30 minutes'";
        let are_parked = async || watcher.query_one(heard, &[]).await.unwrap().get::<_, i64>(0) == waiting.len() as i64;
        within(PATIENCE, "all claims of a wave wait", are_parked).await;
    }

    // Bounded: so much memory each, and no more as time goes by.
    let parked: Vec<u64> = servers.iter().map(Process::resident_bytes).collect();
    let each: Vec<u64> =
        before.iter().zip(&parked).map(|(before, parked)| parked.saturating_sub(*before) / (CLAIMS / SERVERS) as u64).collect();
    assert!(each.iter().all(|each| *each <= BYTES), "expected {BYTES} bytes a claim at most: {each:?}");
    // One waiter a server in the stores.
    let (began, first) = (Instant::now(), transactions(&watcher).await);
    sleep(Duration::from_secs(3)).await;
    let rate = (transactions(&watcher).await - first) as f64 / began.elapsed().as_secs_f64() / SERVERS as f64;
    assert!(rate < 40.0, "expected that a server asks PostgreSQL now and then, not {rate} times a second");
    // Whoever waits has none, and only now and then somebody looks.
    let at_work =
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'";
    let mut at_work_at_once = Vec::new();
    for _ in 0..20 {
        at_work_at_once.push(watcher.query_one(at_work, &[]).await.unwrap().get::<_, i64>(0));
        sleep(Duration::from_millis(20)).await;
    }
    at_work_at_once.sort_unstable();
    assert!(at_work_at_once[10] <= SERVERS as i64, "expected most connections to be idle most of the time: {at_work_at_once:?}");
    let channel = format!("{}:ready", database.name());
    let redis = redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let listeners: (String, usize) = redis::cmd("PUBSUB").arg("NUMSUB").arg(&channel).query_async(&mut redis).await.unwrap();
    assert_eq!(listeners, (channel, SERVERS), "each server listens once");
    let later: Vec<u64> = servers.iter().map(Process::resident_bytes).collect();
    assert!(
        parked.iter().zip(&later).all(|(parked, later)| *later <= parked + parked / 10),
        "expected memory to stay what it was: {parked:?}, then {later:?}"
    );

    // Fair: half as many jobs go to those that came first, at each server.
    let submit = async |count: usize| {
        let jobs: Vec<Value> = (0..count).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
        api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
    };
    let began = Instant::now();
    submit(CLAIMS / 2).await;
    within(PATIENCE, "half of them are served", async || {
        waiting.iter().filter(|waiting| waiting.answer.is_finished()).count() == CLAIMS / 2
    })
    .await;
    for server in 0..SERVERS {
        let own = || waiting.iter().filter(|waiting| waiting.server == server);
        let last = own().filter(|waiting| waiting.answer.is_finished()).map(|waiting| waiting.wave).max();
        let passed = own().filter(|waiting| !waiting.answer.is_finished() && Some(waiting.wave) < last).count();
        assert_eq!(passed, 0, "nobody of an earlier wave than {last:?} waits any longer at server {server}");
    }
    submit(CLAIMS / 2).await;
    let mut got = BTreeMap::new();
    for Waiting { answer, wave, .. } in waiting {
        *got.entry(answer.await.unwrap().unwrap_or_else(|| panic!("expected a job for everybody, not for one of wave {wave}")))
            .or_insert(0) += 1;
    }
    let took = began.elapsed();
    assert_eq!(got.len(), CLAIMS, "each job went to one of them");
    let kept = watcher.query("select job_id, client_id from attempts", &[]).await.unwrap();
    let clients: HashSet<&str> = kept.iter().map(|row| row.get("client_id")).collect();
    assert_eq!((kept.len(), clients.len()), (CLAIMS, CLAIMS), "each client has one");
    eprintln!("{CLAIMS} claims waited with {each:?} bytes each, {rate:.1} transactions a second and server, and were served in {took:?}");
}

/// It is nothing to the stores in how many projects somebody waits, neither where there is nothing, nor where there is something that nobody has room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "it measures")]
async fn a_server_asks_as_rarely_for_those_who_wait_in_many_projects() {
    const PROJECTS: usize = 300;
    let database = TestDatabase::new().await;
    let server = Process::start_with(&database, &[("LOG_FILTER", "warn"), ("MAX_CONNECTIONS_PER_ADDRESS", "0")]).await;
    let watcher = database.connect().await;
    // Each client has room for one CPU. In every other project there is a job, which needs two.
    let rows = format!(
        "insert into projects (name, description, status) select 'p' || n, '', 'ACTIVE' from generate_series(1, {PROJECTS}) as n;
         insert into tasks (project_id, name, required_cpu, required_accelerators) select id, 't', 2, 0 from projects;
         insert into jobs (project_id, task_id, name, parameters, status, priority, unmet)
             select project_id, id, 'j', '{{}}', 'PENDING', 0, 0 from tasks where id % 2 = 0;
         insert into clients (id, name, entity, available_cpu, available_accelerators, last_heartbeat)
             select 'client-' || id, 'c', 'lab', 1, 0, now() - interval '1 hour' from projects;"
    );
    watcher.batch_execute(&rows).await.unwrap();
    let projects = watcher.query("select id from projects order by id", &[]).await.unwrap();
    let projects: Vec<i64> = projects.iter().map(|row| row.get(0)).collect();
    let waiting: Vec<_> = projects.iter().map(|id| tokio::spawn(claim(server.address(), *id, usize::try_from(*id).unwrap()))).collect();
    let heard = "select count(*) from clients where last_heartbeat > now() - interval '30 minutes'";
    let are_parked = async || watcher.query_one(heard, &[]).await.unwrap().get::<_, i64>(0) == PROJECTS as i64;
    within(PATIENCE, "all claims wait", are_parked).await;
    // What was done before is counted up to a second late.
    let mut rate = f64::INFINITY;
    for _ in 0..3 {
        let (began, first) = (Instant::now(), transactions(&watcher).await);
        sleep(Duration::from_secs(3)).await;
        rate = rate.min((transactions(&watcher).await - first) as f64 / began.elapsed().as_secs_f64());
    }
    assert!(rate < 40.0, "expected that a server asks PostgreSQL now and then, not {rate} times a second for {PROJECTS} projects");
    // Nobody tells the server that there is something, and it sees it by itself.
    watcher.batch_execute("update tasks set required_cpu = 1").await.unwrap();
    within(PATIENCE, "those with a job are served", async || {
        waiting.iter().filter(|waiting| waiting.is_finished()).count() == PROJECTS / 2
    })
    .await;
    eprintln!("claims in {PROJECTS} projects waited with {rate:.1} transactions a second");
    waiting.iter().for_each(JoinHandle::abort);
    drop(server);
}
