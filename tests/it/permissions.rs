//! Every operation of the document, by every kind of key and by every scope alone, in its own project, in another one and in one that does not exist.
//!
//! What each cell must answer follows from what the operation needs (`needs.rs`, with which the document has to agree) and from where the operation's project
//! stands in the request ([`Place`]); [`Holder::expected`] is the rule. Neither is taken from the server's code. Each refusal is compared with the words that
//! are said of what does not exist, and what was refused must have changed nothing.

mod audited;
mod holders;
mod needs;
mod requests;
mod workers;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use whatsnext::{
    access::{Grants, Key, KeyHash, KeyId, NewKey, Role, Store},
    app::App,
};

use crate::support::{Api, Json, Server, TestDatabase, id, make_key, make_key_with};
use holders::{Expected, Holder, Part};
use requests::{Ask, World};

/// An operation of the document.
struct Operation {
    id: String,
    method: String,
    path: String,
    /// Whether it takes no key.
    is_open: bool,
    /// Any of these is enough; none for what is open to everybody, or to whoever has a key.
    scopes: &'static [&'static str],
    place: Place,
}

/// Where a request names the project that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In its path.
    Path,
    /// Nowhere: its path names something of the project.
    Thing,
    /// In its body or query.
    Named,
    /// In its query or not at all, and the answer is a list of what may be seen.
    List,
    /// There is none.
    None,
}

/// Which project a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site {
    Own,
    Foreign,
    Absent,
    /// One that is not asked for: somebody may have more there than in their own.
    Elsewhere,
}

const SITES: [Site; 3] = [Site::Own, Site::Foreign, Site::Absent];

impl Operation {
    /// All of a document.
    fn all(document: &Value) -> Vec<Self> {
        let paths = document["paths"].as_object().unwrap();
        let each = paths.iter().flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |method| (path, method)));
        each.map(|(path, (method, operation))| Self::read(document, path, method, operation)).collect()
    }

    fn read(document: &Value, path: &str, method: &str, operation: &Value) -> Self {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let (is_open, scopes) = (needs::is_open(&id), needs::scopes(&id));
        let documented = (operation["security"].is_null(), operation["x-required-scope"].as_str());
        assert_eq!(documented, (is_open, scopes.first().copied()), "what the document says that {id} needs");
        let body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str().unwrap_or("#/none");
        let in_body = document.pointer(&format!("{}/properties/project_id", &body[1..])).is_some();
        let query = operation["parameters"].as_array().into_iter().flatten().find(|parameter| parameter["name"] == "project_id");
        let place = match query.map(|parameter| parameter["in"] == "query" && parameter["required"] == true) {
            _ if path.contains("{project_id}") => Place::Path,
            _ if ["{job_id}", "{task_id}", "/projects/name/", "/tasks/name/"].iter().any(|part| path.contains(part)) => Place::Thing,
            Some(true) => Place::Named,
            Some(false) => Place::List,
            None if in_body => Place::Named,
            None => Place::None,
        };
        Self { id, method: method.to_uppercase(), path: path.to_owned(), is_open, scopes, place }
    }

    /// Whether its scope must hold in all projects.
    fn is_for_all(&self) -> bool {
        self.scopes == ["admin"] || self.id == "create_project"
    }

    /// Whether the key or its projects are gone after it.
    fn destroys(&self) -> bool {
        matches!(self.id.as_str(), "delete_project" | "delete_project_by_name" | "revoke_own_key" | "delete_own_token")
    }
}

/// What all cells share.
struct Table {
    database: TestDatabase,
    api: Api,
    admin: Api,
    /// Of keys that nobody uses.
    hash: KeyHash,
}

impl Table {
    /// A key of this kind, with a project of its own and one that is not.
    async fn world(&self, holder: Holder) -> World {
        let [own, foreign, elsewhere] =
            [requests::project(&self.admin).await, requests::project(&self.admin).await, requests::project(&self.admin).await];
        let world = World { admin: self.admin.clone(), api: self.api.clone(), own, foreign, elsewhere };
        let project = |site| world.project(site);
        // Whatever is less at the end was more before.
        let user = match holder.user {
            Some(_) => Some(id(&self
                .admin
                .post("/users", json!({"name": requests::new_name("user"), "grants": {"all": "admin"}}))
                .await
                .expect(201))),
            None => None,
        };
        let key = make_key_with(&self.database, holder.key.grants(project), |new| new.user_id = user).await;
        let api = self.api.with_key(key.expose());
        let api = match holder.token {
            Some(Part { scopes, is_here }) => {
                let asked = json!({"scopes": scopes, "projects": is_here.then_some([world.own.id])});
                // On a machine with too much to do a server may lose sight of Redis for a moment, which holds the tokens.
                let mut made = api.post("/tokens", asked.clone()).await;
                while made.status == 503 {
                    made = api.post("/tokens", asked.clone()).await;
                }
                self.api.with_key(made.expect(201)["token"].as_str().unwrap())
            }
            None => api,
        };
        if let (Some(user), Some(given)) = (user, holder.user) {
            let grants = json!({"grants": given.grants(project)});
            self.admin.send(Method::PUT, &format!("/users/{user}"), Some(grants.to_string())).await.expect(200);
        }
        World { api, ..world }
    }

