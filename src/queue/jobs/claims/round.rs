//! One transaction that claims jobs for several clients.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Granted, Wish,
    assign::{Candidate, Taker, assign, give_back},
    marks::Marks,
};
use crate::{
    postgres::{
        Row, Transaction, Work,
        query::{Params, claims as sql, projects},
    },
    queue::{
        Error, Result, Thing,
        jobs::{Resources, store},
    },
};

/// How many jobs are looked at for one profile.
const CANDIDATES: usize = 256;

/// How often it is looked again at what one profile could have, when others took what was found.
const LOOKS: usize = 8;

/// Claiming for these wishes of one project, in their order.
pub(super) struct Round<'a> {
    pub(super) project_id: i64,
    pub(super) wishes: &'a [Wish],
    /// Where to begin to look. Right whatever becomes of the transaction: a mark only says where something was.
    pub(super) marks: &'a Mutex<Marks>,
}

/// What a round found for one wish.
pub(super) type Found = Result<Vec<Granted>>;

impl Work for Round<'_> {
    type Output = Vec<Found>;
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<Found>> {
        let mut free = self.clients(transaction).await?;
        let known: HashSet<&str> = free.keys().copied().collect();
        let mut found: Vec<Found> = Vec::with_capacity(self.wishes.len());
        let mut takers = Vec::with_capacity(self.wishes.len());
        for wish in self.wishes {
            let is_known = known.contains(wish.client_id.as_str());
            found.push(if is_known { Ok(Vec::new()) } else { Err(Error::NotFound(Thing::Client(wish.client_id.clone()))) });
            takers.push(Taker {
                client: &wish.client_id,
                wants: if is_known { wish.max_jobs } else { 0 },
                limit: wish.limit,
                tasks: wish.task_ids.as_deref(),
            });
        }
        // Each distinct profile is asked for once: jobs that fit a large one may hide those that fit a small one.
        let mut asked = HashSet::new();
        for n in 0..takers.len() {
            let mut looks = LOOKS;
            while looks > 0 && takers[n].wants > 0 && !asked.contains(&(takers[n].profile(&free), takers[n].tasks)) {
                looks -= 1;
                let (profile, tasks) = (takers[n].profile(&free), takers[n].tasks);
                let candidates = self.candidates(transaction, profile, tasks, &takers).await?;
                let assigned = assign(&candidates, &mut takers, &mut free);
                let granted = self.take(transaction, &candidates, &assigned).await?;
                let (mut got, mut lost) = (0, 0);
                for (job, taker) in assigned {
                    match granted.get(&candidates[job].id) {
                        Some(job) => {
                            got += 1;
                            if let Ok(jobs) = &mut found[taker] {
                                jobs.push(job.clone());
                            }
                        }
                        None => {
                            lost += 1;
                            give_back(&candidates[job], &mut takers[taker], &mut free);
                        }
                    }
                }
                // Others are just committing what they took: what comes behind is seen in the next look.
                if lost == 0 || got == 0 {
                    asked.insert((profile, tasks));
                }
            }
        }
        // Where there is nothing there may be no project.
        let is_nothing = found.iter().all(|found| found.as_ref().map_or(true, Vec::is_empty));
        if is_nothing && projects::GET.maybe(transaction, &[&self.project_id]).await?.is_none() {
            return Ok(self.wishes.iter().map(|_| Err(Error::NotFound(Thing::Project(self.project_id)))).collect());
        }
        Ok(found)
    }
}

impl Round<'_> {
    /// Locks the clients, and tells what each has left.
    async fn clients(&self, transaction: &Transaction<'_>) -> Result<HashMap<&str, Resources>> {
        let ids: Vec<&str> = self.wishes.iter().map(|wish| wish.client_id.as_str()).collect();
        let rows = sql::ARRIVE.all(transaction, &[&ids]).await?;
        let mut free: HashMap<&str, Resources> = HashMap::new();
        let own = |row: &Row| ids.iter().copied().find(|id| *id == row.get::<_, &str>("id"));
        for row in &rows {
            let has = Resources { cpu: row.get("available_cpu"), accelerators: row.get("available_accelerators") };
            free.extend(own(row).map(|id| (id, has)));
        }
        for row in sql::HELD.all(transaction, &[&ids]).await? {
            let held = |column: &str| i32::try_from(row.get::<_, i64>(column)).unwrap_or(i32::MAX);
            if let Some(free) = own(&row).and_then(|id| free.get_mut(id)) {
                // Less than nothing, if it registered anew with less than it holds: then it gets not even what needs nothing.
                free.cpu = free.cpu.saturating_sub(held("cpu"));
                free.accelerators = free.accelerators.saturating_sub(held("accelerators"));
            }
        }
        Ok(free)
    }

    async fn candidates(
        &self,
        transaction: &Transaction<'_>,
        profile: Resources,
        tasks: Option<&[i64]>,
        takers: &[Taker<'_>],
    ) -> Result<Vec<Candidate>> {
        let wanted: usize = takers.iter().map(|taker| taker.wants).sum();
        let limit = i64::try_from(wanted.min(CANDIDATES)).unwrap_or(i64::MAX);
        let candidate = |row: &Row| Candidate {
            id: row.get("id"),
            task_id: row.get("task_id"),
            rank: row.get("rank"),
            needs: Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") },
        };
        loop {
            let began = Instant::now();
            let (mark_tasks, mark_ranks, mark_ids) = self.marks().arrays(began);
            let params: Params<'_> =
                &[&self.project_id, &profile.cpu, &profile.accelerators, &tasks, &limit, &mark_tasks, &mark_ranks, &mark_ids];
            let rows = sql::CANDIDATES.all(transaction, params).await?;
            let found: Vec<Candidate> = rows.iter().map(candidate).collect();
            let was_whole = mark_tasks.is_empty();
            if found.is_empty() && !was_whole {
                // There may be something before the marks.
                self.marks().forget();
                continue;
            }
            self.marks().note(began, began.elapsed(), was_whole, &found);
            return Ok(found);
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
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
            lease_expires_at: row.get("lease_expires_at"),
        };
        Ok(rows.iter().map(|row| (row.get("id"), granted(row))).collect())
    }
}
