//! `whatsnext dev`, with the PostgreSQL and the Redis of this machine.

#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::audit_lines;

const WHATSNEXT: &str = env!("CARGO_BIN_EXE_whatsnext");

/// A first start makes a database, on a machine that may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "still not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A running `whatsnext dev`. If a test fails it is killed, and what it started must not stay then either.
struct Dev {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Dev {
    /// Starts it and waits for its two servers.
    async fn start(folder: &Path) -> Self {
        let port = free_ports();
        let mut dev = Self::spawn(folder, port, &["--port", &port.to_string()]);
        for port in [port, port + 1] {
            dev.wait_for(&format!("port {port} is ready"), async || {
                reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.is_ok_and(|answer| answer.status() == 200).then_some(())
            })
            .await;
        }
        dev
    }

    async fn start_stores(folder: &Path) -> Self {
        let mut dev = Self::spawn(folder, 0, &["--stores-only"]);
        dev.wait_for("stores.env is there", async || folder.join("stores.env").exists().then_some(())).await;
        dev
    }

    fn spawn(folder: &Path, port: u16, arguments: &[&str]) -> Self {
        let output = File::create(output_of(folder)).expect("the output can be written");
        let errors = output.try_clone().expect("twice");
        let process = dev(folder, arguments).stdin(Stdio::null()).stdout(output).stderr(errors).spawn().expect("it starts");
        Self { process, folder: folder.to_owned(), port }
    }

    async fn wait_for<T>(&mut self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        eventually(what, async || {
            let status = self.process.try_wait().expect("it is our child");
            assert!(status.is_none(), "it ended ({status:?}) before {what}: {}", self.output());
            ask().await
        })
        .await
    }

    fn output(&self) -> String {
        fs::read_to_string(output_of(&self.folder)).expect("it is text")
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().expect("a process id")), signal).expect("it runs");
    }

    async fn end(&mut self) -> ExitStatus {
        eventually("it ends", async || self.process.try_wait().expect("it is our child")).await
    }

    /// Signals it, and nothing may be left when it has ended with success.
    async fn stop(mut self, signal: Signal) {
        self.send(signal);
        let status = self.end().await;
        assert!(status.success(), "{status}: {}", self.output());
        assert_eq!(left_in(&self.folder), Vec::<String>::new());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(output_of(&self.folder));
    }
}

/// Beside the folder, which must be empty at first.
fn output_of(folder: &Path) -> PathBuf {
    folder.with_extension("output")
}

/// Two ports, one after the other, that are not among those which the kernel gives out by itself.
fn free_ports() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 5000).expect("it fits") * 2;
    loop {
        let port = 20_000 + (start + 2 * TAKEN.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if [port, port + 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return port;
        }
    }
}

/// The processes that have to do with a folder: it is in what they were given, or they work in it.
fn left_in(folder: &Path) -> Vec<String> {
    let text = folder.to_str().expect("it is text");
    let processes = fs::read_dir("/proc").expect("it is Linux").filter_map(|entry| Some(entry.ok()?.path()));
    processes
        .filter_map(|process| {
            let arguments = String::from_utf8_lossy(&fs::read(process.join("cmdline")).ok()?).replace('\0', " ");
            let works_in_it = fs::read_link(process.join("cwd")).is_ok_and(|working| working.starts_with(folder));
            (arguments.contains(text) || works_in_it).then_some(arguments)
        })
        .collect()
}

/// The key that it made.
fn key(folder: &Path) -> String {
    let path = folder.join("admin-key");
    assert_eq!(fs::metadata(&path).expect("the key is kept").permissions().mode() & 0o777, 0o600);
    fs::read_to_string(path).expect("it is text").trim().to_owned()
}

async fn get(folder: &Path, port: u16, path: &str) -> Option<Value> {
    let request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}{path}")).bearer_auth(key(folder));
    request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
}

async fn create_project(folder: &Path, port: u16, name: &str) {
    let request = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/projects")).json(&json!({ "name": name }));
    request.bearer_auth(key(folder)).send().await.expect("it answers").error_for_status().expect("it is made");
}

/// `whatsnext dev` on a folder.
fn dev(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(WHATSNEXT);
    command.args(["dev", "--dir"]).arg(folder).args(arguments);
    command
}

