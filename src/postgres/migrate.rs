//! The schema's versions: brought up to date by `whatsnext migrate`, looked at by every server at start.

use std::time::Duration;

use refinery::Runner;
use tokio::time::sleep;

use super::{Database, Error, SetupError, query::schema};
use crate::config::Settings;

mod embedded {
    refinery::embed_migrations!("sql/migrations");
}

/// The advisory lock that a process holds while it migrates. Any number will do that nobody else uses: "whatsnxt" in ASCII.
const LOCK: i64 = 0x7768_6174_736e_7874;

/// How long a process waits until it looks again whether the one that migrates has finished.
const LOCKED: Duration = Duration::from_millis(200);

/// Why the schema is not what this program needs. Each says what to run.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database has never been migrated, or not to the version that this program needs.
    #[error("the database's schema is at version {found}, this program needs {needed}: run `whatsnext migrate`")]
    Old {
        /// The database's version; 0 if it was never migrated.
        found: i32,
        /// The program's.
        needed: i32,
    },
    /// A newer program has migrated the database.
    #[error(
        "the database's schema is at version {found}, this program knows it only up to {needed}: \
         run the version of whatsnext that migrated it, or a newer one"
    )]
    New {
        /// The database's version.
        found: i32,
        /// The program's.
        needed: i32,
    },
    /// The database did not answer.
    #[error("cannot look at the database's schema")]
    Database(#[from] Error),
}

/// Why a migration did not happen. Nothing is half done: each step is a transaction.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The settings do not describe a database.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database did not answer.
    #[error("cannot reach the database")]
    Database(#[from] Error),
    /// A step failed.
    #[error("the schema could not be brought up to date")]
    Step(#[from] refinery::Error),
}

/// The newest version that this program knows.
pub fn newest() -> i32 {
    runner().get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0)
}

/// Whether the schema is the one that this program was made for.
///
/// # Errors
///
/// [`SchemaError`] if not, with what to do about it.
pub async fn verify(database: &Database) -> Result<(), SchemaError> {
    let client = database.client().await?;
    let present: bool = schema::PRESENT.one(&client, &[]).await?.get("present");
    let found = match present {
        true => schema::VERSION.one(&client, &[]).await?.get::<_, Option<i32>>("version").unwrap_or(0),
        false => 0,
    };
    match (found, newest()) {
        (found, needed) if found < needed => Err(SchemaError::Old { found, needed }),
        (found, needed) if found > needed => Err(SchemaError::New { found, needed }),
        _ => Ok(()),
    }
}

/// Brings the schema up to date; any number of processes may try at once. Returns the versions that were applied.
///
/// # Errors
///
/// [`MigrateError`]; the steps before the one that failed stay applied.
pub async fn run(settings: &Settings) -> Result<Vec<i32>, MigrateError> {
    // A step may take longer than a request's statement may.
    let patient = Settings { database_statement_timeout_seconds: 0, database_pool_size: 2, ..settings.clone() };
    let database = Database::new(&patient)?;
    // Held by a transaction, and not by a session, which behind a pooler would be somebody else's by and by.
    let mut holder = database.client().await?;
    let lock = loop {
        let transaction = holder.begin().await?;
        if schema::LOCK.one(&transaction, &[&LOCK]).await?.get("alone") {
            break transaction;
        }
        // Who waits holds no session meanwhile, for the one who migrates may need it.
        transaction.commit().await?;
        sleep(LOCKED).await;
    };
    let mut connection = database.client().await?.detach();
    let report = runner().run_async(&mut *connection).await;
    lock.commit().await?;
    Ok(report?.applied_migrations().iter().map(|migration| migration.version()).collect())
}

fn runner() -> Runner {
    embedded::migrations::runner()
}
