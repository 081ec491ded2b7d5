//! Who was refused, and what of: whose lines are counted together, and what is never only a number.

use std::{collections::BTreeMap, path::Path};

use reqwest::Method;
use serde_json::{Value, json};
use whatsnext::access::{Grants, Role};

use super::count;
use crate::support::{
    Api, Authority, H2, Json, Process, TestDatabase, audit_lines, connect, eventually, free_port, make_key, make_key_with,
};

/// The lines of one kind, and how many refusals they tell of.
fn told<'a>(lines: &'a [Value], action: &str, of: impl Fn(&Value) -> bool) -> (Vec<&'a Value>, u64) {
    let of_kind: Vec<&Value> = lines.iter().filter(|line| line["event.action"] == action && of(line)).collect();
    let count = of_kind.iter().map(|line| line["whatsnext.audit.folded"].as_u64().unwrap_or(1)).sum();
    (of_kind, count)
}

/// With limits, which bound what is told.
fn settings(folder: &Path) -> [(&'static str, &str); 3] {
    [("DISABLE_AUTH", "false"), ("AUDIT_LOG_DIR", folder.to_str().unwrap()), ("RATE_LIMIT_PER_MINUTE", "600")]
}

/// Behind one address there are many: what one of them is refused hides nothing that another one is.
#[tokio::test]
async fn refusals_of_one_key_hide_none_of_another() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let process = Process::start_with(&database, &settings(folder.path())).await;
    let admin = process.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let (project, _) = admin.project_with_task("p").await;
    let user = admin.post("/users", json!({"name": "lab", "grants": {"all": "reader"}})).await.expect(201)["id"].clone();
    let noisy = make_key_with(&database, Grants::All(Role::Reader), |new| new.user_id = user.as_i64()).await;
    let quiet = make_key(&database, Grants::All(Role::Reader)).await;
    let [of_noisy, of_quiet] = [&noisy, &quiet].map(|key| process.api.with_key(key.expose()));
    for _ in 0..12 {
        of_noisy.get("/keys").await.problem(403);
    }
    of_quiet.delete(&format!("/projects/{project}")).await.problem(403);
    of_quiet.get("/keys").await.problem(403);
    for number in 0..9 {
        of_noisy.delete(&format!("/jobs/{number}")).await.problem(403);
    }
    process.terminate().await;

    let lines = audit_lines(folder.path());
    let of = |key: &str| {
        let key = key.to_owned();
        move |line: &Value| line["whatsnext.key.id"] == key.as_str()
    };
    let [noisy, quiet] = [noisy, quiet].map(|key| key.id().to_string());
    let (of_quiet, _) = told(&lines, "permission_denied", of(&quiet));
    let [tried, looked] = of_quiet.as_slice() else { panic!("expected a line for each of two: {of_quiet:#?}") };
    let expected = json!({
        "user.id": format!("key:{quiet}"), "http.request.method": "DELETE", "http.response.status_code": 403,
        "whatsnext.route": "/projects/{project_id}", "whatsnext.target": {"project_id": project}, "source.ip": "127.0.0.1",
        "event.outcome": "failure",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&tried[field], value, "{field}: {tried}");
    }
    assert_eq!(looked["whatsnext.route"], "/keys", "{looked}");

    let (of_noisy, count) = told(&lines, "permission_denied", of(&noisy));
    let tried = of_noisy.iter().filter(|line| line["whatsnext.route"] == "/jobs/{job_id}").count();
    assert_eq!((tried, count), (9, 12 + 9), "expected each try to change something to be told: {of_noisy:#?}");
    let folded: Vec<_> = of_noisy.iter().filter(|line| !line["whatsnext.audit.folded"].is_null()).collect();
    let [folded] = folded.as_slice() else { panic!("expected looks to be counted in one line: {of_noisy:#?}") };
    let name = format!("user:{user}");
    let said = ["whatsnext.audit.folded", "whatsnext.audit.folded_by", "user.id"].map(|field| folded[field].clone());
    assert_eq!(said, [json!(7), json!("key"), json!(name)], "{folded}");
}

/// A key without a limit, or with a very high one, would fill the disk with what it may not do.
#[tokio::test]
async fn what_nothing_bounds_is_counted_whatever_was_tried() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let process = Process::start_with(&database, &settings(folder.path())).await;
    let mut keys = Vec::new();
    for (limit, lines) in [(Some(0), 6), (Some(10_001), 6), (Some(10_000), 20), (None, 20)] {
        let key = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = limit).await;
        for number in 0..20 {
            process.api.with_key(key.expose()).delete(&format!("/jobs/{number}")).await.problem(403);
        }
        keys.push((key.id().to_string(), limit, lines));
    }
    process.terminate().await;

    let lines = audit_lines(folder.path());
    for (key, limit, expected) in keys {
        let (found, count) = told(&lines, "permission_denied", |line| line["whatsnext.key.id"] == key.as_str());
        assert_eq!((found.len(), count), (expected, 20), "with the limit {limit:?}: {found:#?}");
    }
}

