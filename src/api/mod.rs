//! The HTTP API: a thin adapter over the features.
//!
//! A request goes through [`edge`] (id, deadline, log, the one error shape) and [`routes`] (path and method) into an operation. Each resource has a
//! file with its operations and what they send and take; [`types`] and [`extract`] read, [`reply`] and [`error`] write, [`mod@document`] describes.

pub mod admission;
pub mod attempts;
mod audit;
mod budget;
pub mod clients;
mod cors;
mod delivery;
pub mod docs;
pub mod document;
pub mod edge;
pub mod error;
pub mod extract;
pub mod health;
pub mod jobs;
pub mod keys;
mod paging;
mod problem;
pub mod projects;
pub mod reply;
pub mod routes;
pub mod tasks;
pub mod tokens;
mod trace;
pub mod traffic;
pub mod types;
pub mod users;

use poem_openapi::{OpenApi, Tags};
use serde_json::Value;
use tokio_util::task::TaskTracker;

use crate::{
    config::{Docs, Settings},
    http::Service,
    postgres::Database,
    queue,
    redis::Redis,
    telemetry::audit::Audit,
};

use routes::Need;

pub use admission::Gate;
pub use budget::Budget;
pub use cors::{Cors, NotCors};
pub use error::Error;
pub use extract::Scope;
pub use health::Draining;
pub use traffic::Traffic;

/// What the operations are about.
#[derive(Tags)]
enum Tag {
    /// Whether the server is well.
    Health,
    /// Projects and their queues.
    Projects,
    /// What jobs are made of.
    Tasks,
    /// Submitting, changing and fetching jobs.
    Jobs,
    /// Claiming jobs with a lease, and reporting what came of them.
    Attempts,
    /// The machines that run jobs.
    Clients,
    /// Keys, tokens, users and limits.
    Access,
}

/// What the API needs of the process that it runs in.
#[derive(Clone)]
pub struct State {
    /// Where everything is kept.
    pub database: Database,
    /// What servers share besides.
    pub redis: Redis,
    /// Who comes in.
    pub gate: Gate,
    /// Which pages of other origins may read answers.
    pub cors: Cors,
    /// What is kept of who did what.
    pub audit: Audit,
    /// The jobs.
    pub jobs: queue::jobs::Store,
    /// Who claims them.
    pub claims: queue::jobs::Claims,
    /// What requests there were.
    pub traffic: Traffic,
    /// Whether the server is about to stop.
    pub draining: Draining,
    /// Work that must end before the process does.
    pub tasks: TaskTracker,
}

/// All operations. There is one list of them: here.
fn operations(settings: &Settings, state: &State) -> impl OpenApi + 'static {
    let State { database, redis, gate, jobs, claims, draining, tasks, .. } = state.clone();
    let (batch_limit, lease_seconds) = (settings.batch_limit_jobs, settings.lease_seconds);
    let bells = jobs.bells().clone();
    let projects = queue::projects::Store::new(database.clone(), bells.clone());
    let clients = queue::clients::Store::new(database.clone(), bells.clone());
    (
        health::Api::new(database.clone(), redis, draining),
        projects::Api { projects: projects.clone(), jobs: jobs.clone() },
        tasks::Api { tasks: queue::tasks::Store::new(database, bells), projects },
        jobs::Api { jobs: jobs.clone(), tasks, batch_limit },
        attempts::Api { jobs: jobs.clone(), claims, lease_seconds },
        clients::Api { clients, jobs },
        keys::Api { gate: gate.clone() },
        tokens::Api { gate: gate.clone() },
        users::Api { gate },
    )
}

/// The whole API, which answers everything and fails with nothing.
pub fn service(settings: &Settings, state: &State) -> impl Service {
    let api = || operations(settings, state);
    let route = routes::routes(api(), state);
    let mut open = routes::open_paths(&api());
    let route = match settings.docs {
        Docs::Off => route,
        Docs::Public => {
            open.extend(docs::paths().map(ToOwned::to_owned));
            docs::add_to(route, state, None, &document::document(api()))
        }
        Docs::Key => {
            let readers = Need::any_of([Scope::Read]);
            docs::add_to(route, state, Some(&readers), &document::document(api()))
        }
    };
    let limits = extract::Limits { single: settings.body_limit_bytes, batch: settings.batch_limit_bytes };
    let budget = Budget::new(settings.in_flight_limit_bytes);
    edge::Edge::new(route, state, open, limits, budget, settings.request_timeout())
}

/// The OpenAPI document.
pub fn document(settings: &Settings, state: &State) -> Value {
    document::document(operations(settings, state))
}
