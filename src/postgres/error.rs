//! What can go wrong between this program and PostgreSQL, sorted by what helps.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// An error of the database or on the way to it. Its text is for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All connections of the pool stayed in use for as long as one may wait for them.
    #[error("all connections to the database are in use")]
    Busy,
    /// Others read as many large pages as may be read at a time.
    #[error("too many large pages are being read")]
    Crowded,
    /// A page of a list, as it was asked for, has more bytes than one may have.
    #[error("the rows of {name} have more than {limit} bytes")]
    TooLarge {
        /// The statement's name.
        name: &'static str,
        /// How many bytes it may have.
        limit: usize,
    },
    /// No connection could be had: the database is away.
    #[error("no connection to the database")]
    Connection(#[source] PoolError),
    /// A statement failed.
    #[error("the statement {name} failed")]
    Statement {
        /// The statement's name.
        name: &'static str,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// A transaction could not be begun or committed.
    #[error("a transaction failed")]
    Transaction(#[source] tokio_postgres::Error),
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        if matches!(self, Self::TooLarge { .. }) {
            return false;
        }
        let Some(source) = self.source() else { return true };
        let Some(state) = source.code() else { return true };
        // Connection exceptions, transaction rollback, insufficient resources, operator intervention (restart, statement time-out),
        // a server that has become a standby, and a transaction that waited for too long for this program.
        ["08", "40", "53", "57"].iter().any(|class| state.code().starts_with(class))
            || *state == SqlState::LOCK_NOT_AVAILABLE
            || *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
            || *state == SqlState::READ_ONLY_SQL_TRANSACTION
    }

    /// Whether the database itself said no, so that nothing was done. Otherwise that is not known: its answer may have got lost.
    pub fn is_refusal(&self) -> bool {
        let code = self.source().and_then(tokio_postgres::Error::code).map(SqlState::code);
        // Connection exceptions; a shutdown or crash, in whatever moment; "statement completion unknown".
        code.is_some_and(|code| !["08", "57P"].iter().any(|class| code.starts_with(class)) && code != "40003")
    }

    /// Whether the transaction lost against another one and may be run again at once.
    pub fn is_conflict(&self) -> bool {
        self.source()
            .and_then(tokio_postgres::Error::code)
            .is_some_and(|state| *state == SqlState::T_R_DEADLOCK_DETECTED || *state == SqlState::T_R_SERIALIZATION_FAILURE)
    }

    /// The name of the constraint that refused a change.
    pub fn constraint(&self) -> Option<&str> {
        self.source()?.as_db_error()?.constraint()
    }

    fn source(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Busy | Self::Crowded | Self::TooLarge { .. } | Self::Connection(_) => None,
            Self::Statement { source, .. } | Self::Transaction(source) => Some(source),
        }
    }
}
