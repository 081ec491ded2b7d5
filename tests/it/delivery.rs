//! A client that goes away while it claims takes no job with it.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::{Server, TestDatabase, eventually, waiting_for_locks};

/// Connections are cut at random moments of a claim. A client that closes its side and then reads what there is knows whether the answer had been sent:
/// so each job is in the hands of exactly one client, or pending again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cutting_connections_at_random_loses_no_job() {
    const JOBS: usize = 300;
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let jobs: Vec<Value> = (0..JOBS).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
    api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);

    let clients = (0..200).map(|n| {
        let address = server.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /projects/{project}/fetch_job HTTP/1.1\r\nhost: test\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            // From before the claim begins to after its answer is sent.
            sleep(Duration::from_micros(n * 61 % 12_000)).await;
            stream.shutdown().await.ok();
            let mut answer = String::new();
            timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.expect("the server closes").ok();
            let (_, body) = answer.split_once("\r\n\r\n")?;
            let body: Value = serde_json::from_str(body).expect("an answer is whole, or not there");
            body["job"]["id"].as_i64()
        })
    });
    let received: Vec<i64> = futures_util::future::try_join_all(clients).await.unwrap().into_iter().flatten().collect();
    let distinct: HashSet<i64> = received.iter().copied().collect();
    assert_eq!(received.len(), distinct.len(), "no job went to two clients");

    let count = async |status: &str| -> usize {
        let listed = api.get(&format!("/jobs?project_id={project}&status={status}&limit=1")).await;
        listed.header("x-total-count").parse().unwrap()
    };
    eventually("every job that nobody received is pending again", || async {
        count("QUEUED").await == received.len() && count("PENDING").await == JOBS - received.len()
    })
    .await;
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// The same where it is certain: the claim waits for a lock, the client goes, the lock goes.
#[tokio::test]
async fn a_claim_that_ends_after_its_client_has_gone_is_put_back() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let job = api.job(project, task, "j", &[]).await;

    let mut client = database.connect().await;
    let transaction = client.transaction().await.unwrap();
    // Stops the claim's update, but not its look for a job.
    transaction.batch_execute("lock table jobs in row exclusive mode; lock table jobs in share mode").await.unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(format!("GET /projects/{project}/fetch_job HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    let watcher = database.connect().await;
    eventually("the claim waits for the lock", || async { waiting_for_locks(&watcher).await == 1 }).await;
    drop(stream);
    transaction.rollback().await.unwrap();
    let attempts = async || -> i32 { watcher.query_one("select attempt from jobs where id = $1", &[&job]).await.unwrap().get(0) };
    eventually("the job was claimed for the client that went", || async { attempts().await == 1 }).await;
    eventually("the job is pending again", || async { api.status(job).await == "PENDING" }).await;
    server.stop().await;
}

/// A server that stops puts back what it could not hand over before it exits.
#[tokio::test]
async fn a_server_that_stops_puts_back_first() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    let job = server.api.job(project, task, "j", &[]).await;
    let mut client = database.connect().await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("lock table jobs in row exclusive mode; lock table jobs in share mode").await.unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(format!("GET /projects/{project}/fetch_job HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    let watcher = database.connect().await;
    eventually("the claim waits for the lock", || async { waiting_for_locks(&watcher).await == 1 }).await;
    drop(stream);
    server.begin_stop();
    transaction.rollback().await.unwrap();
    server.stop().await;
    let row = watcher.query_one("select status, attempt from jobs where id = $1", &[&job]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("PENDING", 1));
}
