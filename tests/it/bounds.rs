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
    assert_eq!(server.api.get("/jobs?limit=15").await.expect(200).as_array().unwrap().len(), 15);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_do_not_read_are_cut_and_what_they_held_is_free_again() {
    let database = TestDatabase::new().await;
    let limits = [("in_flight_limit_bytes", "20000000"), ("batch_limit_bytes", "10000000"), ("write_timeout_seconds", "3")];
    let server = Server::start_with(&database, &limits).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    add_large_jobs(api, project, task, 20).await;
    let page = "/jobs?limit=15";
    api.get(page).await.expect(200);
    let silent = asked(server.address, &format!("GET {page} HTTP/1.1\r\nhost: t\r\n\r\n")).await;
    // Its answer has begun, so it holds its bytes; it has more than a second until it is cut.
    silent.readable().await.unwrap();
    let refused = api.get(page).await;
    assert_eq!(refused.header("retry-after"), "1");
    assert!(refused.problem(503).contains("as many large requests as it can"));
    api.get("/projects").await.expect(200);
    eventually("the silent client is cut", || async { api.try_get(page).await == Some(200) }).await;
    drop(silent);
    server.stop().await;
}

/// Twenty times as fast as it must read, and slower than it takes to empty a socket's buffer of megabytes in the time.
#[tokio::test]
async fn a_client_that_reads_slowly_and_steadily_gets_all_of_it() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("write_timeout_seconds", "1")]).await;
    let (project, task) = server.api.project_with_task("p").await;
    add_large_jobs(&server.api, project, task, 6).await;
    let mut stream = asked(server.address, "GET /jobs HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
    let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer).await.expect("the server goes on sending") {
            0 => break,
            length => read += length,
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(read > 5_400_000, "expected all of it, got {read} bytes");
    server.stop().await;
}

#[tokio::test]
async fn many_bodies_that_stop_half_way_take_no_more_than_their_budget() {
    const STALLED: usize = 300;
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("IN_FLIGHT_LIMIT_BYTES", "8000000"), ("BATCH_LIMIT_BYTES", "2000000")]).await;
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
