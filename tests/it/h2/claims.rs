//! Claims: streams are reset, and windows stay closed, while others share the connection.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::support::{Authority, Frame, H2, Pair, Server, TestDatabase, eventually, h2::*, waiting_for_locks};

/// A server that speaks HTTPS, and one that does not for everything else.
struct Site {
    database: TestDatabase,
    plain: Server,
    server: Server,
    connector: TlsConnector,
    _pair: Pair,
}

impl Site {
    async fn start(flags: &[(&str, &str)]) -> Self {
        let (database, authority) = (TestDatabase::new().await, Authority::new());
        let pair = authority.issue(&["localhost"]);
        let plain = Server::start(&database).await;
        let server = Server::start_with_tls(&database, &pair, flags).await;
        Self { database, plain, server, connector: authority.client(None, &["h2"]), _pair: pair }
    }

    /// A project with so many jobs that are ready, and what claims one.
    async fn jobs(&self, count: usize) -> (i64, String) {
        let (project, task) = self.plain.api.project_with_task("p").await;
        let jobs: Vec<Value> = (0..count).map(|_| json!({"name": "j", "task_id": task, "parameters": {"text": "x".repeat(300)}})).collect();
        self.plain.api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
        (project, format!("/projects/{project}/fetch_job"))
    }

    async fn connect(&self, window: u32) -> H2 {
        H2::connect(&self.connector, self.server.address, window).await
    }

    async fn count(&self, project: i64, status: &str) -> usize {
        let listed = self.plain.api.get(&format!("/jobs?project_id={project}&status={status}&limit=1")).await;
        listed.header("x-total-count").parse().unwrap()
    }

