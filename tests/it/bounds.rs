//! What a server holds for its clients is bounded, however large their requests are and however slowly they send and read.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
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
        sleep(Duration::from_millis(100)).await;
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
        if timeout(Duration::from_millis(200), answered).await.unwrap_or(false) {
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

/// What an attacker says on each connection before they say no more.
const OPENINGS: [&str; 4] = [
    "",
    "GET /projects HTTP/1.1\r\nx-endless: ",
    "POST /projects HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{",
    "GET /projects HTTP/1.1\r\nhost: t\r\n\r\nGET /pro",
];

/// The attacker opens one connection after the other and lets go of none of them.
#[tokio::test]
async fn descriptors_are_bounded_under_attack_and_closed_although_the_attacker_keeps_theirs() {
    const PLACES: usize = 50;
    const ATTACKS: usize = 400;
    // Connections to the stores, and those that are closed the moment after they were accepted.
    const BESIDES: usize = 30;
    let database = TestDatabase::new().await;
    let settings = [("MAX_CONNECTIONS_PER_ADDRESS", "50"), ("HEADER_TIMEOUT_SECONDS", "2"), ("REQUEST_TIMEOUT_SECONDS", "2")];
    let process = Process::start_with(&database, &settings).await;
    let before = process.descriptors();
    let attack = async {
        let mut kept = Vec::new();
        for opening in OPENINGS.iter().cycle().take(ATTACKS) {
            let mut stream = TcpStream::connect(process.address()).await.unwrap();
            // Those for whom there is no place are closed.
            stream.write_all(opening.as_bytes()).await.ok();
            kept.push(stream);
            sleep(Duration::from_millis(5)).await;
        }
        kept
    };
    let mut most = 0;
    let others = async {
        loop {
            let start = Instant::now();
            let answer = timeout(Duration::from_secs(2), answer_to_another_address(process.address())).await;
            assert!(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")), "others are served, it took {:?}", start.elapsed());
            most = most.max(process.descriptors());
            sleep(Duration::from_millis(10)).await;
        }
    };
    let kept = tokio::select! {
        kept = attack => kept,
        () = others => unreachable!("it has no end"),
    };
    assert!(most > before + PLACES / 2, "the attack takes places: {most} descriptors, {before} before");
    assert!(most <= before + PLACES + BESIDES, "{ATTACKS} connections: {most} descriptors, {before} before");
    eventually("what the attacker keeps is closed", || async { process.descriptors() <= before + BESIDES }).await;
    drop(kept);
    process.terminate().await;
}

/// What somebody is told who comes from another address than the rest of the world.
async fn answer_to_another_address(server: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    stream.write_all(b"GET /projects HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
