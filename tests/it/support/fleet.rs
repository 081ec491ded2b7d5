//! Several processes that share everything, and load on them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all, stream};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use whatsnext::access::Key;

use super::{Api, Json, Process, RedisServer, TestDatabase, store_url};

/// Processes that ask for keys.
pub(crate) async fn fleet(database: &TestDatabase, count: usize, environment: &[(&str, &str)]) -> Vec<Process> {
    let environment: Vec<_> = [("DISABLE_AUTH", "false")].into_iter().chain(environment.iter().copied()).collect();
    join_all((0..count).map(|_| Process::start_with(database, &environment))).await
}

/// Each of them, with this key.
pub(crate) fn each_with(fleet: &[Process], key: &Key) -> Vec<Api> {
    fleet.iter().map(|process| process.api.with_key(key.expose())).collect()
}

/// Waits until so many servers have told this Redis that they are alive, and each has heard of the others.
pub(crate) async fn until_they_know_each_other(redis: &RedisServer, database: &TestDatabase, count: usize) {
    let key = format!("{}:{{servers}}:alive", database.name());
    let said = async || redis.ask::<Vec<(String, f64)>>(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await.expect("those who are alive");
    within(Duration::from_secs(20), "all servers are there", async || said().await.len() == count).await;
    let last = said().await;
    within(Duration::from_secs(20), "each has said so once more", async || {
        said().await.iter().all(|(server, at)| last.iter().any(|(known, before)| known == server && before < at))
    })
    .await;
}

/// Whether the limit that a request was told of is the one that all share.
pub(crate) fn is_of_all(answer: &Json) -> bool {
    answer.header("ratelimit-policy").starts_with("\"default\"")
}

/// Whether limits are shared, as one more request is told.
pub(crate) async fn is_shared(api: &Api) -> bool {
    is_of_all(&api.get("/projects").await)
}

/// Sends so many requests to these in turn, some at a time; returns the answers. None is a 5xx.
pub(crate) async fn send(apis: &[Api], count: usize) -> Vec<Json> {
    let requests = (0..count).map(|n| apis[n % apis.len()].get("/projects"));
    let answers: Vec<Json> = stream::iter(requests).buffer_unordered(16).collect().await;
    for answer in &answers {
        assert!(matches!(answer.status, 200 | 429), "{} {}", answer.status, answer.text);
    }
    answers
}

/// How many of these came in.
pub(crate) fn admitted(answers: &[Json]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// Looks again and again until it is so, for at most that long; returns how long it took.
pub(crate) async fn within(patience: Duration, what: &str, is_so: impl AsyncFn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < patience, "expected within {patience:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

/// Requests to all of these until it is stopped. Fails at the first answer that is neither 200 nor 429.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    admitted: Arc<AtomicUsize>,
    running: Vec<JoinHandle<usize>>,
}

impl Load {
    pub(crate) fn on(apis: impl IntoIterator<Item = Api>) -> Self {
        let (stop, admitted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let run = |api: Api| {
            let (stop, admitted) = (stop.clone(), admitted.clone());
            tokio::spawn(async move {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = api.get("/projects").await;
                    assert!(matches!(answer.status, 200 | 429), "{} {}", answer.status, answer.text);
                    admitted.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                    sent += 1;
                    sleep(Duration::from_millis(10)).await;
                }
                sent
            })
        };
        let running = apis.into_iter().map(run).collect();
        Self { stop, admitted, running }
    }

    /// How many came in.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Ends it; returns how many came in.
    pub(crate) async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for running in self.running {
            assert!(running.await.expect("no 5xx") > 10, "the load went on");
        }
        self.admitted.load(Ordering::Relaxed)
    }
}

/// When requests were sent and answered that came in: few until the flood, then many. Nothing as soon as a limit is told that is not that of all servers.
pub(crate) async fn admitted_until(api: Api, flood_from: Instant, end: Instant) -> Option<Vec<(Instant, Instant)>> {
    let mut admitted = Vec::new();
    while Instant::now() < end {
        let sent = Instant::now();
        let answer = api.get("/projects?limit=1").await;
        if !is_of_all(&answer) {
            return None;
        }
        if answer.status == 200 {
            admitted.push((sent, Instant::now()));
        }
        let pause = if sent < flood_from { Duration::from_millis(1700) } else { Duration::from_millis(40) };
        sleep(pause).await;
    }
    Some(admitted)
}

/// Ends all connections that listen to messages in Redis. There are some: servers tell each other of jobs.
pub(crate) async fn end_subscriptions() {
    let client = redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let () = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut connection).await.expect("they are ended");
}