/// Over their limits too, each key is counted by itself, and named.
#[tokio::test]
async fn keys_over_their_limits_are_counted_each_by_itself() {
    // So long that nobody finds it by trying.
    const CONFIGURED: &str = "a-key-of-the-configuration-that-is-long";
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let limits = [("API_KEYS", CONFIGURED), ("RATE_LIMIT_PER_MINUTE", "10")];
    let process = Process::start_with(&database, &[&settings(folder.path())[..], &limits].concat()).await;
    let limited = async |limit| make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(limit)).await;
    let (one, other) = (limited(1).await, limited(1).await);
    let token = {
        let key = limited(2).await;
        let token = process.api.with_key(key.expose()).post("/tokens", json!({})).await.expect(201)["token"].as_str().unwrap().to_owned();
        (key.id().to_string(), token)
    };
    let over = async |key: &str, admitted: usize, refused: usize| {
        let api = process.api.with_key(key);
        let expected = [vec![200; admitted], vec![429; refused]].concat();
        let mut statuses = Vec::new();
        for _ in &expected {
            statuses.push(api.get("/projects").await.status);
        }
        assert_eq!(statuses, expected);
    };
    // A key that the server meets counts for its address too.
    over(one.expose(), 1, 20).await;
    over(&token.1, 1, 2).await;
    over(CONFIGURED, 10, 8).await;
    over(other.expose(), 1, 1).await;
    process.terminate().await;

    let lines = audit_lines(folder.path());
    let of = |user: String| move |line: &Value| line["user.id"] == user.as_str();
    let [one, other] = [one, other].map(|key| key.id().to_string());
    for (user, key, refused) in [
        (format!("key:{one}"), json!(one), 20),
        (format!("key:{other}"), json!(other), 1),
        (format!("key:{}", token.0), json!(token.0), 2),
        ("configuration:1".to_owned(), Value::Null, 8),
    ] {
        let (found, count) = told(&lines, "limit_exceeded", of(user.clone()));
        assert_eq!(count, refused, "{user}: {found:#?}");
        assert!(found.iter().all(|line| line["whatsnext.key.id"] == key && line["whatsnext.claimed_key.id"].is_null()), "{found:#?}");
        let by_token = found.iter().filter(|line| line["whatsnext.by_token"] == true).count();
        assert_eq!(by_token, if user.ends_with(&token.0) { 2 } else { 0 }, "{found:#?}");
        assert!(found.len() <= 6, "expected the rest to be counted: {found:#?}");
    }
    assert_eq!(told(&lines, "limit_exceeded", |line| line["user.id"].is_null()).1, 0, "{lines:#?}");
}

/// All that tells an answer from another but what names a request or a moment.
fn shown(answer: &Json) -> (u16, BTreeMap<String, usize>, Vec<String>) {
    let mut lengths = BTreeMap::new();
    for (name, value) in &answer.headers {
        // They are of the request, or count down.
        let length = if ["x-request-id", "date", "ratelimit"].contains(&name.as_str()) { 0 } else { value.len() };
        lengths.insert(name.to_string(), length);
    }
    (answer.status, lengths, answer.body.as_object().unwrap().keys().cloned().collect())
}

/// What a key may not see is not there for it, and whoever walks by all of it with a stolen one is seen all the same.
#[tokio::test]
async fn what_is_not_there_for_a_key_leaves_a_line() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let process = Process::start_with(&database, &settings(folder.path())).await;
    let admin = process.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let (own, own_task) = admin.project_with_task("own").await;
    let (foreign, foreign_task) = admin.project_with_task("foreign").await;
    let own_job = admin.job(own, own_task, "j", &[]).await;
    let foreign_job = admin.job(foreign, foreign_task, "j", &[]).await;
    let key = make_key(&database, Grants::Only(BTreeMap::from([(own, Role::Maintainer)]))).await;
    let stolen = process.api.with_key(key.expose());
    stolen.get(&format!("/jobs/{own_job}")).await.expect(200);

    // As long as the foreign ones, so that answers can be compared to the letter.
    let none = |id: i64| 10_i64.pow(u32::try_from(id.to_string().len()).unwrap()) - 1;
    let look = async |api: &Api, method: Method, path: String| {
        let answer = api.send(method, &path, None).await;
        (shown(&answer), answer.problem(if path.contains('?') { 400 } else { 404 }))
    };
    let mut hidden = 0;
    for (path, id) in
        [("/jobs/N", foreign_job), ("/jobs/N/attempts", foreign_job), ("/jobs/N/explain", foreign_job), ("/tasks/N", foreign_task)]
    {
        let is_there = look(&stolen, Method::GET, path.replace('N', &id.to_string())).await;
        let is_not = look(&stolen, Method::GET, path.replace('N', &none(id).to_string())).await;
        assert_eq!(is_there.0, is_not.0, "{path}");
        assert_eq!(is_there.1.replace(&id.to_string(), "N"), is_not.1.replace(&none(id).to_string(), "N"), "{path}");
        hidden += 1;
    }
    look(&stolen, Method::GET, "/projects/name/foreign".to_owned()).await;
    look(&stolen, Method::GET, format!("/tasks?project_id={foreign}")).await;
    // Of a project that is not there a key knows no more than of one that is.
    for project in foreign..foreign + 20 {
        look(&stolen, Method::GET, format!("/projects/{project}")).await;
    }
    hidden += 2 + 20;
    let tries = [(Method::DELETE, format!("/projects/{foreign}")), (Method::DELETE, format!("/jobs/{foreign_job}"))];
    for (method, path) in &tries {
        for _ in 0..6 {
            look(&stolen, method.clone(), path.clone()).await;
        }
    }
    // Who may see everything is told what is so.
    look(&admin, Method::GET, format!("/jobs/{}", none(foreign_job))).await;
    process.terminate().await;

    let lines = audit_lines(folder.path());
    let key = key.id().to_string();
    let (denied, refused) = told(&lines, "permission_denied", |line| line["whatsnext.key.id"] == key.as_str());
    assert_eq!(refused, hidden + 12, "expected each to be told or counted: {denied:#?}");
    assert_eq!(told(&lines, "permission_denied", |_| true).1, refused, "nobody else was refused anything");
    assert_eq!(denied.len(), 5 + 12 + 1, "expected five looks, each try to change something, and one count: {denied:#?}");
    let first = denied[0];
    let expected = json!({
        "http.request.method": "GET", "http.response.status_code": 404, "whatsnext.route": "/jobs/{job_id}",
        "whatsnext.target": {"job_id": foreign_job}, "event.outcome": "failure",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&first[field], value, "{field}: {first}");
    }
    let tried = denied.iter().filter(|line| line["http.request.method"] == "DELETE" && line["whatsnext.target"]["job_id"] == foreign_job);
    assert_eq!(tried.count(), 6, "{denied:#?}");
    assert_eq!(count(&lines, "delete_job"), 0, "expected one line for each request");
}

