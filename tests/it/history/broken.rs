//! Queues that break a promise, on purpose: the checker must catch each.
//!
//! One story has all operations in it, step by step. It is told to a queue as it is, where nothing may be wrong, and to queues that were changed: by what
//! clients send, or by triggers in the test's database.

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    check::{State, check},
    log::{Ending, Log, New, Offer, Operation, Outcome},
    prepare,
    random::Random,
    world::{Guard, LEASE, World},
};
use crate::support::{Server, TestDatabase};

/// What is broken: how reports find their attempts, and what was changed in the database.
#[derive(Clone, Copy)]
struct Broken {
    guard: Guard,
    sql: &'static str,
}

const SOUND: Broken = Broken { guard: Guard::Attempt, sql: "" };

/// Somebody who does one thing after the other.
struct Teller {
    world: World,
    random: Random,
    tasks: Vec<i64>,
}

impl Teller {
    async fn ask(&mut self, operation: Operation) -> Outcome {
        self.world.ask(&mut self.random, operation).await
    }

    /// Submits jobs of one CPU that wait for these. Returns their ids, or none if they were refused.
    async fn submit(&mut self, names: &[&str], parents: &[i64], key: Option<&str>) -> Vec<i64> {
        self.submit_to(self.tasks[0], names, parents, key).await
    }

    async fn submit_to(&mut self, task: i64, names: &[&str], parents: &[i64], key: Option<&str>) -> Vec<i64> {
        let new = |name: &&str| New { name: (*name).to_owned(), task, parents: parents.to_vec(), max_attempts: 3 };
        let submit = Operation::Submit { jobs: names.iter().map(new).collect(), key: key.map(ToOwned::to_owned) };
        match self.ask(submit).await {
            Outcome::Submitted(ids) => ids,
            _ => Vec::new(),
        }
    }

    async fn submit_one(&mut self, name: &str) -> i64 {
        self.submit(&[name], &[], None).await[0]
    }

    /// Claims until there is something; a broken queue may have nothing.
    async fn claim(&mut self, client: &str) -> Option<Offer> {
        for _ in 0..5 {
            let claim = Operation::Claim { client: client.to_owned(), most: 1 };
            match self.ask(claim).await {
                Outcome::Claimed(mut offers) if !offers.is_empty() => return offers.pop(),
                _ => {}
            }
        }
        None
    }

    async fn report(&mut self, offer: Option<&Offer>, ending: Ending) {
        if let Some(Offer { job, attempt, .. }) = offer {
            self.ask(Operation::Report { job: *job, attempt: *attempt, ending }).await;
        }
    }

    /// Runs whatever can be claimed.
    async fn clear_up(&mut self) {
        for _ in 0..20 {
            let claim = Operation::Claim { client: "other".to_owned(), most: 3 };
            match self.ask(claim).await {
                Outcome::Claimed(offers) if !offers.is_empty() => {
                    for offer in offers {
                        self.report(Some(&offer), Ending::Complete).await;
                    }
                }
                _ => return,
            }
        }
    }

    async fn tell(&mut self) {
        // A batch, a job that waits for it, and the same again, since the answer got lost.
        let batch = self.submit(&["a", "b"], &[], Some("key")).await;
        self.submit(&["a", "b"], &[], Some("key")).await;
        self.submit(&["child"], &batch, None).await;
        self.clear_up().await;

        // Somebody is thought dead and comes back, after somebody else was given the job.
        self.submit_one("late").await;
        let one = self.claim("one").await;
        sleep(LEASE).await;
        let other = self.claim("other").await;
        self.report(one.as_ref(), Ending::Complete).await;
        self.report(other.as_ref(), Ending::Complete).await;

        // Begun, kept by name, and forgotten by who was started again.
        self.submit(&["known", "forgotten"], &[], None).await;
        let (known, forgotten) = (self.claim("one").await, self.claim("one").await);
        if let (Some(known), Some(forgotten)) = (&known, &forgotten) {
            let names = [known, forgotten].map(|offer| (offer.job, offer.attempt));
            self.ask(Operation::Start { job: known.job, attempt: known.attempt }).await;
            self.ask(Operation::Pulse { client: "one".to_owned(), named: None }).await;
            for _ in 0..6 {
                sleep(LEASE / 2).await;
                self.ask(Operation::Pulse { client: "one".to_owned(), named: Some(names[..1].to_vec()) }).await;
            }
            let other = self.claim("other").await;
            self.ask(Operation::Pulse { client: "one".to_owned(), named: Some(names.to_vec()) }).await;
            self.report(other.as_ref(), Ending::Complete).await;
        }
        self.report(known.as_ref(), Ending::Complete).await;
        self.clear_up().await;

        // Given back for nothing, then because it cannot be run.
        self.submit_one("restless").await;
        for ending in [Ending::Release, Ending::Decline, Ending::Complete] {
            let offer = self.claim("one").await;
            self.report(offer.as_ref(), ending).await;
        }

        // Cancelled while somebody has it, and before that.
        let running = self.submit_one("running").await;
        let offer = self.claim("one").await;
        self.ask(Operation::Cancel { job: running }).await;
        self.ask(Operation::Beat { job: running, attempt: 1 }).await;
        self.report(offer.as_ref(), Ending::Fail).await;
        let waiting = self.submit_one("waiting").await;
        self.ask(Operation::Cancel { job: waiting }).await;
        self.clear_up().await;

        // Hopeless, and yet tried again.
        let hopeless = self.submit_one("hopeless").await;
        let offer = self.claim("one").await;
        self.report(offer.as_ref(), Ending::GiveUp).await;
        self.ask(Operation::Retry { job: hopeless }).await;
        self.clear_up().await;

        // More than somebody has room for.
        self.submit(&["1", "2", "3", "4", "5", "6"], &[], None).await;
        let mut offers = Vec::new();
        for _ in 0..2 {
            if let Outcome::Claimed(more) = self.ask(Operation::Claim { client: "one".to_owned(), most: 6 }).await {
                offers.extend(more);
            }
        }
        for offer in offers {
            self.report(Some(&offer), Ending::Complete).await;
        }
        self.clear_up().await;
        let task = self.tasks[3];
        self.submit_to(task, &["fast", "faster"], &[], None).await;
        let (fast, faster) = (self.claim("one").await, self.claim("one").await);
        for offer in [fast, faster] {
            self.report(offer.as_ref(), Ending::Complete).await;
        }
        self.clear_up().await;

        // Fetched, and deleted.
        self.submit_one("fetched").await;
        if let Outcome::Fetched(Some(job)) = self.ask(Operation::Fetch).await {
            sleep(LEASE * 2).await;
            self.ask(Operation::Done { job }).await;
        }
        let deleted = self.submit_one("deleted").await;
        self.ask(Operation::Delete { job: deleted }).await;
        self.clear_up().await;
    }
}