    /// A key to be looked at, changed and revoked.
    async fn a_key(&self) -> KeyId {
        let key = Key::generate(KeyId::make());
        let new =
            NewKey { name: "target".to_owned(), user_id: None, grants: Grants::All(Role::Reader), rate_limit: None, expires_at: None };
        Store::new(self.database.database()).add(&key, &self.hash, &new).await.expect("the key is added");
        key.id()
    }

    /// Asks for everything with a key of this kind. Returns how many cells there were.
    async fn row(&self, holder: Holder, operations: &[Operation]) -> usize {
        let lasting = self.world(holder).await;
        let mut cells = 0;
        for operation in operations {
            let own;
            let world = if operation.destroys() {
                own = self.world(holder).await;
                &own
            } else {
                &lasting
            };
            for site in SITES {
                if operation.place == Place::None && site != Site::Own {
                    continue;
                }
                let ask = requests::ask(self, world, operation, site).await;
                self.cell(holder, operation, site, world, &ask).await;
                cells += 1;
            }
        }
        cells
    }

    async fn cell(&self, holder: Holder, operation: &Operation, site: Site, world: &World, ask: &Ask) {
        let cell = format!("{} {} by {holder:?} in {site:?} ({})", operation.method, ask.path, operation.id);
        let expected = holder.expected(operation, site);
        let before = self.witness(ask).await;
        let answer = ask.send(&world.api, &operation.method).await;
        match (expected, operation.place) {
            (Expected::Done, _) => assert_eq!(answer.status, holder.told(operation).unwrap_or(ask.success), "{cell}: {}", answer.text),
            (Expected::Lacks, _) => {
                assert_eq!(answer.status, 403, "{cell}: {}", answer.text);
                assert_lacks(&answer, operation.scopes[0], world.project(site), &cell);
            }
            (Expected::Absent, Place::List) => {
                assert_eq!((answer.status, answer.header("x-total-count"), &answer.body), (200, "0", &json!([])), "{cell}");
            }
            (Expected::Absent, place) => {
                let status = if place == Place::Named { 400 } else { 404 };
                // Who may see every project is told of the job; that the project is not there either is nothing to hide.
                let missing = match operation.id.as_str() {
                    "delete_project_job" if !holder.knows(site) => format!("There is no project {}.", world.project(site)),
                    _ => ask.missing.clone(),
                };
                assert_eq!((answer.status, answer.body["detail"].as_str()), (status, Some(missing.as_str())), "{cell}: {}", answer.text);
            }
        }
        if expected != Expected::Done {
            assert_eq!(self.witness(ask).await, before, "{cell}: it was refused, and nothing changed");
        }
        if operation.id == "list_projects" && expected == Expected::Done {
            let listed: Vec<i64> = answer.body.as_array().unwrap().iter().map(|project| project["id"].as_i64().unwrap()).collect();
            let sees = |project: i64| listed.contains(&project);
            for site in [Site::Own, Site::Foreign, Site::Elsewhere] {
                assert_eq!(sees(world.project(site)), holder.reads(site), "{cell}: the project {site:?}");
            }
        }
        if operation.id == "list_jobs" && expected == Expected::Done {
            let jobs = answer.body.as_array().unwrap();
            assert!(!jobs.is_empty() && jobs.iter().all(|job| job["project_id"] == world.project(site)), "{cell}: {}", answer.text);
        }
    }

    async fn witness(&self, ask: &Ask) -> Option<(u16, Value)> {
        let mut seen = self.admin.get(ask.witness.as_ref()?).await;
        if let Some(problem) = seen.body.as_object_mut() {
            problem.remove("request_id");
        }
        Some((seen.status, seen.body))
    }
}

/// 403 names the scope, and the project where it would have to hold, if that is known.
fn assert_lacks(answer: &Json, scope: &str, project: i64, cell: &str) {
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    let detail = detail.strip_prefix("This key").or(detail.strip_prefix("This token")).unwrap_or_default();
    let rest = detail.strip_prefix(&format!(" may not do that: it lacks the scope {scope}"));
    let place = format!(" in project {project}.");
    assert!(rest.is_some_and(|rest| rest == "." || rest == place), "{cell}: {}", answer.text);
}

