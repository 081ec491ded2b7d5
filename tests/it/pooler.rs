//! PgBouncer in transaction mode between the servers and PostgreSQL, with the configuration that is shipped.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use futures_util::future::join_all;
use nix::{
    sys::signal::Signal,
    unistd::{Uid, User, geteuid},
};
use reqwest::Method;
use serde_json::json;
use whatsnext::{
    access::{Grants, Role},
    postgres::migrate,
};

use crate::support::{Process, TestDatabase, each_with, eventually, fleet, free_port, make_key, program, store_url};

/// Sessions with PostgreSQL: so few that clients must share them, and each of a client's transactions is likely to get another one.
const SESSIONS: &str = "3";

/// A PgBouncer before the tests' PostgreSQL. Stopped when it is dropped.
struct Pooler {
    port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

impl Pooler {
    /// Starts one for this database.
    async fn start(database: &TestDatabase) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let place = folder.path().to_owned();
        let path = |name: &str| place.join(name).display().to_string();
        let config: tokio_postgres::Config = store_url("WHATSNEXT_TEST_DATABASE_URL").parse().unwrap();
        let host = match &config.get_hosts()[0] {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            tokio_postgres::config::Host::Unix(folder) => folder.display().to_string(),
        };
        let user = config.get_user().unwrap_or("postgres");
        let password = config.get_password().map(|password| String::from_utf8_lossy(password).into_owned()).unwrap_or_default();
        fs::write(path("userlist.txt"), format!("\"{user}\" \"{password}\"\n")).unwrap();
        let shipped = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/pgbouncer/pgbouncer.ini")).unwrap();
        let changes = [
            ("\nwhatsnext = host=127.0.0.1 port=5432 dbname=whatsnext ", {
                let server_port = config.get_ports().first().copied().unwrap_or(5432);
                format!("\n{0} = host={host} port={server_port} dbname={0} ", database.name())
            }),
            ("listen_port = 6432", format!("listen_port = {port}")),
            ("auth_type = scram-sha-256", "auth_type = trust".to_owned()),
            ("/etc/pgbouncer/userlist.txt", path("userlist.txt")),
            ("default_pool_size = 32", format!("default_pool_size = {SESSIONS}")),
        ];
        let text = changes.iter().fold(shipped, |text, (from, to)| {
            assert!(text.contains(from), "pgbouncer.ini has {from:?}");
            text.replace(from, to)
        });
        fs::write(path("pgbouncer.ini"), text).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        if geteuid().is_root() {
            // It does not run as root, and reaches PostgreSQL's socket as PostgreSQL's own user only.
            let owner = fs::metadata(&host).map_or(65534, |folder| folder.uid());
            let user = User::from_uid(Uid::from_raw(owner)).unwrap().expect("the owner of the socket's folder");
            command.args(["-u", &user.name]);
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let child = command.arg(path("pgbouncer.ini")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("pgbouncer cannot be started ({error}): run deploy/test.sh, which installs it"));
        let pooler = Self { port, child, folder };
        eventually("PgBouncer answers", || async { tokio_postgres::connect(&pooler.url(database), tokio_postgres::NoTls).await.is_ok() })
            .await;
        pooler
    }

    /// The database's URL through it.
    fn url(&self, database: &TestDatabase) -> String {
        let config: tokio_postgres::Config = store_url("WHATSNEXT_TEST_DATABASE_URL").parse().unwrap();
        format!("postgres://{}@127.0.0.1:{}/{}", config.get_user().unwrap_or("postgres"), self.port, database.name())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that goes over HTTP: keys, jobs, batches, dependencies, claims with leases, reports; on two servers whose clients share three sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_works_behind_pgbouncer() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database).await;
    let key = make_key(&database, Grants::All(Role::Admin)).await;
    let url = pooler.url(&database);
    let environment = [("DATABASE_URL", url.as_str()), ("DATABASE_POOLER", "transaction"), ("RATE_LIMIT_PER_MINUTE", "0")];
    let servers = fleet(&database, 2, &environment).await;
    let apis = each_with(&servers, &key);
    let (project, task) = apis[0].project_with_task("p").await;
    join_all(
        ["a", "b", "c"]
            .map(|name| apis[1].post("/clients/register", json!({"id": name, "name": name, "entity": "e", "available_cpu": 1000}))),
    )
    .await
    .into_iter()
    .for_each(|answer| drop(answer.expect(201)));

    let submitted = join_all((0..40).map(|n| {
        let api = apis[n % 2].clone();
        async move {
            let parent = api.job(project, task, &format!("parent {n}"), &[]).await;
            api.job(project, task, &format!("child {n}"), &[parent]).await
        }
    }))
    .await;
    let batch: Vec<_> = (0..120).map(|n| json!({"name": format!("batch {n}"), "task_id": task, "parameters": {"n": n}})).collect();
    apis[0].post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": batch})).await.expect(201);

