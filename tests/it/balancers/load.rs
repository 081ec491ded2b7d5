//! Requests that all must be answered.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Connection, Https};

/// Over how many connections requests are sent, one at a time on each.
pub(super) const CONNECTIONS: usize = 8;

/// Clients that read and submit until they are stopped.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
    created: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) answered: usize,
    /// Jobs that were told to be there.
    pub(super) created: usize,
    pub(super) failures: Vec<String>,
}

impl Load {
    pub(super) fn start(https: &Https, project: i64, task: i64) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            clients.spawn(client(https.clone(), project, task, number, shared.clone()));
        }
        Self { shared, clients }
    }

    pub(super) fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    pub(super) async fn stop(self) -> Done {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        let Shared { answered, created, failures, .. } = &*self.shared;
        Done {
            answered: answered.load(Ordering::Relaxed),
            created: created.load(Ordering::Relaxed),
            failures: failures.lock().expect("no panic").clone(),
        }
    }
}

async fn client(https: Https, project: i64, task: i64, number: usize, shared: Arc<Shared>) {
    let mut connection: Option<Connection> = None;
    for n in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let (method, path, body, expected) = match n % 4 {
            0 => ("GET", format!("/projects/{project}"), String::new(), 200),
            1 => {
                let job = json!({"name": format!("{number}-{n}"), "project_id": project, "task_id": task, "parameters": {}});
                ("POST", "/jobs".to_owned(), job.to_string(), 201)
            }
            2 => ("GET", format!("/projects/{project}/stats"), String::new(), 200),
            _ => ("GET", format!("/tasks/{task}"), String::new(), 200),
        };
        let answer = async {
            let mut open = match connection.take() {
                Some(open) => open.or_else(&https).await?,
                None => https.connect().await?,
            };
            let answer = open.send(method, &path, &[], body).await?;
            connection = Some(open);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer)
        };
        match answer.await {
            Ok(answer) if answer.status() == expected => {
                shared.created.fetch_add(usize::from(expected == 201), Ordering::Relaxed);
            }
            Ok(answer) => {
                shared.failures.lock().expect("no panic").push(format!("{method} {path}: {} {:?}", answer.status(), answer.body()))
            }
            Err(error) => shared.failures.lock().expect("no panic").push(format!("{method} {path}: {error}")),
        }
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
}
