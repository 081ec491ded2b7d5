//! Connections on loan, and what becomes of those whose borrower goes away.
//!
//! A request's future is dropped when its client disconnects or its time is up, also in the middle of a statement. A pool would give such a connection to
//! the next request, which would then wait behind a statement that nobody wants any more. So a connection knows whether it is busy, and one that is
//! given back busy leaves the pool; its statement is cancelled.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use deadpool_postgres::Object;
use tokio::sync::Semaphore;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, Statements, lanes::Place, stats::Counts};

/// What statements can be sent to: a connection, or a transaction on it.
pub trait Executor: Sync {
    /// The driver's side of it; of a transaction, the connection that it is on.
    fn connection(&self) -> &tokio_postgres::Client;

    /// How statements are sent on it.
    fn statements(&self) -> &Statements;

    /// Whether a statement has been sent that is not answered yet.
    fn busy(&self) -> &AtomicBool;

    /// Notes how long it took to do something that began then.
    fn note_time(&self, began: Instant);

    /// Waits for something that the database does, and leaves the connection marked as busy if it is not waited for to the end.
    fn watch<T: Send>(&self, work: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
        async {
            self.busy().store(true, Ordering::Relaxed);
            let began = Instant::now();
            let result = work.await;
            self.note_time(began);
            self.busy().store(false, Ordering::Relaxed);
            result
        }
    }
}

/// A connection on loan from the pool.
pub struct Client {
    /// Taken only on the way out.
    object: Option<Object>,
    busy: AtomicBool,
    statements: Statements,
    tls: MakeRustlsConnect,
    /// Places for reading large pages, the same for all connections.
    pub(super) large_pages: Arc<Semaphore>,
    /// Its place in a lane, if it is in one.
    _place: Option<Place>,
    counts: Arc<Counts>,
}

/// A transaction on a connection: rolled back when dropped, unless committed.
pub struct Transaction<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    busy: &'a AtomicBool,
    statements: &'a Statements,
    counts: &'a Counts,
}

impl Client {
    pub(super) fn new(
        object: Object,
        statements: Statements,
        tls: MakeRustlsConnect,
        large_pages: Arc<Semaphore>,
        place: Option<Place>,
        counts: Arc<Counts>,
    ) -> Self {
        Self { object: Some(object), busy: AtomicBool::new(false), statements, tls, large_pages, _place: place, counts }
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        self.busy.store(true, Ordering::Relaxed);
        let inner = self.object.as_mut().expect(PRESENT).transaction().await.map_err(Error::Transaction)?;
        self.busy.store(false, Ordering::Relaxed);
        Ok(Transaction { inner, busy: &self.busy, statements: &self.statements, counts: &self.counts })
    }

    /// The connection, which never goes back to the pool.
    pub(super) fn detach(mut self) -> deadpool_postgres::ClientWrapper {
        Object::take(self.object.take().expect(PRESENT))
    }
}

const PRESENT: &str = "the connection is there until it is given back";

impl Executor for Client {
    fn connection(&self) -> &tokio_postgres::Client {
        self.object.as_ref().expect(PRESENT)
    }

    fn statements(&self) -> &Statements {
        &self.statements
    }

    fn busy(&self) -> &AtomicBool {
        &self.busy
    }

    fn note_time(&self, began: Instant) {
        self.counts.statements.observe_time(began.elapsed());
    }
}

impl Transaction<'_> {
    /// Makes what was done permanent.
    pub(super) async fn commit(self) -> Result<(), Error> {
        self.busy.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let committed = self.inner.commit().await.map_err(Error::Transaction);
        self.counts.statements.observe_time(began.elapsed());
        self.busy.store(false, Ordering::Relaxed);
        committed
    }

    /// Takes back what was done, and gives its locks back before it returns. (One that is dropped does so as well, but by and by.)
    pub(super) async fn roll_back(self) -> Result<(), Error> {
        self.busy.store(true, Ordering::Relaxed);
        let rolled_back = self.inner.rollback().await.map_err(Error::Transaction);
        self.busy.store(false, Ordering::Relaxed);
        rolled_back
    }
}

impl Executor for Transaction<'_> {
    fn connection(&self) -> &tokio_postgres::Client {
        self.inner.client()
    }

    fn statements(&self) -> &Statements {
        self.statements
    }

    fn busy(&self) -> &AtomicBool {
        self.busy
    }

    fn note_time(&self, began: Instant) {
        self.counts.statements.observe_time(began.elapsed());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if !*self.busy.get_mut() {
            return;
        }
        self.counts.abandoned.one();
        let cancel = object.cancel_token();
        let connection = Object::take(object);
        if matches!(self.statements, Statements::Whole(_)) {
            // A pooler ends the session when its client goes, and PostgreSQL sees that (client_connection_check_interval). PgBouncer itself may end if
            // it is sent a cancellation and the statement's client goes at the same time (its issue 801).
            return;
        }
        let tls = self.tls.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = cancel.cancel_query(tls).await {
                    tracing::debug!(%error, "a statement that nobody waits for could not be cancelled");
                }
                mem::drop(connection);
            });
        }
    }
}
