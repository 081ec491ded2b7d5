//! A client that goes away while it claims takes no job with it.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::{Server, TestDatabase, eventually};

/// How a client's answer came.
#[derive(Debug, PartialEq)]
enum Came {
    /// Before it closed its side.
    InTime(Option<i64>),
    /// After it had closed its side: a client that closes for good would never have read it.
    Late,
    Never,
}

/// Connections are cut at random moments of a claim. A client closes its side, which is all that a server sees of a client that goes away, and reads
/// what there is. So each job is in the hands of exactly one client, or pending again; and what was sent to a client that had closed is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cutting_connections_at_random_loses_no_job() {
    const JOBS: usize = 600;
    const CLIENTS: u64 = 100;
    // From before the claim begins to after its answer is sent, on a fast machine and on a busy one.
    const LONGEST_WAITS_MS: [u64; 5] = [4, 20, 100, 500, 5000];
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let jobs: Vec<Value> = (0..JOBS).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
    api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);

    let waits = LONGEST_WAITS_MS.iter().flat_map(|longest| (0..CLIENTS).map(move |n| Duration::from_micros(longest * 1000 * n / CLIENTS)));
    let clients = waits.map(|wait| {
        let address = server.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(claim(project).as_bytes()).await.unwrap();
            sleep(wait).await;
            let early = is_readable(&stream);
            stream.shutdown().await.ok();
            let mut answer = String::new();
            timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.expect("the server closes").ok();
            let Some((_, body)) = answer.split_once("\r\n\r\n") else { return Came::Never };
            let body: Value = serde_json::from_str(body).expect("an answer is whole, or not there");
            if early { Came::InTime(body["job"]["id"].as_i64()) } else { Came::Late }
        })
    });
    let came = futures_util::future::try_join_all(clients).await.unwrap();
    let late = came.iter().filter(|came| **came == Came::Late).count();
    let received: Vec<i64> = came.iter().filter_map(|came| if let Came::InTime(job) = came { *job } else { None }).collect();
    let distinct: HashSet<i64> = received.iter().copied().collect();
    assert_eq!(received.len(), distinct.len(), "no job went to two clients");
    assert!(came.contains(&Came::Never) && !received.is_empty(), "some clients were cut, and some were not");
    // Between the server's last look at the connection and its sending there is a moment, of some microseconds.
    assert!(late <= 4, "at most 4 of {} answers are sent to a client that has gone, and {late} were", came.len());

    let count = async |status: &str| -> usize {
        let listed = api.get(&format!("/jobs?project_id={project}&status={status}&limit=1")).await;
        listed.header("x-total-count").parse().unwrap()
    };
    let held = received.len() + late;
    eventually("every job that nobody received is pending again", || async {
        count("QUEUED").await == held && count("PENDING").await == JOBS - held
    })
    .await;
    database.assert_graph_is_true().await;
    server.stop().await;
}

fn claim(project: i64) -> String {
    format!("GET /projects/{project}/fetch_job HTTP/1.1\r\nhost: test\r\n\r\n")
}

/// Whether the kernel has something for a reader.
fn is_readable(stream: &TcpStream) -> bool {
    socket2::SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok()
}

/// A claim that waits for a lock. Its client goes, and then the lock.
async fn claim_and_go(database: &TestDatabase, server: &Server, claim: &str, gone: impl FnOnce()) -> tokio_postgres::Client {
    let mut client = database.connect().await;
    let transaction = client.transaction().await.unwrap();
    // Stops the claim's update, but not its look for a job.
    transaction.batch_execute("lock table jobs in row exclusive mode; lock table jobs in share mode").await.unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(claim.as_bytes()).await.unwrap();
    let watcher = database.connect().await;
    let waits = "select count(*) from pg_stat_activity
                 where wait_event_type = 'Lock' and datname = current_database() and query like '%-- Claims %'";
    eventually("the claim waits for the lock", || async { watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1 }).await;
    drop(stream);
    gone();
    transaction.rollback().await.unwrap();
    watcher
}

/// The same where it is certain.
#[tokio::test]
async fn a_claim_that_ends_after_its_client_has_gone_is_put_back() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let job = api.job(project, task, "j", &[]).await;
    let watcher = claim_and_go(&database, &server, &claim(project), || {}).await;
    let attempts = async || -> i32 { watcher.query_one("select attempt from jobs where id = $1", &[&job]).await.unwrap().get(0) };
    eventually("the job was claimed for the client that went", || async { attempts().await == 1 }).await;
    eventually("the job is pending again", || async { api.status(job).await == "PENDING" }).await;
    server.stop().await;
}

/// So it is with several jobs that are claimed with a lease, which would keep them from others for long. Nobody failed.
#[tokio::test]
async fn jobs_that_are_claimed_together_for_a_client_that_has_gone_are_all_put_back() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let client = json!({"id": "node", "name": "n", "entity": "e", "available_cpu": 8});
    api.post("/clients/register", client).await.expect(201);
    let jobs: Vec<Value> = (0..4).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
    api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
    let claims = |max_jobs: usize| json!({"client_id": "node", "max_jobs": max_jobs, "lease_seconds": 3600});
    let body = claims(3).to_string();
    let claim = format!(
        "POST /projects/{project}/claims HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let watcher = claim_and_go(&database, &server, &claim, || {}).await;
    let count = async |sql: &str| watcher.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let put_back =
        "select count(*) from attempts where (status, reason, job_status) = ('RELEASED', 'not delivered', 'PENDING') and number = 1";
    eventually("the jobs were claimed for the client that went, and put back", || async { count(put_back).await == 3 }).await;
    assert_eq!(count("select count(*) from attempts").await, 3, "no more than it asked for");
    let as_before = "select count(*) from jobs where status = 'PENDING' and due and not_before is null and failed_attempts = 0";
    assert_eq!(count(as_before).await, 4, "expected all jobs to be ready, and no attempt to count as failed");
    let again = api.post(&format!("/projects/{project}/claims"), claims(9)).await.expect(200);
    let attempts: Vec<&Value> = again["jobs"].as_array().unwrap().iter().map(|claimed| &claimed["attempt"]).collect();
    assert_eq!(json!(attempts), json!([2, 2, 2, 1]), "it has room for all of them");
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// A server that stops puts back what it could not hand over before it exits.
#[tokio::test]
async fn a_server_that_stops_puts_back_first() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    let job = server.api.job(project, task, "j", &[]).await;
    let watcher = claim_and_go(&database, &server, &claim(project), || server.begin_stop()).await;
    server.stop().await;
    let row = watcher.query_one("select status, attempt from jobs where id = $1", &[&job]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("PENDING", 1));
}

/// An answer is delivered when the socket has taken all of it, not when it is made: here it is larger than what fits on the way to a client that reads
/// nothing.
#[tokio::test]
async fn a_claim_that_its_client_does_not_read_is_put_back() {
    let database = TestDatabase::new().await;
    let flags = [("write_timeout_seconds", "1"), ("body_limit_bytes", "16777216")];
    let server = Server::start_with(&database, &flags).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let large = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {"text": "x".repeat(15_000_000)}});
    let job = api.post("/jobs", large).await.expect(201)["id"].as_i64().unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(claim(project).as_bytes()).await.unwrap();
    let watcher = database.connect().await;
    let stands = async || -> (String, i32) {
        let row = watcher.query_one("select status, attempt from jobs where id = $1", &[&job]).await.unwrap();
        (row.get(0), row.get(1))
    };
    eventually("the job was claimed and is pending again", || async { stands().await == ("PENDING".to_owned(), 1) }).await;
    drop(stream);
    server.stop().await;
}
