//! Secrets that are changed while servers run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};
use tokio_postgres::{Client, NoTls};

use crate::support::{Api, Process, RedisServer, TestDatabase, audit_lines, eventually, is_shared, program, within};

/// A PostgreSQL that asks the user `rotated` for a password.
struct Postgres {
    url: String,
    admin: Client,
    stores: Child,
    _folder: tempfile::TempDir,
}

impl Postgres {
    async fn start(names: &TestDatabase) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_whatsnext"));
        command.args(["dev", "--stores-only", "--dir"]).arg(folder.path());
        let stores = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let urls = folder.path().join("stores.env");
        within(Duration::from_secs(60), "PostgreSQL is up", async || urls.exists()).await;
        let text = fs::read_to_string(&urls).unwrap();
        let admin_url = text.lines().find_map(|line| line.strip_prefix("DATABASE_URL=")).unwrap().to_owned();
        let migrated = program(names).arg("migrate").env("DATABASE_URL", &admin_url).output().unwrap();
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let (admin, connection) = tokio_postgres::connect(&admin_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let file: String = admin.query_one("show hba_file", &[]).await.unwrap().get(0);
        fs::write(&file, "local all postgres trust\nlocal all all scram-sha-256\n").unwrap();
        admin
            .batch_execute(
                "create role rotated login password 'first';
                 grant all on all tables in schema public to rotated;
                 grant all on all sequences in schema public to rotated;
                 select pg_reload_conf()",
            )
            .await
            .unwrap();
        Self { url: admin_url.replace("postgres://postgres@", "postgres://rotated@"), admin, stores, _folder: folder }
    }

    async fn set_password(&self, password: &str) {
        self.admin.batch_execute(&format!("alter role rotated password '{password}'")).await.unwrap();
    }

    /// How many connections the server has.
    async fn connections(&self) -> i64 {
        self.admin.query_one("select count(*) from pg_stat_activity where usename = 'rotated'", &[]).await.unwrap().get(0)
    }

    /// When the oldest of them was made.
    async fn oldest(&self) -> std::time::SystemTime {
        self.admin
            .query_one("select coalesce(min(backend_start), now()) from pg_stat_activity where usename = 'rotated'", &[])
            .await
            .unwrap()
            .get(0)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It takes its stores with it.
        let _ = kill(Pid::from_raw(self.stores.id().try_into().expect("a process id")), Signal::SIGTERM);
        let _ = self.stores.wait();
    }
}

/// Requests that never stop, and must all be answered well.
struct Traffic {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    fn start(api: &Api, clients: usize) -> Self {
        let mut traffic = Self { is_over: Arc::default(), done: Arc::default(), tasks: Vec::new() };
        traffic.grow(api, clients);
        traffic
    }

    fn grow(&mut self, api: &Api, clients: usize) {
        for _ in 0..clients {
            let (api, is_over, done) = (api.clone(), self.is_over.clone(), self.done.clone());
            self.tasks.push(tokio::spawn(async move {
                let mut failed = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let name = format!("p-{}", uuid::Uuid::new_v4());
                    for answer in [api.post("/projects", json!({"name": name})).await, api.get("/projects").await] {
                        if answer.status >= 300 {
                            failed.push(format!("{} {}", answer.status, answer.text));
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                failed
            }));
        }
    }

    /// So many more requests.
    async fn goes_on(&self) {
        let now = self.done.load(Ordering::Relaxed);
        eventually("requests are answered", || async { self.done.load(Ordering::Relaxed) > now + 100 }).await;
    }

    /// Returns how many there were. None has failed.
    async fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for task in self.tasks {
            failed.extend(task.await.unwrap());
        }
        assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), self.done.load(Ordering::Relaxed));
        self.done.load(Ordering::Relaxed)
    }
}

fn write(file: &Path, secret: &str) {
    fs::write(file, format!("{secret}\n")).unwrap();
}

/// What became of settings that were read again.
fn reloads(folder: &Path) -> Vec<Value> {
    let lines = audit_lines(folder);
    lines.iter().filter(|line| line["event.action"] == "reload_settings").map(|line| line["event.outcome"].clone()).collect()
}

