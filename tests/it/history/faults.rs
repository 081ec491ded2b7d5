//! What goes wrong meanwhile: servers are killed and stopped, PostgreSQL crashes and ends connections, Redis is gone.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::workload::{LEASE, Random, World};
use crate::support::{Process, RedisServer, TestDatabase, program, within};

/// How long PostgreSQL may take to be made, or to recover.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVERS: usize = 3;

/// Servers on stores of their own.
pub(super) struct Fleet {
    processes: Vec<Process>,
    redis: RedisServer,
    /// Another one, that nothing uses: it gives names, and the way to start programs.
    names: TestDatabase,
    url: String,
    stores: Child,
    _folder: tempfile::TempDir,
}

impl Fleet {
    pub(super) async fn start() -> Self {
        let (names, folder, redis) = (TestDatabase::empty().await, tempfile::tempdir().unwrap(), RedisServer::start(&[]).await);
        let mut command = Command::new(env!("CARGO_BIN_EXE_whatsnext"));
        command.args(["dev", "--stores-only", "--dir"]).arg(folder.path());
        let stores = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut fleet = Self { processes: Vec::new(), redis, names, url: String::new(), stores, _folder: folder };
        let file = fleet._folder.path().join("stores.env");
        within(PATIENCE, "PostgreSQL is up", async || file.exists()).await;
        fleet.url = database_url(&file);
        let migrated = program(&fleet.names).arg("migrate").env("DATABASE_URL", &fleet.url).output().unwrap();
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        fleet.processes = join_all((0..SERVERS).map(|server| fleet.server(server))).await;
        fleet
    }

    /// The first has so few connections that its pool is full time and again.
    async fn server(&self, server: usize) -> Process {
        let redis = format!("redis://{}/", self.redis.address());
        let settings = [
            ("DATABASE_URL", self.url.as_str()),
            ("REDIS_URL", &redis),
            ("DATABASE_POOL_SIZE", if server == 0 { "2" } else { "8" }),
            ("DATABASE_CHECKOUT_TIMEOUT_SECONDS", "1"),
            ("LOG_FILTER", "off"),
        ];
        Process::start_with(&self.names, &settings).await
    }

    pub(super) fn bases(&self) -> Vec<String> {
        self.processes.iter().map(|process| format!("http://{}", process.address())).collect()
    }

    pub(super) fn api(&self) -> &crate::support::Api {
        &self.processes[0].api
    }

    pub(super) async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// One fault, from its beginning to its end. Returns what it was.
    pub(super) async fn break_something(&mut self, which: u64, world: &World, random: &mut Random) -> &'static str {
        let server = random.below(SERVERS as u64) as usize;
        match which % 5 {
            0 => {
                self.processes[server].signal(Signal::SIGKILL);
                sleep(Duration::from_millis(300)).await;
                self.processes[server] = self.server(server).await;
                world.moved(server, format!("http://{}", self.processes[server].address()));
                "a server was killed"
            }
            1 => {
                self.processes[server].signal(Signal::SIGSTOP);
                sleep(LEASE * 5 / 2).await;
                self.processes[server].signal(Signal::SIGCONT);
                "a server stood still for longer than a lease"
            }
            2 => {
                self.crash_postgresql().await;
                "PostgreSQL crashed and recovered"
            }
            3 => {
                for _ in 0..5 {
                    self.end_a_connection().await;
                    sleep(Duration::from_millis(100)).await;
                }
                "PostgreSQL ended connections"
            }
            _ => {
                self.redis.kill();
                sleep(Duration::from_millis(500)).await;
                self.redis.restart().await;
                "Redis was gone"
            }
        }
    }

    async fn end_a_connection(&self) {
        let any = "select count(pg_terminate_backend(pid)) from (
                       select pid from pg_stat_activity where application_name = 'whatsnext' order by random() limit 1
                   ) as one";
        self.connect().await.query_one(any, &[]).await.unwrap();
    }

    /// As `kill -9` of one of its processes does: it ends all others at once, and recovers what was written.
    async fn crash_postgresql(&self) {
        let client = self.connect().await;
        let process: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        within(PATIENCE, "the connection is gone", async || client.is_closed()).await;
        within(PATIENCE, "PostgreSQL answers again", async || {
            let Ok((client, connection)) = tokio_postgres::connect(&self.url, NoTls).await else { return false };
            tokio::spawn(connection);
            client.query_one("select 1", &[]).await.is_ok()
        })
        .await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.processes.clear();
        // Stops PostgreSQL with it, and fails only if it has ended.
        let _ = kill(Pid::from_raw(self.stores.id().try_into().expect("a process id")), Signal::SIGTERM);
        let _ = self.stores.wait();
    }
}

fn database_url(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().find_map(|line| line.strip_prefix("DATABASE_URL=")).unwrap().to_owned()
}