    let work = ["a", "b", "c"].into_iter().zip([0, 1, 0]).map(|(client, server)| {
        let api = apis[server].clone();
        async move {
            let mut done = 0;
            loop {
                let claim = json!({"client_id": client, "max_jobs": 7, "lease_seconds": 60, "wait_seconds": 1});
                let claimed = api.post(&format!("/projects/{project}/claims"), claim).await.expect(200);
                let jobs = claimed["jobs"].as_array().unwrap().clone();
                if jobs.is_empty() {
                    return done;
                }
                for job in jobs {
                    let attempt = format!("/jobs/{}/attempts/1", job["job"]["id"]);
                    api.post(&format!("{attempt}/start"), json!({})).await.expect(200);
                    api.post(&format!("{attempt}/heartbeat"), json!({"progress": 0.5})).await.expect(200);
                    api.post(&format!("{attempt}/complete"), json!({"result": {"ok": true}})).await.expect(200);
                    done += 1;
                }
            }
        }
    });
    assert_eq!(join_all(work).await.iter().sum::<usize>(), 200, "every job is done once");
    assert_eq!(apis[1].status(submitted[0]).await, "COMPLETED");
    apis[1].set_status(submitted[1], "FAILED").await;
    assert_eq!(apis[0].get(&format!("/projects/{project}/stats")).await.expect(200)["jobs"]["COMPLETED"], 199);
    assert_eq!(apis[0].get("/jobs?limit=50").await.header("x-total-count"), "200");
    database.assert_graph_is_true().await;
    let left = join_all((0..9).map(|_| in_a_session(&url, "select count(*) from pg_prepared_statements, pg_sleep(0.1)"))).await;
    assert_eq!(left, ["0"; 9], "no statement is left in a session");
}

/// Whoever is refused may ask again at once, which is done over another connection: no lock of the refused transaction is left by then.
#[tokio::test]
async fn who_is_refused_meets_no_lock_of_what_was_refused() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database).await;
    let url = pooler.url(&database);
    let server = Process::start_with(&database, &[("DATABASE_URL", &url), ("DATABASE_POOLER", "transaction")]).await;
    let (project, task) = server.api.project_with_task("p").await;
    let submit = async |name: String| {
        let job = json!({"name": name, "project_id": project, "task_id": task, "parameters": {}}).to_string();
        let headers = [("idempotency-key", "one"), ("content-type", "application/json")];
        server.api.send_with(Method::POST, "/jobs", &headers, job.into()).await
    };
    submit("first".to_owned()).await.expect(201);
    for n in 0..300 {
        submit(n.to_string()).await.problem(422);
    }
}

/// What a session answers, whichever it is.
async fn in_a_session(url: &str, question: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_typed(&format!("select ({question})::text"), &[]).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn sessions_have_what_a_server_would_say_itself() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database).await;
    for (name, expected) in [
        ("statement_timeout", "25s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("plan_cache_mode", "force_generic_plan"),
        ("jit", "off"),
        ("default_transaction_isolation", "read committed"),
    ] {
        assert_eq!(in_a_session(&pooler.url(&database), &format!("current_setting('{name}')")).await, expected, "{name}");
    }
}

/// The lock that migrations take holds behind a pooler, and is given back.
#[tokio::test]
async fn migrations_work_behind_pgbouncer_several_at_once() {
    let database = TestDatabase::empty().await;
    let pooler = Pooler::start(&database).await;
    let migrate = || {
        let mut command = program(&database);
        command.arg("migrate").env("DATABASE_URL", pooler.url(&database)).env("DATABASE_POOLER", "transaction");
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let outputs: Vec<_> =
        (0..3).map(|_| migrate()).collect::<Vec<_>>().into_iter().map(|process| process.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    let applied = outputs.iter().filter(|output| output.stdout.starts_with(b"Applied")).count();
    assert_eq!(applied, 1, "one of them did it, the others found it done");
    assert!(migrate().wait_with_output().unwrap().status.success(), "the lock was given back");
    migrate::verify(&database.database()).await.expect("the schema is the newest");
}

/// A request that is given up takes its statement with it. (Cancelling it would end PgBouncer itself.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_ends_behind_pgbouncer() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database).await;
    let url = pooler.url(&database);
    let server =
        Process::start_with(&database, &[("DATABASE_URL", &url), ("DATABASE_POOLER", "transaction"), ("REQUEST_TIMEOUT_SECONDS", "1")])
            .await;
    server.api.get("/projects").await.expect(200);
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    for refused in join_all((0..3).map(|_| server.api.get("/projects"))).await {
        refused.problem(503);
    }
    let watcher = database.connect().await;
    eventually("nobody waits for the lock", || async { crate::support::waiting_for_locks(&watcher).await == 0 }).await;
    lock.rollback().await.unwrap();
    let answers = join_all((0..20).map(|_| server.api.get("/projects"))).await;
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 200).map(|answer| answer.text.clone()).collect();
    server.signal(Signal::SIGTERM);
    let (_, log) = server.end().await;
    assert!(failed.is_empty(), "{failed:#?}\n{log}{}", fs::read_to_string(pooler.folder.path().join("log")).unwrap());
}