fn in_folder(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[tokio::test]
async fn the_database_password_is_changed_under_load_and_no_request_fails() {
    let (names, folder) = (TestDatabase::empty().await, tempfile::tempdir().unwrap());
    let postgres = Postgres::start(&names).await;
    let (file, audit) = (in_folder(&folder, "password"), in_folder(&folder, "audit"));
    write(&file, "first");
    let settings = [
        ("DATABASE_URL", postgres.url.as_str()),
        ("DATABASE_PASSWORD_FILE", file.to_str().unwrap()),
        ("AUDIT_LOG_DIR", audit.to_str().unwrap()),
        ("DATABASE_CONNECT_TIMEOUT_SECONDS", "15"),
        ("DATABASE_CHECKOUT_TIMEOUT_SECONDS", "15"),
        ("LOG_FILTER", "info,deadpool=off"),
    ];
    let process = Process::start_with(&names, &settings).await;
    let mut traffic = Traffic::start(&process.api, 2);
    traffic.goes_on().await;

    // First in PostgreSQL. Connections that are needed before the server knows wait for that.
    postgres.set_password("second").await;
    let few = postgres.connections().await;
    traffic.grow(&process.api, 8);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(postgres.connections().await, few, "no new ones are made with the old password");
    let changed = std::time::SystemTime::now();
    write(&file, "second");
    process.signal(Signal::SIGHUP);
    eventually("more connections are made, with the new one", || async { postgres.connections().await > few }).await;
    eventually("and none is left that was made with the old one", || async { postgres.oldest().await > changed }).await;
    traffic.goes_on().await;

    // First in the file: the old one goes on until the new one works.
    write(&file, "third");
    process.signal(Signal::SIGHUP);
    eventually("it says that the new one does not work", || async { reloads(&audit) == ["success", "failure"] }).await;
    traffic.goes_on().await;
    postgres.set_password("third").await;
    eventually("it works by and by", || async { reloads(&audit) == ["success", "failure", "success"] }).await;
    traffic.goes_on().await;

    // No file at all.
    fs::remove_file(&file).unwrap();
    process.signal(Signal::SIGHUP);
    eventually("it says that it cannot read it", || async { reloads(&audit).len() == 4 }).await;
    traffic.goes_on().await;
    write(&file, "third");
    eventually("it reads what is there again", || async { reloads(&audit).len() == 5 }).await;

    let count = traffic.end().await;
    assert!(count > 400, "{count}");
    let log = process.terminate().await;
    assert_eq!(log.matches("new settings for the database do not work: the old ones stay in use").count(), 1, "{log}");
    assert_eq!(log.matches("the new settings cannot be read").count(), 1, "{log}");
    assert!(log.contains(&format!("cannot read {}", file.display())), "{log}");
    for secret in ["first", "second", "third"] {
        assert!(!log.contains(&format!("{secret}\n")) && !log.contains(&format!("\"{secret}\"")), "{log}");
    }
}

#[tokio::test]
async fn the_redis_password_is_changed_under_load_and_no_request_fails() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let redis = RedisServer::start(&[]).await;
    let (file, audit) = (in_folder(&folder, "url"), in_folder(&folder, "audit"));
    let url = |password: &str| format!("redis://rotated:{password}@{}/", redis.address());
    redis.ask::<()>(&["ACL", "SETUSER", "rotated", "on", ">first", "~*", "&*", "+@all"]).await.unwrap();
    write(&file, &url("first"));
    let settings = [
        ("REDIS_URL", "redis://127.0.0.1:6379/0"),
        ("REDIS_URL_FILE", file.to_str().unwrap()),
        ("RATE_LIMIT_PER_MINUTE", "1000000"),
        ("AUDIT_LOG_DIR", audit.to_str().unwrap()),
    ];
    let process = Process::start_with(&database, &settings).await;
    let traffic = Traffic::start(&process.api, 4);
    eventually("Redis is used", || is_shared(&process.api)).await;
    traffic.goes_on().await;

    // In the file first, where it does not work yet.
    write(&file, &url("second"));
    process.signal(Signal::SIGHUP);
    eventually("it says that the new one does not work", || async { reloads(&audit) == ["failure"] }).await;
    assert!(is_shared(&process.api).await, "the old one stays in use");
    redis.ask::<()>(&["ACL", "SETUSER", "rotated", ">second"]).await.unwrap();
    eventually("it works by and by", || async { reloads(&audit) == ["failure", "success"] }).await;
    redis.ask::<()>(&["ACL", "SETUSER", "rotated", "<first"]).await.unwrap();
    traffic.goes_on().await;
    assert!(is_shared(&process.api).await);
    // Whatever was connected is not any more.
    redis.ask::<i64>(&["CLIENT", "KILL", "USER", "rotated"]).await.unwrap();
    eventually("it comes back with the new one", || is_shared(&process.api)).await;
    traffic.goes_on().await;
    traffic.end().await;
    let log = process.terminate().await;
    assert!(log.contains("new settings for Redis do not work: the old ones stay in use"), "{log}");
    assert!(!log.contains("rotated:first") && !log.contains("rotated:second"), "{log}");
}

