//! Traces: what a request's `traceparent` says reaches the log and a collector.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use crate::support::{Process, TestDatabase, free_port, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SOON: Duration = Duration::from_secs(10);

/// A collector that notes what it is sent, and answers as it is told.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Collector {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let collector = Self { address: listener.local_addr().expect("its address"), requests: Arc::default() };
        let requests = collector.requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, requests.clone(), answer));
            }
        });
        collector
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans, decoded.
    fn spans(&self) -> Vec<Value> {
        let requests = self.requests.lock().expect("no panic");
        let resources = requests.iter().flat_map(|(_, body)| body["resourceSpans"].as_array().expect("resources"));
        let scopes = resources.flat_map(|resource| resource["scopeSpans"].as_array().expect("scopes"));
        scopes.flat_map(|scope| scope["spans"].as_array().expect("spans").clone()).collect()
    }

    fn span_of(&self, id: &str) -> Option<Value> {
        self.spans().into_iter().find(|span| attribute(span, "whatsnext.request_id") == json!({"stringValue": id}))
    }
}

/// Reads one request and answers it; an empty answer is none.
async fn receive(mut stream: TcpStream, requests: Arc<Mutex<Vec<(String, Value)>>>, answer: &'static str) {
    let mut read = Vec::new();
    loop {
        let head = read.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8(read[..head].to_vec()).expect("a head of ASCII");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).expect("a length");
            if read.len() == head + 4 + length {
                let body = serde_json::from_slice(&read[head + 4..]).expect("JSON");
                requests.lock().expect("no panic").push((text, body));
                break;
            }
        }
        assert!(stream.read_buf(&mut read).await.expect("it is sent whole") > 0, "all of it is sent");
    }
    match answer {
        "" => sleep(Duration::from_secs(60)).await,
        answer => stream.write_all(answer.as_bytes()).await.expect("the answer is read"),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

fn attribute(of: &Value, name: &str) -> Value {
    let attributes = of["attributes"].as_array().expect("attributes");
    attributes.iter().find(|attribute| attribute["key"] == name).map_or(Value::Null, |attribute| attribute["value"].clone())
}

/// The line of a request in a log of JSON.
fn line_of<'a>(log: &'a [Value], id: &str) -> &'a Value {
    let is_line = |line: &&Value| line["span"]["id"] == id && line["message"] == "answered";
    log.iter().find(is_line).unwrap_or_else(|| panic!("no line of {id}"))
}

#[tokio::test]
async fn a_trace_goes_on_in_the_log_and_at_the_collector() {
    let (database, collector) = (TestDatabase::new().await, Collector::start(OK).await);
    let environment = [("OTLP_ENDPOINT", collector.endpoint()), ("LOG_FORMAT", "json".to_owned())];
    let process = Process::start_with(&database, &environment.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    let ask = async |id: &str, path: &str, traceparent: &str| {
        let headers = [("x-request-id", id), ("traceparent", traceparent), ("tracestate", "canary=1"), ("x-canary", "canary")];
        process.api.send_with(Method::GET, path, &headers, Vec::new()).await.status
    };
    let before = SystemTime::now();
    assert_eq!(ask("valid", "/projects/7?canary=1", &format!("00-{TRACE}-{PARENT}-01")).await, 404);
    assert_eq!(ask("unsampled", "/projects", &format!("00-{TRACE}-{PARENT}-00")).await, 200);
    assert_eq!(ask("invalid", "/canary", "00-canary").await, 404);
    within(SOON, "spans are exported", async || collector.span_of("valid").is_some() && collector.span_of("invalid").is_some()).await;
    assert!(collector.span_of("unsampled").is_none(), "who says that it is not sampled is heard");
    process.api.send_with(Method::GET, "/livez", &[("x-request-id", "last")], Vec::new()).await;
    process.signal(Signal::SIGTERM);
    let (status, log) = process.end().await;
    assert!(status.success(), "{log}");
    assert!(collector.span_of("last").is_some(), "what was there at the end is exported too");
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();

    let (head, body) = collector.requests.lock().expect("no panic")[0].clone();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("content-type: application/json"), "{head}");
    let resource = &body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name"), json!({"stringValue": "whatsnext"}));

    let span = collector.span_of("valid").expect("it was exported");
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!((&span["name"], &span["kind"], &span["status"]["code"]), (&json!("GET /projects/{project_id}"), &json!(2), &json!(0)));
    assert_eq!(attribute(&span, "http.route"), json!({"stringValue": "/projects/{project_id}"}));
    assert_eq!(attribute(&span, "http.response.status_code"), json!({"intValue": "404"}));
    let time = |name: &str| {
        let nanoseconds: u64 = span[name].as_str().expect("text").parse().expect("a number");
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
    };
    let (start, end) = (time("startTimeUnixNano"), time("endTimeUnixNano"));
    assert!(before - Duration::from_millis(5) < start && start < end && end < SystemTime::now(), "{start:?} {end:?}");

    let of_log = &line_of(&log, "valid")["span"];
    assert_eq!((&of_log["trace.id"], &of_log["span.id"]), (&json!(TRACE), &span["spanId"]), "the log says the same");
    assert_ne!(span["spanId"], PARENT);
    let unsampled = &line_of(&log, "unsampled")["span"];
    assert_eq!(unsampled["trace.id"], TRACE);
    let fresh = collector.span_of("invalid").expect("it was exported");
    assert_eq!((&fresh["traceId"], fresh.get("parentSpanId")), (&line_of(&log, "invalid")["span"]["trace.id"], None));
    assert!(fresh["traceId"] != TRACE && fresh["traceId"].as_str().is_some_and(|id| id.len() == 32), "{fresh}");
    assert_eq!(fresh["name"], "GET", "what matches no route has no name of its own");
    assert!(!format!("{:?}", collector.requests.lock()).contains("canary"), "no value is exported");
}

/// A collector that is away, hangs or refuses costs nobody anything.
#[tokio::test]
async fn spans_that_cannot_be_exported_are_lost_and_nothing_waits_for_them() {
    let database = TestDatabase::new().await;
    let [hangs, refuses] = [Collector::start("").await, Collector::start("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await];
    let away = format!("http://127.0.0.1:{}", free_port());
    for endpoint in [hangs.endpoint(), refuses.endpoint(), away] {
        let process = Process::start_with(&database, &[("OTLP_ENDPOINT", endpoint.as_str())]).await;
        let begin = Instant::now();
        for _ in 0..100 {
            process.api.get("/livez").await.expect(200);
        }
        assert!(begin.elapsed() < Duration::from_secs(2), "{endpoint}: {:?}", begin.elapsed());
        process.signal(Signal::SIGTERM);
        let begin = Instant::now();
        let (status, log) = process.end().await;
        assert!(status.success() && begin.elapsed() < Duration::from_secs(8), "{endpoint}: {:?}\n{log}", begin.elapsed());
        let said = log.matches("spans cannot be exported").count();
        assert!(said <= 1 && (said == 1 || endpoint == hangs.endpoint()), "{endpoint}: it is said once:\n{log}");
    }
}
