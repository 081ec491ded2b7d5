//! One transaction that claims jobs for several clients.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Granted, Wish,
    assign::{Candidate, Taker, assign, unassign},
    marks::Marks,
};
use crate::{
    postgres::{
        Row, Transaction, Work,
        query::{claims as sql, projects},
    },
    queue::{
        Error, Result, Thing,
        jobs::{Resources, store},
    },
};

/// How many jobs are looked at for one profile at most, and how many more than are wanted: others may be taking the first ones.
const CANDIDATES: usize = 256;
const SPARE: usize = 32;

/// How often it is looked again at what one profile could have.
const LOOKS: usize = 7;

/// How long after others took what was found it is looked again: first so long, then twice as long each time. A round does not rest for longer in all, since its
/// clients are locked.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

/// Claiming for these wishes of one project, in their order.
pub(super) struct Round<'a> {
    pub(super) project_id: i64,
    pub(super) wishes: &'a [Wish],
    /// Whether each is claimed now, and has not waited before.
    pub(super) are_new: Vec<bool>,
    /// Where to begin to look. If the transaction is rolled back, what it had taken may lie before a mark until it is looked at all of it again.
    pub(super) marks: &'a Mutex<Marks>,
}

/// What a round found for one wish.
pub(super) struct Found {
    pub(super) jobs: Result<Vec<Granted>>,
    /// What its client has left.
    pub(super) room: Resources,
    /// Whether its client has not signed off since it claimed.
    pub(super) is_there: bool,
}

/// What is to be shared out.
struct Share<'a> {
    takers: Vec<Taker<'a>>,
    /// What each client has left.
    free: HashMap<&'a str, Resources>,
    found: Vec<Found>,
}

/// How sharing out went.
enum Shared {
    /// Something was given.
    Some,
    /// Nothing fits anybody.
    Nothing,
    /// Something was being taken by others, and somebody here still wants more.
    Lost,
}

impl Work for Round<'_> {
    type Output = Vec<Found>;
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<Found>> {
        let mut share = self.share(transaction).await?;
        // Each distinct profile is asked for once: jobs that fit a large one may hide those that fit a small one.
        let mut asked = HashSet::new();
        let mut pause = PAUSE;
        for n in 0..share.takers.len() {
            let mut lost = HashSet::new();
            let mut given_up = None;
            for _ in 0..LOOKS {
                given_up = None;
                let (profile, tasks) = (share.takers[n].profile(&share.free), share.takers[n].tasks);
                if share.takers[n].wants == 0 || !asked.insert((profile, tasks)) {
                    break;
                }
                let wanted: usize = share.takers.iter().map(|taker| taker.wants).sum();
                let limit = (wanted + SPARE).min(CANDIDATES) + lost.len();
                let mut candidates = self.candidates(transaction, profile, tasks, limit).await?;
                let is_all = candidates.len() < limit;
                // What others were taking is tried again only where there is nothing behind it: whoever comes later must not be given that instead.
                if candidates.iter().any(|job| !lost.contains(&job.id)) {
                    candidates.retain(|job| !lost.contains(&job.id));
                }
                match self.share_out(transaction, candidates, &mut share, &mut lost).await? {
                    // Others are just committing what they took.
                    Shared::Lost => {
                        asked.remove(&(profile, tasks));
                        given_up = Some((profile, tasks));
                        if pause > LONGEST_PAUSE {
                            break;
                        }
                        sleep(pause).await;
                        pause *= 2;
                    }
                    _ if is_all => break,
                    // There may be more behind it, also for the next taker.
                    Shared::Some => drop(asked.remove(&(profile, tasks))),
                    Shared::Nothing => break,
                }
            }
            // Not again for each of the others who could take the same: all of them are locked meanwhile.
            asked.extend(given_up);
        }
        for (found, wish) in share.found.iter_mut().zip(self.wishes) {
            found.room = share.free.get(wish.client_id.as_str()).copied().unwrap_or_default();
        }
        // Where there is nothing there may be no project.
        let is_nothing = share.found.iter().all(|found| found.jobs.as_ref().map_or(true, Vec::is_empty));
        if is_nothing && projects::GET.maybe(transaction, &[&self.project_id]).await?.is_none() {
            // Who may not speak for a client is told so first.
            for found in share.found.iter_mut().filter(|found| !matches!(found.jobs, Err(Error::OthersClient(_)))) {
                found.jobs = Err(Error::NotFound(Thing::Project(self.project_id)));
            }
        }
        Ok(share.found)
    }
}

