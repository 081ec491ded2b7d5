//! `whatsnext serve`

use anyhow::{Context as _, ensure};
use chrono::{TimeDelta, Utc};
use clap::Args;
use secrecy::ExposeSecret as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{ConfigArguments, supervisor};
use crate::{
    app::{App, Reloaded, warnings},
    config::{Effective, Sources, load},
    http,
    telemetry::{
        self,
        audit::{Audit, Category, Event, Kind, Outcome, STARTED, STOPPED},
    },
};

/// From how long before a certificate's end `--check` says so.
const SOON: TimeDelta = TimeDelta::days(30);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The address to listen on.
    #[arg(long)]
    host: Option<String>,
    /// The port to listen on; 0 for any that is free.
    #[arg(long)]
    port: Option<u16>,
    /// Print the settings in force, secrets masked, with what there is to say of them, and stop.
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let host = arguments.host.clone().map(|host| ("host".to_owned(), host));
    let port = arguments.port.map(|port| ("port".to_owned(), port.to_string()));
    let sources = arguments.config.sources(host.into_iter().chain(port))?;
    let effective = load(&sources)?;
    if arguments.check {
        return check(&effective);
    }
    let settings = &effective.settings;
    let _guard = telemetry::init(settings.log_format, &settings.log_filter).context("log_filter")?;
    for (name, meant) in &effective.suspects {
        tracing::warn!(".env has `{name}`, which is no setting: did you mean `{meant}`?");
    }
    for warning in warnings(settings) {
        tracing::warn!("{warning}");
    }
    settings.refuse_unsafe()?;
    let audit = Audit::open(settings)?;
    let mut has_started = false;
    let ended = serve(&effective, &sources, &audit, &mut has_started).await;
    let last = match &ended {
        // Only of a server that began: what the one before it has not said is to be seen.
        Err(_) if !has_started => Event::new("server_start_failed", Category::Process, Kind::Start, Outcome::Failure),
        Err(_) => Event::new(STOPPED, Category::Process, Kind::End, Outcome::Failure),
        Ok(()) => Event::new(STOPPED, Category::Process, Kind::End, Outcome::Success),
    };
    audit.close(&last).await;
    if let Some(head) = audit.head() {
        tracing::info!(%head, "the last line of the audit log");
    }
    ended?;
    ensure!(!audit.has_stopped(), "lines of the audit log were lost, and audit_failure is stop");
    tracing::info!("stopped");
    Ok(())
}

/// Runs a server until it is told to stop.
async fn serve(effective: &Effective, sources: &Sources, audit: &Audit, has_started: &mut bool) -> anyhow::Result<()> {
    super::limits::raise_descriptor_limit();
    let settings = &effective.settings;
    let stop = stop_on_signal()?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let app = App::build(settings.clone())?.audited_by(audit.clone());
    app.verify_schema().await?;
    if !settings.disable_auth && settings.api_keys.expose_secret().is_empty() && !app.has_keys().await? {
        tracing::warn!("there is no key, so every request is refused: make one with `whatsnext keys create --name NAME --role admin`");
    }
    let listener = http::listen(&settings.host, settings.port, settings.reuse_port).await?;
    let metrics = match settings.metrics_address()? {
        Some(address) => Some(http::listen(&address.ip().to_string(), address.port(), false).await.context("metrics_bind")?),
        None => None,
    };
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");
    supervisor::inform(stop.clone());
    *has_started = true;
    audit.record(&Event::new(STARTED, Category::Process, Kind::Start, Outcome::Success));
    let reload = app.reload();
    let reloads = reload.run(
        effective,
        async || hang_up.recv().await,
        || load(sources),
        |reloaded| {
            let outcome = if reloaded == Reloaded::All { Outcome::Success } else { Outcome::Failure };
            audit.record(&Event::new("reload_settings", Category::Configuration, Kind::Change, outcome));
        },
    );
    let stops = async {
        audit.stopped().await;
        stop.cancel();
        std::future::pending().await
    };
    tokio::select! {
        () = app.with_metrics(metrics).run(listener, stop.clone()) => {}
        ((), ()) = async { tokio::join!(reloads, stops) } => {}
    }
    Ok(())
}

/// Cancelled by SIGTERM, and by Ctrl-C.
pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let cancel = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping: no new connections, requests in flight are finished");
        cancel.cancel();
    });
    Ok(stop)
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn check(effective: &Effective) -> anyhow::Result<()> {
    print!("{effective}");
    for (name, meant) in &effective.suspects {
        println!("# warning: .env has `{name}`, which is no setting: did you mean `{meant}`?");
    }
    for warning in warnings(&effective.settings) {
        println!("# warning: {warning}");
    }
    effective.settings.refuse_unsafe()?;
    let app = App::build(effective.settings.clone())?;
    if let Some(tls) = app.tls() {
        let (file, ends) = tls.certificate();
        if ends - Utc::now() < SOON {
            println!("# warning: tls_cert_file: the certificate in {} ends on {ends}: replace it and its key", file.display());
        }
    }
    Ok(())
}
