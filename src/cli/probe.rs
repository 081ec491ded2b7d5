//! `whatsnext probe`: for health checks where there is no curl, as in a container that holds this program alone.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::ConfigArguments;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Ask whether requests should be sent to it (/readyz), and not whether it lives (/livez).
    #[arg(long)]
    ready: bool,
}

/// Fails unless the server of these settings answers 200 on this machine.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load(None)?.settings;
    let host = match settings.host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let path = if arguments.ready { "/readyz" } else { "/livez" };
    let place = format!("{host}, port {}", settings.port);
    let address = (host, settings.port).to_socket_addrs()?.next().with_context(|| format!("there is no {host}"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("nobody listens at {place}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(16 * 1024).read_to_string(&mut answer).with_context(|| format!("no answer from {place}"))?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    ensure!(answer.starts_with("HTTP/1."), "what answers at {place} is no server of this kind");
    if status != "200" {
        bail!("{path} at {place} says {status}");
    }
    Ok(())
}
