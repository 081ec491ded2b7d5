//! `whatsnext dev`: everything that WhatsNext needs, on a machine where nothing runs yet.
//!
//! | file | what |
//! | --- | --- |
//! | [`programs`] | finds PostgreSQL and Redis on this machine |
//! | [`folder`] | the folder that keeps everything, and its lock |
//! | [`account`] | whom PostgreSQL runs as, since it refuses root |
//! | [`sockets`] | where a Unix socket can be, as its path must be short |
//! | [`postgres`], [`redis`], [`servers`] | how each of them is made, started and asked whether it is there |
//! | [`process`], [`tether`] | programs as children that never stay behind |
//! | [`stores`] | how servers and people reach PostgreSQL and Redis |
//! | [`report`] | what is told to the user |

mod account;
mod folder;
mod key;
mod postgres;
mod process;
mod programs;
mod redis;
mod report;
mod servers;
mod sockets;
mod stores;
pub(super) mod tether;

use std::{convert::Infallible, future::pending, path::PathBuf};

use clap::{Args, value_parser};

use self::{account::Account, folder::Folder, process::Processes, programs::Programs, report::say, servers::Ports, stores::Stores};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder that keeps the data and the logs. Made if it does not exist; the next run finds what this one leaves.
    #[arg(long, value_name = "FOLDER", default_value = ".whatsnext")]
    dir: PathBuf,
    /// The first server's port. The others have the ports that follow.
    #[arg(long, default_value_t = 8000, value_parser = value_parser!(u16).range(1..))]
    port: u16,
    /// How many servers to start.
    #[arg(long, default_value_t = 2, value_name = "NUMBER", value_parser = value_parser!(u16).range(1..=10))]
    servers: u16,
    /// Start PostgreSQL and Redis only, and write how to reach them to FOLDER/stores.env.
    #[arg(long, conflicts_with_all = ["port", "servers"])]
    stores_only: bool,
}

/// Starts everything, says where it is, and runs until it is told to stop or until something ends by itself. Leaves no process behind.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let programs = Programs::find().await?;
    let folder = Folder::open(&arguments.dir)?;
    let ports = match arguments.stores_only {
        true => None,
        false => Some(Ports::free(arguments.port, arguments.servers).await?),
    };
    let stop = super::serve::stop_on_signal()?;
    let (mut processes, mut deaths) = Processes::new()?;
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        Some(death) = deaths.recv() => Err(death.into()),
        result = start_and_stay(&folder, &programs, ports, &mut processes) => result.map(|never| match never {}),
    };
    if !processes.is_empty() {
        say("Stopping.");
    }
    folder.remove_urls();
    processes.stop().await;
    outcome
}

/// Starts one after the other, each when what it needs is there. Returns only if that fails.
async fn start_and_stay(
    folder: &Folder,
    programs: &Programs,
    ports: Option<Ports>,
    processes: &mut Processes,
) -> anyhow::Result<Infallible> {
    let account = Account::for_postgres()?;
    let postgres = postgres::Data::open(folder, programs, account, processes).await?;
    let stores =
        Stores { database: postgres.start(folder, account, processes).await?, redis: redis::start(folder, programs, processes).await? };
    stores.create_database().await?;
    folder.write_urls(&stores.urls())?;
    match ports {
        None => report::stores(folder, &stores),
        Some(ports) => {
            stores.migrate().await?;
            key::first(folder, &stores).await?;
            servers::start(folder, &stores, ports, processes).await?;
            report::servers(folder, &stores, ports);
        }
    }
    if let Some(elsewhere) = postgres.elsewhere() {
        report::elsewhere(elsewhere, account);
    }
    pending().await
}
