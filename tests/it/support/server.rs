//! Servers: in this process, or as processes of the real program.

use std::{
    io::Read as _,
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use whatsnext::{app::App, http::Tls};

use super::{Api, Pair, TestDatabase, eventually, store_url};

/// A server in this process.
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) address: SocketAddr,
    /// Its certificate, if it speaks HTTPS; then `api` is of no use.
    pub(crate) tls: Option<Arc<Tls>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Server {
    /// Starts one with the defaults.
    pub(crate) async fn start(database: &TestDatabase) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Starts one with these settings.
    pub(crate) async fn start_with(database: &TestDatabase, flags: &[(&str, &str)]) -> Self {
        let app = App::build(database.settings(flags)).expect("a server");
        app.verify_schema().await.expect("the schema is the newest");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (tls, stop) = (app.tls(), CancellationToken::new());
        let running = tokio::spawn(app.run(listener, stop.clone()));
        Self { api: Api::new(&format!("http://{address}")), address, tls, stop, running }
    }

    /// Starts one that speaks HTTPS with this certificate, and with these settings.
    pub(crate) async fn start_with_tls(database: &TestDatabase, pair: &Pair, flags: &[(&str, &str)]) -> Self {
        let [certificate, key] = [pair.certificate(), pair.key()].map(|file| file.display().to_string());
        let own = [("tls_cert_file", certificate.as_str()), ("tls_key_file", key.as_str())];
        Self::start_with(database, &[&own, flags].concat()).await
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("it stops without a panic");
    }
}

/// A process of the real program.
pub(crate) struct Process {
    pub(crate) api: Api,
    port: u16,
    child: Child,
}

impl Process {
    /// Starts a server and waits until it is ready.
    pub(crate) async fn start(database: &TestDatabase) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Starts a server that does not answer who just asks (connections are to be announced, or speak TLS), and waits until it listens.
    pub(crate) async fn start_listening(database: &TestDatabase, environment: &[(&str, &str)]) -> Self {
        let process = Self::spawn(free_port(), database, environment);
        eventually("a server listens", || async { TcpStream::connect(process.address()).await.is_ok() }).await;
        process
    }

    /// Starts a server with these variables in its environment and waits until it is ready.
    pub(crate) async fn start_with(database: &TestDatabase, environment: &[(&str, &str)]) -> Self {
        Self::start_on(free_port(), database, environment).await
    }

    /// The same, on this port.
    pub(crate) async fn start_on(port: u16, database: &TestDatabase, environment: &[(&str, &str)]) -> Self {
        let process = Self::spawn(port, database, environment);
        let api = &process.api;
        eventually("a server answers /readyz with 200", || async { api.try_get("/readyz").await.is_some_and(|status| status == 200) })
            .await;
        process
    }

    fn spawn(port: u16, database: &TestDatabase, environment: &[(&str, &str)]) -> Self {
        Self::spawn_by(port, database, |command| Command::new(command.get_program()), &["serve"], environment)
    }

    /// Starts a server by another command, made of the one that starts the program, and waits until it is ready.
    pub(crate) async fn start_by(database: &TestDatabase, by: impl Fn(&Command) -> Command, environment: &[(&str, &str)]) -> Self {
        let process = Self::spawn_by(free_port(), database, by, &[], environment);
        let api = &process.api;
        eventually("a server answers /readyz with 200", || async { api.try_get("/readyz").await == Some(200) }).await;
        process
    }

    fn spawn_by(
        port: u16,
        database: &TestDatabase,
        by: impl Fn(&Command) -> Command,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let program = program(database);
        let mut command = by(&program);
        let own = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(own).current_dir(std::env::temp_dir()).args(arguments);
        command.env("PORT", port.to_string()).envs(environment.iter().copied());
        let child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        Self { api: Api::new(&format!("http://127.0.0.1:{port}")), port, child }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// How much memory it holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process is there");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its resident memory");
        let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
        kibibytes * 1024
    }

    /// How many descriptors it has open: connections, files and all else.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process is there").count()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().expect("a process id")), signal).expect("the process is there");
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is ours")
    }

    /// Tells it to stop, and waits until it has; returns what it wrote to standard error.
    pub(crate) async fn terminate(self) -> String {
        self.signal(Signal::SIGTERM);
        let (status, log) = self.end().await;
        assert!(status.success(), "{status}\n{log}");
        log
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end; returns how it ended and what it wrote to standard error.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let mut stderr = self.child.stderr.take().expect("it is piped");
        let log = tokio::task::spawn_blocking(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).map(|_| log)
        });
        let log = log.await.expect("no panic").expect("the log is UTF-8");
        (self.child.wait().expect("it ends"), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real program, with nothing in its environment but the stores.
pub(crate) fn program(database: &TestDatabase) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whatsnext"));
    command
        .env_clear()
        .current_dir(std::env::temp_dir())
        .envs(database.for_servers().map(|(name, value)| (name.to_uppercase(), value)))
        .env("REDIS_URL", store_url("WHATSNEXT_TEST_REDIS_URL"))
        .env("REDIS_KEY_PREFIX", database.name())
        .env("DISABLE_AUTH", "true")
        .env("RATE_LIMIT_PER_MINUTE", "0")
        .env("AUDIT_LOG_DIR", "");
    command
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
