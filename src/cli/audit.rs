//! `whatsnext audit`: whether what was recorded is still what it was; and what commands themselves record.

use std::{future::Future, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use nix::unistd::getuid;
use serde_json::{Map, Value};

use super::output;
use crate::{
    config::{AuditFailure, Settings},
    telemetry::audit::{Allowed, Anchor, Audit, Category, Event, Kind, Outcome, Seal, verify},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look whether a line was changed, moved or taken away. Says where, and ends with 1 if so.
    ///
    /// Lines that are missing at the end of a chain leave no gap. To find those too, keep the last line's CHAIN:LINE:HASH, which this prints and servers
    /// log, somewhere else, and give it with --known.
    Verify {
        /// The folder of the audit log.
        folder: PathBuf,
        /// The file with the key that the lines are sealed with (audit_key_file).
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// A line that must be there, with the hash that it had: CHAIN:LINE:HASH. May be given several times.
        #[arg(long, value_name = "ANCHOR")]
        known: Vec<Anchor>,
        /// The oldest files were taken away on purpose.
        #[arg(long)]
        pruned: bool,
        /// There are lines from before there was a key.
        #[arg(long)]
        unsealed: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Command::Verify { folder, key_file, known, pruned, unsealed } = &arguments.command;
    let key = match key_file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => String::new(),
    };
    let seal = Seal::new(key.trim_end_matches(['\r', '\n']));
    let report = verify(folder, &seal, known, Allowed { pruned: *pruned, unsealed: *unsealed })
        .with_context(|| format!("cannot read {}", folder.display()))?;
    for text in report.faults.iter().chain(report.notes.iter()) {
        output::line(text);
    }
    for chain in &report.chains {
        let kind = if chain.last.chain.contains('-') { "sealed with the key" } else { "not sealed with a key" };
        output::line(&format!("chain {}: lines {} to {} in {} files, {kind}", chain.last.chain, chain.first, chain.last.line, chain.files));
        output::line(&format!("  last line: {}", chain.last));
    }
    ensure!(!report.chains.is_empty() || !report.faults.is_empty(), "there is no audit log in {}", folder.display());
    match report.faults.len() {
        0 => Ok(()),
        1 => bail!("the audit log is not whole: see above"),
        count => bail!("the audit log is not whole: {count} faults, see above"),
    }
}

/// The audit log of a command that changes something.
pub(super) struct Recorder {
    audit: Audit,
    on_failure: AuditFailure,
}

impl Recorder {
    /// Opens the configured one.
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let audit = match Audit::open(settings) {
            Err(error) if settings.audit_failure == AuditFailure::Continue => {
                output::warn(&format!("this will not be recorded: {error}"));
                Audit::default()
            }
            opened => opened?,
        };
        Ok(Self { audit, on_failure: settings.audit_failure })
    }

    /// Does something and records what came of it. `target` tells from it what it was done to.
    pub(super) async fn records<T>(
        self,
        (action, kind): (&'static str, Kind),
        target: impl FnOnce(Option<&T>) -> Vec<(&'static str, Value)>,
        done: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let done = done.await;
        let outcome = if done.is_ok() { Outcome::Success } else { Outcome::Failure };
        let target: Map<String, Value> = target(done.as_ref().ok()).into_iter().map(|(name, id)| (name.to_owned(), id)).collect();
        let user = Some(format!("os:{}", getuid()));
        let lost = self.audit.close(&Event { user, target, ..Event::new(action, Category::Iam, kind, outcome) }).await;
        if lost > 0 {
            match self.on_failure {
                AuditFailure::Stop => bail!("{action} was done, or not, but could not be recorded in the audit log"),
                AuditFailure::Continue => output::warn(&format!("{action} could not be recorded in the audit log")),
            }
        }
        done
    }
}
