//! What clients should not send: a clear 4xx or a closed connection, nothing half done, memory flat.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Process, Server, TestDatabase, eventually};

#[tokio::test]
async fn bodies_that_are_not_what_is_documented_are_refused_with_the_place() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let job = |field: &str, value: &str| {
        let mut fields = vec![
            ("name", "\"j\"".to_owned()),
            ("project_id", project.to_string()),
            ("task_id", task.to_string()),
            ("parameters", "{}".to_owned()),
        ];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value.to_owned()));
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    };
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let wrong = [
        ("name", "1"),
        ("name", "null"),
        ("name", "\"\""),
        ("name", "\"a\\u0000b\""),
        ("name", "\"\\ud800\""),
        ("name", "true"),
        ("name", "[\"j\"]"),
        ("project_id", "\"1\""),
        ("project_id", "1.5"),
        ("project_id", "9223372036854775808"),
        ("task_id", "1e3"),
        ("priority", "2147483648"),
        ("priority", "-2147483648"),
        ("priority", "null"),
        ("status", "\"DONE\""),
        ("status", "1"),
        ("parameters", "[]"),
        ("parameters", "\"{}\""),
        ("parameters", "{\"a\":1e400}"),
        ("parameters", "{\"a\":\"\\u0000\"}"),
        ("parameters", "{\"a\":1,\"a\":2}"),
        ("parameters", "{\"a\":\"\\udc00\"}"),
        ("parameters", "{\"a\":NaN}"),
        ("parameters", &deep),
        ("depends", "[]"),
        ("depends", "{\"x\":\"y\"}"),
        ("depends", "{\"1\":2}"),
        ("depends", "{\"9223372036854775808\":\"\"}"),
    ];
    for (field, value) in wrong {
        let answer = api.send(Method::POST, "/jobs", Some(job(field, value))).await;
        let loc = answer.body["errors"][0]["loc"].clone();
        let shown = value.chars().take(40).collect::<String>();
        answer.problem(422);
        assert!(loc[0] == "body" && (loc[1] == field || loc.as_array().unwrap().len() == 1), "{field} = {shown}: {loc}");
    }
    let long = format!("\"{}\"", "n".repeat(256));
    api.send(Method::POST, "/jobs", Some(job("name", &long))).await.problem(422);
    for text in ["", "{", "null", "[]", "{}", "\"x\"", "{\"name\":\"j\",\"name\":\"j\"}", "{\"name\":\"j\"}trailing"] {
        api.send(Method::POST, "/jobs", Some(text.to_owned())).await.problem(422);
    }
    api.send_with(Method::POST, "/jobs", &[("content-type", "application/json")], b"{\"name\":\"\xff\"}".to_vec()).await.problem(422);
    assert_eq!(api.get("/jobs").await.header("x-total-count"), "0", "nothing was added");

    let unknown = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}, "id": 7, "created_at": "x", "what": [1]});
    api.post("/jobs", unknown).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn paths_that_name_nothing_are_refused() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    for path in [
        "/jobs/9223372036854775808",
        "/jobs/-9223372036854775809",
        "/jobs/x",
        "/jobs/1.0",
        "/jobs/+1",
        "/tasks/%20",
        "/tasks/train",
        "/projects/1e3",
        "/projects/name/%00",
    ] {
        assert!(api.get(path).await.problem(404).starts_with("There is nothing here: "), "{path}");
    }
    for path in [
        "/jobs/0",
        "/jobs/-1",
        "/jobs/9223372036854775807",
        "/clients/a%20b",
        "/projects/name/%F0%9F%98%80",
        "/nowhere",
        "//",
        "/jobs/1/2/3",
    ] {
        api.get(path).await.problem(404);
    }
    for path in ["/projects/name/%ff", "/projects/name/%zz", "/jobs?limit=%", "/jobs?status=%c3%28"] {
        api.get(path).await.problem(400);
    }
    server.stop().await;
}

