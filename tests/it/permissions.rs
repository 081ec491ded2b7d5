//! Every operation of the document, by every kind of key, in its own project, in another one and in one that does not exist.
//!
//! What each cell must answer follows from the document (the scope that the operation names) and from where the operation's project stands in the request
//! ([`Place`]); [`Holder::expected`] is the rule, written down a second time and not taken from the server's code. Each refusal is compared with the words
//! that are said of what does not exist, and what was refused must have changed nothing.

mod audited;
mod requests;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use whatsnext::{
    access::{Grants, Key, KeyHash, KeyId, NewKey, Role, Store},
    app::App,
};

use crate::support::{Api, Json, Server, TestDatabase, make_key};
use requests::{Ask, World};

/// An operation of the document.
struct Operation {
    id: String,
    method: String,
    path: String,
    /// Whether it takes no key.
    is_open: bool,
    /// Any of these is enough; none for what is open to everybody, or to whoever has a key.
    scopes: Vec<String>,
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
}

const SITES: [Site; 3] = [Site::Own, Site::Foreign, Site::Absent];

/// What a key was given.
#[derive(Debug, Clone, Copy)]
enum Holder {
    /// A role in all projects.
    Everywhere(Role),
    /// A role in its own project.
    Here(Role),
    /// `reader` in its own project, and all but `admin` in one that no request is about.
    MoreElsewhere,
    /// A token of an administrator's key, with the scopes of a role in its own project.
    Token(Role),
}

/// What must become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Done,
    /// 403.
    Lacks,
    /// As if it did not exist: 404, 400 or an empty list, by [`Place`].
    Absent,
}

impl Holder {
    fn all() -> Vec<Self> {
        let both = Role::ALL.into_iter().flat_map(|role| [Self::Everywhere(role), Self::Here(role)]);
        both.chain([Self::MoreElsewhere, Self::Token(Role::Worker), Self::Token(Role::Maintainer)]).collect()
    }

    fn grants(self, own: i64, elsewhere: i64) -> Grants {
        match self {
            Self::Everywhere(role) => Grants::All(role),
            Self::Here(role) => Grants::Only(BTreeMap::from([(own, role)])),
            Self::Token(_) => Grants::All(Role::Admin),
            Self::MoreElsewhere => Grants::Only(BTreeMap::from([(own, Role::Reader), (elsewhere, Role::Maintainer)])),
        }
    }

    /// The scopes in a project, and whether it may be known at all.
    fn scopes(self, site: Site) -> Option<&'static [&'static str]> {
        match (self, site) {
            (Self::Everywhere(role), _) => Some(bundle(role)),
            // Nobody administrates one project.
            (Self::Here(Role::Admin), Site::Own) => Some(bundle(Role::Maintainer)),
            (Self::Here(role) | Self::Token(role), Site::Own) => Some(bundle(role)),
            (Self::MoreElsewhere, Site::Own) => Some(bundle(Role::Reader)),
            (Self::Here(_) | Self::MoreElsewhere | Self::Token(_), Site::Foreign | Site::Absent) => None,
        }
    }

    /// What is answered to a token where a key is told something else.
    fn told(self, operation: &Operation) -> Option<u16> {
        match (self, operation.id.as_str()) {
            (Self::Token(_), "create_token" | "get_own_key" | "revoke_own_key") => Some(403),
            (Self::Token(_), "get_own_token") => Some(200),
            (Self::Token(_), "delete_own_token") => Some(204),
            _ => None,
        }
    }

    fn expected(self, operation: &Operation, site: Site) -> Expected {
        let among = |scopes: &[&str]| operation.scopes.is_empty() || operation.scopes.iter().any(|scope| scopes.contains(&scope.as_str()));
        let somewhere = match self {
            Self::MoreElsewhere => among(bundle(Role::Maintainer)),
            Self::Here(_) | Self::Everywhere(_) | Self::Token(_) => among(self.scopes(Site::Own).unwrap_or_default()),
        };
        let throughout = matches!(self, Self::Everywhere(role) if among(bundle(role)));
        let allowed = |is_so| if is_so { Expected::Done } else { Expected::Lacks };
        match (operation.place, self.scopes(site)) {
            (Place::None, _) => allowed(if operation.is_for_all() { throughout } else { somewhere }),
            (Place::Path, None) => Expected::Absent,
            (_, None) if !somewhere => Expected::Lacks,
            (_, None) => Expected::Absent,
            (_, Some(scopes)) if !among(scopes) => Expected::Lacks,
            (_, Some(_)) if site == Site::Absent => Expected::Absent,
            (_, Some(_)) => Expected::Done,
        }
    }
}