/// A certificate is how a client says who it is: whoever has none that is good has failed to, unlike who only looks whether there is a port.
#[tokio::test]
async fn clients_without_a_good_certificate_are_recorded_and_counted() {
    let (database, folder, authority) = (TestDatabase::new().await, tempfile::tempdir().unwrap(), Authority::new());
    let [of_clients, of_others] = [(); 2].map(|()| Authority::new());
    let (pair, authorities, metrics) = (authority.issue(&["localhost"]), of_clients.file(), format!("127.0.0.1:{}", free_port()));
    let [certificate, key] = [pair.certificate(), pair.key()].map(|file| file.display().to_string());
    let tls = [
        ("TLS_CERT_FILE", certificate.as_str()),
        ("TLS_KEY_FILE", key.as_str()),
        ("TLS_CLIENT_CA_FILE", authorities.as_str()),
        ("METRICS_BIND", metrics.as_str()),
    ];
    let process = Process::start_listening(&database, &[&settings(folder.path())[..], &tls].concat()).await;
    let [member, stranger] = [of_clients.issue(&["node-1"]), of_others.issue(&["node-1"])];
    let expired = of_clients.issue_expired(&["node-1"]);
    let shown = [None, Some(&stranger), Some(&expired)];
    let counted = async || {
        let text = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
        let name = "whatsnext_http_certificates_refused_total ";
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("expected {name} in {text}"));
        line.parse::<u64>().unwrap()
    };
    // Ports are scanned, handshakes are broken off, and clients do not trust the server: nothing of that says who somebody is.
    for words in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 2, 0, 1]] {
        let mut stream = tokio::net::TcpStream::connect(process.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, words).await.unwrap();
    }
    assert!(connect(&of_others.client(Some(&member), &["h2"]), process.address()).await.is_err(), "the client does not trust the server");
    let mut welcome = H2::connect(&authority.client(Some(&member), &["h2"]), process.address(), 65_535).await;
    welcome.send(&crate::support::Frame::get(1, "/livez")).await.unwrap();
    assert!(welcome.body_of(1).await.is_some(), "whose certificate is good comes in");
    let mut turned_away = 0;
    for round in 0..3 {
        for shown in shown {
            // In TLS 1.3 a client hears of it after it has connected.
            drop(connect(&authority.client(shown, &["h2"]), process.address()).await);
            turned_away += 1;
        }
        eventually("each is counted, and nothing else", || async { counted().await == 3 * (round + 1) }).await;
    }
    process.terminate().await;

    let lines = audit_lines(folder.path());
    let (failed, count) = told(&lines, "authentication_failed", |_| true);
    assert_eq!(count, turned_away, "{failed:#?}");
    let reasons: Vec<&str> = failed.iter().filter_map(|line| line["event.reason"].as_str()).collect();
    // The other authority has the name of the one that is trusted.
    let [missing, stranger, expired] = ["client_certificate_missing", "client_certificate_invalid", "client_certificate_expired"];
    assert_eq!(reasons, [missing, stranger, expired, missing, stranger], "the others are counted: {failed:#?}");
    assert_eq!(failed.last().unwrap()["whatsnext.audit.folded_by"], "address", "{failed:#?}");
    assert!(
        failed.iter().all(|line| line["source.ip"] == "127.0.0.1" && line["event.category"] == json!(["authentication"])),
        "{failed:#?}"
    );
}
