//! Who speaks for a client is asked by the statements that do the work.

use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use whatsnext::{
    postgres::Database,
    queue::{
        Bells, Error, Owner, Policy, Result,
        jobs::{Attempt, Claims, Outcome, Report, Resources, Store, Wish},
    },
};

use crate::support::{TestDatabase, eventually, waiting_for_locks};

/// Clients that belong to a key, to the user of a key, and to nobody. `first` was rotated twice.
const CLIENTS: &str = "
    insert into projects (name, description, status) values ('p', '', 'ACTIVE');
    insert into tasks (project_id, name, required_cpu, required_accelerators) values (1, 't', 1, 0);
    insert into keys (id, name, grants, hash, successor)
        values ('third', '', '{}', '', null), ('second', '', '{}', '', 'third'), ('first', '', '{}', '', 'second');
    insert into clients (id, name, entity, available_cpu, available_accelerators, owner_user, owner_key)
        values ('keys', '', '', 1000, 0, null, 'first'), ('users', '', '', 1000, 0, 7, 'theirs'), ('nobodys', '', '', 1000, 0, null, null);";

/// Who claims for which client, or starts or completes an attempt of it, and whether they may.
const SPEAKERS: [(&str, Option<&str>, Option<i64>, bool); 11] = [
    ("keys", Some("first"), None, true),
    ("keys", Some("stranger"), None, false),
    ("keys", Some("third"), None, true),
    ("keys", Some("first"), Some(7), true),
    ("keys", Some("theirs"), Some(7), false),
    ("keys", None, None, true),
    ("users", Some("theirs"), Some(7), true),
    ("users", Some("another of theirs"), Some(7), true),
    ("users", Some("third"), Some(8), false),
    ("users", Some("first"), None, false),
    ("nobodys", Some("stranger"), Some(8), true),
];

fn owner(key: Option<&str>, user: Option<i64>) -> Option<Owner> {
    key.map(|key| Owner { user, key: key.to_owned() })
}

/// What an error says of who asked.
fn told<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(Error::OthersClient(_)) => "others",
        Err(Error::Stale { .. }) => "stale",
        Err(Error::NotFound(_)) => "missing",
        Err(Error::Unregistered(_)) => "unregistered",
        Err(error) => panic!("expected another error than {error}"),
    }
}

struct World {
    test: TestDatabase,
    client: Client,
    database: Database,
    store: Store,
}

impl World {
    async fn new() -> Self {
        let test = TestDatabase::new().await;
        let client = test.connect().await;
        client.batch_execute(CLIENTS).await.unwrap();
        let database = test.database();
        let store = Store::new(database.clone(), Policy::default(), Bells::default());
        Self { test, client, database, store }
    }

    /// A job that a client has claimed.
    async fn claimed(&self, client: Option<&str>) -> i64 {
        let sql = "with job as (
                       insert into jobs (project_id, task_id, name, parameters, status, priority, unmet, attempt)
                       values (1, 1, 'j', '{}', 'QUEUED', 0, 0, 1)
                       returning id
                   )
                   insert into attempts (job_id, number, client_id, status, cpu, accelerators, lease_seconds, lease_expires_at)
                   select id, 1, $1, 'CLAIMED', 1, 0, 600, now() + interval '10 minutes' from job
                   returning job_id";
        let job = self.client.query_one(sql, &[&client]).await.unwrap().get(0);
        // It is known then, so that nobody who reports of it asks.
        self.store.project_of(job).await.unwrap();
        job
    }

    async fn say(&self, what: &str, job: i64, number: i32, by: Option<Owner>) -> Result<Attempt> {
        match what {
            "start" => self.store.start(job, number, by).await,
            _ => self.store.report(job, number, Report { outcome: Outcome::Completed(None), log_tail: None }, by).await,
        }
    }

    /// Says all of that while the first, who may speak for all, waits for a table. Tells what came of it.
    async fn together(&self, what: &str, said: Vec<(i64, Option<Owner>)>) -> Vec<&'static str> {
        let first = self.claimed(None).await;
        let mut holder = self.test.connect().await;
        let holds = holder.transaction().await.unwrap();
        holds.batch_execute("lock table attempts in share mode").await.unwrap();
        let all = join_all([(first, None)].into_iter().chain(said).map(|(job, by)| self.say(what, job, 1, by)));
        // All are polled before the first of them hears that it may go on.
        let release = async {
            eventually("the first waits", || async { waiting_for_locks(&self.client).await == 1 }).await;
            holds.rollback().await.unwrap();
        };
        let (results, ()) = tokio::join!(all, release);
        results.iter().skip(1).map(told).collect()
    }

    async fn transactions(&self, jobs: &[i64]) -> i64 {
        let sql = "select count(distinct xmin::text) from attempts where job_id = any ($1)";
        self.client.query_one(sql, &[&jobs]).await.unwrap().get(0)
    }

    /// How many statements that takes, and what comes of it.
    async fn counted<T>(&self, work: impl Future<Output = T>) -> (u64, T) {
        let count = || self.database.stats().statements.counts.iter().sum::<u64>();
        let before = count();
        let output = work.await;
        (count() - before, output)
    }
}

