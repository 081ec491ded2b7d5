//! The servers: this program itself, as `whatsnext serve`.

use std::{io, net::Ipv4Addr, ops::RangeInclusive, time::Duration};

use anyhow::{bail, ensure};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    account::Account,
    folder::Folder,
    process::{Processes, Program, me, until_ready},
    report::say,
    stores::Stores,
};
use crate::http::{self, ListenError};

/// The address that the servers listen on: nobody but this machine reaches it.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What a server may take until it is ready, and to answer whether it is.
const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(5);

/// Longer than it takes a server to cut what does not end, by the setting below.
const ENDING: &[(Signal, Duration)] = &[(Signal::SIGTERM, Duration::from_secs(15))];
const SHUTDOWN_TIMEOUT: &str = "5";

/// The servers' ports: one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    first: u16,
    number: u16,
}

impl Ports {
    /// Looks whether they are free, before anything is started. (A server finds out by itself if one is taken after that.)
    pub(super) async fn free(first: u16, number: u16) -> anyhow::Result<Self> {
        ensure!(first.checked_add(number - 1).is_some(), "there are not {number} ports from {first} on: choose a smaller --port");
        let ports = Self { first, number };
        for port in ports.range() {
            match http::listen(&HOST.to_string(), port, false).await {
                Err(ListenError::InUse { .. }) => bail!("port {port} is in use: stop what uses it, or choose another one with --port"),
                result => drop(result?),
            }
        }
        Ok(ports)
    }

    /// The addresses of the servers, as URLs.
    pub(super) fn urls(self) -> impl Iterator<Item = String> {
        self.range().map(|port| format!("http://{HOST}:{port}"))
    }

    fn range(self) -> RangeInclusive<u16> {
        self.first..=self.first + (self.number - 1)
    }
}

/// Starts the servers and waits until all are ready.
pub(super) async fn start(folder: &Folder, stores: &Stores, ports: Ports, processes: &mut Processes) -> anyhow::Result<()> {
    say(&format!("Starting {} server{}.", ports.number, if ports.number == 1 { "" } else { "s" }));
    let me = me()?;
    let programs = ports.range().map(|port| Program {
        name: name(port),
        file: &me,
        arguments: vec!["serve".into()],
        environment: environment(stores, port),
        // Not the user's, which may have a `.env` that is meant for something else.
        folder: folder.path(),
        account: Account::own(),
        log: folder.log(&log(port)),
        ending: ENDING,
    });
    processes.start(&programs.collect::<Vec<_>>())?;
    for port in ports.range() {
        until_ready(&name(port), &folder.log(&log(port)), START, async || is_ready(port).await).await?;
    }
    Ok(())
}

fn name(port: u16) -> String {
    format!("the server on port {port}")
}

fn log(port: u16) -> String {
    format!("server-{port}")
}

/// A server's settings, and those of a command beside it. What else is set in the environment holds for it too: `LOG_FILTER=debug whatsnext dev`.
pub(super) fn environment(stores: &Stores, port: u16) -> Vec<(String, Option<String>)> {
    let own = [
        ("host", HOST.to_string()),
        ("port", port.to_string()),
        ("disable_auth", "false".to_owned()),
        ("docs", "public".to_owned()),
        ("shutdown_timeout_seconds", SHUTDOWN_TIMEOUT.to_owned()),
    ];
    let settings = stores.settings().into_iter().chain(own.map(|(name, value)| (name.to_owned(), value)));
    // A setting may be written in upper or in lower case; the one that is not set here must not stay.
    settings.flat_map(|(name, value)| [(name.to_uppercase(), Some(value)), (name, None)]).collect()
}

async fn is_ready(port: u16) -> bool {
    matches!(timeout(ANSWER, status(port, "/readyz")).await, Ok(Ok(line)) if line.starts_with("HTTP/1.1 200 "))
}

/// The first line of the answer to a GET.
async fn status(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((HOST, port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Sources, load};

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let taken = TcpListener::bind((HOST, 0)).await.expect("there is a free port");
        let port = taken.local_addr().expect("it is bound").port();
        let error = format!("{:#}", Ports::free(port, 1).await.expect_err("it is taken"));
        assert!(error.contains(&format!("port {port}")) && error.contains("--port"), "{error}");
    }

    #[tokio::test]
    async fn ports_must_exist() {
        assert!(Ports::free(65535, 2).await.is_err());
    }

    #[test]
    fn a_server_gets_its_stores_whatever_else_is_set() {
        let stores = Stores { database: PathBuf::from("/here"), redis: PathBuf::from("/here/redis.sock") };
        let mut variables: Vec<(String, String)> =
            [("database_url", "postgres://elsewhere"), ("DATABASE_PASSWORD", "x"), ("redis_url_file", "/elsewhere"), ("PORT", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec();
        for (name, value) in environment(&stores, 8000) {
            variables.retain(|(known, _)| *known != name);
            variables.extend(value.map(|value| (name, value)));
        }
        let settings = load(&Sources { environment: variables, ..Sources::default() }).expect("it loads").settings;
        let shown = load(&Sources { flags: stores.settings(), ..Sources::default() }).expect("it loads").to_string();
        assert!(shown.contains("%2Fhere:5432/whatsnext"), "{shown}");
        assert_eq!(settings.port, 8000);
        settings.refuse_unsafe().expect("it may start");
    }
}
