//! PostgreSQL: one pool of connections, prepared statements, transactions, migrations; with a pooler such as PgBouncer between, or without.

mod client;
mod connector;
mod error;
mod lanes;
pub mod migrate;
mod page;
pub mod query;
mod settings;
mod statements;
mod stats;
mod tls;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts};
use tokio::{sync::Semaphore, time::timeout};

use crate::config::{AuthoritiesError, DatabasePooler, Settings};

use connector::{Connector, Target};
use lanes::{Lane, Lanes, Place};
use statements::ParameterTypes;
use stats::Counts;

pub use client::{Client, Executor, Transaction};
pub use error::Error;
pub use page::{Listing, Page, no_number};
pub use query::{LargePage, Query};
pub use settings::warning;
pub use statements::Statements;
pub use stats::Stats;
pub use tokio_postgres::{Row, types};

/// The settings that [`Database::reload`] takes.
pub const RELOADED: &[&str] = &[
    "database_hostname",
    "database_port",
    "database_user",
    "database_password",
    "database_name",
    "database_url",
    "database_tls",
    "database_ca_file",
    "database_statement_timeout_seconds",
];

/// How often a transaction that lost a deadlock is run again before the caller is told to.
const ATTEMPTS: u32 = 5;

/// How many large pages ([`Query::within`]) are read and held at a time.
const LARGE_PAGES: usize = 4;

