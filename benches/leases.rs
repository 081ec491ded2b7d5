//! What a job's life costs over HTTP, with a lease: claims, reports, waiting.
//!
//! `deploy/bench.sh` runs it; it prints a table in Markdown. Load generator, server, PostgreSQL and Redis share the machine. The one-row claim that pgbench
//! sends is measured in turns with ours, on the same tables. `cargo bench --bench leases -- claims` measures only the rows of that name; `snapshot` and `sizes` are
//! measured only if they are named, or all of it with `WHATSNEXT_BENCH_LONG` set: they claim and finish half a million jobs each, with a snapshot held open, and
//! with finished jobs being forgotten, when tables must not grow for ever.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "this is a benchmark, with rates for people")]

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod load;

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use load::{Connection, request};
use serde_json::{Value, json};
use support::{Api, Process, TestDatabase, make_key, store_url};
use tempfile::TempDir;
use tokio::sync::mpsc;
use whatsnext::access::{Grants, Role};

/// How long each rate is measured.
const TIME: Duration = Duration::from_secs(5);

/// How long it goes on before that: until the pool's connections are there, and know their statements.
const BEFORE: Duration = Duration::from_secs(2);

/// How many ask at the same time, and how many machines do, each over one of these connections.
const CONNECTIONS: usize = 64;
const MACHINES: usize = 512;

/// How many machines with keys of their own live through the lives of jobs, so many at a time. Each key may send 600 requests a minute by default, besides its
/// reports: 128 of them may send more than 500 jobs a second, and claim them.
const KEYS: usize = 128;
const WORKERS: usize = 32;

/// Claims with a snapshot held open.
const LONG: usize = 500_000;

#[tokio::main]
async fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let is_long = std::env::var_os("WHATSNEXT_BENCH_LONG").is_some();
    let is_wanted = |name: &str, is_asked: bool| named.iter().any(|named| named == name) || (named.is_empty() && is_asked);
    println!("| what | measured | bar |\n| --- | --- | --- |");
    if is_wanted("lifecycle", true) {
        lifecycle().await;
    }
    let database = TestDatabase::new().await;
    let audit = tempfile::tempdir().unwrap();
    // All come from one address without a key, which by default may send 6000 reports a minute.
    let server = start(&database, &audit, &[("REPORT_LIMIT_PER_MINUTE", "0")]).await;
    if is_wanted("waiting", true) {
        waiting(&server.api, &server.api, "the same").await;
        let folder = tempfile::tempdir().unwrap();
        let another = start(&database, &folder, &[]).await;
        waiting(&server.api, &another.api, "another").await;
    }
    if is_wanted("claims", true) {
        claims(&server, &database).await;
    }
    if is_wanted("later", true) {
        later(&server.api, &database).await;
    }
    if is_wanted("snapshot", is_long) {
        under_a_snapshot(&server, &database).await;
    }
    if is_wanted("sizes", is_long) {
        sizes().await;
    }
    println!("| resident memory afterwards | {} MiB | |", server.resident_bytes() / 1024 / 1024);
}

/// A server with the default settings, these ones, and its audit log in a folder of its own.
async fn start(database: &TestDatabase, audit: &TempDir, settings: &[(&str, &str)]) -> Process {
    let own = [("LOG_FILTER", "warn"), ("AUDIT_LOG_DIR", audit.path().to_str().unwrap())];
    Process::start_with(database, &[&own, settings].concat()).await
}

/// Registers clients that have room for everything.
async fn clients(api: &Api, names: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("{names}-{n}")).collect();
    for name in &names {
        let client = json!({"id": name, "name": name, "entity": "bench", "available_cpu": 2_000_000_000});
        api.post("/clients/register", client).await.expect(201);
    }
    names
}

async fn fill(api: &Api, project: i64, task: i64, count: usize) {
    let jobs: Vec<Value> = (0..10_000).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
    for _ in 0..count.div_ceil(10_000) {
        api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
    }
}