#[tokio::test]
async fn methods_and_media_types_are_checked() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, _) = api.project_with_task("p").await;

    let refused = api.send(Method::PATCH, "/projects/1", None).await;
    assert_eq!(refused.header("allow"), "DELETE, GET, HEAD, OPTIONS, PUT");
    refused.problem(405);
    let options = api.send(Method::OPTIONS, "/jobs/", None).await;
    assert_eq!((options.status, options.header("allow")), (204, "GET, HEAD, OPTIONS, POST"));
    api.send(Method::from_bytes(b"BREW").unwrap(), "/jobs", None).await.problem(405);
    let head = api.send(Method::HEAD, "/projects/1", None).await;
    let get = api.get("/projects/1").await;
    assert_eq!((head.status, head.header("content-length"), head.text.as_str()), (200, get.header("content-length"), ""));
    let claim = api.send(Method::HEAD, &format!("/projects/{project}/fetch_job"), None).await;
    assert_eq!((claim.status, claim.header("allow")), (405, "GET, OPTIONS"), "HEAD must not claim");

    let body = br#"{"name": "q"}"#.to_vec();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"] {
        api.send_with(Method::POST, "/projects", &[("content-type", kind)], body.clone()).await.problem(415);
    }
    api.send_with(Method::POST, "/projects", &[("content-type", "application/json"), ("content-encoding", "gzip")], body.clone())
        .await
        .problem(415);
    api.send_with(Method::POST, "/projects", &[("content-type", "Application/JSON; charset=utf-8")], body).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn request_ids_are_taken_if_they_are_some_and_made_otherwise() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let send = async |id: &str| server.api.send_with(Method::GET, "/nowhere", &[("x-request-id", id)], Vec::new()).await;
    let taken = send("from the client: 7").await;
    assert_eq!(taken.header("x-request-id"), "from the client: 7");
    taken.problem(404);
    for id in ["", &"x".repeat(129), "tab\there", "ümlaut"] {
        let made = send(id).await;
        assert_ne!(made.header("x-request-id"), id);
        assert_eq!(made.header("x-request-id").len(), 36, "a UUID");
        made.problem(404);
    }
    server.stop().await;
}

