//! Clients in the database.

use super::{Change, Client, Content};
use crate::{
    postgres::{
        Database, Query, Row, Transaction, Work,
        query::{Params, clients as sql},
    },
    queue::{Bells, Error, Listing, Owner, Page, Result, Thing},
};

/// The clients.
#[derive(Clone)]
pub struct Store {
    database: Database,
    bells: Bells,
}

impl Store {
    /// The clients of this database. Bells are rung when there may be something to claim.
    pub fn new(database: Database, bells: Bells) -> Self {
        Self { database, bells }
    }

    /// Registers a client, or refreshes the one with this id; active either way. A new one is the owner's.
    ///
    /// # Errors
    ///
    /// [`Error::OthersClient`]. Nobody's owner is refused nothing.
    pub async fn register(&self, id: &str, content: &Content, owner: Option<&Owner>) -> Result<Client> {
        let connection = self.database.client().await?;
        let Content { name, entity, description, available_cpu, available_accelerators } = content;
        let (user, key) = (owner.and_then(|owner| owner.user), owner.map(|owner| &owner.key));
        let params: Params<'_> = &[&id, name, entity, description, available_cpu, available_accelerators, &user, &key];
        let row = sql::UPSERT.maybe(&connection, params).await?;
        row.map(|row| self.changed(&row)).ok_or_else(|| Error::OthersClient(id.to_owned()))
    }

    /// Whether somebody may speak for a client. Of one that does not exist nothing is said.
    ///
    /// # Errors
    ///
    /// [`Error::OthersClient`].
    pub async fn check(&self, id: &str, owner: &Owner) -> Result<()> {
        let connection = self.database.client().await?;
        owner.owner_of(&connection, id).await?;
        Ok(())
    }

    /// One client.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn get(&self, id: &str) -> Result<Client> {
        let connection = self.database.client().await?;
        let row = sql::GET.maybe(&connection, &[&id]).await?;
        row.map(|row| client(&row)).ok_or_else(|| not_found(id))
    }

    /// A page of all clients, or of the active ones.
    pub async fn list(&self, active_only: bool, page: Page<&str>) -> Result<Listing<Client>> {
        let connection = self.database.client().await?;
        let params: Params<'_> = &[&active_only, &page.after, &page.skip, &page.limit];
        Ok(Listing::read(sql::LIST, &connection, params, client, |row| row.get::<_, Option<&str>>("id").is_none()).await?)
    }

    /// Changes a client.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn update(&self, id: &str, change: &Change) -> Result<Client> {
        let connection = self.database.client().await?;
        let row = sql::UPDATE.maybe(&connection, &[&id, &change.available_cpu, &change.available_accelerators, &change.is_active]).await?;
        row.map(|row| self.changed(&row)).ok_or_else(|| not_found(id))
    }

    /// A client as it is now; it may be waiting for jobs that fit it only now.
    fn changed(&self, row: &Row) -> Client {
        if row.get("has_grown") {
            self.bells.ring_for_client(row.get("id"));
        }
        client(row)
    }

    /// Notes that a client is alive; it is active again if it was not.
    ///
    /// # Errors
    ///
    /// [`Error::Unregistered`].
    pub async fn heartbeat(&self, id: &str) -> Result<()> {
        let connection = self.database.client().await?;
        let row = sql::HEARTBEAT.maybe(&connection, &[&id]).await?;
        row.map(drop).ok_or_else(|| Error::Unregistered(id.to_owned()))
    }

    /// Marks a client as gone.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn deactivate(&self, id: &str) -> Result<()> {
        match self.change(&sql::DEACTIVATE, id).await? {
            true => Ok(()),
            false => Err(not_found(id)),
        }
    }

    /// Marks clients as gone that were not heard of for so many seconds.
    pub async fn deactivate_silent(&self, seconds: u32) -> Result<u64> {
        let connection = self.database.client().await?;
        Ok(sql::DEACTIVATE_SILENT.execute(&connection, &[&f64::from(seconds)]).await?)
    }

    /// Forgets a client.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.database.transaction(&Forget { id }).await
    }

    /// Whether there is such a client.
    async fn change(&self, query: &Query, id: &str) -> Result<bool> {
        let connection = self.database.client().await?;
        Ok(query.execute(&connection, &[&id]).await? > 0)
    }
}

struct Forget<'a> {
    id: &'a str,
}

impl Work for Forget<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<()> {
        // What is claimed for it just now is there for the next statement.
        if sql::DEACTIVATE.execute(transaction, &[&self.id]).await? == 0 {
            return Err(not_found(self.id));
        }
        sql::DELETE.execute(transaction, &[&self.id]).await?;
        Ok(())
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound(Thing::Client(id.to_owned()))
}

fn client(row: &Row) -> Client {
    Client {
        id: row.get("id"),
        content: Content {
            name: row.get("name"),
            entity: row.get("entity"),
            description: row.get("description"),
            available_cpu: row.get("available_cpu"),
            available_accelerators: row.get("available_accelerators"),
        },
        last_heartbeat: row.get("last_heartbeat"),
        created_at: row.get("created_at"),
        is_active: row.get("is_active"),
    }
}
