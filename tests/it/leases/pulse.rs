//! One heartbeat for all that a client runs, or for what it knows that it runs.

use reqwest::Method;
use serde_json::{Value, json};

use super::World;
use crate::support::eventually;

/// A client that crashed after it was given a job, and was started again with the same id, names what it knows of. The rest goes to others.
#[tokio::test]
async fn what_a_client_does_not_name_is_not_kept_for_it() {
    let world = World::new().await;
    world.client("other", 8, 2).await;
    let jobs = world.jobs(4).await;
    let [known, unknown, done, others] = jobs[..] else { unreachable!() };
    let claim = json!({"client_id": "node", "max_jobs": 3, "lease_seconds": 3});
    assert_eq!(world.claim_ids(claim).await, [known, unknown, done]);
    assert_eq!(world.claim_ids(json!({"client_id": "other", "lease_seconds": 60})).await, [others]);
    world.say(done, 1, "complete", json!({})).await.expect(200);
    let before = world.attempt(others, 1).await;
    let name = |job: i64, attempt: i64| json!({"job_id": job, "attempt": attempt});
    let names = [name(known, 1), name(done, 1), name(others, 1), name(known, 2), name(99_999, 1), name(known, 1)];
    let pulse = async || world.api.post("/clients/node/heartbeat", json!({"attempts": names})).await.expect(200);
    let beaten = pulse().await;
    let leases = |beaten: &Value| -> Vec<(i64, bool)> {
        let lease = |lease: &Value| (lease["job_id"].as_i64().unwrap(), lease["cancel_requested"].as_bool().unwrap());
        beaten["attempts"].as_array().unwrap().iter().map(lease).collect()
    };
    assert_eq!(leases(&beaten), [(known, false)]);
    assert_eq!(beaten["over"], json!([names[1], names[2], names[3], names[4]]), "what is over, another client's, or never was");
    assert_eq!(world.attempt(others, 1).await, before, "nobody beats for another client");

    // It goes on, and what it does not know of is somebody else's.
    eventually("the lease of what is not named ends", || async {
        pulse().await;
        world.attempt(unknown, 1).await["status"] == "EXPIRED"
    })
    .await;
    assert_eq!(world.claim_ids(json!({"client_id": "other"})).await, [unknown]);
    assert_eq!(world.attempt(known, 1).await["status"], "CLAIMED");
    world.api.post(&format!("/jobs/{known}/cancel"), json!({})).await.expect(200);
    assert_eq!(leases(&pulse().await), [(known, true)]);
    let nothing = world.api.post("/clients/node/heartbeat", json!({"attempts": []})).await.expect(200);
    assert_eq!((&nothing["attempts"], &nothing["over"]), (&json!([]), &json!([])), "it knows of nothing");
    world.end().await;
}

/// As the published client sends it, and whoever else names nothing.
#[tokio::test]
async fn who_names_nothing_keeps_everything() {
    let world = World::new().await;
    let jobs = world.jobs(2).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 2, "lease_seconds": 60})).await, jobs);
    let path = "/clients/node/heartbeat";
    let form: &[(&str, &str)] = &[("content-type", "application/x-www-form-urlencoded")];
    let answers = [
        world.api.send_with(Method::POST, path, &[], Vec::new()).await,
        world.api.send_with(Method::POST, path, form, Vec::new()).await,
        world.api.post(path, json!({})).await,
        world.api.post(path, json!({"attempts": null})).await,
    ];
    let mut last = String::new();
    for answer in answers {
        let beaten = answer.expect(200);
        let (attempts, over) = (beaten["attempts"].as_array().unwrap(), &beaten["over"]);
        assert_eq!((attempts.len(), over), (2, &json!([])), "{beaten}");
        let until = attempts[0]["lease_expires_at"].as_str().unwrap().to_owned();
        assert!(until > last, "each extends them: {until} is later than {last}");
        last = until;
    }
    let names: Vec<Value> = (0..10_001).map(|n| json!({"job_id": n, "attempt": 1})).collect();
    for wrong in [json!([]), json!({"attempts": 1}), json!({"attempts": [{"job_id": 1}]}), json!({"attempts": names}), json!(null)] {
        world.api.post(path, wrong).await.problem(422);
    }
    assert_eq!(world.api.send_with(Method::POST, path, form, b"x=1".to_vec()).await.status, 415);
    world.end().await;
}