#[tokio::test]
async fn bodies_are_limited_however_they_are_sent() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("BODY_LIMIT_BYTES", "100000"), ("BATCH_LIMIT_BYTES", "200000")]).await;
    let api = &process.api;
    let (project, task) = api.project_with_task("p").await;
    let memory = process.resident_bytes();

    let large = format!("{{\"name\":\"{}\"}}", "n".repeat(10_000_000));
    for _ in 0..20 {
        api.send(Method::POST, "/projects", Some(large.clone())).await.problem(413);
        api.send(Method::POST, &format!("/projects/{project}/jobs/batch"), Some(large.clone())).await.problem(413);
    }
    // Chunked: nothing says beforehand how much it will be.
    for _ in 0..20 {
        let answer = raw(process.address(), |mut stream| async move {
            stream
                .write_all(b"POST /projects HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            for _ in 0..200 {
                stream.write_all(format!("ffff\r\n{}\r\n", "x".repeat(0xffff)).as_bytes()).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
            Ok(stream)
        })
        .await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let grown = process.resident_bytes().saturating_sub(memory);
    assert!(grown < 32 * 1024 * 1024, "expected memory to stay flat, it grew by {grown} bytes");

    let between = json!({"jobs": [{"name": "j", "task_id": task, "parameters": {"x": "x".repeat(150_000)}}]});
    api.post(&format!("/projects/{project}/jobs/batch"), between).await.expect(201);
    api.post("/projects", json!({"name": "q", "description": "d".repeat(60_000)})).await.expect(201);
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("header_timeout_seconds", "1"), ("request_timeout_seconds", "1")]).await;
    let slow = |text: &'static str| {
        raw(server.address, move |mut stream| async move {
            // One byte after the other, until the server has had enough.
            stream.write_all(text.as_bytes()).await?;
            let (mut reader, mut writer) = stream.into_split();
            let trickle = tokio::spawn(async move {
                while writer.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer).await.ok();
            trickle.abort();
            Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
        })
    };
    let (nothing, half_a_head, body) = tokio::join!(
        raw(server.address, |stream| async move { Ok(stream) }),
        slow("GET /projects HTTP/1.1\r\nx-endless: "),
        slow("POST /projects HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"),
    );
    assert_eq!(nothing, "", "a connection that says nothing is closed");
    assert!(half_a_head.is_empty() || half_a_head.starts_with("HTTP/1.1 408 "), "{half_a_head}");
    assert!(body.starts_with("HTTP/1.1 408 "), "{body}");
    assert!(body.contains("application/problem+json"), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn requests_that_mean_two_things_are_refused() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    for head in [
        "content-length: 2\r\ncontent-length: 3\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999\r\n",
        "content-length: 2\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
    ] {
        let answer = raw(server.address, move |mut stream| async move {
            let request = format!("POST /projects HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n{head}\r\n{{}}\r\nGET / HTTP/1.1\r\nhost: t\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            stream.shutdown().await?;
            Ok(stream)
        })
        .await;
        // Content-Length beside Transfer-Encoding: RFC 9112 6.3 lets the latter win; what follows must not be taken for a request.
        let statuses: Vec<&str> = answer.matches("HTTP/1.1 ").collect();
        assert!(statuses.len() <= 1 && !answer.contains("healthy"), "{head}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{head}: {answer}");
    }
    let answer = raw(server.address, |mut stream| async move {
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: t\r\nx-large: {}\r\n\r\n", "x".repeat(1_000_000)).as_bytes()).await?;
        Ok(stream)
    })
    .await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(server.api.get("/").await.expect(200)["status"], "healthy");
    assert_eq!(server.api.get("/projects").await.header("x-total-count"), "0");
    server.stop().await;
}

/// RFC 9112, 3.2: a proxy in front must not see another host than the server.
#[tokio::test]
async fn a_request_names_its_host_once() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let cases = [
        ("1.1", "", "400"),
        ("1.1", "host: a\r\nhost: b\r\n", "400"),
        ("1.1", "host: a\r\nconnection: close\r\n", "200"),
        ("1.0", "", "200"),
    ];
    for (version, head, expected) in cases {
        let answer = raw(server.address, move |mut stream| async move {
            stream.write_all(format!("GET /projects HTTP/{version}\r\n{head}\r\n").as_bytes()).await?;
            Ok(stream)
        })
        .await;
        assert_eq!(answer.split(' ').nth(1), Some(expected), "HTTP/{version} {head:?}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn connections_are_limited_and_the_rest_wait_their_turn() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("max_connections", "4"), ("header_timeout_seconds", "2")]).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // The kernel takes the fifth; the server gets to it when a silent one is cut.
    eventually("a request is answered once the silent ones are cut", || async { server.api.try_get("/").await == Some(200) }).await;
    server.stop().await;
}

#[tokio::test]
async fn text_of_the_inside_never_gets_out() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, _) = server.api.project_with_task("p").await;
    // A table that is gone is an error that nobody foresaw.
    database.connect().await.batch_execute("alter table jobs rename to canary_table").await.unwrap();
    let answer = server.api.get("/jobs").await;
    assert!(!answer.text.contains("canary") && !answer.text.contains("relation") && !answer.text.contains("select"), "{}", answer.text);
    assert!(answer.problem(500).contains("log"));
    assert_eq!(server.api.get(&format!("/projects/{project}")).await.status, 200);
    server.stop().await;
}

/// Says something to the server and returns all that it says until it closes.
async fn raw<F, R>(address: std::net::SocketAddr, talk: F) -> String
where
    F: FnOnce(TcpStream) -> R,
    R: Future<Output = std::io::Result<TcpStream>>,
{
    let stream = TcpStream::connect(address).await.expect("the server accepts");
    let conversation = async {
        match talk(stream).await {
            Ok(mut stream) => {
                let mut answer = Vec::new();
                // A server that refuses may reset the connection while it is still being written to.
                stream.read_to_end(&mut answer).await.ok();
                String::from_utf8_lossy(&answer).into_owned()
            }
            Err(error) if error.kind() == std::io::ErrorKind::Other => error.to_string(),
            Err(_) => String::new(),
        }
    };
    timeout(Duration::from_secs(20), conversation).await.expect("the server closes the connection")
}
