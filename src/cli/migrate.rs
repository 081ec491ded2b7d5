//! `whatsnext migrate`

use std::time::Duration;

use clap::Args;

use super::{ConfigArguments, output};
use crate::{
    config::DatabasePooler,
    postgres::migrate::{self, Patience},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// How long a step waits at a time for what others use. So long it may keep others waiting behind it; then it lets them by and tries again. Not behind a
    /// pooler, where it waits for as long as the pooler lets a statement run.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    lock_timeout: Duration,
    /// How long it is tried in all.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    patience: Duration,
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load_for_stores()?;
    if settings.database_pooler == DatabasePooler::Transaction {
        output::warn(
            "behind a pooler --lock-timeout does not hold, and what a step waits for keeps others waiting: give this PostgreSQL's own address, with \
             database_pooler=none",
        );
    }
    let patience = Patience { lock: arguments.lock_timeout, whole: arguments.patience };
    let applied = migrate::run(&settings, patience).await?;
    match applied.as_slice() {
        [] => println!("The schema is up to date: version {}.", migrate::newest()),
        [only] => println!("Applied version {only}."),
        [first, .., last] => println!("Applied versions {first} to {last}."),
    }
    Ok(())
}
