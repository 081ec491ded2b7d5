//! `/clients`: the machines that run jobs.

use poem::http::StatusCode;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Error, Tag,
    attempts::Lease,
    error::{BadRequest, NotFound, Refusal},
    extract::{Body, Caller, Path, Query, Scope},
    paging::{self, hundred},
    reply::{Created, Gone, Paged, Reply},
    tasks::none,
    types::{Amount, ClientId, Flag, Limit, Name, Prose, Skip, Timestamp},
};
use crate::queue::{
    Page,
    clients::{self, Change, Content},
    jobs,
};

/// The operations on clients.
#[derive(Clone)]
pub struct Api {
    /// The clients.
    pub clients: clients::Store,
    /// What they run.
    pub jobs: jobs::Store,
}

/// A machine that runs jobs.
#[derive(Debug, Serialize, Object)]
pub struct Client {
    id: String,
    name: Name,
    /// Whose machine it is.
    entity: Name,
    description: Option<Prose>,
    /// CPUs that it has for jobs.
    available_cpu: Amount,
    /// Accelerators that it has for jobs.
    available_accelerators: Amount,
    last_heartbeat: Timestamp,
    created_at: Timestamp,
    /// 1 until the client signs off, then 0.
    is_active: Flag,
}

/// A client, as an update answers it.
#[derive(Debug, Serialize, Object)]
pub struct ClientData {
    data: Client,
}

/// A client that comes, or comes again.
#[derive(Debug, Deserialize, Object)]
pub struct NewClient {
    /// 1 to 128 letters, digits, `_` and `-`. A client that comes again keeps its id.
    #[oai(validator(pattern = "^[A-Za-z0-9_-]{1,128}$"))]
    id: String,
    name: Name,
    /// Whose machine it is.
    entity: Name,
    description: Option<Prose>,
    /// CPUs that it has for jobs.
    #[oai(default = "none")]
    #[serde(default = "none")]
    available_cpu: Amount,
    /// Accelerators that it has for jobs.
    #[oai(default = "none")]
    #[serde(default = "none")]
    available_accelerators: Amount,
}

/// What to change of a client: what is not given stays as it is.
#[derive(Debug, Deserialize, Object)]
pub struct ClientUpdate {
    /// CPUs that it has for jobs.
    available_cpu: Option<Amount>,
    /// Accelerators that it has for jobs.
    available_accelerators: Option<Amount>,
    /// 1 or 0.
    is_active: Option<Flag>,
}

/// That it was noted.
#[derive(Debug, Serialize, Object)]
pub struct Noted {
    /// `deactivated`
    status: String,
}

/// That it was noted, and what the client has to know.
#[derive(Debug, Serialize, Object)]
pub struct Alive {
    /// `ok`
    status: String,
    /// All that it has claimed and not reported yet.
    attempts: Vec<Lease>,
}

impl From<clients::Client> for Client {
    fn from(client: clients::Client) -> Self {
        Self {
            id: client.id,
            name: client.content.name.into(),
            entity: client.content.entity.into(),
            description: client.content.description.map(Prose::from),
            available_cpu: client.content.available_cpu.into(),
            available_accelerators: client.content.available_accelerators.into(),
            last_heartbeat: Timestamp(client.last_heartbeat),
            created_at: Timestamp(client.created_at),
            is_active: i32::from(client.is_active).into(),
        }
    }
}

fn yes() -> bool {
    true
}

#[OpenApi(tag = "Tag::Clients")]
impl Api {
    /// Register a client
    ///
    /// Makes it, or refreshes the one that has this id; active either way.
    #[oai(path = "/clients/register", method = "post", operation_id = "register_client")]
    async fn register(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        body: Body<NewClient>,
    ) -> Result<Created<Client>, Refusal<BadRequest>> {
        let NewClient { id, name, entity, description, available_cpu, available_accelerators } = body.into_inner();
        if !ClientId::is_one(&id) {
            return Err(Error::new(StatusCode::BAD_REQUEST, "A client's id is 1 to 128 letters, digits, _ and -.").into());
        }
        let content = Content {
            name: name.into_string(),
            entity: entity.into_string(),
            description: description.map(Prose::into_string),
            available_cpu: available_cpu.get_i32(),
            available_accelerators: available_accelerators.get_i32(),
        };
        let client = self.clients.register(&id, &content, caller.owner().as_ref()).await?;
        Ok(Created { location: format!("/clients/{id}"), body: client.into() })
    }