    /// How the only job stands: its status, and how often it was claimed.
    async fn stands(&self) -> (String, i32) {
        let row = self.database.connect().await.query_one("select status, attempt from jobs", &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    async fn stop(self) {
        self.database.assert_graph_is_true().await;
        self.plain.stop().await;
        self.server.stop().await;
    }
}

/// Reads until it is so, or the connection ends.
async fn read_until(connection: &mut H2, seen: &mut Vec<u8>, is_so: impl Fn(&[u8]) -> bool) {
    while !is_so(seen) && !matches!(connection.stream().read_buf(seen).await, Ok(0) | Err(_)) {}
}

/// The job in an answer that is in one frame, if all of it is among these bytes.
fn job_in(seen: &[u8]) -> Option<i64> {
    let start = seen.windows(7).position(|bytes| bytes == b"{\"job\":")?;
    let body = serde_json::Deserializer::from_slice(&seen[start..]).into_iter::<Value>().next()?.ok()?;
    body["job"]["id"].as_i64()
}

fn claimed(body: &[u8]) -> Option<i64> {
    let body: Value = serde_json::from_slice(body).expect("an answer is whole, or not there");
    body["job"]["id"].as_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_share_a_connection_are_answered_each_with_its_job() {
    const JOBS: usize = 90;
    let site = Site::start(&[]).await;
    let (project, path) = site.jobs(JOBS).await;
    let mut connection = site.connect(65_535).await;
    let streams: Vec<u32> = (0..90).map(|n| 2 * n + 1).collect();
    let requests: Vec<u8> = streams.iter().flat_map(|stream| Frame::get(*stream, &path).bytes()).collect();
    connection.send_bytes(&requests).await.unwrap();
    let (mut bodies, mut open) = (vec![Vec::new(); JOBS * 2], streams.len());
    while open > 0 {
        let frame = timeout(Duration::from_secs(20), connection.next()).await.expect("all are answered").expect("the connection stays");
        assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
        if frame.kind == DATA {
            bodies[frame.stream as usize].extend(&frame.payload);
            // 90 answers are more than what the connection may send at first.
            let grown = Frame::new(WINDOW_UPDATE, 0, 0, u32::try_from(frame.payload.len()).unwrap().max(1).to_be_bytes());
            connection.send(&grown).await.unwrap();
        }
        open -= usize::from(frame.ends_stream());
    }
    let jobs: HashSet<i64> = streams.iter().filter_map(|stream| claimed(&bodies[*stream as usize])).collect();
    assert_eq!(jobs.len(), JOBS, "each job went to one stream");
    assert_eq!((site.count(project, "QUEUED").await, site.count(project, "PENDING").await), (JOBS, 0));
    site.stop().await;
}

/// As the test of the same name for HTTP/1.1: what a client has is its own, and what comes after it has reset the stream is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resetting_streams_at_random_loses_no_job() {
    const JOBS: usize = 600;
    const CLIENTS: u64 = 100;
    const LONGEST_WAITS_MS: [u64; 4] = [4, 20, 100, 500];
    let site = Site::start(&[]).await;
    let (project, path) = site.jobs(JOBS).await;
    let waits = LONGEST_WAITS_MS.iter().flat_map(|longest| (0..CLIENTS).map(move |n| Duration::from_micros(longest * 1000 * n / CLIENTS)));
    let clients = waits.map(|wait| {
        let (connector, address, path) = (site.connector.clone(), site.server.address, path.clone());
        tokio::spawn(async move {
            let mut connection = H2::connect(&connector, address, 65_535).await;
            connection.send(&Frame::get(1, &path)).await.unwrap();
            // What has come is kept, however little it is when the time is up.
            let mut seen = Vec::new();
            if timeout(wait, read_until(&mut connection, &mut seen, |seen| job_in(seen).is_some())).await.is_ok() {
                return (job_in(&seen), false);
            }
            let rest = async {
                connection.send(&Frame::reset(1)).await.unwrap();
                connection.send(&Frame::new(PING, 0, 0, [7; 8])).await.unwrap();
                // The answer to the PING comes after everything that was on its way.
                read_until(&mut connection, &mut seen, |seen| seen.windows(8).any(|bytes| bytes == [7; 8])).await;
            };
            timeout(Duration::from_secs(20), rest).await.expect("the PING is answered");
            (None, job_in(&seen).is_some())
        })
    });
    // Handshakes take their time: all at once they would keep the answers waiting.
    let came: Vec<(Option<i64>, bool)> = stream::iter(clients).buffer_unordered(16).map(Result::unwrap).collect().await;
    let received: Vec<i64> = came.iter().filter_map(|(job, _)| *job).collect();
    let late = came.iter().filter(|(_, is_late)| *is_late).count();
    assert_eq!(received.len(), received.iter().collect::<HashSet<_>>().len(), "no job went to two clients");
    assert!(
        !received.is_empty() && received.len() + late < came.len(),
        "{} received, {late} late: some streams were reset in time, and some were not",
        received.len()
    );
    // Bytes are late that crossed the reset on its way: more of them where clients get less of a processor.
    assert!(late <= came.len() / 3, "at most a third of {} answers cross their reset, and {late} did", came.len());
    let held = received.len() + late;
    eventually("every job that nobody received is pending again", || async {
        site.count(project, "QUEUED").await == held && site.count(project, "PENDING").await == JOBS - held
    })
    .await;
    site.stop().await;
}

/// A window that is closed, or lets in some bytes only, keeps an answer for a while. Then the stream ends, not the connection, and the job goes back.
#[tokio::test]
async fn a_claim_whose_window_stays_closed_is_put_back() {
    for window in [0, 1, 100] {
        let site = Site::start(&[("write_timeout_seconds", "1")]).await;
        let (_, path) = site.jobs(1).await;
        let mut connection = site.connect(window).await;
        connection.send(&Frame::get(1, &path)).await.unwrap();
        eventually("the job was claimed", || async { site.stands().await.1 == 1 }).await;
        let end = loop {
            let frame = connection.next_of(1).await.expect("the connection stays");
            assert!(!frame.ends_stream(), "{frame:?}");
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert_eq!(end.payload, 8_u32.to_be_bytes(), "CANCEL");
        eventually("the job is pending again", || async { site.stands().await == ("PENDING".to_owned(), 1) }).await;
        connection.send(&Frame::get(3, "/livez")).await.unwrap();
        connection.send(&Frame::new(WINDOW_UPDATE, 0, 3, 1000_u32.to_be_bytes())).await.unwrap();
        assert!(connection.body_of(3).await.is_some(), "others on the connection are answered");
        drop(connection);
        site.stop().await;
    }
}

#[tokio::test]
async fn a_window_that_opens_in_time_gets_the_job_once() {
    let site = Site::start(&[("write_timeout_seconds", "5")]).await;
    let (_, path) = site.jobs(1).await;
    let mut connection = site.connect(0).await;
    connection.send(&Frame::get(1, &path)).await.unwrap();
    let head = connection.next_of(1).await.expect("the answer begins");
    assert_eq!(head.kind, HEADERS);
    let mut body = Vec::new();
    // It opens byte by byte, and then wide.
    for size in [1_u32, 1, 1, 60_000] {
        connection.send(&Frame::new(WINDOW_UPDATE, 0, 1, size.to_be_bytes())).await.unwrap();
        let frame = connection.next_of(1).await.expect("more of it");
        assert_eq!(frame.kind, DATA);
        body.extend(frame.payload);
    }
    assert!(connection.next_of(1).await.expect("its end").ends_stream());
    assert!(claimed(&body).is_some());
    // A job that is put back is put back at once: a second claim finds none.
    connection.send(&Frame::get(3, &path)).await.unwrap();
    connection.send(&Frame::new(WINDOW_UPDATE, 0, 3, 60_000_u32.to_be_bytes())).await.unwrap();
    assert_eq!(claimed(&connection.body_of(3).await.expect("an answer")), None);
    drop(connection);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(site.stands().await, ("QUEUED".to_owned(), 1), "it is the client's");
    site.stop().await;
}

/// The client goes, with its stream or with its connection, while the claim waits for a lock; or the server is told to stop.
#[tokio::test]
async fn a_claim_that_ends_after_its_stream_has_gone_is_put_back() {
    for way in ["reset", "close", "stop"] {
        let site = Site::start(&[]).await;
        let (_, path) = site.jobs(1).await;
        let mut client = site.database.connect().await;
        let transaction = client.transaction().await.unwrap();
        transaction.batch_execute("lock table jobs in row exclusive mode; lock table jobs in share mode").await.unwrap();
        let mut connection = Some(site.connect(65_535).await);
        connection.as_mut().unwrap().send(&Frame::get(1, &path)).await.unwrap();
        let watcher = site.database.connect().await;
        eventually("the claim waits for the lock", || async { waiting_for_locks(&watcher).await == 1 }).await;
        if way == "stop" {
            site.server.begin_stop();
        }
        match way {
            "reset" => connection.as_mut().unwrap().send(&Frame::reset(1)).await.unwrap(),
            _ => connection = None,
        }
        transaction.rollback().await.unwrap();
        eventually("the job was claimed and is pending again", || async { site.stands().await == ("PENDING".to_owned(), 1) }).await;
        drop(connection);
        site.stop().await;
    }
}

/// Answers each PING, as clients do, until a stream has ended; its body.
async fn alive_until(connection: &mut H2, stream: u32) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let frame = connection.next().await.expect("the connection stays");
        match frame.kind {
            PING if frame.flags & ACK == 0 => connection.send(&Frame::new(PING, ACK, 0, frame.payload)).await.unwrap(),
            DATA if frame.stream == stream => {
                body.extend(&frame.payload);
                if frame.ends_stream() {
                    return body;
                }
            }
            RST_STREAM | GOAWAY => panic!("expected an answer to stream {stream}, got {frame:?}"),
            _ => {}
        }
    }
}

/// A connection on which somebody waits is not idle, and what it waits for comes over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_may_wait_for_longer_than_a_connection_may_be_idle() {
    // Idle connections last for twice that at most, and one more second.
    let site = Site::start(&[("header_timeout_seconds", "2")]).await;
    let api = &site.plain.api;
    let (project, task) = api.project_with_task("p").await;
    api.post("/clients/register", json!({"id": "node", "name": "n", "entity": "e", "available_cpu": 8})).await.expect(201);
    let mut connection = site.connect(65_535).await;
    let claim = |stream: u32, wait_seconds: u32| {
        let body = json!({"client_id": "node", "wait_seconds": wait_seconds}).to_string();
        let fields = [("content-type", "application/json"), ("content-length", &*body.len().to_string())];
        let head = Frame::new(HEADERS, END_HEADERS, stream, head("POST", &format!("/projects/{project}/claims"), &fields));
        [head.bytes(), Frame::new(DATA, END_STREAM, stream, body).bytes()].concat()
    };
    let began = Instant::now();
    connection.send_bytes(&claim(1, 7)).await.unwrap();
    let answer = alive_until(&mut connection, 1).await;
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap(), json!({"jobs": []}));
    assert!(began.elapsed() >= Duration::from_secs(7), "it waited as long as it said, not {:?}", began.elapsed());

    // Over the same connection, while another one waits for longer.
    connection.send_bytes(&claim(3, 60)).await.unwrap();
    connection.send_bytes(&claim(5, 6)).await.unwrap();
    assert_eq!(alive_until(&mut connection, 5).await, answer);
    let job = api.job(project, task, "j", &[]).await;
    let answer: Value = serde_json::from_slice(&alive_until(&mut connection, 3).await).unwrap();
    assert_eq!(answer["jobs"][0]["job"]["id"], job);
    drop(connection);
    site.stop().await;
}

/// RFC 9110, 9.3.2.
#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let site = Site::start(&[]).await;
    let mut connection = site.connect(65_535).await;
    for (stream, path) in [(1, "/livez"), (3, "/projects"), (5, "/nothing")] {
        connection.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, head("HEAD", path, &[]))).await.unwrap();
        let mut bytes = 0;
        loop {
            let frame = connection.next_of(stream).await.expect("an answer");
            if frame.kind == DATA {
                bytes += frame.payload.len();
            }
            if frame.ends_stream() {
                break;
            }
        }
        assert_eq!(bytes, 0, "HEAD {path}");
    }
    site.stop().await;
}
