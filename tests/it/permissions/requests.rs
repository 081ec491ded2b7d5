//! A valid request for each operation. What it needs is made for it, so that cells do not disturb each other.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Operation, Site, Table};
use crate::support::{Api, Json, id};

/// A key, and what there is for it.
pub(super) struct World {
    pub(super) admin: Api,
    pub(super) api: Api,
    pub(super) own: Project,
    pub(super) foreign: Project,
    pub(super) elsewhere: Project,
}

/// A project.
pub(super) struct Project {
    pub(super) id: i64,
    name: String,
    task: i64,
}

impl World {
    /// A project's id.
    pub(super) fn project(&self, site: Site) -> i64 {
        match site {
            Site::Own => self.own.id,
            Site::Foreign => self.foreign.id,
            Site::Absent => NONE,
            Site::Elsewhere => self.elsewhere.id,
        }
    }
}

/// A request, and what is to be known of it.
pub(super) struct Ask {
    pub(super) path: String,
    body: Option<Value>,
    pub(super) success: u16,
    /// What is answered if that does not exist which it is about.
    pub(super) missing: String,
    /// Where it can be seen that nothing changed.
    pub(super) witness: Option<String>,
}

impl Ask {
    /// Sends it, until Redis is there to be asked: on a machine with too much to do a server may lose sight of it for a moment, and then nothing was done.
    pub(super) async fn send(&self, api: &Api, method: &str) -> Json {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = api.send(method.clone(), &self.path, self.body.as_ref().map(Value::to_string)).await;
            let is_without_redis = answer.status == 503 && answer.text.contains("Redis, which holds");
            if !is_without_redis || Instant::now() > until {
                return answer;
            }
        }
    }
}

/// The id of nothing.
const NONE: i64 = 99_999_999;

