//! What a client holds is counted from where its attempts live, and not from its first.

use futures_util::future::try_join_all;
use serde_json::json;
use tokio_postgres::{Client, IsolationLevel, types::ToSql};
use whatsnext::postgres::query::{Query, attempts::HEARTBEAT_OF_CLIENT, claims::HELD};

use super::World;
use crate::support::Server;

/// From where on the attempts of the client `node` live.
async fn live_from(database: &Client) -> i64 {
    database.query_one("select live_from from clients where id = 'node'", &[]).await.unwrap().get(0)
}

async fn last_value(database: &Client) -> i64 {
    database.query_one("select last_value from attempts_sequence_seq", &[]).await.unwrap().get(0)
}

/// Lets the next claim note it, as it does after five seconds.
async fn make_late(database: &Client) {
    database.execute("update clients set live_from_at = '-infinity'", &[]).await.unwrap();
}

async fn sequence(database: &Client, job: i64) -> i64 {
    database.query_one("select sequence from attempts where job_id = $1 and ended_at is null", &[&job]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_lives_is_counted_wherever_it_began() {
    let world = World::new().await;
    let database = world.database.connect().await;
    let jobs = world.jobs(20).await;
    let claim = |count: usize| json!({"client_id": "node", "max_jobs": count});
    database.execute("update clients set live_from_at = now() + interval '1 hour', last_heartbeat = now()", &[]).await.unwrap();
    let first = world.claim_ids(claim(3)).await;
    assert_eq!(first, jobs[..3]);
    world.say(first[0], 1, "complete", json!({})).await.expect(200);
    assert_eq!(live_from(&database).await, 0, "it is not raised with each claim");

    make_late(&database).await;
    assert_eq!(world.claim_ids(claim(1)).await, [jobs[3]]);
    assert_eq!(live_from(&database).await, sequence(&database, first[1]).await, "the oldest that lives");
    // Those before it, those behind it, and what is not the client's any more.
    world.say(first[2], 1, "complete", json!({})).await.expect(200);
    make_late(&database).await;
    let rest = world.claim_ids(claim(100)).await;
    assert_eq!(rest, jobs[4..10], "it has 8 CPUs, and holds two");
    assert_eq!(live_from(&database).await, sequence(&database, first[1]).await);
    assert_eq!(world.claim_ids(claim(100)).await, [0; 0]);
    let beaten = world.api.post("/clients/node/heartbeat", json!({})).await.expect(200);
    assert_eq!(beaten["attempts"].as_array().unwrap().len(), 8, "all of them: {beaten}");

    // When nothing lives, what comes next is the first.
    for job in [first[1], jobs[3]].iter().chain(&rest) {
        world.say(*job, 1, "complete", json!({})).await.expect(200);
    }
    make_late(&database).await;
    let last = world.claim_ids(claim(100)).await;
    assert_eq!(last, jobs[10..18]);
    let lowest = sequence(&database, last[0]).await;
    assert!((lowest - 1..=lowest).contains(&live_from(&database).await), "{lowest}");
    assert_eq!(world.claim_ids(claim(100)).await, [0; 0], "it holds all it has");

    // Data that came without its sequence: then a place above it means nothing.
    let far = last_value(&database).await + 1000;
    database
        .execute("update clients set live_from = $1, live_from_at = now() + interval '1 hour', last_heartbeat = now()", &[&far])
        .await
        .unwrap();
    let beaten = world.api.post("/clients/node/heartbeat", json!({})).await.expect(200);
    assert_eq!(beaten["attempts"].as_array().unwrap().len(), 8, "all of them: {beaten}");
    assert_eq!(world.claim_ids(claim(100)).await, [0; 0], "it holds all it has");
    assert_eq!(live_from(&database).await, lowest, "it is set right at once");

    // Whoever registers the id anew has nothing to do with it, and then begins where sequences are.
    world.api.delete("/clients/node").await.expect(204);
    world.client("node", 1, 0).await;
    assert_eq!((world.claim_ids(claim(100)).await, live_from(&database).await), (vec![jobs[18]], 0));
    world.end().await;
}

/// While claims on two servers note it, with nearly every claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_claims_everywhere_is_not_overdrawn_while_that_is_noted() {
    const TURNS: usize = 12;
    let world = World::new().await;
    let database = world.database.connect().await;
    let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0")]).await;
    world.jobs(400).await;
    let path = format!("/projects/{}/claims", world.project);
    let hurry = world.database.connect().await;
    let hurrying = tokio::spawn(async move {
        loop {
            make_late(&hurry).await;
        }
    });
    for turn in 0..TURNS {
        let claims = (0..16).map(|n| {
            let api = if n % 2 == 0 { world.api.clone() } else { second.api.clone() };
            let path = path.clone();
            tokio::spawn(async move { api.post(&path, json!({"client_id": "node", "max_jobs": 2})).await.expect(200) })
        });
        try_join_all(claims).await.unwrap();
        let lives = "select job_id from attempts where client_id = 'node' and ended_at is null order by sequence";
        let lives: Vec<i64> = database.query(lives, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(lives.len(), 8, "turn {turn}: it has 8 CPUs, and there are jobs enough");
        // Any of them may end first.
        for n in 0..=turn % 8 {
            world.say(lives[(turn * 5 + n) % 8], 1, "complete", json!({})).await.expect(200);
        }
    }
    hurrying.abort();
    assert!(live_from(&database).await > 0, "it was noted");
    second.stop().await;
    world.end().await;
}

/// Nothing of what ended can be vacuumed while a snapshot is held, and yet a claim reads little of it.
#[tokio::test]
async fn a_claim_does_not_walk_past_what_ended() {
    const ENDED: i64 = 400;
    let world = World::new().await;
    let (mut reader, database) = (world.database.connect().await, world.database.connect().await);
    let snapshot = reader.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await.unwrap();
    snapshot.query_one("select count(*) from jobs", &[]).await.unwrap();
    world.jobs(ENDED as usize + 10).await;
    for _ in 0..ENDED / 8 {
        assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 100})).await.len(), 8);
        let end = "update attempts set status = 'COMPLETED', ended_at = clock_timestamp() where ended_at is null";
        database.execute(end, &[]).await.unwrap();
    }
    // However large PostgreSQL thinks the table is.
    database.batch_execute("set enable_seqscan = off; set enable_bitmapscan = off").await.unwrap();
    // What a statement reads of the index, dead or not, in a transaction that changes nothing.
    let read = async |query: &Query, params: &[&(dyn ToSql + Sync)]| {
        let read = async || {
            // Of this connection, which has told the others some of it or not.
            let sql = "select pg_stat_get_xact_tuples_returned('attempts_held_idx'::regclass)";
            database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
        };
        database.batch_execute("begin").await.unwrap();
        let before = read().await;
        let found = database.query(query.sql, params).await.unwrap();
        assert!(!found.is_empty(), "{}: it holds something", query.name);
        let read = read().await - before;
        database.batch_execute("rollback").await.unwrap();
        read
    };
    let (node, nobody) = (["node"].as_slice(), [""; 0].as_slice());
    let both = async || (read(&HELD, &[&node, &nobody]).await, read(&HEARTBEAT_OF_CLIENT, &[&"node"]).await);
    let claim = json!({"client_id": "node"});
    assert_eq!(world.claim_ids(claim.clone()).await.len(), 1);
    database.execute("update clients set live_from = 0", &[]).await.unwrap();
    let whole = both().await;
    assert!(whole.0 > ENDED && whole.1 > ENDED, "expected both to walk past {ENDED} entries if nothing is noted, they read {whole:?}");
    make_late(&database).await;
    assert_eq!(world.claim_ids(claim).await.len(), 1);
    assert_eq!(both().await, (2, 2), "what lives");
    snapshot.rollback().await.unwrap();
    world.end().await;
}
