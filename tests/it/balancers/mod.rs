//! The load balancers' configurations in `deploy/`, as they are shipped, each before three real servers.

mod balancer;
mod load;

use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;
use whatsnext::access::{Grants, Role};

use crate::support::{Https, Process, TestDatabase, eventually, make_key_with, within};
use balancer::{Balancer, Kind};
use load::Load;

/// How long each server says that it stops before it does, in seconds: more than two health checks, and than an idle connection is kept.
const DRAIN: &str = "4";

/// How many requests a rolling restart must not lose.
const REQUESTS: usize = 20_000;

/// Three servers behind one balancer, which alone is believed about addresses.
struct Site {
    database: TestDatabase,
    servers: Vec<Process>,
    environment: Vec<(&'static str, &'static str)>,
    balancer: Balancer,
}

impl Site {
    async fn start(kind: Kind, more: &[(&'static str, &'static str)]) -> Self {
        let database = TestDatabase::new().await;
        let mut environment = vec![("TRUSTED_PROXIES", "127.0.0.1"), ("DRAIN_DELAY_SECONDS", DRAIN), ("LOG_FILTER", "warn")];
        environment.extend(more);
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(Process::start_with(&database, &environment).await);
        }
        let addresses: Vec<_> = servers.iter().map(Process::address).collect();
        let balancer = Balancer::start(kind, &addresses).await;
        Self { database, servers, environment, balancer }
    }

    /// Starts a server again that has ended, where it was.
    async fn start_again(&mut self, number: usize) {
        let port = self.servers[number].address().port();
        let server = Process::start_on(port, &self.database, &self.environment).await;
        drop(std::mem::replace(&mut self.servers[number], server));
    }

    /// A project with a task, made through the balancer.
    async fn project_with_task(&self) -> (i64, i64) {
        let mut connection = self.balancer.https.connect().await.expect("the balancer answers");
        let mut made = async |path: &str, body: serde_json::Value| {
            let answer = connection.send("POST", path, &[], body.to_string()).await.expect("an answer");
            assert_eq!(answer.status(), 201, "{path}: {:?}", answer.body());
            let body: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
            crate::support::id(&body)
        };
        let project = made("/projects", json!({"name": "p"})).await;
        (project, made("/tasks", json!({"name": "t", "project_id": project})).await)
    }

    async fn jobs(&self) -> usize {
        let count: i64 = self.database.connect().await.query_one("select count(*) from jobs", &[]).await.expect("jobs").get(0);
        usize::try_from(count).expect("a number")
    }
}