/// A name that nothing has yet.
pub(super) fn new_name(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Makes a project.
pub(super) async fn project(admin: &Api) -> Project {
    let name = new_name("project");
    let (id, task) = admin.project_with_task(&name).await;
    Project { id, name, task }
}

/// Makes a job, and claims it for the client `claimer`.
async fn claimed_job(admin: &Api, project: i64) -> i64 {
    let task = id(&admin.post("/tasks", json!({"name": new_name("claimed"), "project_id": project})).await.expect(201));
    let job = admin.job(project, task, "job", &[]).await;
    register_claimer(admin).await;
    let claim = json!({"client_id": "claimer", "task_ids": [task]});
    let claimed = admin.post(&format!("/projects/{project}/claims"), claim).await.expect(200);
    assert_eq!(claimed["jobs"][0]["job"]["id"], job, "{claimed}");
    job
}

async fn register_claimer(admin: &Api) {
    let client = json!({"id": "claimer", "name": "c", "entity": "e", "available_cpu": 1_000_000});
    admin.post("/clients/register", client).await.expect(201);
}

/// The request for an operation at a site.
///
/// # Panics
///
/// For an operation that has none here: it is new, and must be given one.
pub(super) async fn ask(table: &Table, world: &World, operation: &Operation, site: Site) -> Ask {
    let admin = &world.admin;
    let there = match site {
        Site::Own => Some(&world.own),
        Site::Foreign => Some(&world.foreign),
        Site::Absent => None,
        Site::Elsewhere => Some(&world.elsewhere),
    };
    let (project, task) = there.map_or((NONE, NONE), |there| (there.id, there.task));
    let name = there.map_or("nothing", |there| there.name.as_str());
    // Only what the path asks for is made.
    let wants = |part: &str| operation.path.contains(part);
    let job = match there {
        Some(there) if wants("{attempt}") => claimed_job(admin, there.id).await,
        Some(there) if wants("{job_id}") || matches!(operation.id.as_str(), "list_jobs" | "clear_queue" | "fetch_job") => {
            admin.job(there.id, there.task, "job", &[]).await
        }
        _ => NONE,
    };
    let (own_task, task_name) = match there {
        Some(there) if wants("{task_id}") || wants("/tasks/name/") => {
            let name = new_name("task");
            (id(&admin.post("/tasks", json!({"name": name, "project_id": there.id})).await.expect(201)), name)
        }
        _ => (NONE, "nothing".to_owned()),
    };
    let client = match wants("{client_id}") {
        true => {
            let id = new_name("client");
            admin.post("/clients/register", json!({"id": id, "name": "c", "entity": "e"})).await.expect(201);
            id
        }
        false => String::new(),
    };
    if operation.id == "claim_jobs" {
        register_claimer(admin).await;
    }
    let key = if wants("{key_id}") { table.a_key().await.to_string() } else { String::new() };
    let user = match wants("{user_id}") {
        true => id(&admin.post("/users", json!({"name": new_name("user"), "grants": {"all": "reader"}})).await.expect(201)),
        false => NONE,
    };
    let named = if wants("/tasks/name/") { task_name.as_str() } else { name };
    let path = operation.path.replace("{project_id}", &project.to_string()).replace("{job_id}", &job.to_string());
    let path = path.replace("{task_id}", &own_task.to_string()).replace("{name}", named).replace("{client_id}", &client);
    let path = path.replace("{key_id}", &key).replace("{user_id}", &user.to_string()).replace("{attempt}", "1");

    let of = |thing: &str| format!("There is no {thing}.");
    let no_project = || of(&format!("project {project}"));
    let (no_job, no_task) = (|| of(&format!("job {job}")), || of(&format!("task {own_task}")));
    let new_job = || json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}});
    let jobs = || Some(format!("/jobs?project_id={project}&limit=1000"));
    let get = |missing: String| Ask { path: path.clone(), body: None, success: 200, missing, witness: None };
    let seen_at = |witness: String, ask: Ask| Ask { witness: Some(witness), ..ask };
    let gone = |witness: String, missing: String| Ask { success: 204, witness: Some(witness), ..get(missing) };
    let put = |body: Value, witness: String, missing: String| Ask { body: Some(body), witness: Some(witness), ..get(missing) };
    let post = |body: Value, witness: Option<String>, missing: String| Ask { success: 201, body: Some(body), witness, ..get(missing) };
    let nowhere = String::new;
    match operation.id.as_str() {
        "get_root" | "check_database" | "get_liveness" | "get_readiness" | "list_clients" | "get_client" => get(nowhere()),
        "list_keys" | "get_own_key" | "get_key" | "get_key_limit" | "list_users" | "get_user" => get(nowhere()),
        "list_projects" => Ask { path: "/projects?limit=1000".to_owned(), ..get(nowhere()) },
        "create_project" => {
            let name = new_name("made");
            post(json!({"name": name}), Some(format!("/projects/name/{name}")), nowhere())
        }
        "get_project" | "get_project_stats" => get(no_project()),
        "update_project" => {
            let body = json!({"name": name, "description": new_name("changed"), "status": "ACTIVE"});
            put(body, format!("/projects/{project}"), no_project())
        }
        "delete_project" => gone(format!("/projects/{project}"), no_project()),
        "get_project_by_name" => get(of(&format!("project named {name:?}"))),
        "delete_project_by_name" => gone(format!("/projects/{project}"), of(&format!("project named {name:?}"))),
        "clear_queue" => Ask { witness: jobs(), ..get(no_project()) },
        "list_tasks" => Ask { path: format!("/tasks?project_id={project}"), ..get(no_project()) },
        "create_task" => {
            let name = new_name("task");
            post(json!({"name": name, "project_id": project}), Some(format!("/tasks/name/{name}")), no_project())
        }
        "get_task" => get(no_task()),
        "update_task" => put(json!({"required_cpu": 7}), format!("/tasks/{own_task}"), no_task()),
        "delete_task" => gone(format!("/tasks/{own_task}"), no_task()),
        "get_task_by_name" => get(of(&format!("task named {task_name:?}"))),
        "list_jobs" => Ask { path: format!("/jobs?project_id={project}"), ..get(nowhere()) },
        "create_job" => post(new_job(), jobs(), no_project()),
        "create_jobs" => post(json!({"jobs": [new_job()]}), jobs(), no_project()),
        "get_job" | "get_job_dependencies" => get(no_job()),
        "update_job" => {
            let mut body = new_job();
            if job != NONE {
                body = admin.get(&format!("/jobs/{job}")).await.expect(200);
            }
            for (field, value) in [("status", json!("COMPLETED")), ("priority", json!(0)), ("depends", json!({}))] {
                body[field] = value;
            }
            put(body, format!("/jobs/{job}"), no_job())
        }
        "cancel_job" | "retry_job" => Ask { success: 200, ..post(json!({}), jobs(), no_job()) },
        "retry_jobs" => Ask { success: 200, ..post(json!({"status": "CANCELLED"}), jobs(), no_project()) },
        "list_attempts" | "explain_job" => get(no_job()),
        "get_attempt" => get(no_job()),
        "claim_jobs" => Ask { success: 200, ..post(json!({"client_id": "claimer"}), jobs(), no_project()) },
        "start_attempt" | "heartbeat_attempt" | "complete_attempt" | "fail_attempt" | "release_attempt" => {
            Ask { success: 200, ..post(json!({"reason": "preempted"}), Some(format!("/jobs/{job}/attempts")), no_job()) }
        }
        "delete_job" => gone(format!("/jobs/{job}"), no_job()),
        "delete_project_job" => gone(format!("/jobs/{job}"), no_job()),
        "fetch_job" => Ask { witness: jobs(), ..get(no_project()) },
        "register_client" => {
            let id = new_name("client");
            post(json!({"id": id, "name": "c", "entity": "e"}), Some(format!("/clients/{id}")), nowhere())
        }
        "update_client" => put(json!({"available_cpu": 3}), format!("/clients/{client}"), nowhere()),
        "delete_client" => gone(format!("/clients/{client}"), nowhere()),
        "client_heartbeat" | "deactivate_client" => seen_at(format!("/clients/{client}"), get(nowhere())),
        "create_key" => post(json!({"name": "made", "role": "reader"}), None, nowhere()),
        "rotate_key" => post(json!({}), Some(format!("/keys/{key}")), nowhere()),
        "revoke_key" | "reset_key_limit" => seen_at(format!("/keys/{key}"), get(nowhere())),
        "set_key_limit" => put(json!({"rate_limit": 9}), format!("/keys/{key}"), nowhere()),
        "revoke_own_key" => get(nowhere()),
        "create_token" => post(json!({}), None, nowhere()),
        // Who sends a key has no token: that is said to all who may ask.
        "get_own_token" | "delete_own_token" => Ask { success: 404, ..get(nowhere()) },
        "create_user" => post(json!({"name": new_name("made"), "grants": {"all": "reader"}}), None, nowhere()),
        "update_user" => put(json!({"active": false}), format!("/users/{user}"), nowhere()),
        other => panic!("{other} is an operation that no request is known for: add one here, and what it must answer to whom"),
    }
}
