//! People who submit, cancel, retry and delete, and clients that claim, work, fall silent, lose answers and die.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{
    log::{Ending, New, Offer, Operation, Outcome},
    random::Random,
    world::{LEASE, World},
};

/// What each client has.
pub(super) const CPUS: u64 = 4;
pub(super) const ACCELERATORS: u64 = 1;

/// How long the lease of what is fetched lasts at the server that gives one.
pub(super) const FETCH_LEASE_SECONDS: u64 = 2;

/// A crowd: what runs in one process. Clones are the same.
#[derive(Clone)]
pub(super) struct Crowd {
    world: World,
    name: String,
    submitted: Arc<Mutex<Vec<i64>>>,
}

/// How many clients a crowd has.
const CLIENTS: usize = 4;

/// The client that claims and dies, in every crowd.
const KILLED: &str = "killed";

/// The clients of a crowd of this name.
pub(super) fn clients_of(crowd: &str) -> Vec<String> {
    (0..CLIENTS).map(|n| format!("{crowd}-{n}")).chain([format!("{crowd}-{KILLED}")]).collect()
}

impl Crowd {
    pub(super) fn new(world: World, name: &str) -> Self {
        Self { world, name: name.to_owned(), submitted: Arc::default() }
    }

    /// Goes on until it is over.
    pub(super) async fn run(self, mut random: Random) {
        let workers = join_all((0..CLIENTS).map(|n| self.clone().work(format!("{}-{n}", self.name), random.fork())));
        let submitters = join_all((0..2).map(|_| self.clone().submit(random.fork())));
        tokio::join!(workers, submitters, self.clone().fetch(random.fork()), self.clone().manage(random.fork()));
    }

