//! What a claim gives to whom.

use serde_json::{Value, json};
use whatsnext::queue::{
    Bells, Error, Owner,
    clients::{self, Content},
};

use super::World;
use crate::support::{Server, TestDatabase, id};

#[tokio::test]
async fn a_claim_gives_the_most_urgent_jobs_that_a_client_has_room_for() {
    let world = World::new().await;
    let (large, gpu) = (world.task("large", 5, 0).await, world.task("gpu", 1, 2).await);
    let small = world.job_with("small", json!({"priority": 1})).await;
    let big = world.job_with("big", json!({"task_id": large, "priority": 9})).await;
    let second_big = world.job_with("second big", json!({"task_id": large, "priority": 8})).await;
    let on_gpu = world.job_with("on gpu", json!({"task_id": gpu, "priority": 2})).await;
    let last = world.job("last").await;

    // 8 CPUs: the first large job leaves 3, which the second does not fit in and what is less urgent does.
    let claimed = world.claim(json!({"client_id": "node", "max_jobs": 100})).await;
    let ids: Vec<i64> = claimed.iter().map(|claimed| id(&claimed["job"])).collect();
    assert_eq!(ids, [big, on_gpu, small, last]);
    for claimed in &claimed {
        assert_eq!((&claimed["attempt"], &claimed["job"]["attempt"], &claimed["job"]["status"]), (&json!(1), &json!(1), &json!("QUEUED")));
        assert!(claimed["lease_expires_at"].is_string(), "{claimed}");
    }
    let holds: Vec<_> = claimed.iter().map(|claimed| (&claimed["cpu"], &claimed["accelerators"])).collect();
    let (one, none) = (&json!(1), &json!(0));
    assert_eq!(holds, [(&json!(5), none), (one, &json!(2)), (one, none), (one, none)], "what each may use");
    assert_eq!(claimed[0]["task_name"], "large");
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 100})).await, [0; 0], "its CPUs are taken");

    // What it reports is free again.
    world.say(big, 1, "complete", json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 100})).await, [second_big]);
    world.end().await;
}

#[tokio::test]
async fn what_a_claim_names_is_strict() {
    let world = World::new().await;
    let nothing = world.task("nothing", 0, 0).await;
    let first = world.job("one cpu").await;
    let free = world.job_with("no cpu", json!({"task_id": nothing, "priority": -1})).await;
    let claim = |more: Value| {
        let mut claim = json!({"client_id": "node", "max_jobs": 100});
        claim.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claim
    };
    assert_eq!(world.claim_ids(claim(json!({"task_ids": []}))).await, [0; 0], "of no task");
    assert_eq!(world.claim_ids(claim(json!({"available_cpu": 0}))).await, [free], "0 is none");
    assert_eq!(world.claim_ids(claim(json!({"task_ids": [nothing]}))).await, [0; 0]);
    assert_eq!(world.claim_ids(claim(json!({"available_cpu": 100, "task_ids": [world.task]}))).await, [first], "it has 8");
    for (wrong, place) in [
        (json!({"client_id": "node", "max_jobs": 0}), "max_jobs"),
        (json!({"client_id": "node", "max_jobs": 101}), "max_jobs"),
        (json!({"client_id": "node", "lease_seconds": 0}), "lease_seconds"),
        (json!({"client_id": "node", "lease_seconds": 31_536_000}), "lease_seconds"),
        (json!({"client_id": "node", "lease_seconds": 86_401}), "lease_seconds"),
        (json!({"client_id": "node", "wait_seconds": 61}), "wait_seconds"),
        (json!({"client_id": "node", "available_cpu": -1}), "available_cpu"),
        (json!({"client_id": "node", "available_accelerators": -1}), "available_accelerators"),
        (json!({"client_id": "node", "task_ids": vec![1; 1001]}), "task_ids"),
        (json!({}), "client_id"),
        (json!({"client_id": "a\u{0}b"}), "client_id"),
        (json!({"client_id": "x".repeat(129)}), "client_id"),
    ] {
        let detail = world.api.post(&format!("/projects/{}/claims", world.project), wrong.clone()).await.problem(422);
        assert!(detail.contains(place), "{wrong}: {detail}");
    }
    // Nor has anybody, or does anything need, less than nothing.
    let client = json!({"id": "less", "name": "less", "entity": "lab", "available_cpu": 1, "available_accelerators": 1});
    let task = json!({"name": "less", "project_id": world.project, "required_cpu": 1, "required_accelerators": 1});
    for (path, body, places) in [
        ("/clients/register", client, ["available_cpu", "available_accelerators"]),
        ("/tasks", task, ["required_cpu", "required_accelerators"]),
    ] {
        for place in places {
            let mut less = body.clone();
            less[place] = json!(-1);
            assert!(world.api.post(path, less).await.problem(422).contains(place), "{path} {place}");
        }
    }
    let unknown = world.api.post(&format!("/projects/{}/claims", world.project), json!({"client_id": "nobody"})).await;
    assert_eq!(unknown.problem(404), "There is no client \"nobody\"; register it first: POST /clients/register.");
    let unknown = world.api.post("/clients/nobody/heartbeat", json!({})).await.problem(404);
    assert_eq!(unknown, "There is no client \"nobody\"; register it first: POST /clients/register.");
    world.api.post("/projects/99999/claims", json!({"client_id": "node"})).await.problem(404);
    world.end().await;
}

