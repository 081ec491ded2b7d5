//! Redis servers of a test's own: nodes of a cluster, a master with its replica, sentinels.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redis::{FromRedisValue, RedisResult, cmd};

use super::{Authority, Pair, eventually, free_port};

/// What all of them want to hear, and how it is written in a URL.
pub(crate) const PASSWORD: (&str, &str) = ("p@ss", "p%40ss");

/// What makes a server speak TLS on another port, also with its like.
pub(crate) fn tls_arguments(authority: &Authority, pair: &Pair, port: u16) -> Vec<String> {
    let [certificate, key] = [pair.certificate(), pair.key()].map(|file| file.display().to_string());
    let arguments = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", certificate),
        ("--tls-key-file", key),
        ("--tls-ca-cert-file", authority.file()),
        ("--tls-auth-clients", "no".to_owned()),
        ("--tls-replication", "yes".to_owned()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// A Redis server on a free port of loopback, in a folder of its own. Killed when it is dropped.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts one that speaks TLS on this port besides.
    pub(crate) async fn start_with_tls(authority: &Authority, pair: &Pair, port: u16) -> Self {
        let arguments = tls_arguments(authority, pair, port);
        Self::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Starts one that keeps nothing on disk.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let own = [
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
            "--requirepass",
            PASSWORD.0,
            "--masterauth",
            PASSWORD.0,
        ];
        Self::start_with(own.iter().chain(arguments).map(|&argument| argument.to_owned()).collect(), None).await
    }

    /// Starts a node of a cluster.
    pub(crate) async fn start_node(more: &[String]) -> Self {
        let bus = free_port().to_string();
        let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
        Self::start(&own.into_iter().chain(more.iter().map(String::as_str)).collect::<Vec<_>>()).await
    }

    /// Starts a sentinel with this configuration.
    pub(crate) async fn start_sentinel(configuration: &str) -> Self {
        let configuration = format!("{configuration}\nrequirepass {0}\nsentinel sentinel-pass {0}\n", PASSWORD.0);
        Self::start_with(vec!["--sentinel".to_owned()], Some(&configuration)).await
    }

    async fn start_with(mut arguments: Vec<String>, configuration: Option<&str>) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
        if let Some(configuration) = configuration {
            let file = folder.path().join("redis.conf");
            std::fs::write(&file, configuration).expect("the configuration is written");
            arguments.insert(0, file.display().to_string());
        }
        let child = spawn(port, &arguments, folder.path());
        let server = Self { port, arguments, folder, child };
        server.until_it_answers().await;
        server
    }

    pub(crate) async fn until_it_answers(&self) {
        eventually("a Redis server answers", || async { self.ask::<String>(&["PING"]).await.is_ok() }).await;
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://:{}@{}/", PASSWORD.1, self.address())
    }

    /// Asks it something over a new connection.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().expect("a process id")), signal).expect("the process is there");
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Starts it again, on the same port and in the same folder.
    pub(crate) async fn restart(&mut self) {
        self.start_again();
        self.until_it_answers().await;
    }

    /// As [`RedisServer::restart`], without waiting until it answers.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.port, &self.arguments, self.folder.path());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, arguments: &[String], folder: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(arguments).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]).arg("--dir").arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server is in PATH and starts")
}
