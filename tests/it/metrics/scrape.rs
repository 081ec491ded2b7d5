//! Asking a server for its metrics, and reading them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Process, TestDatabase, free_port};

/// A server with a job to tell of.
pub(super) async fn busy() -> (TestDatabase, Process, Scraper) {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[]).await;
    let (project, task) = process.api.project_with_task("p").await;
    process.api.job(project, task, "a", &[]).await;
    (database, process, scraper)
}

/// A server, and where its metrics are.
pub(super) async fn start_with(database: &TestDatabase, environment: &[(&str, &str)]) -> (Process, Scraper) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let bind = address.to_string();
    let environment: Vec<_> = environment.iter().copied().chain([("METRICS_BIND", bind.as_str())]).collect();
    (Process::start_with(database, &environment).await, Scraper(address))
}

/// Asks one server.
pub(super) struct Scraper(SocketAddr);

/// What it said.
pub(super) struct Scrape {
    pub(super) text: String,
    /// By name and labels, as they are written.
    samples: BTreeMap<String, f64>,
}

impl Scraper {
    pub(super) fn address(&self) -> SocketAddr {
        self.0
    }

    /// The status of an answer, and its body.
    pub(super) async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).await.expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.0);
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// Its metrics.
    pub(super) async fn scrape(&self) -> Scrape {
        let (status, text) = self.ask("GET", "/metrics").await;
        assert_eq!(status, 200, "{text}");
        Scrape::read(text)
    }

    /// Its metrics, if they come in this time.
    pub(super) async fn try_scrape(&self, time: Duration) -> Option<Scrape> {
        timeout(time, self.scrape()).await.ok()
    }

    /// Connections that say nothing.
    pub(super) async fn hold(&self, count: usize) -> Vec<TcpStream> {
        futures_util::future::join_all((0..count).map(|_| async { TcpStream::connect(self.0).await.expect("it listens") })).await
    }
}

impl Scrape {
    fn read(text: String) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number in {line:?}")))
        };
        let samples: BTreeMap<String, f64> = lines.clone().map(sample).collect();
        assert_eq!(samples.len(), lines.count(), "no sample is told twice:\n{text}");
        Self { samples, text }
    }

    /// All names with all labels.
    pub(super) fn series(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }

    /// All names of families, and of the samples of histograms.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|series| series.split('{').next().expect("a name")).collect()
    }

    /// One sample; 0 if it is not told.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
        self.samples.get(&series).copied().unwrap_or(0.0)
    }

    /// How much more one sample is than it was.
    pub(super) fn rose(&self, before: &Self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.value(name, labels) - before.value(name, labels)
    }

    /// All samples of a name together.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|(series, _)| series.split('{').next() == Some(name)).map(|(_, value)| value).sum()
    }
}

/// Runs `promtool`; says what it said if it does not agree.
pub(super) fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in PATH: Debian's package prometheus has it");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !said.contains("no help text"), "promtool {arguments:?} says:\n{said}");
}
