//! What a server holds for its clients is bounded, however large their requests are and however slowly they send and read.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Api, Process, Server, TestDatabase, eventually};

/// Jobs with 900,000 bytes of parameters each.
async fn add_large_jobs(api: &Api, project: i64, task: i64, count: usize) {
    let large = json!({"name": "large", "task_id": task, "parameters": {"text": "x".repeat(900_000)}});
    for _ in 0..count.div_ceil(10) {
        let jobs: Vec<Value> = vec![large.clone(); count.min(10)];
        api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
    }
}

async fn asked(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_page_that_would_be_too_large_is_refused_and_says_what_to_do() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    add_large_jobs(&server.api, project, task, 40).await;
    let refused = server.api.get("/jobs?limit=1000").await;
    assert_eq!(refused.body["errors"][0]["loc"], json!(["query", "limit"]));
    assert!(refused.problem(422).contains("ask for fewer"));
    assert_eq!(server.api.get("/jobs?limit=30").await.expect(200).as_array().unwrap().len(), 30);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_do_not_read_are_cut_and_what_they_held_is_free_again() {
    let database = TestDatabase::new().await;
    let limits = [("in_flight_limit_bytes", "20000000"), ("write_timeout_seconds", "1")];
    let server = Server::start_with(&database, &limits).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    add_large_jobs(api, project, task, 20).await;
    let page = "/jobs?limit=20";
    api.get(page).await.expect(200);
    let silent = asked(server.address, &format!("GET {page} HTTP/1.1\r\nhost: t\r\n\r\n")).await;
    eventually("a second page does not fit beside the one that is not read", || async { api.try_get(page).await == Some(503) }).await;
    let refused = api.get(page).await;
    if refused.status == 503 {
        assert_eq!(refused.header("retry-after"), "1");
        assert!(refused.problem(503).contains("as many large requests as it can"));
    }
    api.get("/projects").await.expect(200);
    eventually("the silent client is cut", || async { api.try_get(page).await == Some(200) }).await;
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn many_bodies_that_stop_half_way_take_no_more_than_their_budget() {
    const STALLED: usize = 300;
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("IN_FLIGHT_LIMIT_BYTES", "8000000")]).await;
    let memory = process.resident_bytes();
    let head = "POST /projects HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n";
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut stream = asked(process.address(), head).await;
        // A server that refuses may close while it is still being written to.
        stream.write_all(&[b' '; 900_000]).await.ok();
        stalled.push(stream);
    }
    let mut refused = 0;
    for stream in &mut stalled {
        let mut status = [0; 12];
        let answered = async { stream.read_exact(&mut status).await.is_ok() && status == *b"HTTP/1.1 503" };
        if tokio::time::timeout(std::time::Duration::from_millis(200), answered).await.unwrap_or(false) {
            refused += 1;
        }
    }
    assert!(refused > 0, "expected bodies to be refused once 8 MB are held");
    let grown = process.resident_bytes().saturating_sub(memory);
    // 270 MB were sent. What is not of bodies is of connections, and what the allocator keeps.
    assert!(grown < 90_000_000, "expected little more than 8 MB, it grew by {grown} bytes");
    drop(stalled);
    eventually("others are served", || async { process.api.post("/projects", json!({"name": "q"})).await.status != 503 }).await;
}