#[tokio::test]
async fn a_claim_gives_no_more_than_it_says_that_there_is_for_it() {
    let world = World::new().await;
    let (gpu, gpus) = (world.task("gpu", 1, 1).await, world.task("gpus", 1, 2).await);
    let two = world.job_with("two gpus", json!({"task_id": gpus, "priority": 9})).await;
    let one = world.job_with("one gpu", json!({"task_id": gpu, "priority": 8})).await;
    let plain = world.jobs(3).await;
    let claim = async |more: Value| {
        let mut claim = json!({"client_id": "node", "max_jobs": 9});
        claim.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.claim_ids(claim).await
    };
    assert_eq!(
        claim(json!({"available_accelerators": 0, "available_cpu": 1})).await,
        plain[..1],
        "one of one CPU, and none with an accelerator"
    );
    assert_eq!(claim(json!({"available_accelerators": 0})).await, plain[1..], "none with an accelerator");
    assert_eq!(claim(json!({"available_accelerators": 0})).await, [0; 0]);
    assert_eq!(claim(json!({"available_accelerators": 1})).await, [one], "two are too many");
    assert_eq!(claim(json!({"available_accelerators": 2})).await, [0; 0], "it has two, and one is taken");
    world.say(one, 1, "complete", json!({})).await.expect(200);
    assert_eq!(claim(json!({})).await, [two], "all that it has");
    world.end().await;
}