#[tokio::test]
async fn of_those_who_report_together_each_speaks_for_their_own_clients_only() {
    let world = World::new().await;
    for what in ["start", "complete"] {
        let (mut said, mut expected, mut fast) = (Vec::new(), Vec::new(), Vec::new());
        for (client, key, user, may) in SPEAKERS {
            let job = world.claimed(Some(client)).await;
            said.push((job, owner(key, user)));
            expected.push(if may { "done" } else { "others" });
            if may && key != Some("third") {
                fast.push(job);
            }
        }
        // Of an attempt without a client, and of one whose client was forgotten, everybody may say something.
        for client in [None, Some("forgotten")] {
            let job = world.claimed(client).await;
            said.push((job, owner(Some("stranger"), None)));
            expected.push("done");
            fast.push(job);
        }
        // And of one attempt, two who may say so, and two who may not.
        let job = world.claimed(Some("keys")).await;
        for (key, told) in [("stranger", "others"), ("first", "done"), ("theirs", "others"), ("first", "done")] {
            said.push((job, owner(Some(key), None)));
            expected.push(told);
        }
        fast.push(job);
        let jobs: Vec<i64> = said.iter().map(|(job, _)| *job).collect();
        assert_eq!(world.together(what, said).await, expected, "{what}");
        assert_eq!(world.transactions(&fast).await, 1, "{what}: those whose own clients these are are done together");
        let (open, all) = ("select count(distinct job_id) from attempts where status = 'CLAIMED' and job_id = any ($1)", &jobs);
        let open: i64 = world.client.query_one(open, &[all]).await.unwrap().get(0);
        assert_eq!(open, 4, "{what}: nothing changed where nobody might say so");
    }
}

/// Whoever may not speak for a client hears that and nothing else of its attempts.
#[tokio::test]
async fn strangers_are_told_so_whatever_the_attempt_is() {
    let world = World::new().await;
    let (own, heir, stranger) = (owner(Some("first"), None), owner(Some("third"), None), owner(Some("stranger"), Some(7)));
    let job = world.claimed(Some("keys")).await;
    let say = async |what: &str, number: i32, by: &Option<Owner>| told(&world.say(what, job, number, by.clone()).await);
    // Its row is locked by somebody: who may not speak for its client need not wait to hear so.
    let mut holder = world.test.connect().await;
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from jobs where id = $1 for update", &[&job]).await.unwrap();
    for what in ["start", "complete"] {
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), say(what, 1, &stranger)).await, Ok("others"));
    }
    holds.rollback().await.unwrap();
    for (what, by, expected) in [
        ("start", &own, "done"),
        ("start", &heir, "done"),
        ("start", &stranger, "others"),
        ("complete", &stranger, "others"),
        ("complete", &heir, "done"),
        ("complete", &own, "done"),
        ("complete", &stranger, "others"),
        ("start", &own, "stale"),
        ("start", &heir, "stale"),
        ("start", &stranger, "others"),
    ] {
        assert_eq!(say(what, 1, by).await, expected, "{what} by {by:?}");
        assert_eq!(say(what, 2, by).await, "missing", "there is no such attempt, so it is nobody's: {what} by {by:?}");
    }
}

#[tokio::test]
async fn it_takes_no_statement_to_know_that_a_key_speaks_for_a_client() {
    let world = World::new().await;
    let mut counts = Vec::new();
    // The first time each statement is prepared, which is counted with it.
    for by in [None, None, owner(Some("first"), None), owner(Some("third"), None)] {
        let job = world.claimed(Some("keys")).await;
        let (start, started) = world.counted(world.say("start", job, 1, by.clone())).await;
        let (complete, completed) = world.counted(world.say("complete", job, 1, by.clone())).await;
        assert_eq!((told(&started), told(&completed)), ("done", "done"), "{by:?}");
        counts.push((start, complete));
    }
    assert_eq!(
        counts[2..],
        [counts[1]; 2],
        "expected the client's own key, and its successor, to need no more than whoever speaks for all"
    );
}

