//! Every statement that this program sends to PostgreSQL, and the one way to send it.

use std::{pin::pin, sync::atomic::Ordering};

use futures_util::TryStreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::{Row, types::ToSql};

use super::{Client, Error, Executor, statements::Ready};

/// The values of a statement's `$1`, `$2` …
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// From how many bytes on a page is large: few of them are read at a time.
const LARGE: usize = 1024 * 1024;

/// A place among those who hold a large page, free again when dropped. Whoever goes on holding what was in its rows keeps it.
#[derive(Debug)]
pub struct LargePage(#[expect(dead_code, reason = "it is only held")] OwnedSemaphorePermit);

/// One statement of `sql/queries`. It is prepared once a connection and then reused, unless a pooler stands between ([`super::Statements`]).
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Folder and file, as in `jobs/claim`.
    pub name: &'static str,
    /// The statement, with the header that says what its parameters are.
    pub sql: &'static str,
}

impl Query {
    /// All rows.
    pub async fn all(&self, executor: &impl Executor, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let connection = executor.connection();
        let work = async {
            match executor.statements().ready(connection, self, params).await? {
                Ready::Kept(statement) => connection.query(&statement, params).await,
                Ready::Whole(typed) => connection.query_typed(self.sql, &typed).await,
            }
        };
        executor.watch(work).await.map_err(|error| self.failed(error))
    }

    /// All rows, if they have at most `limit` bytes together, or if there is only one. Of what is larger, no more than that and a row is read.
    ///
    /// # Errors
    ///
    /// Besides those of all statements: [`Error::TooLarge`], and [`Error::Crowded`] if many others read large pages too.
    pub async fn within(&self, limit: usize, client: &Client, params: Params<'_>) -> Result<(Vec<Row>, Option<LargePage>), Error> {
        let connection = client.connection();
        let work = async {
            let mut stream = pin!(match client.statements().ready(connection, self, params).await? {
                Ready::Kept(statement) => connection.query_raw(&statement, params.iter().copied()).await?,
                Ready::Whole(typed) => connection.query_typed_raw(self.sql, typed).await?,
            });
            let (mut rows, mut bytes, mut place) = (Vec::new(), 0, None);
            while let Some(row) = stream.try_next().await? {
                bytes += row.raw_size_bytes();
                if bytes > limit && !rows.is_empty() {
                    return Ok(Err(Error::TooLarge { name: self.name, limit }));
                }
                if bytes > LARGE && place.is_none() {
                    match client.large_pages.clone().try_acquire_owned() {
                        Ok(free) => place = Some(free),
                        Err(_) => return Ok(Err(Error::Crowded)),
                    }
                }
                rows.push(row);
            }
            Ok(Ok((rows, place.map(LargePage))))
        };
        let rows = client.watch(work).await.map_err(|error| self.failed(error))?;
        if rows.is_err() {
            // The rest is still on its way: the connection is of no more use.
            client.busy().store(true, Ordering::Relaxed);
        }
        rows
    }

    /// The only row.
    pub async fn one(&self, executor: &impl Executor, params: Params<'_>) -> Result<Row, Error> {
        let connection = executor.connection();
        let work = async {
            match executor.statements().ready(connection, self, params).await? {
                Ready::Kept(statement) => connection.query_one(&statement, params).await,
                Ready::Whole(typed) => connection.query_typed_one(self.sql, &typed).await,
            }
        };
        executor.watch(work).await.map_err(|error| self.failed(error))
    }

    /// The only row, if there is one.
    pub async fn maybe(&self, executor: &impl Executor, params: Params<'_>) -> Result<Option<Row>, Error> {
        let connection = executor.connection();
        let work = async {
            match executor.statements().ready(connection, self, params).await? {
                Ready::Kept(statement) => connection.query_opt(&statement, params).await,
                Ready::Whole(typed) => connection.query_typed_opt(self.sql, &typed).await,
            }
        };
        executor.watch(work).await.map_err(|error| self.failed(error))
    }

    /// How many rows were changed.
    pub async fn execute(&self, executor: &impl Executor, params: Params<'_>) -> Result<u64, Error> {
        let connection = executor.connection();
        let work = async {
            match executor.statements().ready(connection, self, params).await? {
                Ready::Kept(statement) => connection.execute(&statement, params).await,
                Ready::Whole(typed) => connection.execute_typed(self.sql, &typed).await,
            }
        };
        executor.watch(work).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, source: tokio_postgres::Error) -> Error {
        Error::Statement { name: self.name, source }
    }
}

macro_rules! queries {
    ($($folder:ident { $($name:ident = $file:literal),* $(,)? })*) => {
        $(
            #[doc = concat!("The statements of `sql/queries/", stringify!($folder), "`.")]
            pub mod $folder {
                use super::Query;
                $(
                    #[doc = concat!("`sql/queries/", stringify!($folder), "/", $file, ".sql`")]
                    pub const $name: Query = Query {
                        name: concat!(stringify!($folder), "/", $file),
                        sql: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/", stringify!($folder), "/", $file, ".sql")),
                    };
                )*
            }
        )*

        /// All of them. A test prepares each against the migrated schema, and finds files that are not listed here.
        pub const ALL: &[Query] = &[$($($folder::$name),*),*];
    };
}