#[tokio::test]
async fn a_lease_lasts_as_long_as_the_server_says_or_the_claim_or_the_heartbeat() {
    let world = World::with(&[("lease_seconds", "700")]).await;
    let database = world.database.connect().await;
    let time = |value: &Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let lasts = |from: chrono::DateTime<chrono::Utc>, told: &Value, seconds: i64, what: &str| {
        let lease = time(&told["lease_expires_at"]) - from;
        assert!((lease.num_milliseconds() - seconds * 1000).abs() <= 1500, "{what}: expected a lease of {seconds} s, not of {lease}");
    };
    for (given, seconds) in [(None, 700), (Some(100), 100)] {
        let job = world.job("j").await;
        let claimed = world.claim(json!({"client_id": "node", "lease_seconds": given})).await;
        let attempt = world.attempt(job, 1).await;
        lasts(time(&attempt["claimed_at"]), &claimed[0], seconds, "the claim");
        assert_eq!(attempt["lease_expires_at"], claimed[0]["lease_expires_at"]);
        // As if most of it had gone by.
        let nearly = "update attempts set lease_expires_at = clock_timestamp() + interval '20 seconds' where job_id = $1";
        let late = async || assert_eq!(database.execute(nearly, &[&job]).await.unwrap(), 1);
        late().await;
        let started = world.say(job, 1, "start", json!({})).await.expect(200);
        lasts(time(&started["started_at"]), &started, seconds, "start");
        late().await;
        lasts(chrono::Utc::now(), &world.say(job, 1, "heartbeat", json!({})).await.expect(200), seconds, "a heartbeat");
        let longer = world.say(job, 1, "heartbeat", json!({"lease_seconds": 1000})).await.expect(200);
        lasts(chrono::Utc::now(), &longer, 1000, "a heartbeat that asks for more");
        let shorter = world.say(job, 1, "heartbeat", json!({"lease_seconds": 30})).await.expect(200);
        lasts(chrono::Utc::now(), &shorter, 30, "a heartbeat that asks for less");
        assert_eq!(world.attempt(job, 1).await["lease_expires_at"], shorter["lease_expires_at"]);
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    world.end().await;
}

/// Many claims of one client at once, on two servers: it is never given more than it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_never_overdrawn() {
    let world = World::new().await;
    let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0")]).await;
    let two = world.task("two cpus", 2, 0).await;
    for n in 0..30 {
        world.job_with("j", json!({"task_id": if n % 2 == 0 { two } else { world.task }})).await;
    }
    let path = format!("/projects/{}/claims", world.project);
    let claims = (0..40).map(|n| {
        let api = if n % 2 == 0 { world.api.clone() } else { second.api.clone() };
        let path = path.clone();
        tokio::spawn(async move { api.post(&path, json!({"client_id": "node", "max_jobs": 3})).await.expect(200) })
    });
    let claimed: Vec<Value> = futures_util::future::try_join_all(claims).await.unwrap();
    let jobs: Vec<&Value> = claimed.iter().flat_map(|claimed| claimed["jobs"].as_array().unwrap()).collect();
    let cpu: i64 = jobs.iter().map(|claimed| if claimed["job"]["task_id"] == two { 2 } else { 1 }).sum();
    assert!((7..=8).contains(&cpu), "expected all of 8 CPUs to be given out (7, if what is left is too large), got {cpu}");
    second.stop().await;
    world.end().await;
}

/// Jobs that fit a large client do not hide, however many, one that fits a small client which waits beside it.
#[tokio::test]
async fn small_clients_are_not_starved_by_what_fits_larger_ones() {
    let world = World::new().await;
    world.client("small", 1, 0).await;
    let large = world.task("large", 8, 0).await;
    let jobs: Vec<Value> = (0..600).map(|_| json!({"name": "j", "task_id": large, "parameters": {}, "priority": 5})).collect();
    world.api.post(&format!("/projects/{}/jobs/batch", world.project), json!({"jobs": jobs})).await.expect(201);
    let fits = world.job("fits").await;
    let both = tokio::join!(world.claim(json!({"client_id": "node"})), world.claim_ids(json!({"client_id": "small"})));
    assert_eq!((both.0.len(), both.1), (1, vec![fits]));
    world.end().await;
}

/// What fetch_job gives is an attempt too, without an end unless the settings say so.
#[tokio::test]
async fn what_is_fetched_is_an_attempt_as_well() {
    let world = World::new().await;
    let job = world.job("j").await;
    world.api.get(&format!("/projects/{}/fetch_job", world.project)).await.expect(200);
    let attempt = world.attempt(job, 1).await;
    assert_eq!((&attempt["status"], &attempt["client_id"], &attempt["lease_expires_at"]), (&json!("CLAIMED"), &Value::Null, &Value::Null));
    world.api.set_status(job, "RUNNING").await;
    assert_eq!(world.attempt(job, 1).await["status"], "RUNNING");
    world.api.set_status(job, "COMPLETED").await;
    let attempt = world.attempt(job, 1).await;
    assert_eq!((&attempt["status"], &attempt["job_status"]), (&json!("COMPLETED"), &json!("COMPLETED")));
    assert!(attempt["ended_at"].is_string());
    // Its own report comes too late, and says so.
    let stale = world.say(job, 1, "complete", json!({"result": 1})).await;
    assert_eq!(stale.body["current_attempt"], 1);
    stale.problem(409);
    world.end().await;
}

