//! What coming in costs over HTTP: a GET with a key and a limit, beside a bare poem handler that makes the same Redis and PostgreSQL calls; and a flood
//! over the limit, beside a bare handler that gives the same answer to everybody.
//!
//! `deploy/bench.sh` starts PostgreSQL and Redis and runs it. The bare server is this program itself, in a process of its own. Load generator, servers,
//! PostgreSQL and Redis share the machine, and both servers are measured in turns, so read the ratio.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is a benchmark")]

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

#[allow(dead_code)]
mod load;

use std::{
    net::SocketAddr,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, Pool};
use load::{Connection, request};
use poem::{
    EndpointExt, IntoResponse, Response, Route, Server,
    http::StatusCode,
    listener::TcpListener,
    web::{Data, Path},
};
use redis::aio::MultiplexedConnection;
use serde_json::json;
use support::{Process, TestDatabase, free_port, make_key_with, store_url};
use tokio::net::TcpStream;
use whatsnext::{
    access::{Grants, Key, Role},
    limits::{Admission, Guard, Limits, Window},
};

/// How long it is one server's turn. Short ones, and many: the machine is faster now and slower then, and neighbours see the same of it.
const TURN: Duration = Duration::from_millis(500);
const TURNS: usize = 21;
const CONNECTIONS: usize = 64;

#[tokio::main]
async fn main() {
    if let Ok(port) = std::env::var("BARE_PORT") {
        return bare(&port).await;
    }
    let database = TestDatabase::new().await;
    let unlimited = make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(10_000_000)).await;
    let limited = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(1)).await;
    let audit = tempfile::tempdir().unwrap();
    let folder = audit.path().to_str().unwrap();
    let ours = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("LOG_FILTER", "warn"), ("AUDIT_LOG_DIR", folder)]).await;
    ours.api.with_key(unlimited.expose()).post("/projects", json!({"name": "p"})).await.expect(201);
    let bare = Bare::start(&database, &unlimited.id().to_string()).await;

    println!("| what | ours | bare | ours ÷ bare | bar |\n| --- | --- | --- | --- | --- |");
    let read = |key: &Key| request("GET", "/projects/1", &[("x-api-key", key.expose())], None);
    let (ours_of, bare_of) = (|asked| (ours.address(), asked), |asked| (bare.address, asked));
    let alike = |request: String| vec![request; CONNECTIONS];
    let one_key = alike(read(&unlimited));
    compare("read, with a key and a limit", ours_of(one_key.clone()), bare_of(one_key), 200, "≥ 0.8").await;
    let mut many_keys = Vec::new();
    for _ in 0..CONNECTIONS {
        many_keys.push(read(&make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(10_000_000)).await));
    }
    compare("the same with a key for each connection", ours_of(many_keys.clone()), bare_of(many_keys), 200, "≥ 0.8").await;
    let flood = alike(read(&limited));
    let refused = alike(request("GET", "/refused", &[("x-api-key", limited.expose())], None));
    compare("flood over the limit", ours_of(flood.clone()), bare_of(refused), 429, "≥ 0.8").await;
    compare("the same, beside 14 bytes", ours_of(flood), bare_of(alike(request("GET", "/short", &[], None))), 429, "").await;
    println!("| resident memory with {CONNECTIONS} connections | {} MiB | | | ≤ 100 MiB |", ours.resident_bytes() / 1024 / 1024);
}

async fn compare(what: &str, ours: (SocketAddr, Vec<String>), bare: (SocketAddr, Vec<String>), expected: u16, bar: &str) {
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        let ours = load(ours.0, &ours.1, expected).await;
        let bare = load(bare.0, &bare.1, expected).await;
        for (rates, rate) in rates.iter_mut().zip([ours, bare, ours / bare]) {
            rates.push(rate);
        }
    }
    let [ours, bare, ratio] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[TURNS / 2]
    });
    println!("| {what} | {ours:.0}/s | {bare:.0}/s | {ratio:.2} | {bar} |");
}