/// As the document describes the roles.
fn bundle(role: Role) -> &'static [&'static str] {
    match role {
        Role::Reader => &["read"],
        Role::Worker => &["read", "work"],
        Role::Submitter => &["read", "submit"],
        Role::Maintainer => &["read", "submit", "work", "manage"],
        Role::Admin => &["read", "submit", "work", "manage", "admin"],
    }
}

impl Operation {
    /// All of a document.
    fn all(document: &Value) -> Vec<Self> {
        let paths = document["paths"].as_object().unwrap();
        let each = paths.iter().flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |method| (path, method)));
        each.map(|(path, (method, operation))| Self::read(document, path, method, operation)).collect()
    }

    fn read(document: &Value, path: &str, method: &str, operation: &Value) -> Self {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let mut scopes: Vec<String> = operation["x-required-scope"].as_str().map(ToOwned::to_owned).into_iter().collect();
        if id == "update_job" {
            // Decided: `work` reports a status, `submit` changes the rest (`a_worker_may_change_a_jobs_status_and_nothing_else`).
            assert_eq!(scopes, ["work"]);
            scopes.push("submit".to_owned());
        }
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
        let is_open = operation["security"].is_null();
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
        let key = make_key(&self.database, holder.grants(own.id, elsewhere.id)).await;
        let api = self.api.with_key(key.expose());
        let api = match holder {
            Holder::Token(role) => {
                let asked = json!({"scopes": bundle(role), "projects": [own.id]});
                // On a machine with too much to do a server may lose sight of Redis for a moment, which holds the tokens.
                let mut made = api.post("/tokens", asked.clone()).await;
                while made.status == 503 {
                    made = api.post("/tokens", asked.clone()).await;
                }
                self.api.with_key(made.expect(201)["token"].as_str().unwrap())
            }
            Holder::Everywhere(_) | Holder::Here(_) | Holder::MoreElsewhere => api,
        };
        World { admin: self.admin.clone(), api, own, foreign }
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
                assert_lacks(&answer, &operation.scopes[0], world.project(site), &cell);
            }
            (Expected::Absent, Place::List) => {
                assert_eq!((answer.status, answer.header("x-total-count"), &answer.body), (200, "0", &json!([])), "{cell}");
            }
            // Who may see every project is told of the job; that the project is not there either is nothing to hide.
            (Expected::Absent, _) if operation.id == "delete_project_job" && matches!(holder, Holder::Everywhere(_)) => {
                assert_eq!(answer.problem(404), "There is no job 99999999.", "{cell}");
                return;
            }
            (Expected::Absent, place) => {
                let status = if place == Place::Named { 400 } else { 404 };
                assert_eq!(
                    (answer.status, answer.body["detail"].as_str()),
                    (status, Some(ask.missing.as_str())),
                    "{cell}: {}",
                    answer.text
                );
            }
        }
        if expected != Expected::Done {
            assert_eq!(self.witness(ask).await, before, "{cell}: it was refused, and nothing changed");
        }
        if operation.id == "list_projects" {
            let listed: Vec<i64> = answer.body.as_array().unwrap().iter().map(|project| project["id"].as_i64().unwrap()).collect();
            let sees = |project: i64| listed.contains(&project);
            let foreign = matches!(holder, Holder::Everywhere(_));
            assert_eq!((sees(world.own.id), sees(world.foreign.id)), (true, foreign), "{cell}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_good_for_whom_the_document_says_and_for_nobody_else() {
    let database = TestDatabase::new().await;
    let document = App::build(database.settings(&[])).expect("a server").document();
    let operations = Operation::all(&document);
    let server = Server::start_with(&database, &[("disable_auth", "false")]).await;
    let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let hash = KeyHash::of(&Key::generate(KeyId::make()));
    let table = Table { database, api: server.api.clone(), admin, hash };

    let world = table.world(Holder::Everywhere(Role::Admin)).await;
    for operation in &operations {
        let ask = requests::ask(&table, &world, operation, Site::Own).await;
        let answer = ask.send(&server.api, &operation.method).await;
        if operation.is_open {
            answer.expect(ask.success);
        } else {
            answer.problem(401);
        }
    }
    let cells: usize = join_all(Holder::all().into_iter().map(|holder| table.row(holder, &operations))).await.into_iter().sum();
    assert!(cells > Holder::all().len() * operations.len(), "{cells} cells");
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