/// A job that somebody else has locked hides nothing that comes behind it, and neither does what others take at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_that_there_is_nothing_while_there_is() {
    let world = World::new().await;
    let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0")]).await;
    let nothing = world.task("nothing", 0, 0).await;
    let path = format!("/projects/{}", world.project);
    let jobs: Vec<Value> = (0..3000).map(|_| json!({"name": "j", "task_id": nothing, "parameters": {}})).collect();
    let added = world.api.post(&format!("{path}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
    let mut client = world.database.connect().await;
    let transaction = client.transaction().await.unwrap();
    let first = added["job_ids"][0].as_i64().unwrap();
    transaction.execute("select from jobs where id = $1 for update", &[&first]).await.unwrap();
    let claimed = world.claim_ids(json!({"client_id": "node", "task_ids": [nothing]})).await;
    assert_eq!(claimed, [first + 1], "the next one");
    transaction.rollback().await.unwrap();
    // More wishes together than one look has candidates, of a kind that needs nothing; and two servers that look at the same jobs.
    let claims = (0..100).map(|n| {
        let api = if n % 2 == 0 { world.api.clone() } else { second.api.clone() };
        let path = format!("{path}/claims");
        tokio::spawn(async move { api.post(&path, json!({"client_id": "node", "max_jobs": 16})).await.expect(200) })
    });
    for claimed in futures_util::future::try_join_all(claims).await.unwrap() {
        assert_eq!(claimed["jobs"].as_array().unwrap().len(), 16, "there were enough for all");
    }
    second.stop().await;
    world.end().await;
}

/// Of many tasks, whose jobs lie one behind the other, across each other, or both, the most urgent come first.
#[tokio::test]
async fn the_most_urgent_jobs_of_many_tasks_come_first() {
    let world = World::new().await;
    world.client("large", i32::MAX, 0).await;
    let mut tasks = Vec::new();
    for n in 0..40 {
        tasks.push(world.task(&format!("t{n}"), 1, 0).await);
    }
    // Blocks of one task, then all in turn, then some of one that are more urgent than most.
    let blocks = (0..800).map(|n| (tasks[n / 200], 0));
    let turns = (0..400).map(|n| (tasks[n % 40], 0));
    let urgent = (0..300).map(|n| (tasks[39 - n / 100], i32::from(n % 3 > 0)));
    let jobs: Vec<_> = blocks
        .chain(turns)
        .chain(urgent)
        .map(|(task, priority)| json!({"name": "j", "task_id": task, "parameters": {}, "priority": priority}))
        .collect();
    world.api.post(&format!("/projects/{}/jobs/batch", world.project), json!({"jobs": jobs})).await.expect(201);
    let database = world.database.connect().await;
    let order = database.query("select id from jobs order by -priority, id", &[]).await.unwrap();
    let order: Vec<i64> = order.iter().map(|row| row.get("id")).collect();
    for expected in order.chunks(100) {
        let mut claimed = world.claim_ids(json!({"client_id": "large", "max_jobs": 100})).await;
        let mut expected = expected.to_vec();
        claimed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(claimed, expected, "the next hundred");
    }
    world.end().await;
}

/// A client's id belongs to who registers it first, also if two do so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_register_the_same_new_client_one_has_it() {
    let database = TestDatabase::new().await;
    let clients = clients::Store::new(database.database(), Bells::default());
    let (one, other) = ("one".to_owned(), "other".to_owned());
    let owner = |key: &String, user| Owner { user, key: key.clone() };
    let content = |name: &str| Content {
        name: name.to_owned(),
        entity: "lab".to_owned(),
        description: None,
        available_cpu: 1,
        available_accelerators: 0,
    };
    // Both have looked, and found that there is none.
    clients.check("node", &owner(&one, None)).await.unwrap();
    clients.check("node", &owner(&other, Some(2))).await.unwrap();
    clients.register("node", &content("one's"), Some(&owner(&one, Some(1)))).await.unwrap();
    let refused = clients.register("node", &content("other's"), Some(&owner(&other, Some(2)))).await;
    assert!(matches!(refused, Err(Error::OthersClient(id)) if id == "node"));
    let kept = clients.get("node").await.unwrap();
    assert_eq!(kept.content.name, "one's");
    // The same user with another key, and whoever may do everything.
    clients.register("node", &content("again"), Some(&owner(&other, Some(1)))).await.unwrap();
    clients.register("node", &content("anybody's"), None).await.unwrap();
    clients.check("node", &owner(&one, None)).await.unwrap();
}