/// Runs it to its end, which must be a failure that is told in one line.
fn refusal(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let errors = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("whatsnext: ") && errors.lines().count() == 1, "{errors}");
    errors
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The commands that it prints to be tried.
fn example(output: &str) -> String {
    let (_, after) = output.split_once("Try it:").expect("there is an example");
    after.lines().filter(|line| line.starts_with("  ")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn two_servers_share_what_the_next_run_finds_again() {
    let folder = folder();
    let mut dev = Dev::start(folder.path()).await;
    create_project(folder.path(), dev.port, "kept").await;
    assert!(get(folder.path(), dev.port + 1, "/projects/name/kept").await.is_some());
    dev.stop(Signal::SIGTERM).await;

    dev = Dev::start(folder.path()).await;
    assert!(get(folder.path(), dev.port, "/projects/name/kept").await.is_some());
    dev.stop(Signal::SIGINT).await;

    let lines = audit_lines(&folder.path().join("audit"));
    let made: Vec<&Value> = lines.iter().filter(|line| line["event.action"] == "create_key").collect();
    let key = fs::read_to_string(folder.path().join("admin-key")).expect("the first key");
    assert_eq!(made.len(), 1, "the first key was made once, and that is recorded");
    assert!(key.starts_with(&format!("wn_{}_", made[0]["whatsnext.target"]["made"].as_str().expect("its id"))), "{}", made[0]);
}

#[tokio::test]
async fn what_it_says_to_try_works() {
    let folder = folder();
    let mut dev = Dev::start(folder.path()).await;
    let output = folder.path().with_extension("output");
    let told = dev.wait_for("it says how to stop", async || fs::read_to_string(&output).ok().filter(|text| text.contains("Ctrl-C"))).await;
    for path in ["/docs", "/redoc"] {
        let url = format!("http://127.0.0.1:{}{path}", dev.port);
        assert!(told.contains(&url), "{told}");
        assert_eq!(reqwest::get(&url).await.expect("it answers").status(), 200);
    }
    let tried = Command::new("sh").args(["-euc", &example(&told)]).output().expect("there is a shell");
    let (answers, errors) = (String::from_utf8_lossy(&tried.stdout), String::from_utf8_lossy(&tried.stderr));
    assert!(tried.status.success() && answers.contains("QUEUED"), "{answers} {errors}");
    dev.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn a_kill_leaves_no_process_and_no_damage() {
    let folder = folder();
    let mut dev = Dev::start(folder.path()).await;
    create_project(folder.path(), dev.port, "kept").await;
    dev.send(Signal::SIGKILL);
    dev.end().await;
    eventually("nothing is left", async || left_in(folder.path()).is_empty().then_some(())).await;

    let dev = Dev::start(folder.path()).await;
    assert!(get(folder.path(), dev.port, "/projects/name/kept").await.is_some());
    dev.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn it_ends_with_the_first_thing_that_dies() {
    let folder = folder();
    let mut dev = Dev::start(folder.path()).await;
    let postmaster = fs::read_to_string(folder.path().join("postgres/postmaster.pid")).expect("it runs");
    let postmaster = postmaster.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
    kill(Pid::from_raw(postmaster), Signal::SIGKILL).expect("it runs");
    assert_eq!(dev.end().await.code(), Some(1));
    let output = dev.output();
    assert!(output.contains("whatsnext: PostgreSQL ended by itself (signal: 9 (SIGKILL))"), "{output}");
    let log = fs::read_to_string(folder.path().join("logs/postgres.log")).expect("it is there");
    let told = log.lines().filter(|line| !line.is_empty() && output.contains(line)).count();
    assert!(output.contains("logs/postgres.log") && told > 3, "its last lines: {output}");
    assert_eq!(left_in(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn stores_alone_are_written_to_a_file_and_nobody_else_gets_the_folder() {
    let folder = folder();
    let stores = Dev::start_stores(folder.path()).await;
    let urls = fs::read_to_string(folder.path().join("stores.env")).expect("it is there");
    for start in ["DATABASE_URL=postgres://postgres@%2F", "ADMIN_DATABASE_URL=postgres://postgres@%2F", "REDIS_URL=redis+unix:///"] {
        assert!(urls.lines().any(|line| line.starts_with(start)), "{urls}");
    }

    // They are settings as well: a server takes them as they are.
    let variables = urls.lines().filter_map(|line| line.split_once('='));
    let migrated = Command::new(WHATSNEXT).arg("migrate").envs(variables).output().expect("it starts");
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));

    let refused = refusal(&mut dev(folder.path(), &["--port", &free_ports().to_string()]));
    assert!(refused.contains(&format!("another `whatsnext dev` (process {})", stores.process.id())), "{refused}");

    stores.stop(Signal::SIGTERM).await;
    assert!(!folder.path().join("stores.env").exists());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let refused = refusal(&mut dev(folder.path(), &["--port", &port.to_string()]));
    assert!(refused.contains(&format!("port {port} is in use")) && refused.contains("--port"), "{refused}");
}

#[tokio::test]
async fn a_missing_program_is_named_with_how_to_get_it() {
    let folder = folder();
    let refused = refusal(dev(folder.path(), &[]).env("PATH", ""));
    assert!(refused.contains("`redis-server`") && refused.contains("apt-get install postgresql redis-server"), "{refused}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0, "nothing was begun");
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_used_is_said_to_be_that() {
    let folder = folder();
    let port = free_ports().to_string();
    let refused = || refusal(&mut dev(folder.path(), &["--port", &port]));
    let data = folder.path().join("postgres");

    fs::create_dir_all(data.join("something")).expect("it is made");
    assert!(refused().contains("is not a data folder of PostgreSQL"));

    fs::remove_dir_all(&data).expect("it is ours");
    symlink("/nowhere", &data).expect("it is made");
    assert!(refused().contains("points to data that is not there"));

    fs::remove_file(&data).expect("it is ours");
    fs::create_dir(&data).expect("it is made");
    fs::write(data.join("PG_VERSION"), "9\n").expect("it is written");
    let refused = refused();
    // Root's PostgreSQL runs as somebody else, to whom the folder does not belong.
    let reason = if geteuid().is_root() { "cannot be used by" } else { "was made by PostgreSQL 9" };
    assert!(refused.contains(reason), "{refused}");
}

/// Only root has this: everybody else's PostgreSQL runs as themselves.
#[tokio::test]
async fn roots_data_goes_where_postgresql_can_get_to_it() {
    if !geteuid().is_root() {
        return;
    }
    let parent = folder();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
    let folder = parent.path().join("below");
    let dev = Dev::start(&folder).await;
    create_project(&folder, dev.port, "kept").await;
    dev.stop(Signal::SIGTERM).await;

    let dev = Dev::start(&folder).await;
    assert!(get(&folder, dev.port, "/projects/name/kept").await.is_some());
    let data = fs::read_link(folder.join("postgres")).expect("it is a link");
    assert!(!data.starts_with(&folder), "{}", data.display());
    dev.stop(Signal::SIGTERM).await;
    assert_eq!(left_in(&data), Vec::<String>::new());
    fs::remove_dir_all(data).expect("it is there");
}
