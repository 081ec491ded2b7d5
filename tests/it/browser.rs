//! What a real browser lets a page do: Chromium, headless.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use poem::{EndpointExt as _, Route, Server, endpoint::make, get, listener::TcpAcceptor, post, web::Html};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use whatsnext::access::{Grants, Role};

use crate::support::{Process, TestDatabase, make_key};

/// How long a browser may take, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a page tries, and says what it saw of each: all that it could read, or that the browser did not let it.
const PAGE: &str = r"<!DOCTYPE html><meta charset=utf-8><title>a page</title><script>
const api = 'API', key = { 'x-api-key': 'KEY' };
const names = ['location', 'ratelimit', 'x-request-id', 'x-total-count', 'www-authenticate', 'x-content-type-options'];
async function look(path, options) {
  try {
    const answer = await fetch(api + path, options);
    const headers = Object.fromEntries(names.filter(name => answer.headers.has(name)).map(name => [name, answer.headers.get(name)]));
    return { status: answer.status, headers, text: await answer.text() };
  } catch (error) { return { refused: error.name }; }
}
(async () => {
  const seen = {
    open: await look('/livez'),
    no_key: await look('/projects'),
    read: await look('/projects', { headers: key }),
    again: await look('/projects', { headers: key }),
    made: await look('/projects', { method: 'POST', headers: { ...key, 'content-type': 'application/json', 'idempotency-key': origin }, body: JSON.stringify({ name: origin }) }),
    with_credentials: await look('/livez', { credentials: 'include' }),
    unknown_header: await look('/projects', { headers: { ...key, 'x-unknown': '1' } }),
  };
  await fetch('/seen', { method: 'POST', body: JSON.stringify(seen) });
})();
</script>";

/// A browser with a profile of its own. Stopped when it is dropped.
struct Browser {
    child: Child,
    #[expect(dead_code, reason = "it is there as long as the browser is")]
    profile: tempfile::TempDir,
}

impl Browser {
    fn command(profile: &tempfile::TempDir) -> Command {
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]);
        // It asks nobody but the test's own servers.
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).env("HOME", profile.path());
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Self::command(&profile).args(["--remote-debugging-port=0", url]).stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("chromium cannot be started ({error}): run deploy/test.sh, which installs it"));
        Self { child, profile }
    }

    /// What a page has become when its scripts have run.
    async fn dump(url: String) -> String {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Self::command(&profile);
        command.args(["--dump-dom", "--virtual-time-budget=20000", &url]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
        String::from_utf8(output.expect("chromium is installed: run deploy/test.sh").stdout).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its own processes when it is asked to end.
        let id = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = nix::sys::signal::kill(id, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A site with the page, and what the page says that it saw.
struct Site {
    origin: String,
    listener: std::net::TcpListener,
}

impl Site {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { origin: format!("http://{}", listener.local_addr().unwrap()), listener }
    }

    /// Lets a browser open the page; returns what it saw of this API.
    async fn visit(self, api: &Process, key: &str) -> Value {
        let page = PAGE.replace("API", &format!("http://{}", api.address())).replace("KEY", key);
        let (send, mut seen) = mpsc::unbounded_channel();
        let note = make(move |request: poem::Request| {
            let send = send.clone();
            async move { send.send(request.into_body().into_string().await.unwrap()).unwrap() }
        });
        let page = make(move |_| std::future::ready(Html(page.clone())));
        let app = Route::new().at("/", get(page.map_to_response())).at("/seen", post(note.map_to_response()));
        let serving = tokio::spawn(Server::new_with_acceptor(TcpAcceptor::from_std(self.listener).unwrap()).run(app));
        let browser = Browser::open(&self.origin);
        let text = timeout(PATIENCE, seen.recv()).await.expect("the page says in time what it saw").unwrap();
        drop(browser);
        serving.abort();
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_reads_answers_and_one_of_another_does_not() {
    let database = TestDatabase::new().await;
    let key = make_key(&database, Grants::All(Role::Admin)).await;
    let (allowed, foreign) = (Site::new(), Site::new());
    let origins = format!("https://elsewhere.example, {}", allowed.origin);
    let environment = [("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "600"), ("CORS_ORIGINS", &*origins), ("LOG_FORMAT", "json")];
    let process = Process::start_with(&database, &environment).await;
    let allowed_origin = allowed.origin.clone();

    let seen = allowed.visit(&process, key.expose()).await;
    assert_eq!((&seen["open"]["status"], &seen["open"]["text"]), (&json!(200), &json!(r#"{"status":"healthy"}"#)), "{seen:#}");
    assert_eq!(seen["no_key"]["status"], 401, "why it is refused can be read: {seen:#}");
    assert!(seen["no_key"]["headers"]["www-authenticate"].is_string(), "{seen:#}");
    assert_eq!((&seen["read"]["status"], &seen["again"]["status"]), (&json!(200), &json!(200)), "{seen:#}");
    for header in ["ratelimit", "x-request-id", "x-total-count"] {
        assert!(seen["read"]["headers"][header].is_string(), "{header} can be read: {seen:#}");
    }
    assert_eq!(seen["read"]["headers"]["x-content-type-options"], Value::Null, "what is not named cannot: {seen:#}");
    assert_eq!((&seen["made"]["status"], seen["made"]["headers"]["location"].is_string()), (&json!(201), true), "{seen:#}");
    assert_eq!(seen["with_credentials"], json!({"refused": "TypeError"}), "they were not allowed: {seen:#}");
    assert_eq!(seen["unknown_header"], json!({"refused": "TypeError"}), "{seen:#}");

    let seen = foreign.visit(&process, key.expose()).await;
    for (what, result) in seen.as_object().unwrap() {
        assert_eq!(*result, json!({"refused": "TypeError"}), "{what}: {seen:#}");
    }
    let projects = process.api.with_key(key.expose()).get("/projects").await;
    assert_eq!(projects.header("x-total-count"), "1", "the other page's POST was never sent: {}", projects.text);
    assert_eq!(projects.body[0]["name"], allowed_origin);

    process.signal(Signal::SIGTERM);
    let (_, log) = process.end().await;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let asked = lines.filter(|line| line["method"] == "OPTIONS" && line["route"] == "/projects").count();
    // The first page: once for GET, once for POST (with another header), once for the unknown header; the other one: GET, POST and the unknown header.
    assert!((4..=6).contains(&asked), "what was asked before the first GET is remembered for the second: {asked}");
}

/// Scripts of the pages, and nothing else, run under their content security policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_the_documentation_work_in_a_browser() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("DOCS", "public")]).await;
    let sign = "Whether the server answers";
    for page in ["/docs", "/docs/", "/redoc", "/redoc/"] {
        let shown = timeout(PATIENCE, Browser::dump(format!("http://{}{page}", process.address()))).await.expect("it is shown in time");
        assert!(shown.contains(sign), "{page} shows the operations: {shown:.2000}");
    }
}