queries! {
    attempts {
        COMPLETE = "complete",
        END = "end",
        EXPIRED = "expired",
        FOLLOW = "follow",
        GET = "get",
        GIVE_BACK = "give_back",
        HEARTBEAT = "heartbeat",
        HEARTBEAT_OF_CLIENT = "heartbeat_of_client",
        LIST = "list",
        LOCK = "lock",
        LOCK_JOB = "lock_job",
        LOCK_JOBS = "lock_jobs",
        MAY_REPORT = "may_report",
        REQUEST_CANCEL = "request_cancel",
        START = "start",
        TRY_LOCK_JOB = "try_lock_job",
    }
    claims {
        ARRIVE = "arrive",
        BUSY = "busy",
        CANDIDATES = "candidates",
        HEADS = "heads",
        HELD = "held",
        ROOM = "room",
        TAKE = "take",
    }
    clients {
        DEACTIVATE = "deactivate",
        DEACTIVATE_SILENT = "deactivate_silent",
        DELETE = "delete",
        GET = "get",
        HEARTBEAT = "heartbeat",
        LIST = "list",
        MAY_USE = "may_use",
        UPDATE = "update",
        UPSERT = "upsert",
    }
    fleet {
        SECRET = "secret",
    }
    graph {
        ADD_EDGES = "add_edges",
        ADJUST_CHILDREN = "adjust_children",
        BLOCK_DESCENDANTS = "block_descendants",
        CLEAR_QUEUE = "clear_queue",
        DETACH_JOB = "detach_job",
        DETACH_PROJECT = "detach_project",
        DETACH_TASK = "detach_task",
        EDGES = "edges",
        HAS_CHILDREN = "has_children",
        HAS_DEAD_PARENT = "has_dead_parent",
        IS_ANCESTOR = "is_ancestor",
        LOCK_EXCLUSIVE = "lock_exclusive",
        LOCK_PARENTS = "lock_parents",
        LOCK_PROJECT_JOBS = "lock_project_jobs",
        LOCK_QUEUE = "lock_queue",
        LOCK_SHARED = "lock_shared",
        LOCK_TASK_JOBS = "lock_task_jobs",
        REMOVE_EDGES = "remove_edges",
        SET_UNMET = "set_unmet",
        UNBLOCK = "unblock",
        WAITING_CHILD = "waiting_child",
        WAITING_CHILD_OF_TASK = "waiting_child_of_task",
    }
    jobs {
        CLAIM = "claim",
        CLAIM_FROM = "claim_from",
        COUNT_READY = "count_ready",
        CREATE = "create",
        DELETE = "delete",
        DUE = "due",
        EXPLAIN = "explain",
        FIRST_READY = "first_ready",
        GET = "get",
        INSERT = "insert",
        LIST = "list",
        LIST_BY_PROJECT = "list_by_project",
        LIST_BY_TASK = "list_by_task",
        LOCK = "lock",
        NEXT_DUE = "next_due",
        OLD = "old",
        PARENTS = "parents",
        PROJECT = "project",
        PRUNE = "prune",
        RETRY_HALTED = "retry_halted",
        SETTLE = "settle",
        TRY_LOCK = "try_lock",
        UPDATE = "update",
    }
    keys {
        CHANGED = "changed",
        GET = "get",
        GOOD = "good",
        INSERT = "insert",
        LIST = "list",
        LOCK = "lock",
        OF_USER = "of_user",
        PRESENT = "present",
        RECORD = "record",
        REPLACE = "replace",
        REVOKE = "revoke",
        SET_LIMIT = "set_limit",
        TOUCH = "touch",
    }
    projects {
        BUSIEST = "busiest",
        COMPACT_COUNTS = "compact_counts",
        DELETE = "delete",
        GET = "get",
        GET_BY_NAME = "get_by_name",
        INSERT = "insert",
        LIST = "list",
        LOCK = "lock",
        STATS = "stats",
        TOTALS = "totals",
        UPDATE = "update",
    }
    schema {
        ANALYZE = "analyze",
        CREATE_DATABASE = "create_database",
        DATABASE_PRESENT = "database_present",
        LOCK = "lock",
        LOCK_TIMEOUT = "lock_timeout",
        OUTGROWN = "outgrown",
        PING = "ping",
        PRESENT = "present",
        VERSION = "version",
    }
    submissions {
        GET = "get",
        INSERT = "insert",
        LOCK = "lock",
        PRUNE = "prune",
    }
    tasks {
        DELETE = "delete",
        FOREIGN = "foreign",
        GET = "get",
        GET_BY_NAME = "get_by_name",
        INSERT = "insert",
        LIST = "list",
        LOCK = "lock",
        LOCK_OF_PROJECT = "lock_of_project",
        UPDATE = "update",
    }
    users {
        GET = "get",
        GET_BY_NAME = "get_by_name",
        INSERT = "insert",
        LIST = "list",
        LOCK = "lock",
        LOCK_OF_KEY = "lock_of_key",
        UPDATE = "update",
    }
}