#[tokio::test]
async fn whoever_claims_speaks_for_their_own_clients_only() {
    let world = World::new().await;
    let token = CancellationToken::new();
    let claims = Claims::new(world.store.clone(), TaskTracker::new(), token.clone());
    let claim = async |client: &str, speaker: Option<Owner>, project: i64| {
        let limit = Resources { cpu: 1, accelerators: 0 };
        let wish = Wish { client_id: client.to_owned(), speaker, max_jobs: 1, lease_seconds: 600, limit, task_ids: None };
        let claimed = claims.claim(project, wish, Duration::ZERO).await;
        claimed.map(|mut handover| {
            handover.receipt.delivered();
            handover.claimed.len()
        })
    };
    let jobs = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet)
                select 1, 1, 'j', '{}', 'PENDING', 0, 0 from generate_series(1, 100)";
    world.client.execute(jobs, &[]).await.unwrap();
    world.client.execute("update clients set is_active = false, last_heartbeat = now() - interval '1 hour'", &[]).await.unwrap();
    let strangers = SPEAKERS.into_iter().filter(|(_, _, _, may)| !may);
    let refused = join_all(strangers.map(|(client, key, user, _)| claim(client, owner(key, user), 1))).await;
    assert!(refused.iter().all(|claimed| told(claimed) == "others"), "{refused:?}");
    let there = "select count(*) from clients where is_active or last_heartbeat > now() - interval '30 minutes'";
    assert_eq!(world.client.query_one(there, &[]).await.unwrap().get::<_, i64>(0), 0, "others do not make clients be there");
    // Several at once for the same clients.
    let claimed = join_all(SPEAKERS.map(|(client, key, user, _)| claim(client, owner(key, user), 1))).await;
    for ((client, key, user, may), claimed) in SPEAKERS.into_iter().zip(claimed) {
        match may {
            true => assert_eq!(claimed.unwrap(), 1, "{client} {key:?} {user:?}"),
            false => assert_eq!(told(&claimed), "others", "{client} {key:?} {user:?}"),
        }
    }
    // Whose a client is comes before whether there is such a project, and that before whether there is such a client.
    for (client, key, project, expected) in [
        ("keys", "stranger", 2, "others"),
        ("keys", "first", 2, "missing"),
        ("keys", "third", 2, "missing"),
        ("unknown", "first", 1, "unregistered"),
        ("unknown", "first", 2, "missing"),
    ] {
        assert_eq!(told(&claim(client, owner(Some(key), None), project).await), expected, "{client} {key} {project}");
    }
    let mut counts = Vec::new();
    for speaker in [None, owner(Some("first"), None), owner(Some("third"), None)] {
        let (count, claimed) = world.counted(claim("keys", speaker, 1)).await;
        assert_eq!(claimed.unwrap(), 1);
        counts.push(count);
    }
    assert_eq!(counts[1], counts[0], "expected the client's own key to need no more than whoever speaks for all");
    assert_eq!(counts[2], counts[0] + 1, "a successor's is looked for, and no round is made in vain when it is known as one");
    token.cancel();
}

/// A client is given to somebody else between the look at whose it is and the claim for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_claims_for_a_client_that_has_become_somebody_elses_meanwhile() {
    let world = World::new().await;
    let claims = Claims::new(world.store.clone(), TaskTracker::new(), CancellationToken::new());
    let jobs =
        "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet) values (1, 1, 'j', '{}', 'PENDING', 0, 0)";
    world.client.execute(jobs, &[]).await.unwrap();
    let mut holder = world.test.connect().await;
    let gives = holder.transaction().await.unwrap();
    gives.execute("update clients set owner_key = 'stranger' where id = 'keys'", &[]).await.unwrap();
    let claimed = tokio::spawn(async move {
        let limit = Resources { cpu: 1, accelerators: 0 };
        let speaker = owner(Some("third"), None);
        let wish = Wish { client_id: "keys".to_owned(), speaker, max_jobs: 1, lease_seconds: 600, limit, task_ids: None };
        claims.claim(1, wish, Duration::ZERO).await.map(|handover| handover.claimed.len())
    });
    eventually("the claim waits for its client", || async { waiting_for_locks(&world.client).await == 1 }).await;
    gives.commit().await.unwrap();
    assert_eq!(told(&claimed.await.unwrap()), "others");
    let claimed: i64 = world.client.query_one("select count(*) from attempts", &[]).await.unwrap().get(0);
    assert_eq!(claimed, 0, "nothing was claimed for it");
}
