//! The command line.

mod audit;
mod dev;
mod keys;
mod limits;
mod migrate;
mod openapi;
mod output;
mod probe;
mod serve;
mod supervisor;
mod users;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand};

use crate::config::{Settings, Sources, is_secret, load};

/// A job queue that labs, private clouds and research clusters run for themselves.
#[derive(Debug, Parser)]
#[command(name = "whatsnext", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API.
    Serve(serve::Arguments),
    /// Ask the server on this machine whether it lives; exits with 0 if it does. For health checks of containers.
    Probe(probe::Arguments),
    /// Bring the database's schema up to date. May be run at any time, by several at once.
    Migrate(migrate::Arguments),
    /// Make, list, show, replace and revoke keys.
    Keys(keys::Arguments),
    /// Add and change users, whose keys there are.
    Users(users::Arguments),
    /// Look whether an audit log is whole.
    Audit(audit::Arguments),
    /// Print the OpenAPI document.
    Openapi,
    /// Run WhatsNext with a PostgreSQL and a Redis of its own, to try it and to work on it.
    Dev(dev::Arguments),
    #[command(hide = true)]
    Tether(dev::tether::Arguments),
}

/// Where settings come from, for every command that needs them.
#[derive(Debug, Args)]
struct ConfigArguments {
    /// A TOML file with settings; deploy/config/default.toml lists them all.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting, stronger than any other source. May be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = name_and_value)]
    settings: Vec<(String, String)>,
}

impl ConfigArguments {
    fn load(&self) -> anyhow::Result<Settings> {
        Ok(load(&self.sources(None)?)?.settings)
    }

    /// For a command that goes to the stores without serving.
    fn load_for_stores(&self) -> anyhow::Result<Settings> {
        let settings = self.load()?;
        settings.refuse_out_of_range()?;
        Ok(settings)
    }

    /// What to load, now and whenever it may have changed.
    fn sources(&self, more: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<Sources> {
        for (name, value) in &self.settings {
            ensure!(
                !is_secret(name, value),
                "everybody on this machine can read the command line, and `{name}` is a secret: set it in the environment, or {name}_file"
            );
        }
        let flags = self.settings.iter().cloned().chain(more).collect();
        Ok(Sources::of_process(self.config.clone(), flags))
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.trim().to_lowercase(), value.to_owned()))
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    match run_command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Tether has no runtime, for it becomes another program; and its threads would not be tied to anything.
fn run_command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(arguments) => runtime()?.block_on(serve::run(&arguments)),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Migrate(arguments) => runtime()?.block_on(migrate::run(&arguments)),
        Command::Keys(arguments) => runtime()?.block_on(keys::run(&arguments)),
        Command::Users(arguments) => runtime()?.block_on(users::run(&arguments)),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Openapi => runtime()?.block_on(async { openapi::run() }),
        Command::Dev(arguments) => runtime()?.block_on(dev::run(&arguments)),
        Command::Tether(arguments) => dev::tether::run(&arguments),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

#[expect(clippy::print_stderr, reason = "this is what standard error is for")]
fn complain(error: &anyhow::Error) {
    eprintln!("whatsnext: {error:#}");
}