/// The settings do not describe a database.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `database_url` cannot be read. Its text is not repeated: it may hold a password.
    #[error("database_url is not of the form postgres://user:password@host:port/name")]
    Url,
    /// `database_url` has something that another setting says, and of which it would be overridden.
    #[error("database_url has `{parameter}`, which is not read there: leave it out and set {instead}")]
    TlsInUrl {
        /// What it has.
        parameter: &'static str,
        /// What says it.
        instead: &'static str,
    },
    /// The authorities to trust cannot be loaded.
    #[error("database_ca_file: {0}")]
    Authorities(#[from] AuthoritiesError),
    /// TLS cannot be set up.
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(#[source] rustls::Error),
    /// The pool cannot be made.
    #[error("the connection pool cannot be made: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
}

/// New settings are of no use.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They do not describe a database.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database that they describe cannot be reached, or refuses them.
    #[error("no connection can be made with them: {0}")]
    Connection(#[from] tokio_postgres::Error),
    /// It took too long.
    #[error("the database does not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// The way to the database; cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    /// One connection for asking whether the database answers, which a full pool must not keep from being asked.
    probe: Pool,
    lanes: Lanes,
    large_pages: Arc<Semaphore>,
    connector: Connector,
    pooler: DatabasePooler,
    types: ParameterTypes,
    counts: Arc<Counts>,
}

/// What happens in one transaction. (A trait and not a closure because futures of closures that borrow cannot be shown to be `Send`.)
pub trait Work: Sync {
    /// What comes of it.
    type Output: Send;
    /// What can go wrong.
    type Error: WorkError + Send;

    /// Does it. May be run more than once ([`Database::transaction`]), so it must change nothing outside of the transaction.
    fn run(&self, transaction: &Transaction<'_>) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// The project whose locks it may wait for, if that is known: all transactions of one have at most half of the pool.
    fn project(&self) -> Option<i64> {
        None
    }
}

/// An error that a transaction's work may end with.
pub trait WorkError: From<Error> {
    /// The database's part in it, if it had one.
    fn database(&self) -> Option<&Error>;
}

impl WorkError for Error {
    fn database(&self) -> Option<&Error> {
        Some(self)
    }
}

impl Database {
    /// Makes the pool. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the settings do not describe a database.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let connector = Connector::new(Target::new(settings)?);
        let checkout = Duration::from_secs(settings.database_checkout_timeout_seconds);
        let connect = Duration::from_secs(settings.database_connect_timeout_seconds);
        let pool = |size: usize| {
            let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let current = connector.clone();
            let is_of_now = Hook::sync_fn(move |_, metrics| match metrics.created >= current.target().since {
                true => Ok(()),
                false => Err(HookError::message("it was made with settings that have changed")),
            });
            // What to connect to is for the connector to say.
            Pool::builder(Manager::from_connect(tokio_postgres::Config::new(), connector.clone(), manager))
                .max_size(size)
                .pre_recycle(is_of_now)
                .timeouts(Timeouts { wait: Some(checkout), create: Some(connect), recycle: Some(connect) })
                .runtime(Runtime::Tokio1)
                .build()
        };
        let size = settings.database_pool_size;
        Ok(Self {
            pool: pool(size)?,
            probe: pool(1)?,
            lanes: Lanes::of_pool(size),
            large_pages: Arc::new(Semaphore::new(LARGE_PAGES)),
            connector,
            pooler: settings.database_pooler,
            types: ParameterTypes::default(),
            counts: Arc::default(),
        })
    }

    /// Goes over to new settings, if they are others and if a connection can be made with them: from now on none is used that was made with others. What is running ends as it
    /// would have.
    ///
    /// # Errors
    ///
    /// [`ReloadError`] if none can be made; then everything stays as it was.
    pub async fn reload(&self, settings: &Settings) -> Result<(), ReloadError> {
        let target = Target::new(settings)?;
        if target.is_that_of(&self.connector) && settings.database_ca_file.as_os_str().is_empty() {
            return Ok(());
        }
        timeout(Duration::from_secs(settings.database_connect_timeout_seconds), target.connect()).await??;
        self.connector.turn_to(target);
        let since = self.connector.target().since;
        for pool in [&self.pool, &self.probe] {
            pool.retain(|_, metrics| metrics.created >= since);
        }
        Ok(())
    }

    /// A connection, given back to the pool when dropped.
    ///
    /// # Errors
    ///
    /// After the configured times: [`Error::Busy`] if all are in use, [`Error::Connection`] if none can be made.
    pub async fn client(&self) -> Result<Client, Error> {
        self.checkout(&self.pool, None).await
    }

    /// The same for a change that may wait for a project's locks: those of one project have at most half of the pool, and wait for it however long that takes.
    ///
    /// # Errors
    ///
    /// As [`Database::client`].
    pub async fn client_for(&self, project: i64) -> Result<Client, Error> {
        let place = self.lanes.enter(Lane::Changes(project)).await;
        self.checkout(&self.pool, Some(place)).await
    }

    /// The same for a statement that walks past what others have locked in a project: those of one project have at most a quarter of the pool, and wait for their place in it no
    /// longer than anybody waits for a connection.
    ///
    /// # Errors
    ///
    /// As [`Database::client`].
    pub async fn client_passing(&self, project: i64) -> Result<Client, Error> {
        let enter = self.lanes.enter(Lane::Passing(project));
        let place = match self.pool.timeouts().wait {
            Some(patience) => {
                timeout(patience, enter).await.map_err(|_| Error::Busy).inspect_err(|error| self.counts.no_connection(error))?
            }
            None => enter.await,
        };
        self.checkout(&self.pool, Some(place)).await
    }

    async fn checkout(&self, pool: &Pool, place: Option<Place>) -> Result<Client, Error> {
        let object = pool.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => Error::Busy,
            error => Error::Connection(error),
        });
        let object = object.inspect_err(|error| self.counts.no_connection(error))?;
        let statements = Statements::of(&object, self.pooler, &self.types);
        Ok(Client::new(object, statements, self.connector.target().tls(), self.large_pages.clone(), place, self.counts.clone()))
    }

    /// Runs `work` in one transaction (READ COMMITTED): committed if it returns `Ok`, otherwise as if it had never been. When the
    /// transaction loses a deadlock it is run again from the start.
    ///
    /// # Errors
    ///
    /// What `work` returns, or the failure to begin or to commit.
    pub async fn transaction<W: Work>(&self, work: &W) -> Result<W::Output, W::Error> {
        let mut attempt = 1;
        loop {
            let result = self.attempt(work).await;
            match result {
                Err(error) if attempt < ATTEMPTS && error.database().is_some_and(Error::is_conflict) => {
                    self.counts.reruns.one();
                    tracing::debug!(attempt, "a transaction lost against another one and is run again");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt<W: Work>(&self, work: &W) -> Result<W::Output, W::Error> {
        let mut client = match work.project() {
            Some(project) => self.client_for(project).await?,
            None => self.client().await?,
        };
        let transaction = client.begin().await?;
        match work.run(&transaction).await {
            Ok(value) => {
                transaction.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // Whoever is told of it may ask again at once, over another connection, and must not meet locks of this one.
                if let Err(error) = transaction.roll_back().await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a transaction ended with its connection");
                }
                Err(error)
            }
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    ///
    /// Any [`Error`] if it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        query::schema::PING.one(&self.checkout(&self.probe, None).await?, &[]).await.map(drop)
    }

    /// Closes the pool: waiting checkouts fail, connections end when they are given back.
    pub fn close(&self) {
        self.pool.close();
        self.probe.close();
    }
}

/// Makes the database `whatsnext` if there is none, by way of a connection to another database of the same server.
///
/// # Errors
///
/// Any [`Error`] if it cannot be made.
pub async fn create_database(maintenance: &Database) -> Result<(), Error> {
    let client = maintenance.client().await?;
    if !query::schema::DATABASE_PRESENT.one(&client, &[]).await?.get::<_, bool>("present") {
        query::schema::CREATE_DATABASE.execute(&client, &[]).await?;
    }
    Ok(())
}