/// What the checker says of the story.
async fn wrong_with(broken: Broken) -> Vec<String> {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let server = Server::start(&database).await;
    let scene =
        prepare(&server.api, folder.path(), vec![format!("http://{}", server.address)], &["one".to_owned(), "other".to_owned()]).await;
    let client = database.connect().await;
    client.batch_execute(broken.sql).await.unwrap();
    Teller { world: World::open(folder.path(), broken.guard), random: Random::new(1), tasks: scene.tasks }.tell().await;
    let wrong = check(&Log::read_all(folder.path()), &State::read(&client).await);
    server.stop().await;
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_wrong_with_a_sound_queue() {
    assert_eq!(wrong_with(SOUND).await, [""; 0]);
}

/// Fails unless the checker says this of a queue that is broken so.
async fn is_caught(broken: Broken, sentence: &str) {
    let wrong = wrong_with(broken).await;
    assert!(wrong.iter().any(|wrong| wrong.contains(sentence)), "expected {sentence:?} among\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_are_not_guarded_by_their_attempt_are_caught() {
    is_caught(Broken { guard: Guard::None, ..SOUND }, "was accepted: of attempts 1 and 2.").await;
}

/// A trigger on a table that does this before each row is written.
macro_rules! before {
    ($events:literal, $table:literal, $body:literal) => {
        concat!(
            "create function broken() returns trigger language plpgsql as $$ begin ",
            $body,
            " return new; end $$; create trigger broken before ",
            $events,
            " on ",
            $table,
            " for each row execute function broken();"
        )
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_queues_are_caught() {
    let broken = [
        (
            "answers are not kept",
            before!("insert", "submissions", "if true then return null; end if;"),
            "a was submitted once, and is there as jobs",
        ),
        ("children do not wait", before!("insert", "jobs", "new.unmet := 0;"), "before anybody had completed job 1."),
        (
            "leases end early",
            // After the claim was answered.
            "create function broken() returns trigger language plpgsql as $$ begin
                 update attempts set lease_expires_at = clock_timestamp() where job_id = new.job_id and number = new.number;
                 return null;
             end $$;
             create trigger broken after insert on attempts for each row when (new.lease_seconds is not null) execute function broken();",
            "within the lease until",
        ),
        (
            "being preempted counts",
            before!(
                "update",
                "jobs",
                "if new.status = 'PENDING' and old.status = 'QUEUED' then new.failed_attempts := old.failed_attempts + 1; end if;"
            ),
            "attempts went wrong, and",
        ),
        (
            "nobody is told of a cancel",
            before!("update", "attempts", "new.cancel_requested := false;"),
            "was not told that the job had been cancelled.",
        ),
        (
            "what was cancelled runs",
            before!("update", "jobs", "if new.status = 'CANCELLED' and old.status = 'PENDING' then new.status := 'PENDING'; end if;"),
            "after it had been cancelled.",
        ),
        ("what clients hold is not counted", before!("insert", "attempts", "new.cpu := 0;"), "has 4 CPUs and held 5 from"),
        (
            "what clients hold of accelerators is not counted",
            before!("insert", "attempts", "new.accelerators := 0;"),
            "has 1 accelerators and held 2 from",
        ),
        ("nothing is deleted", "create rule broken as on delete to jobs do instead nothing;", "was deleted, and is there in the end."),
        (
            "what is fetched is not noted",
            before!("insert", "attempts", "if new.client_id is null then return null; end if;"),
            "was fetched 1 times, and 0 attempts were left to who fetched it.",
        ),
        (
            "what failed is not tried again",
            before!("update", "jobs", "if new.status = 'PENDING' and new.failed_attempts = 1 then new.status := 'FAILED'; end if;"),
            "FAILED after 1 of 3 attempts.",
        ),
    ];
    // A story waits most of the time.
    let told =
        join_all(broken.map(|(what, sql, sentence)| async move { (what, sentence, wrong_with(Broken { sql, ..SOUND }).await) })).await;
    for (what, sentence, wrong) in told {
        assert!(wrong.iter().any(|wrong| wrong.contains(sentence)), "expected {sentence:?} where {what}, among\n{}", wrong.join("\n"));
    }
}