/// TLS ends at the balancer, and what it says of addresses is what counts, not what a client says. Limits are one for the three servers.
async fn addresses_arrive_and_limits_hold(kind: Kind) {
    const LIMIT: usize = 20;
    let site = Site::start(kind, &[("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "20"), ("AUTH_FAILURES_PER_MINUTE", "0")]).await;
    let https = &site.balancer.https;
    let forge = async |https: &Https, count: usize| {
        let (mut connection, mut came_in) = (https.connect().await.expect("the balancer answers"), 0);
        for n in 0..count {
            let (list, element) = (format!("10.9.8.{n}, 127.0.0.1"), format!("for=10.9.8.{n}"));
            let headers = [("x-forwarded-for", list.as_str()), ("forwarded", element.as_str()), ("x-real-ip", "10.9.8.7")];
            let answer = connection.send("GET", "/projects", &headers, String::new()).await.expect("an answer");
            assert!(matches!(answer.status().as_u16(), 401 | 429), "{}: {:?}", answer.status(), answer.body());
            came_in += usize::from(answer.status() == 401);
        }
        came_in
    };
    assert_eq!(forge(&https.from([127, 0, 0, 2]), 3 * LIMIT).await, LIMIT, "an address has its limit, whatever else it claims to be");
    assert_eq!(forge(&https.from([127, 0, 0, 3]), LIMIT).await, LIMIT, "another address has its own");

    let key = make_key_with(&site.database, Grants::All(Role::Admin), |new| new.rate_limit = Some(30)).await;
    let (mut connection, mut came_in) = (https.connect().await.expect("the balancer answers"), 0);
    for _ in 0..90 {
        let answer = connection.send("GET", "/projects", &[("x-api-key", key.expose())], String::new()).await.expect("an answer");
        came_in += usize::from(answer.status() == 200);
    }
    assert_eq!(came_in, 30, "a key has one limit on all servers");

    let answer = https.get_by_http_2("/livez").await.expect("HTTP/2 is spoken");
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("strict-transport-security"), "{:?}", answer.headers());
}

/// What the API takes, the balancer takes: large batches, and those that are too large are the servers' to refuse.
async fn nothing_is_in_the_way(site: &Site, project: i64, task: i64) {
    let mut connection = site.balancer.https.connect().await.expect("the balancer answers");
    let parameters = json!({"x": "y".repeat(2000)});
    let jobs: Vec<_> = (0..1500).map(|n| json!({"name": format!("job {n}"), "task_id": task, "parameters": parameters})).collect();
    let batch = json!({"jobs": jobs}).to_string();
    assert!(batch.len() > 3_000_000);
    let answer = connection.send("POST", &format!("/projects/{project}/jobs/batch"), &[], batch).await.expect("an answer");
    assert_eq!(answer.status(), 201, "{:?}", answer.body());
    let too_large = "x".repeat(16 * 1024 * 1024 + 1000);
    let answer = connection.send("POST", &format!("/projects/{project}/jobs/batch"), &[], too_large).await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "the server says that it is too large: {:?}", answer.body());
    assert_eq!(answer.status(), 413);
}

/// All three servers are restarted one after the other, again and again, and nobody notices.
async fn a_rolling_restart_loses_nothing(kind: Kind) {
    let mut site = Site::start(kind, &[]).await;
    let (project, task) = site.project_with_task().await;
    let load = Load::start(&site.balancer.https, project, task);
    let mut restarted = 0;
    while restarted < 3 || load.answered() < REQUESTS {
        site.servers[restarted % 3].signal(Signal::SIGTERM);
        eventually("a server stops", || {
            let has_ended = site.servers[restarted % 3].try_wait().is_some();
            async move { has_ended }
        })
        .await;
        site.start_again(restarted % 3).await;
        restarted += 1;
    }
    let done = load.stop().await;
    assert_eq!(done.failures, Vec::<String>::new(), "of {} requests, with {restarted} restarts", done.answered);
    assert!(done.answered >= REQUESTS, "{}", done.answered);
    assert_eq!(site.jobs().await, done.created, "what was answered is there, once");
    nothing_is_in_the_way(&site, project, task).await;
}

/// A server that is killed takes with it what it was working on, and nothing else: the balancer does without it, and takes it back.
async fn a_killed_server_is_taken_out(kind: Kind) {
    let mut site = Site::start(kind, &[]).await;
    let (project, task) = site.project_with_task().await;
    let load = Load::start(&site.balancer.https, project, task);
    within(Duration::from_secs(20), "requests are answered", async || load.answered() > 300).await;
    site.servers[0].signal(Signal::SIGKILL);
    within(Duration::from_secs(30), "and go on being answered", async || load.answered() > 2000).await;
    let done = load.stop().await;
    let lost = done.failures.len();
    assert!(lost <= load::CONNECTIONS, "at most what was being worked on is lost: {:?}", done.failures);
    assert!(done.failures.iter().all(|failure| failure.starts_with("POST")), "what can be asked again was: {:?}", done.failures);
    let jobs = site.jobs().await;
    assert!((done.created..=done.created + lost).contains(&jobs), "{jobs} jobs, {} were answered, {lost} lost", done.created);

    site.start_again(0).await;
    for number in [1, 2] {
        site.servers[number].signal(Signal::SIGKILL);
    }
    eventually("the one that was started again does all the work", || async {
        let Ok(mut connection) = site.balancer.https.connect().await else { return false };
        connection.send("GET", "/projects", &[], String::new()).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

/// The longest wait that there is goes through each of the balancers, and ends as the server says and not as their time-outs do. They stand before the same
/// servers, so that it is one minute for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_may_wait_for_a_minute() {
    const WAIT: Duration = Duration::from_secs(60);
    let site = Site::start(Kind::Nginx, &[]).await;
    let (project, _) = site.project_with_task().await;
    let addresses: Vec<_> = site.servers.iter().map(Process::address).collect();
    let others = [Balancer::start(Kind::Haproxy, &addresses).await, Balancer::start(Kind::Caddy, &addresses).await];
    let balancers = [(Kind::Nginx, &site.balancer), (Kind::Haproxy, &others[0]), (Kind::Caddy, &others[1])];
    join_all(balancers.map(async |(kind, balancer)| {
        let mut connection = balancer.https.connect().await.expect("the balancer answers");
        let client = json!({"id": format!("{kind:?}"), "name": "n", "entity": "e", "available_cpu": 1});
        let answer = connection.send("POST", "/clients/register", &[], client.to_string()).await.expect("an answer");
        assert_eq!(answer.status(), 201, "{kind:?}: {:?}", answer.body());
        let claim = json!({"client_id": format!("{kind:?}"), "wait_seconds": WAIT.as_secs()}).to_string();
        let start = Instant::now();
        let answer = connection.send("POST", &format!("/projects/{project}/claims"), &[], claim).await;
        let took = start.elapsed();
        let answer = answer.unwrap_or_else(|error| panic!("{kind:?}: expected an answer, and after {took:?} there was {error}"));
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        assert_eq!((answer.status().as_u16(), &body["jobs"]), (200, &json!([])), "{kind:?} after {took:?}: {:?}", answer.body());
        // A little less: the server's clock began when the claim was read.
        assert!(took >= WAIT - Duration::from_secs(1) && took < WAIT + Duration::from_secs(10), "{kind:?}: it waited for {took:?}");
    }))
    .await;
}

macro_rules! behind {
    ($($name:ident: $kind:ident),*) => {
        $(
            mod $name {
                use super::Kind;

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn addresses_arrive_forged_ones_do_not_and_limits_hold() {
                    super::addresses_arrive_and_limits_hold(Kind::$kind).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn a_rolling_restart_loses_nothing() {
                    super::a_rolling_restart_loses_nothing(Kind::$kind).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn a_killed_server_is_taken_out_and_taken_back() {
                    super::a_killed_server_is_taken_out(Kind::$kind).await;
                }
            }
        )*
    };
}

behind! { nginx: Nginx, haproxy: Haproxy, caddy: Caddy }