    /// List clients
    #[oai(path = "/clients", method = "get", operation_id = "list_clients")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Read")] _caller: Caller,
        /// Only the active ones.
        #[oai(default = "yes")]
        active_only: Query<bool>,
        /// At most so many.
        #[oai(default = "hundred")]
        limit: Query<Limit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater id; cheaper than `skip`.
        #[oai(default = "String::new")]
        after_id: Query<String>,
    ) -> Result<Paged<Client>, Refusal> {
        let page: Page<&str> = paging::page(*limit, *skip, after_id.as_str());
        Ok(Paged(self.clients.list(*active_only, page).await?.map(Client::from)))
    }

    /// Get a client
    #[oai(path = "/clients/:client_id", method = "get", operation_id = "get_client")]
    async fn get(
        &self,
        #[oai(scope = "Scope::Read")] _caller: Caller,
        client_id: Path<String>,
    ) -> Result<Reply<Client>, Refusal<NotFound>> {
        Ok(Reply(self.clients.get(&client_id).await?.into()))
    }

    /// Change a client
    #[oai(path = "/clients/:client_id", method = "put", operation_id = "update_client")]
    async fn update(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        client_id: Path<String>,
        body: Body<ClientUpdate>,
    ) -> Result<Reply<ClientData>, Refusal<NotFound>> {
        self.check(&caller, &client_id).await?;
        let ClientUpdate { available_cpu, available_accelerators, is_active } = body.into_inner();
        let change = Change {
            available_cpu: available_cpu.map(Amount::get_i32),
            available_accelerators: available_accelerators.map(Amount::get_i32),
            is_active: is_active.map(|flag| flag.get() == 1),
        };
        Ok(Reply(ClientData { data: self.clients.update(&client_id, &change).await?.into() }))
    }

    /// Say that a client is alive
    ///
    /// Extends the leases of all that it claimed, and says how each of them stands.
    #[oai(path = "/clients/:client_id/heartbeat", method = "post", operation_id = "client_heartbeat")]
    async fn heartbeat(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        client_id: Path<String>,
    ) -> Result<Reply<Alive>, Refusal<NotFound>> {
        self.check(&caller, &client_id).await?;
        self.clients.heartbeat(&client_id).await?;
        let attempts = self.jobs.heartbeat_of_client(&client_id).await?.into_iter().map(Lease::from).collect();
        Ok(Reply(Alive { status: "ok".to_owned(), attempts }))
    }

    /// Sign a client off
    #[oai(path = "/clients/:client_id/deactivate", method = "post", operation_id = "deactivate_client")]
    async fn deactivate(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        client_id: Path<String>,
    ) -> Result<Reply<Noted>, Refusal<NotFound>> {
        self.check(&caller, &client_id).await?;
        self.clients.deactivate(&client_id).await?;
        Ok(Reply(Noted { status: "deactivated".to_owned() }))
    }

    /// Forget a client
    #[oai(path = "/clients/:client_id", method = "delete", operation_id = "delete_client")]
    async fn delete(&self, #[oai(scope = "Scope::Work")] caller: Caller, client_id: Path<String>) -> Result<Gone, Refusal<NotFound>> {
        self.check(&caller, &client_id).await?;
        self.clients.delete(&client_id).await?;
        Ok(Gone)
    }
}

impl Api {
    /// Whether a caller may speak for a client.
    async fn check(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        match caller.owner() {
            Some(owner) => Ok(self.clients.check(id, &owner).await?),
            None => Ok(()),
        }
    }
}
