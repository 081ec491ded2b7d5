//! Redis, or Valkey in its place.

use std::{ffi::OsString, os::unix::net::UnixStream, path::PathBuf, time::Duration};

use anyhow::ensure;
use nix::sys::signal::Signal;

use super::{
    account::Account,
    folder::Folder,
    process::{Processes, Program, until, until_ready},
    programs::Programs,
    report::say,
    sockets, stores,
};
use crate::redis::Redis;

const NAME: &str = "Redis";

const SOCKET: &str = "redis.sock";

/// Long enough to read what it had written.
const START: Duration = Duration::from_secs(60);

/// What a server that was left over may take to end.
const LEFT_OVER: Duration = Duration::from_secs(10);

/// SIGTERM lets it write what it has not written yet.
const ENDING: &[(Signal, Duration)] = &[(Signal::SIGTERM, Duration::from_secs(20))];

/// It is on a Unix socket only, and writes every change to a file.
const ARGUMENTS: [&str; 8] = ["--port", "0", "--unixsocketperm", "700", "--appendonly", "yes", "--save", ""];

/// Starts the server, waits until it answers, and returns its socket.
pub(super) async fn start(folder: &Folder, programs: &Programs, processes: &mut Processes) -> anyhow::Result<PathBuf> {
    let (data, log) = (folder.redis(), folder.log("redis"));
    let socket = sockets::folder(&data, Account::own(), SOCKET)?.join(SOCKET);
    ensure!(
        until(LEFT_OVER, async || UnixStream::connect(&socket).is_err()).await,
        "a Redis of an earlier `whatsnext dev` still answers: stop it with `redis-cli -s {} shutdown`",
        socket.display()
    );
    say("Starting Redis.");
    let paths = [OsString::from("--dir"), data.clone().into(), "--unixsocket".into(), socket.clone().into()];
    let program = Program {
        name: NAME.to_owned(),
        file: &programs.redis,
        arguments: ARGUMENTS.map(OsString::from).into_iter().chain(paths).collect(),
        environment: Vec::new(),
        folder: &data,
        account: Account::own(),
        log: log.clone(),
        ending: ENDING,
    };
    processes.start(&[program])?;
    let redis = Redis::new(&stores::redis(&socket)?)?;
    until_ready(NAME, &log, START, async || {
        redis.connect().await;
        redis.ping().await.is_ok()
    })
    .await?;
    Ok(socket)
}
