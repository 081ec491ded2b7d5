//! `/clients`: the machines that run jobs.

use std::collections::HashSet;

use poem::http::StatusCode;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Error, Tag,
    attempts::Lease,
    error::{BadRequest, NotFound, Refusal},
    extract::{Body, Caller, OptionalBody, Path, Query, Scope},
    paging::{self, hundred},
    reply::{Created, Gone, Paged, Reply},
    tasks::none,
    types::{Amount, AttemptNumber, ClientId, Flag, Limit, Name, Prose, Skip, Timestamp},
};
use crate::queue::{
    Page,
    clients::{self, Change, Content},
    jobs::{self, Beat},
};

/// How many attempts a heartbeat may name.
const MAX_NAMED: usize = 10_000;

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
    /// 1 until the client signs off, or nothing was heard of it for a while (`client_timeout_seconds` of the server, 300 unless it was set otherwise); then 0.
    /// It is 1 again when the client registers, claims, or sends a heartbeat, be it of one of its attempts.
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
    /// CPUs that it has for jobs. With 0 its claims get no job of a task that needs one, as each task does that does not say otherwise.
    #[oai(default = "none")]
    #[serde(default = "none")]
    available_cpu: Amount,
    /// Accelerators that it has for jobs. With 0 its claims get no job of a task that needs one.
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
    /// All that it has claimed and not reported yet; if it named attempts, those of them that are its own.
    attempts: Vec<Lease>,
    /// Those that it named and that are over, or never were its own: it is to stop working on them.
    over: Vec<AttemptName>,
}

/// That a client is alive, and what it knows of.
#[derive(Debug, Deserialize, Object)]
pub struct Pulse {
    /// What it works on: only these leases are extended. Without it, those of all that it has claimed, also of what it does not know of any more.
    #[oai(validator(max_items = 10000))]
    attempts: Option<Vec<AttemptName>>,
}

/// Which attempt.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, Object)]
pub struct AttemptName {
    job_id: i64,
    attempt: AttemptNumber,
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
    /// Extends the leases of all that it claimed, or of those attempts that it names, and says how each of them stands. A client that may have been restarted
    /// names them: otherwise what it does not know of any more is kept from others for as long as it lives.
    #[oai(path = "/clients/:client_id/heartbeat", method = "post", operation_id = "client_heartbeat")]
    async fn heartbeat(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        client_id: Path<String>,
        body: OptionalBody<Pulse>,
    ) -> Result<Reply<Alive>, Refusal<NotFound>> {
        let named = body.into_inner().and_then(|pulse| pulse.attempts);
        if named.as_ref().is_some_and(|named| named.len() > MAX_NAMED) {
            let msg = format!("must have at most {MAX_NAMED} attempts");
            return Err(Error::invalid(vec!["body".into(), "attempts".into()], "out_of_range", msg).into());
        }
        self.check(&caller, &client_id).await?;
        self.clients.heartbeat(&client_id).await?;
        let left = match &named {
            None => self.jobs.heartbeat_of_client(&client_id).await?,
            Some(named) => {
                let beat = |name: &AttemptName| Beat { job_id: name.job_id, number: name.attempt.get_i32(), ..Beat::default() };
                self.jobs.heartbeats(&named.iter().map(beat).collect::<Vec<_>>(), Some(&client_id)).await?
            }
        };
        let lives: HashSet<(i64, i32)> = left.iter().map(|left| (left.job_id, left.number)).collect();
        let is_over = |name: &AttemptName| !lives.contains(&(name.job_id, name.attempt.get_i32()));
        let over = named.unwrap_or_default().into_iter().filter(is_over).collect();
        Ok(Reply(Alive { status: "ok".to_owned(), attempts: left.into_iter().map(Lease::from).collect(), over }))
    }

    /// Sign a client off
    ///
    /// What it runs stays its own until the leases end, and it may report it. Its claims that wait get nothing any more: they are answered empty, at the latest
    /// when their time is over. It is there again when it claims, registers, or sends a heartbeat, be it of one of its attempts: who goes away for good
    /// sends none after this.
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
    ///
    /// What it runs is nobody's then: each job goes to others when its lease ends, and until that any key with the scope `work` may send heartbeats and report.
    /// To cancel such a job ends it at once, since nobody can be told. Claims of the client that wait get nothing any more: they are answered empty, or with
    /// 404.
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