impl Round<'_> {
    /// Gives out what can be given of these jobs, the most urgent first. What others are taking is added to the lost ones.
    async fn share_out(
        &self,
        transaction: &Transaction<'_>,
        mut candidates: Vec<Candidate>,
        share: &mut Share<'_>,
        lost: &mut HashSet<i64>,
    ) -> Result<Shared> {
        let Share { takers, free, found } = share;
        let (mut is_lost, mut is_given) = (false, false);
        loop {
            let assigned = assign(&candidates, takers, free);
            if assigned.is_empty() {
                let is_wanted = takers.iter().any(|taker| taker.wants > 0);
                return Ok(match (is_lost && is_wanted, is_given) {
                    (true, _) => Shared::Lost,
                    (false, true) => Shared::Some,
                    (false, false) => Shared::Nothing,
                });
            }
            let granted = self.take(transaction, &candidates, &assigned).await?;
            for (job, taker) in &assigned {
                match granted.get(&candidates[*job].id) {
                    Some(job) => {
                        is_given = true;
                        if let Ok(jobs) = &mut found[*taker].jobs {
                            jobs.push(job.clone());
                        }
                    }
                    None => {
                        is_lost = true;
                        lost.insert(candidates[*job].id);
                        unassign(&candidates[*job], &mut takers[*taker], free);
                    }
                }
            }
            // What was given and what was lost is no candidate any more; those who lost may have another.
            let given: HashSet<usize> = assigned.into_iter().map(|(job, _)| job).collect();
            let mut at = 0..;
            candidates.retain(|_| at.next().is_none_or(|at| !given.contains(&at)));
        }
    }

    async fn share(&self, transaction: &Transaction<'_>) -> Result<Share<'_>> {
        let (clients, free) = self.clients(transaction).await?;
        let (mut takers, mut found) = (Vec::with_capacity(self.wishes.len()), Vec::with_capacity(self.wishes.len()));
        for (wish, client) in self.wishes.iter().zip(clients) {
            let passed_over = || match wish.speaker {
                Some(_) => Error::OthersClient(wish.client_id.clone()),
                None => Error::Unregistered(wish.client_id.clone()),
            };
            let is_there = client.unwrap_or_default();
            found.push(Found { jobs: client.map(|_| Vec::new()).ok_or_else(passed_over), room: Resources::default(), is_there });
            takers.push(Taker {
                client: &wish.client_id,
                wants: if is_there { wish.max_jobs } else { 0 },
                limit: wish.limit,
                tasks: wish.task_ids.as_deref(),
            });
        }
        Ok(Share { takers, free, found })
    }

    /// Locks the clients. Tells of each wish whether its client is there, or nothing if there is none for which its speaker is known to speak; and what the
    /// clients have left.
    async fn clients(&self, transaction: &Transaction<'_>) -> Result<(Vec<Option<bool>>, HashMap<&str, Resources>)> {
        let ids: Vec<&str> = self.wishes.iter().map(|wish| wish.client_id.as_str()).collect();
        let users: Vec<Option<i64>> = self.wishes.iter().map(|wish| wish.speaker.as_ref().and_then(|speaker| speaker.user)).collect();
        let keys: Vec<Option<&str>> = self.wishes.iter().map(|wish| wish.speaker.as_ref().map(|speaker| speaker.key.as_str())).collect();
        let (mut clients, mut free, mut newcomers) = (vec![None; ids.len()], HashMap::new(), Vec::new());
        for row in sql::ARRIVE.all(transaction, &[&ids, &users, &keys]).await? {
            let place = usize::try_from(row.get::<_, i64>("position") - 1).expect("it is the place of an array element");
            clients[place] = Some(row.get("is_active"));
            free.insert(ids[place], Resources { cpu: row.get("available_cpu"), accelerators: row.get("available_accelerators") });
            if self.are_new[place] {
                newcomers.push(ids[place]);
            }
        }
        // Who has signed off is there again only if it claims anew.
        for (client, id) in clients.iter_mut().zip(&ids) {
            *client = client.map(|is_active| is_active || newcomers.contains(id));
        }
        // Of those that are locked, and not of who has registered since.
        let locked: Vec<&str> = free.keys().copied().collect();
        for row in sql::HELD.all(transaction, &[&locked, &newcomers]).await? {
            let held = |column: &str| i32::try_from(row.get::<_, i64>(column)).unwrap_or(i32::MAX);
            if let Some(free) = free.get_mut(row.get::<_, &str>("id")) {
                // Less than nothing, if it registered anew with less than it holds: then it gets not even what needs nothing.
                free.cpu = free.cpu.saturating_sub(held("cpu"));
                free.accelerators = free.accelerators.saturating_sub(held("accelerators"));
            }
        }
        Ok((clients, free))
    }

    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(
        &self,
        transaction: &Transaction<'_>,
        candidates: &[Candidate],
        assigned: &[(usize, usize)],
    ) -> Result<HashMap<i64, Granted>> {
        if assigned.is_empty() {
            return Ok(HashMap::new());
        }
        let jobs: Vec<i64> = assigned.iter().map(|(job, _)| candidates[*job].id).collect();
        let clients: Vec<&str> = assigned.iter().map(|(_, taker)| self.wishes[*taker].client_id.as_str()).collect();
        let leases: Vec<i32> = assigned.iter().map(|(_, taker)| self.wishes[*taker].lease_seconds).collect();
        let cpu: Vec<i32> = assigned.iter().map(|(job, _)| candidates[*job].needs.cpu).collect();
        let accelerators: Vec<i32> = assigned.iter().map(|(job, _)| candidates[*job].needs.accelerators).collect();
        let rows = sql::TAKE.all(transaction, &[&jobs, &clients, &leases, &cpu, &accelerators]).await?;
        let granted = |row: &Row| Granted {
            job: store::job(row),
            task_name: row.get("task_name"),
            command_template: row.get("command_template"),
            holds: Resources { cpu: row.get("cpu"), accelerators: row.get("accelerators") },
            lease_expires_at: row.get("lease_expires_at"),
        };
        Ok(rows.iter().map(|row| (row.get("id"), granted(row))).collect())
    }
}