/// How many answers with this status come in a second, when each of these is asked over a connection of its own, again as soon as it was answered.
async fn load(address: SocketAddr, requests: &[String], expected: u16) -> f64 {
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let asking: Vec<_> = requests
        .iter()
        .map(|request| {
            let (request, stop, answers) = (request.clone(), stop.clone(), answers.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let (status, _) = connection.ask(&request).await;
                    // The first of a window that is full for everybody else.
                    answers.fetch_add(u64::from(status == expected), Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(TURN).await;
    stop.store(true, Ordering::Relaxed);
    futures_util::future::join_all(asking).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let answers = answers.load(Ordering::Relaxed) as f64;
    answers / start.elapsed().as_secs_f64()
}

/// The bare server.
struct Bare {
    address: SocketAddr,
    child: Child,
}

impl Bare {
    async fn start(database: &TestDatabase, key: &str) -> Self {
        let port = free_port();
        let child = Command::new(std::env::current_exe().unwrap())
            .env("BARE_PORT", port.to_string())
            .env("BARE_DATABASE", database.url())
            .env("BARE_PREFIX", database.name())
            .env("BARE_KEY", key)
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        support::eventually("the bare server listens", || async { TcpStream::connect(address).await.is_ok() }).await;
        Self { address, child }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[derive(Clone)]
struct Stores {
    redis: MultiplexedConnection,
    limits: Arc<Limits>,
    key: Arc<str>,
    pool: Pool,
}

async fn bare(port: &str) {
    let variable = |name| std::env::var(name).unwrap();
    let client = redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
    let config = variable("BARE_DATABASE").parse().unwrap();
    let stores = Stores {
        redis: client.get_multiplexed_async_connection().await.unwrap(),
        limits: Arc::new(Limits::new(variable("BARE_PREFIX"))),
        key: variable("BARE_KEY").into(),
        pool: Pool::builder(Manager::new(config, tokio_postgres::NoTls)).max_size(16).build().unwrap(),
    };
    let refused = poem::endpoint::make_sync(|_| refusal());
    let short = poem::endpoint::make_sync(|_| Response::builder().status(StatusCode::TOO_MANY_REQUESTS).body("{\"status\":429}"));
    let routes = Route::new().at("/projects/:id", poem::get(project)).at("/refused", refused).at("/short", short).data(stores);
    Server::new(TcpListener::bind(format!("127.0.0.1:{port}"))).run(routes).await.unwrap();
}

/// What whoever is over their limit is told, as WhatsNext words it.
fn refusal() -> Response {
    Response::builder()
        .status(StatusCode::TOO_MANY_REQUESTS)
        .content_type("application/problem+json")
        .header("retry-after", 60)
        .header("ratelimit-policy", "\"default\";q=1;w=60")
        .header("ratelimit", "\"default\";r=0;t=60")
        .header("x-request-id", "01a20e15-55a7-7126-bf47-2c8f78d80107")
        .header("x-content-type-options", "nosniff")
        .header("cache-control", "no-store")
        .body(
            r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Rate limit exceeded. Try again in 60 seconds.","request_id":"01a20e15-55a7-7126-bf47-2c8f78d80107"}"#,
        )
}

#[poem::handler]
async fn project(Path(id): Path<i64>, Data(stores): Data<&Stores>) -> Response {
    const GET: &str = "select id, name, description, status, created_at, updated_at from projects where id = $1";
    let window = Window { name: "api", limit: 600, length: Duration::from_secs(60), weight: 1, own_limit: true };
    let admitted =
        stores.limits.admit(&mut stores.redis.clone(), &stores.key, Some(Guard { version: 1, token: None }), &[window]).await.unwrap();
    assert!(matches!(admitted, Admission::Admitted { .. }), "{admitted:?}");
    let client = stores.pool.get().await.unwrap();
    let row = client.query_one(&client.prepare_cached(GET).await.unwrap(), &[&id]).await.unwrap();
    let time = |name| row.get::<_, chrono::DateTime<chrono::Utc>>(name).to_rfc3339();
    let body = json!({
        "id": row.get::<_, i64>("id"),
        "name": row.get::<_, &str>("name"),
        "description": row.get::<_, &str>("description"),
        "status": row.get::<_, &str>("status"),
        "created_at": time("created_at"),
        "updated_at": time("updated_at"),
    });
    poem::web::Json(body).into_response()
}