/// Submit, claim, start, complete: one request each, by machines with a key each that may do that and no more, and its default limits.
async fn lifecycle() {
    let (database, audit) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    // What tests leave off is on by default.
    let server = start(&database, &audit, &[("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "600")]).await;
    let mut keys = Vec::new();
    for _ in 0..KEYS {
        keys.push(make_key(&database, Grants::All(Role::Maintainer)).await);
    }
    let (project, task) = server.api.with_key(keys[0].expose()).project_with_task("lifecycle").await;
    let mut machines = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let client = clients(&server.api.with_key(key.expose()), &format!("life-{n}"), 1).await.remove(0);
        machines.push((Connection::open_with(server.address(), key.expose()).await, client));
    }
    let (done, begin) = (Arc::new(AtomicUsize::new(0)), Instant::now() + BEFORE);
    let end = begin + TIME;
    let workers = (0..WORKERS).map(|_| {
        let (done, mut machines) = (done.clone(), machines.split_off(machines.len() - KEYS / WORKERS));
        tokio::spawn(async move {
            for turn in (0..machines.len()).cycle() {
                if Instant::now() >= end {
                    return;
                }
                let (connection, client) = &mut machines[turn];
                if live(connection, client, project, task).await && (begin..end).contains(&Instant::now()) {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    try_join_all(workers).await.unwrap();
    let rate = done.load(Ordering::Relaxed) as f64 / TIME.as_secs_f64();
    println!(
        "| lifecycle: submit, claim, start, complete, {WORKERS} at a time of {KEYS} clients with a key each | {rate:.0} jobs/s | ≥ 500 jobs/s |"
    );
}

/// One job sent, and one claimed and done; whether there was one.
async fn live(connection: &mut Connection, client: &str, project: i64, task: i64) -> bool {
    let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {"n": 1}});
    connection.post("/jobs", &job, 201).await;
    let claimed = connection.post(&format!("/projects/{project}/claims"), &json!({"client_id": client}), 200).await;
    let Some(id) = claimed["jobs"][0]["job"]["id"].as_i64() else { return false };
    let attempt = format!("/jobs/{id}/attempts/{}", claimed["jobs"][0]["attempt"]);
    connection.post(&format!("{attempt}/start"), &json!({}), 200).await;
    connection.post(&format!("{attempt}/complete"), &json!({"result": {"n": 1}}), 200).await;
    true
}

/// From sending a job to the answer of a claim that waits at a server: the same, or another one.
async fn waiting(api: &Api, at: &Api, place: &str) {
    let (project, task) = api.project_with_task(place).await;
    let client = clients(api, &format!("wait-{project}"), 1).await.remove(0);
    let (sender, mut answers) = mpsc::unbounded_channel();
    let claims = tokio::spawn({
        let api = at.clone();
        async move {
            loop {
                let claim = json!({"client_id": client, "wait_seconds": 60});
                let claimed = api.post(&format!("/projects/{project}/claims"), claim).await.expect(200);
                if sender.send((Instant::now(), claimed["jobs"][0]["job"]["id"].clone())).is_err() {
                    return;
                }
            }
        }
    });
    let mut times = Vec::new();
    for _ in 0..500 {
        // So that the claim is back, and parked.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let sent = Instant::now();
        let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}});
        let job = api.post("/jobs", job).await.expect(201)["id"].clone();
        let (at, claimed) = answers.recv().await.unwrap();
        assert_eq!(claimed, job);
        times.push(at - sent);
    }
    claims.abort();
    times.sort_unstable();
    for (percentile, bar) in [(50, "≤ 10 ms"), (95, "≤ 50 ms")] {
        println!(
            "| submit → answer of a claim that waits at {place} server, p{percentile} | {:.2?} | {bar} |",
            times[times.len() * percentile / 100]
        );
    }
}

/// With a lease that does not end while something is measured: what is given back then is another matter.
fn claim(project: i64, client: &str, max_jobs: usize) -> String {
    request(
        "POST",
        &format!("/projects/{project}/claims"),
        &[],
        Some(&json!({"client_id": client, "max_jobs": max_jobs, "lease_seconds": 3600})),
    )
}

/// How many jobs the answer to a claim gives.
fn jobs((status, answer): (u16, &[u8])) -> usize {
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(answer));
    std::str::from_utf8(answer).unwrap().matches("\"lease_expires_at\"").count()
}

/// Claims a second for a while, by these clients in turns, so many jobs at once.
async fn claim_rate(address: SocketAddr, project: i64, clients: &[String], max_jobs: usize) -> f64 {
    let (done, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let claims = clients.chunks(clients.len() / CONNECTIONS).map(|clients| {
        let done = done.clone();
        let claims: Vec<String> = clients.iter().map(|client| claim(project, client, max_jobs)).collect();
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut claims = claims.iter().cycle();
            while let Some(claim) = claims.next().filter(|_| start.elapsed() < TIME) {
                done.fetch_add(jobs(connection.ask(claim).await), Ordering::Relaxed);
            }
        })
    });
    try_join_all(claims).await.unwrap();
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// What pgbench does with the one-row claim, prepared, over as many connections as the server has.
fn pgbench(database: &TestDatabase, task: i64) -> f64 {
    let script = tempfile::NamedTempFile::new().unwrap();
    let sql = format!(
        "update jobs set status = 'QUEUED', attempt = attempt + 1, updated_at = clock_timestamp() where id = (select id from jobs where task_id = {task} \
         and ready order by -priority, id limit 1 for no key update skip locked) returning id, name, parameters;\n"
    );
    std::fs::write(script.path(), sql).unwrap();
    let url = store_url("WHATSNEXT_TEST_DATABASE_URL");
    let (server, _) = url.rsplit_once('/').unwrap();
    let url = format!("{server}/{}", database.name());
    let program = std::env::var("PGBENCH").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pgbench".to_owned());
    let arguments = ["-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", &TIME.as_secs().to_string(), "-f"];
    let output = Command::new(program).args(arguments).arg(script.path()).arg(url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap_or_else(|| panic!("pgbench: {output:?}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

async fn claims(server: &Process, database: &TestDatabase) {
    let (api, address) = (&server.api, server.address());
    let (project, task) = api.project_with_task("claims").await;
    let (mut bare, mut one, mut laden, mut many) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..3 {
        // New ones each time: what a client holds is counted with each of its claims. A machine that runs jobs of one processor holds tens of them, and not
        // the hundreds that a few clients claim in this time, which is measured too.
        let machines = clients(api, &format!("one-{turn}"), MACHINES).await;
        let (few, greedy) =
            (clients(api, &format!("few-{turn}"), CONNECTIONS).await, clients(api, &format!("many-{turn}"), CONNECTIONS).await);
        fill(api, project, task, 400_000).await;
        database.connect().await.batch_execute("vacuum analyze jobs").await.unwrap();
        bare.push(pgbench(database, task));
        one.push(claim_rate(address, project, &machines, 1).await);
        laden.push(claim_rate(address, project, &few, 1).await);
        many.push(claim_rate(address, project, &greedy, 100).await);
        api.delete(&format!("/projects/{project}/queue")).await.expect(200);
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let [bare, one, laden, many] = [&mut bare, &mut one, &mut laden, &mut many].map(median);
    println!("| pgbench, one-row claim, 16 connections | {bare:.0} jobs/s | |");
    println!(
        "| claims over HTTP, {CONNECTIONS} at a time of {MACHINES} clients, 1 job each ÷ pgbench | {one:.0} jobs/s = {:.2} | ≥ 1.0 |",
        one / bare
    );
    println!("| the same of {CONNECTIONS} clients, which then hold hundreds of jobs each | {laden:.0} jobs/s = {:.2} | |", laden / bare);
    println!("| claims over HTTP, {CONNECTIONS} clients, up to 100 jobs each ÷ pgbench | {many:.0} jobs/s = {:.2} | ≥ 3 |", many / bare);
}

/// A claim where a million jobs that are more urgent are not due yet, or back off, which is the same to it, beside one where none are.
async fn later(api: &Api, database: &TestDatabase) {
    let mut sides = Vec::new();
    for count in [0, 1_000_000] {
        let (project, task) = api.project_with_task(&format!("later {count}")).await;
        let job = json!({"name": "j", "task_id": task, "parameters": {}, "priority": 9, "not_before": "2999-01-01T00:00:00Z"});
        for _ in 0..count / 10_000 {
            api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": vec![&job; 10_000]})).await.expect(201);
        }
        fill(api, project, task, 10_000).await;
        sides.push((project, clients(api, &format!("later-{count}"), CONNECTIONS).await, Vec::new()));
    }
    database.connect().await.batch_execute("vacuum analyze jobs").await.unwrap();
    for turn in 0..CONNECTIONS * 100 {
        for (project, clients, times) in &mut sides {
            let claim = json!({"client_id": clients[turn % CONNECTIONS], "lease_seconds": 3600});
            let start = Instant::now();
            let claimed = api.post(&format!("/projects/{project}/claims"), claim).await.expect(200);
            times.push(start.elapsed());
            assert_eq!(claimed["jobs"].as_array().unwrap().len(), 1);
        }
    }
    for (percentile, bar) in [(50, "≤ 1.2"), (99, "≤ 1.2")] {
        let [none, many] = [0, 1].map(|side: usize| {
            let times = &mut sides[side].2;
            times.sort_unstable();
            times[times.len() * percentile / 100]
        });
        let ratio = many.as_secs_f64() / none.as_secs_f64();
        println!(
            "| a claim, p{percentile}, with 1,000,000 more urgent jobs that are not due ÷ with none | {many:.2?} ÷ {none:.2?} = {ratio:.2} | {bar} |"
        );
    }
}

/// Claims of half a million jobs while somebody holds a snapshot, so that nothing dead can be removed.
async fn under_a_snapshot(server: &Process, database: &TestDatabase) {
    let (api, address) = (&server.api, server.address());
    let (project, task) = api.project_with_task("long").await;
    let clients = clients(api, "long", 512).await;
    fill(api, project, task, LONG).await;
    let mut snapshot = database.connect().await;
    snapshot.batch_execute("vacuum analyze").await.unwrap();
    let held = snapshot.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).start().await.unwrap();
    held.query("select count(*) from jobs", &[]).await.unwrap();
    let mut rates = Vec::new();
    for _ in 0..10 {
        let (left, start) = (Arc::new(AtomicUsize::new(LONG / 10)), Instant::now());
        let claims = clients.iter().map(|client| {
            let left = left.clone();
            let claim = claim(project, client, 1);
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    assert_eq!(jobs(connection.ask(&claim).await), 1, "there are some left");
                }
            })
        });
        try_join_all(claims).await.unwrap();
        rates.push((LONG / 10) as f64 / start.elapsed().as_secs_f64());
        // Nobody runs a thousand jobs at a time: what was claimed is done before more is.
        let done = "update attempts set status = 'COMPLETED', ended_at = clock_timestamp() where ended_at is null";
        database.connect().await.batch_execute(done).await.unwrap();
    }
    held.rollback().await.unwrap();
    let (first, last) = (rates[0], rates[9]);
    println!("| {LONG} claims under a held snapshot: the last tenth ÷ the first | {last:.0} ÷ {first:.0} = {:.2} | ≥ 0.5 |", last / first);
}

/// How large tables and indexes become when half a million jobs are submitted, claimed and completed, and forgotten a quarter of a minute later.
async fn sizes() {
    let (database, audit) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let server = start(&database, &audit, &[("RETENTION_DAYS", "0.0002"), ("REPORT_LIMIT_PER_MINUTE", "0")]).await;
    let (api, address) = (&server.api, server.address());
    let (project, task) = api.project_with_task("sizes").await;
    let clients = clients(api, "sizes", 32).await;
    let store = database.connect().await;
    let mut sizes = Vec::new();
    for tenth in 1..=10 {
        fill(api, project, task, LONG / 10).await;
        let start = Instant::now();
        let workers = clients.iter().map(|client| {
            let claim = claim(project, client, 50);
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                loop {
                    let (status, answer) = connection.ask(&claim).await;
                    assert_eq!(status, 200);
                    let claimed: Value = serde_json::from_slice(answer).unwrap();
                    let jobs = claimed["jobs"].as_array().unwrap().clone();
                    if jobs.is_empty() {
                        return;
                    }
                    for job in jobs {
                        let path = format!("/jobs/{}/attempts/{}/complete", job["job"]["id"], job["attempt"]);
                        connection.post(&path, &json!({}), 200).await;
                    }
                }
            })
        });
        try_join_all(workers).await.unwrap();
        let rate = (LONG / 10) as f64 / start.elapsed().as_secs_f64();
        let sql = "select sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint, sum(n_live_tup)::bigint, sum(n_dead_tup)::bigint \
                   from pg_stat_user_tables where relname in ('jobs', 'attempts')";
        let row = store.query_one(sql, &[]).await.unwrap();
        let [tables, indexes, live, dead] = [0, 1, 2, 3].map(|column| row.get::<_, i64>(column));
        let (tables, indexes) = (tables / 1024 / 1024, indexes / 1024 / 1024);
        println!(
            "| jobs and attempts after {} jobs, claimed and completed at {rate:.0}/s | tables {tables} MiB, indexes {indexes} MiB, {live} rows, {dead} dead | |",
            tenth * LONG / 10
        );
        sizes.push(tables + indexes);
    }
    println!("| their size at the end ÷ after half of the jobs | {:.2} | levels off |", sizes[9] as f64 / sizes[4] as f64);
}