#[tokio::test]
async fn the_keys_of_the_configuration_are_changed_without_a_restart() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let (file, audit) = (in_folder(&folder, "keys"), in_folder(&folder, "audit"));
    write(&file, "one,two");
    let settings = [("DISABLE_AUTH", "false"), ("API_KEYS_FILE", file.to_str().unwrap()), ("AUDIT_LOG_DIR", audit.to_str().unwrap())];
    let process = Process::start_with(&database, &settings).await;
    let status = async |key: &str| process.api.with_key(key).get("/projects").await.status;
    assert_eq!((status("one").await, status("two").await, status("three").await), (200, 200, 401));
    process.api.with_key("two").post("/projects", json!({"name": "p"})).await.expect(201);
    write(&file, "two,three,four");
    process.signal(Signal::SIGHUP);
    eventually("they are read", || async { reloads(&audit) == ["success"] }).await;
    process.signal(Signal::SIGHUP);
    eventually("nothing is new", || async { reloads(&audit) == ["success", "success"] }).await;
    assert_eq!((status("one").await, status("two").await, status("three").await), (401, 200, 200));
    process.api.with_key("three").delete("/projects/1").await;
    process.api.with_key("two").delete("/projects/1").await;
    let log = process.terminate().await;
    assert_eq!(log.matches("api_keys were changed").count(), 1, "{log}");
    let lines = audit_lines(&audit);
    // A change of keys, as those of the database have it; how many there are now, and no more.
    let changes: Vec<&Value> = lines.iter().filter(|line| line["event.action"] == "change_api_keys").collect();
    assert_eq!(changes.len(), 1, "expected one change of api_keys: {changes:#?}");
    assert_eq!((&changes[0]["event.category"], &changes[0]["event.type"]), (&json!(["iam"]), &json!(["change"])));
    assert_eq!((&changes[0]["event.outcome"], &changes[0]["whatsnext.configured_keys"]), (&json!("success"), &json!(3)));
    assert!(!changes[0].to_string().contains("three") && !log.contains("three"), "{} {log}", changes[0]);
    // Told apart by their places, of which nobody learns anything about them.
    let whose = |action: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["event.action"] == action).map(|line| line["user.id"].clone()).collect()
    };
    assert_eq!(whose("create_project"), ["configuration:2"]);
    assert_eq!(whose("delete_project"), ["configuration:2", "configuration:1"]);
}

#[tokio::test]
async fn settings_that_need_a_restart_are_named_when_they_are_read_again() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let (file, audit) = (in_folder(&folder, "whatsnext.toml"), in_folder(&folder, "audit"));
    fs::write(&file, "docs = \"key\"\nbackoff_seconds = 10\n").unwrap();
    let with_file = |command: &Command| {
        let mut command = Command::new(command.get_program());
        command.args(["serve", "--config"]).arg(&file);
        command
    };
    let process = Process::start_by(&database, with_file, &[("AUDIT_LOG_DIR", audit.to_str().unwrap())]).await;
    process.signal(Signal::SIGHUP);
    eventually("nothing is new", || async { reloads(&audit) == ["success"] }).await;
    let changed = "docs = \"off\"\nbackoff_seconds = 10\naudit_key = \"canary\"\napi_keys = \"canary\"\n";
    fs::write(&file, changed).unwrap();
    process.signal(Signal::SIGHUP);
    eventually("what can be taken is taken", || async { reloads(&audit) == ["success", "success"] }).await;
    let log = process.terminate().await;
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("need a restart")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("\"audit_key, docs\""), "{log}");
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test]
async fn secrets_are_refused_where_everybody_can_read_them() {
    let database = TestDatabase::new().await;
    for given in [
        "database_password=canary",
        "api_keys=canary",
        "redis_url=redis://:canary@localhost/0",
        "database_url=postgres://u:canary@localhost/x",
    ] {
        let output = program(&database).args(["serve", "--set", given]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let name = given.split('=').next().unwrap();
        assert!(!output.status.success() && said.contains(&format!("{name}_file")) && !said.contains("canary"), "{said}");
    }
    let process = Process::start_with(&database, &[("API_KEYS", "canary"), ("AUDIT_KEY", "canary")]).await;
    let line = fs::read_to_string(format!("/proc/{}/cmdline", process.pid())).unwrap();
    assert!(line.contains("serve") && !line.contains("canary"), "{line:?}");
    process.terminate().await;
}
