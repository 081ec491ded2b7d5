//! A client that says what it expected.

use reqwest::{
    Client, Method, Response,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

/// An answer.
#[derive(Debug)]
pub(crate) struct Json {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The body to the letter.
    pub(crate) text: String,
}

impl Json {
    /// The body, if the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "expected {status}, got {} with {}", self.status, self.text);
        self.body
    }

    /// The `detail` of a problem with this status, after a look at its shape.
    #[track_caller]
    pub(crate) fn problem(self, status: u16) -> String {
        assert_eq!(self.status, status, "expected {status}, got {} with {}", self.status, self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        assert_eq!(self.body["status"], status, "{}", self.text);
        assert_eq!(self.body["type"], "about:blank", "{}", self.text);
        assert!(self.body["title"].is_string(), "{}", self.text);
        assert_eq!(self.body["request_id"], self.header("x-request-id"), "{}", self.text);
        assert_eq!(self.body["errors"].is_array(), status == 422, "{}", self.text);
        self.body["detail"].as_str().expect("a detail").to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or_default()
    }
}

/// A server's API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    client: Client,
}

impl Api {
    pub(crate) fn new(base: &str) -> Self {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().expect("a client");
        Self { base: base.to_owned(), client }
    }

    /// The same API, with a key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), HeaderValue::from_str(key).expect("a key"))]);
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().default_headers(headers).build();
        Self { base: self.base.clone(), client: client.expect("a client") }
    }

    pub(crate) async fn get(&self, path: &str) -> Json {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Json {
        self.send(Method::DELETE, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Json {
        self.send(Method::POST, path, Some(body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Json {
        self.send(Method::PUT, path, Some(body.to_string())).await
    }

    /// Sends a body that need not be JSON, as `application/json`.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<String>) -> Json {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        read(request.send().await.expect("the server answers")).await
    }

    /// A request with headers of the test's own.
    pub(crate) async fn send_with(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Json {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.send().await.expect("the server answers")).await
    }

    /// The status of an answer to JSON, or nothing if the server cannot be reached.
    pub(crate) async fn try_send(&self, method: Method, path: &str, body: Value) -> Option<u16> {
        let request = self.client.request(method, format!("{}{path}", self.base)).header("content-type", "application/json");
        request.body(body.to_string()).send().await.ok().map(|response| response.status().as_u16())
    }

    /// The status, or nothing if the server cannot be reached.
    pub(crate) async fn try_get(&self, path: &str) -> Option<u16> {
        self.client.get(format!("{}{path}", self.base)).send().await.ok().map(|response| response.status().as_u16())
    }

    /// Makes a project with a task and returns their ids.
    pub(crate) async fn project_with_task(&self, name: &str) -> (i64, i64) {
        let project = id(&self.post("/projects", json!({"name": name})).await.expect(201));
        let task = id(&self.post("/tasks", json!({"name": "task", "project_id": project})).await.expect(201));
        (project, task)
    }

    /// Adds a job that depends on others and returns its id.
    pub(crate) async fn job(&self, project: i64, task: i64, name: &str, parents: &[i64]) -> i64 {
        let depends: serde_json::Map<_, _> = parents.iter().map(|id| (id.to_string(), json!("parent"))).collect();
        let job = json!({"name": name, "project_id": project, "task_id": task, "parameters": {}, "depends": depends});
        id(&self.post("/jobs", job).await.expect(201))
    }

    /// Sets a job's status as the published client does: reads the job and sends it all back.
    pub(crate) async fn set_status(&self, job: i64, status: &str) -> Value {
        let mut body = self.get(&format!("/jobs/{job}")).await.expect(200);
        body["status"] = json!(status);
        self.put(&format!("/jobs/{job}"), body).await.expect(200)["data"].take()
    }

    /// A job's status.
    pub(crate) async fn status(&self, job: i64) -> String {
        let job = self.get(&format!("/jobs/{job}")).await.expect(200);
        job["status"].as_str().expect("a status").to_owned()
    }
}

/// The id of what was made.
pub(crate) fn id(body: &Value) -> i64 {
    body["id"].as_i64().expect("an id")
}

async fn read(response: Response) -> Json {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.expect("a whole body");
    Json { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}
