//! How statements are sent: prepared and kept, or each for itself.
//!
//! A statement that is prepared stays with a connection of PostgreSQL. A pooler in transaction mode gives a client another one for each transaction, so there
//! nothing may stay behind: each statement is sent whole, with the types of its parameters, which are asked for once and remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use deadpool_postgres::{Object, StatementCache};
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement, types::Type};
use uuid::Uuid;

use super::{Query, query::Params};
use crate::config::DatabasePooler;

/// The way of one connection.
#[derive(Clone)]
pub enum Statements {
    /// Prepared once, and kept with the connection.
    Kept(Arc<StatementCache>),
    /// Sent whole each time.
    Whole(ParameterTypes),
}

/// A statement that can be sent.
pub(super) enum Ready<'a> {
    /// It is prepared.
    Kept(Statement),
    /// Its values, and what they are.
    Whole(Vec<(&'a (dyn tokio_postgres::types::ToSql + Sync), Type)>),
}

impl Statements {
    /// The way of this connection. `types` are those of all connections to the database.
    pub(super) fn of(object: &Object, pooler: DatabasePooler, types: &ParameterTypes) -> Self {
        match pooler {
            DatabasePooler::None => Self::Kept(object.statement_cache.clone()),
            DatabasePooler::Transaction => Self::Whole(types.clone()),
        }
    }

    pub(super) async fn ready<'a>(&self, client: &Client, query: &Query, params: Params<'a>) -> Result<Ready<'a>, Error> {
        match self {
            Self::Kept(cache) => cache.prepare(client, query.sql).await.map(Ready::Kept),
            // Nothing to ask. And not all statements can be asked about: `analyze` cannot.
            Self::Whole(_) if params.is_empty() => Ok(Ready::Whole(Vec::new())),
            Self::Whole(types) => {
                let types = types.of(client, query).await?;
                Ok(Ready::Whole(params.iter().copied().zip(types.iter().cloned()).collect()))
            }
        }
    }
}

/// The types of the parameters of statements, once asked for. PostgreSQL infers them, so no list of them has to be kept true by hand.
#[derive(Debug, Clone, Default)]
pub struct ParameterTypes(Arc<Mutex<Known>>);

/// By the names of the statements.
type Known = HashMap<&'static str, Arc<[Type]>>;

impl ParameterTypes {
    async fn of(&self, client: &Client, query: &Query) -> Result<Arc<[Type]>, Error> {
        if let Some(types) = self.known().get(query.name) {
            return Ok(types.clone());
        }
        let types = infer(client, query).await?;
        self.known().insert(query.name, types.clone());
        Ok(types)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks in one message, which is one transaction, or part of the one that has begun. What is prepared in it is gone at its end.
async fn infer(client: &Client, query: &Query) -> Result<Arc<[Type]>, Error> {
    // Would this be cut off in the middle, what was left behind is in nobody's way.
    let name = format!("types_{}", Uuid::new_v4().simple());
    let asked = format!(
        "prepare {name} as {}\n;select unnest(parameter_types)::oid from pg_prepared_statements where name = '{name}';deallocate {name}",
        query.sql
    );
    #[expect(clippy::disallowed_methods, reason = "several statements in one message")]
    let answer = client.simple_query(&asked).await?;
    let types = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).and_then(|oid| Type::from_oid(oid.parse().ok()?)).unwrap_or(Type::UNKNOWN)),
        _ => None,
    });
    Ok(types.collect())
}