impl Table {
    /// Asks for every operation of the document with each of these.
    async fn hold(holders: Vec<Holder>) {
        let (table, server, operations) = Self::new().await;
        let cells: usize = join_all(holders.iter().map(|holder| table.row(*holder, &operations))).await.into_iter().sum();
        assert!(cells > holders.len() * operations.len(), "{cells} cells");
        server.stop().await;
    }

    async fn new() -> (Self, Server, Vec<Operation>) {
        let database = TestDatabase::new().await;
        let document = App::build(database.settings(&[])).expect("a server").document();
        let operations = Operation::all(&document);
        assert_eq!(operations.len(), needs::count(), "what is said here of operations is said of those of the document");
        let server = Server::start_with(&database, &[("disable_auth", "false")]).await;
        let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
        let hash = KeyHash::of(&Key::generate(KeyId::make()));
        (Self { database, api: server.api.clone(), admin, hash }, server, operations)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_good_for_whom_the_document_says_and_for_nobody_else() {
    Table::hold(holders::with_roles()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_takes_its_scope_and_no_other() {
    Table::hold(holders::with_one_scope()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_good_for_a_key_only_as_far_as_for_its_user() {
    Table::hold(holders::with_users()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_open_without_a_key_or_refuses_to_be() {
    let (table, server, operations) = Table::new().await;
    let world = table.world(Holder::ADMIN).await;
    for operation in &operations {
        let ask = requests::ask(&table, &world, operation, Site::Own).await;
        let answer = ask.send(&server.api, &operation.method).await;
        if operation.is_open {
            answer.expect(ask.success);
        } else {
            answer.problem(401);
        }
    }
    server.stop().await;
}

/// What a body or query names beside the project must be of that project, and whether it exists elsewhere is not told.
#[tokio::test]
async fn nothing_of_another_project_is_reached_from_the_own_one() {
    const NONE: i64 = 99_999_999;
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("disable_auth", "false")]).await;
    let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let (own, task) = admin.project_with_task("own").await;
    let (foreign, foreign_task) = admin.project_with_task("foreign").await;
    let (job, foreign_job) = (admin.job(own, task, "j", &[]).await, admin.job(foreign, foreign_task, "j", &[]).await);
    let key = make_key(&database, Grants::Only(BTreeMap::from([(own, Role::Maintainer)]))).await;
    let api = server.api.with_key(key.expose());

    let new = |project: i64, task: i64, depends: Value| json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}, "status": "PENDING", "priority": 0, "depends": depends});
    let (one, batch, of_task) = (format!("/jobs/{job}"), format!("/projects/{own}/jobs/batch"), format!("/tasks/{task}"));
    let needing = |id: i64| new(own, task, json!({id.to_string(): ""}));
    type Body<'a> = &'a dyn Fn(i64) -> Value;
    let attempts: [(&str, &str, i64, Body<'_>); 9] = [
        ("POST", "/jobs", foreign_task, &|id| new(own, id, json!({}))),
        ("POST", "/jobs", foreign_job, &|id| needing(id)),
        ("POST", &batch, foreign_task, &|id| json!({"jobs": [new(own, id, json!({}))]})),
        ("POST", &batch, foreign_job, &|id| json!({"jobs": [needing(id)]})),
        ("PUT", &one, foreign, &|id| new(id, task, json!({}))),
        ("PUT", &one, foreign_task, &|id| new(own, id, json!({}))),
        ("PUT", &one, foreign_job, &|id| needing(id)),
        ("PUT", &of_task, foreign, &|id| json!({"project_id": id})),
        ("POST", "/tasks", foreign, &|id| json!({"name": "t", "project_id": id})),
    ];
    for (method, path, id, body) in attempts {
        let send = async |id: i64| {
            let method = method.parse().expect("a method");
            let detail = api.send(method, path, Some(body(id).to_string())).await.problem(400);
            detail.replace(&format!(" {id}"), " N")
        };
        assert_eq!(send(id).await, send(NONE).await, "{method} {path}: {}", body(id));
    }
    let delete = async |id: i64| api.delete(&format!("/projects/{own}/jobs/{id}")).await.problem(404).replace(&id.to_string(), "N");
    assert_eq!(delete(foreign_job).await, delete(NONE).await);
    for path in ["/jobs/{}", "/jobs/{}/dependencies"] {
        let get = async |id: i64| api.get(&path.replace("{}", &id.to_string())).await.problem(404).replace(&id.to_string(), "N");
        assert_eq!(get(foreign_job).await, get(NONE).await, "{path}");
    }
    assert_eq!(api.get(&format!("/tasks/name/task?project_id={foreign}")).await.problem(404), "There is no task named \"task\".");
    assert_eq!(admin.get("/jobs").await.header("x-total-count"), "2", "nothing was made or deleted");
    // The pages that show the document are no operations of it.
    for path in ["/openapi.json", "/docs", "/redoc"] {
        server.api.get(path).await.problem(401);
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    server.stop().await;
}