    fn submitted(&self) -> Vec<i64> {
        self.submitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Submits jobs, one by one or many at once, some of which wait for others; and again with the same key until it is known that they are there.
    async fn submit(self, mut random: Random) {
        while self.world.is_busy() {
            let count = if random.below(4) == 0 { 2 + random.below(4) } else { 1 };
            let jobs: Vec<New> = (0..count).map(|_| self.new_job(&mut random)).collect();
            let key = (random.below(2) == 0).then(|| random.next().to_string());
            loop {
                let submit = Operation::Submit { jobs: jobs.clone(), key: key.clone() };
                // Now and then the answer is not waited for.
                let patience = if key.is_some() && random.below(5) == 0 { random.milliseconds(0, 20) } else { LEASE * 60 };
                let outcome = timeout(patience, self.world.ask(&mut random.fork(), submit)).await.unwrap_or(Outcome::Unknown);
                match outcome {
                    Outcome::Submitted(ids) => self.submitted.lock().unwrap_or_else(PoisonError::into_inner).extend(ids),
                    // It is unknown, or being done just now.
                    Outcome::Unknown | Outcome::Refused(409) if key.is_some() && self.world.is_busy() => {
                        sleep(random.milliseconds(1, 100)).await;
                        continue;
                    }
                    _ => {}
                }
                break;
            }
            sleep(random.milliseconds(20, 150)).await;
        }
    }

    fn new_job(&self, random: &mut Random) -> New {
        let (tasks, submitted) = (self.world.scene().tasks, self.submitted());
        let count = random.below(4).saturating_sub(1);
        // Late ones: early ones have completed already.
        let parents: std::collections::BTreeSet<i64> = (0..count).filter_map(|_| random.recent(&submitted, 12)).collect();
        New {
            name: format!("{:016x}", random.next()),
            task: tasks[random.below(tasks.len() as u64) as usize],
            parents: parents.into_iter().collect(),
            max_attempts: if random.below(3) == 0 { 3 } else { 1000 },
        }
    }

    /// Claims and works until it is over.
    async fn work(self, client: String, mut random: Random) {
        while !self.world.is_over() {
            let claim = Operation::Claim { client: client.clone(), most: 1 + random.below(3) };
            match self.world.ask(&mut random, claim).await {
                Outcome::Claimed(offers) => {
                    for offer in offers {
                        self.run_job(&client, &offer, &mut random).await;
                    }
                }
                _ => sleep(random.milliseconds(20, 100)).await,
            }
        }
    }

    /// Does a job, or something else with it.
    async fn run_job(&self, client: &str, offer: &Offer, random: &mut Random) {
        let (world, job, attempt) = (&self.world, offer.job, offer.attempt);
        let report = |ending| Operation::Report { job, attempt, ending };
        if random.below(2) == 0 {
            world.ask(random, Operation::Start { job, attempt }).await;
        }
        let fate = if world.is_busy() { random.below(100) } else { 0 };
        match fate {
            0..45 => drop(world.ask(random, report(Ending::Complete)).await),
            // It takes longer than the lease; who is told to give up does.
            45..58 => {
                for _ in 0..3 {
                    sleep(LEASE / 2).await;
                    match self.beat(client, job, attempt, random).await {
                        Some(false) => {}
                        Some(true) if random.below(2) == 0 => {
                            world.ask(random, report(Ending::Release)).await;
                            return;
                        }
                        _ => break,
                    }
                }
                world.ask(random, report(Ending::Complete)).await;
            }
            58..64 => drop(world.ask(random, report(Ending::Fail)).await),
            64..66 => drop(world.ask(random, report(Ending::GiveUp)).await),
            66..71 => drop(world.ask(random, report(Ending::Release)).await),
            71..74 => drop(world.ask(random, report(Ending::Decline)).await),
            // Thought dead, it comes back.
            74..84 => {
                sleep(LEASE + random.milliseconds(0, 2000)).await;
                world.ask(random, report(Ending::Complete)).await;
            }
            // The answer is lost, and the report comes again.
            84..94 => {
                let _ = timeout(random.milliseconds(0, 10), world.ask(&mut random.fork(), report(Ending::Complete))).await;
                world.ask(random, report(Ending::Complete)).await;
            }
            // It dies with what it has.
            _ => {
                let claim = Operation::Claim { client: format!("{}-{KILLED}", self.name), most: 3 };
                let _ = timeout(random.milliseconds(0, 30), world.ask(&mut random.fork(), claim)).await;
            }
        }
    }

    /// Says that it is at it, in one of the ways that there are. Returns whether it is to give up, if it still has the job.
    async fn beat(&self, client: &str, job: i64, attempt: i32, random: &mut Random) -> Option<bool> {
        let named = match random.below(4) {
            0 => None,
            // What else it was given it has forgotten, as one that was started again.
            1 => Some(vec![(job, attempt)]),
            _ => match self.world.ask(random, Operation::Beat { job, attempt }).await {
                Outcome::Extended { cancel_requested, .. } => return Some(cancel_requested),
                _ => return None,
            },
        };
        match self.world.ask(random, Operation::Pulse { client: client.to_owned(), named }).await {
            Outcome::Beaten { leases, .. } => {
                leases.iter().find(|lease| (lease.job, lease.attempt) == (job, attempt)).map(|lease| lease.cancel_requested)
            }
            _ => None,
        }
    }

    /// Fetches and works as the published client does.
    async fn fetch(self, mut random: Random) {
        while !self.world.is_over() {
            let Outcome::Fetched(Some(job)) = self.world.ask(&mut random, Operation::Fetch).await else {
                sleep(random.milliseconds(50, 200)).await;
                continue;
            };
            match if self.world.is_busy() { random.below(10) } else { 0 } {
                0..7 => sleep(random.milliseconds(0, 300)).await,
                // Longer than a lease, where there is one.
                7..9 => sleep(random.milliseconds(FETCH_LEASE_SECONDS * 1000, FETCH_LEASE_SECONDS * 1500)).await,
                // It dies. Without a lease somebody has to notice.
                _ => continue,
            }
            self.world.ask(&mut random, Operation::Done { job }).await;
        }
    }

    /// Cancels, retries and deletes what was submitted lately.
    async fn manage(self, mut random: Random) {
        while self.world.is_busy() {
            sleep(random.milliseconds(20, 200)).await;
            let Some(job) = random.recent(&self.submitted(), 15) else { continue };
            let operation = match random.below(20) {
                0..8 => Operation::Cancel { job },
                8..15 => Operation::Retry { job },
                15..17 => {
                    let status = if random.below(2) == 0 { "FAILED" } else { "CANCELLED" };
                    // Of the last one only, so that it is known of the others that they were not.
                    Operation::RetryAll { task: *self.world.scene().tasks.last().expect("one"), status: status.to_owned() }
                }
                _ => Operation::Delete { job },
            };
            self.world.ask(&mut random, operation).await;
        }
    }
}
