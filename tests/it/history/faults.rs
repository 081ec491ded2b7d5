//! What goes wrong meanwhile: servers and clients are killed and stopped, PostgreSQL crashes, is stopped at once, is locked and ends connections, Redis is gone.

use std::{
    path::{Path, PathBuf},
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

use super::{
    clients::Clients,
    random::Random,
    workload::FETCH_LEASE_SECONDS,
    world::{LEASE, Scene, Stage},
};
use crate::support::{Process, RedisServer, TestDatabase, program, within};

/// How long PostgreSQL may take to be made, or to recover.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVERS: usize = 3;

/// How many faults there are.
pub(super) const FAULTS: usize = 9;

/// Servers on stores of their own.
pub(super) struct Fleet {
    processes: Vec<Process>,
    redis: RedisServer,
    /// Another one, that nothing uses: it gives names, and the way to start programs.
    names: TestDatabase,
    url: String,
    stores: Option<Child>,
    folder: tempfile::TempDir,
    /// Where its clients see it.
    world: PathBuf,
    pub(super) scene: Scene,
}

impl Fleet {
    /// Starts it for clients that see it in the folder `world`.
    pub(super) async fn start(world: &Path) -> Self {
        let (names, folder, redis) = (TestDatabase::empty().await, tempfile::tempdir().unwrap(), RedisServer::start(&[]).await);
        let scene = Scene { servers: Vec::new(), project: 0, tasks: Vec::new(), stage: Stage::Busy };
        let (url, world) = (String::new(), world.to_owned());
        let mut fleet = Self { processes: Vec::new(), redis, names, url, stores: None, folder, world, scene };
        fleet.start_stores().await;
        let migrated = program(&fleet.names).arg("migrate").env("DATABASE_URL", &fleet.url).output().unwrap();
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        fleet.processes = join_all((0..SERVERS).map(|server| fleet.server(server))).await;
        fleet
    }

    /// PostgreSQL, in a folder that is made the first time.
    async fn start_stores(&mut self) {
        let file = self.folder.path().join("stores.env");
        let _ = std::fs::remove_file(&file);
        let mut command = Command::new(env!("CARGO_BIN_EXE_whatsnext"));
        command.args(["dev", "--stores-only", "--dir"]).arg(self.folder.path());
        self.stores = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        within(PATIENCE, "PostgreSQL is up", async || file.exists()).await;
        self.url = database_url(&file);
    }

    /// The first has so few connections that its pool is full time and again. The last gives what is fetched a lease.
    async fn server(&self, server: usize) -> Process {
        let (redis, fetch_lease) = (self.redis.url(), if server == SERVERS - 1 { FETCH_LEASE_SECONDS } else { 0 }.to_string());
        let settings = [
            ("DATABASE_URL", self.url.as_str()),
            ("REDIS_URL", &redis),
            ("DATABASE_POOL_SIZE", if server == 0 { "2" } else { "8" }),
            ("DATABASE_CHECKOUT_TIMEOUT_SECONDS", "1"),
            ("FETCH_JOB_LEASE_SECONDS", &fetch_lease),
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

    /// Tells clients what to do from now on.
    pub(super) fn set(&mut self, stage: Stage) {
        self.scene.stage = stage;
        self.scene.write(&self.world);
    }

    /// One fault, from its beginning to its end. Returns what it was.
    pub(super) async fn break_something(&mut self, which: usize, crowds: &mut [Clients], random: &mut Random) -> &'static str {
        let server = random.below(SERVERS as u64) as usize;
        let crowd = random.below(crowds.len() as u64) as usize;
        match which % FAULTS {
            0 => {
                self.processes[server].signal(Signal::SIGKILL);
                sleep(Duration::from_millis(300)).await;
                self.processes[server] = self.server(server).await;
                self.scene.servers = self.bases();
                self.scene.write(&self.world);
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
            4 => {
                self.redis.kill();
                sleep(Duration::from_millis(500)).await;
                self.redis.restart().await;
                "Redis was gone"
            }
            5 => {
                crowds[crowd].kill();
                let name = crowds[crowd].name().to_owned();
                crowds[crowd] = Clients::start(&self.world, &name, random.next());
                "clients were killed"
            }
            6 => {
                crowds[crowd].signal(Signal::SIGSTOP);
                sleep(LEASE * 5 / 2).await;
                crowds[crowd].signal(Signal::SIGCONT);
                "clients stood still for longer than a lease"
            }
            7 => {
                self.stop_postgresql().await;
                self.start_stores().await;
                "PostgreSQL was stopped immediately and started again"
            }
            _ => {
                self.fill_the_pools().await;
                "all connections waited for a lock"
            }
        }
    }

    /// As `pg_ctl stop --mode=immediate`: nothing is finished, and the next start recovers. What looked after it ends, too.
    async fn stop_postgresql(&mut self) {
        let process = std::fs::read_to_string(self.folder.path().join("postgres/postmaster.pid")).unwrap();
        let process = process.lines().next().unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(process), Signal::SIGQUIT).unwrap();
        let mut stores = self.stores.take().expect("it runs");
        tokio::task::spawn_blocking(move || stores.wait()).await.unwrap().unwrap();
    }

    /// Nobody can write jobs, until who only wants to read waits for a connection in vain, and for a while after that.
    async fn fill_the_pools(&self) {
        let mut client = self.connect().await;
        let transaction = client.transaction().await.unwrap();
        transaction.batch_execute("lock table jobs in exclusive mode").await.unwrap();
        let is_full = async || self.api().try_get("/projects?limit=1").await == Some(503);
        within(PATIENCE, "all connections of the first server are in use", is_full).await;
        sleep(LEASE * 2).await;
        transaction.rollback().await.unwrap();
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
        if let Some(mut stores) = self.stores.take() {
            let _ = kill(Pid::from_raw(stores.id().try_into().expect("a process id")), Signal::SIGTERM);
            let _ = stores.wait();
        }
    }
}

fn database_url(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().find_map(|line| line.strip_prefix("DATABASE_URL=")).unwrap().to_owned()
}
