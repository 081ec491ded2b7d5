//! The schema's versions: brought up to date by `whatsnext migrate`, looked at by every server at start.
//!
//! Servers may work meanwhile. Whoever waits for a table's lock keeps out all who come later, so a step does not wait: after [`Patience::lock`] it gives up,
//! lets everybody by, and tries again. `sql/README.md` has the rules for what a step may do.

use std::time::Duration;

use refinery::Runner;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use super::{Database, Error, SetupError, query::schema};
use crate::config::{DatabasePooler, Settings};

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
    /// Something that a step changes was in use all the time.
    #[error(
        "somebody used what has to be changed for {} s, longer than this waits: look in pg_stat_activity for transactions that last long, \
         and run `whatsnext migrate` again, perhaps with a greater --patience. Version {at} is in force", .waited.as_secs()
    )]
    Locked {
        /// How long it was tried.
        waited: Duration,
        /// The newest version that is applied.
        at: i32,
    },
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

/// How long a migration waits for what others use.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a step waits for a lock at a time, which is how long it may keep others waiting behind it.
    pub lock: Duration,
    /// How long it is tried in all.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { lock: Duration::from_secs(2), whole: Duration::from_secs(120) }
    }
}

/// How long between two tries, as many times as long as a step waited for a lock: others work meanwhile.
const REST: u32 = 2;

/// Brings the schema up to date; any number of processes may try at once. Returns the versions that were applied.
///
/// # Errors
///
/// [`MigrateError`]; the steps before the one that failed stay applied.
pub async fn run(settings: &Settings, patience: Patience) -> Result<Vec<i32>, MigrateError> {
    // A step may take longer than a request's statement may.
    let patient = Settings { database_statement_timeout_seconds: 0, database_pool_size: 2, ..settings.clone() };
    let database = Database::new(&patient)?;
    // Held by a transaction, and not by a session, which behind a pooler would be somebody else's by and by.
    let mut holder = database.client().await?;
    let _lock = loop {
        let transaction = holder.begin().await?;
        if schema::LOCK.one(&transaction, &[&LOCK]).await?.get("alone") {
            break transaction;
        }
        // Who waits holds no session meanwhile, for the one who migrates may need it.
        transaction.commit().await?;
        sleep(LOCKED).await;
    };
    let client = database.client().await?;
    if settings.database_pooler == DatabasePooler::None {
        schema::LOCK_TIMEOUT.one(&client, &[&format!("{}ms", patience.lock.as_millis().max(1))]).await?;
    }
    // That ends with the connection, which must therefore not go back to a pool.
    let mut connection = client.detach();
    let (began, mut applied) = (Instant::now(), Vec::new());
    loop {
        let failed = match runner().run_async(&mut *connection).await {
            Ok(report) => {
                applied.extend(versions(&report));
                return Ok(applied);
            }
            Err(failed) => failed,
        };
        applied.extend(failed.report().into_iter().flat_map(versions));
        if !is_locked(&failed) {
            return Err(failed.into());
        }
        if began.elapsed() >= patience.whole {
            let at = runner().get_last_applied_migration_async(&mut *connection).await?.map_or(0, |last| last.version());
            return Err(MigrateError::Locked { waited: began.elapsed(), at });
        }
        tracing::info!("what has to be changed is in use: trying again in a moment");
        sleep(patience.lock * REST).await;
    }
}

fn versions(report: &refinery::Report) -> impl Iterator<Item = i32> {
    report.applied_migrations().iter().map(refinery::Migration::version)
}

/// Whether a step gave up waiting for a lock.
fn is_locked(error: &refinery::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    source.and_then(tokio_postgres::Error::code) == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

fn runner() -> Runner {
    embedded::migrations::runner()
}
