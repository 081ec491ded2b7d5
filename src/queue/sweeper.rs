//! What every server does now and then, whatever is asked of it. None leads: what one has locked the others pass over.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    Result, clients,
    jobs::{self, Late, Pruned},
    projects,
};
use crate::measure::Counter;

/// How long between two sweeps at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many times as long as a sweep took that found little the next one waits, and how long at most: a lost client's jobs are offered again within five
/// seconds of their leases.
const SPARED: u32 = 4;
const LONGEST: Duration = Duration::from_secs(3);

/// In how many projects leases are ended one by one at a time; and in how many together with those where that takes longer than so, as where somebody changes
/// much of a project: half of the pool at most.
const PROJECTS: usize = 4;
const STUCK_PROJECTS: usize = 8;
const STUCK: Duration = Duration::from_secs(2);

/// How long at least between two looks for jobs that are due: jobs that become so one after the other are swept together.
const PAUSE: Duration = Duration::from_millis(20);

/// How long between two looks for clients that fell silent, and for what need not be kept any longer.
const SILENCE: Duration = Duration::from_secs(5);

/// How long between two steps of forgetting old jobs, and between two walks by all of them.
const STEP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_secs(1);

/// Sweeps.
#[derive(Clone)]
pub struct Sweeper {
    /// Leases end, jobs become due.
    pub jobs: jobs::Store,
    /// Clients fall silent.
    pub clients: clients::Store,
    /// Jobs are counted.
    pub projects: projects::Store,
    /// After how many seconds.
    pub client_timeout_seconds: u32,
    /// How long finished jobs are kept; nothing for ever.
    pub retention: Option<Duration>,
    /// How that goes.
    pub sweeps: Arc<Sweeps>,
}

/// How often something of it was done, or failed.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Sweeps {
    pub done: Counter,
    pub failed: Counter,
}

/// How one part of it goes. The log tells when it begins to fail, and when it goes well again.
struct Part<'a> {
    what: &'static str,
    is_failing: bool,
    sweeps: &'a Sweeps,
}

impl Part<'_> {
    /// What was done, if it was.
    fn note<T>(&mut self, done: Result<T>) -> Option<T> {
        let was_failing = std::mem::replace(&mut self.is_failing, done.is_err());
        match done {
            Ok(done) => {
                self.sweeps.done.one();
                if was_failing {
                    tracing::info!(what = self.what, "what is done now and then goes well again");
                }
                Some(done)
            }
            Err(error) => {
                self.sweeps.failed.one();
                let error: &dyn std::error::Error = &error;
                match was_failing {
                    true => tracing::debug!(error, what = self.what, "what is done now and then fails still"),
                    false => {
                        tracing::warn!(error, what = self.what, "what is done now and then failed; it is tried again until it does not")
                    }
                }
                None
            }
        }
    }
}

impl Sweeper {
    /// Does all of it again and again. Never ends.
    pub async fn run(&self) {
        let (left, late) = watch::channel(Vec::new());
        tokio::join!(self.sweep_on(left), self.end_on(late), self.wake_on(), self.tidy_on(), self.prune_on(), self.learn_on());
    }

    fn part(&self, what: &'static str) -> Part<'_> {
        Part { what, is_failing: false, sweeps: &self.sweeps }
    }

    /// Walks by all jobs and forgets the old ones, at a pace that leaves the database to others. What cannot be forgotten is passed by, and tried again
    /// the next time round; the log tells of it once.
    async fn prune_on(&self) {
        let Some(age) = self.retention else { return };
        let mut after = 0;
        let (mut failing, mut told) = (HashSet::new(), HashSet::new());
        let mut part = self.part("forgetting finished jobs");
        loop {
            let pause = match part.note(self.jobs.prune(after, age).await) {
                Some(Pruned { deleted, next, failures }) => {
                    if deleted > 0 {
                        tracing::info!(deleted, "finished jobs were forgotten");
                    }
                    for (project, error) in failures {
                        let error: &dyn std::error::Error = &error;
                        if failing.insert(project) && !told.contains(&project) {
                            tracing::warn!(error, project, "finished jobs could not be forgotten; the next round tries again");
                        }
                    }
                    after = next.unwrap_or(0);
                    if next.is_none() {
                        // Told again when it has gone well in between.
                        told = std::mem::take(&mut failing);
                    }
                    if next.is_some() { STEP } else { ROUND }
                }
                None => ROUND,
            };
            sleep(pause).await;
        }
    }

    /// Takes back what leases that have ended were for, and tells what is left of them.
    async fn sweep_on(&self, left: watch::Sender<Vec<Late>>) {
        let mut part = self.part("taking jobs back whose leases have ended");
        loop {
            let began = Instant::now();
            let swept = part.note(self.jobs.sweep_leases().await).unwrap_or_default();
            if swept.expired > 0 {
                tracing::info!(expired = swept.expired, "leases have ended");
            }
            if !swept.left.is_empty() {
                left.send_replace(swept.left);
            }
            if swept.is_more {
                continue;
            }
            // Where looking takes long, because nothing that ended can be vacuumed, the next one waits.
            let took = began.elapsed();
            sleep(INTERVAL.saturating_sub(took).max((took * SPARED).min(LONGEST))).await;
        }
    }

    /// Takes back one by one what is left, beside the sweeps, and each project's beside those of others: it may have to wait for somebody who changes much of a project.
    async fn end_on(&self, mut late: watch::Receiver<Vec<Late>>) {
        let (mut waiting, mut taken) = (HashMap::new(), HashSet::new());
        let most = STUCK_PROJECTS.min(self.jobs.connections() / 2).max(1);
        let (all, quick) = (Semaphore::new(most), Semaphore::new(PROJECTS));
        let (all, quick) = (&all, &quick);
        let mut turns = FuturesUnordered::new();
        loop {
            for (project, late) in waiting.extract_if(|project, _| taken.insert(*project)) {
                turns.push(async move {
                    // First come first served.
                    let _place = all.acquire().await;
                    let quick = quick.acquire().await;
                    let mut turn = pin!(self.jobs.sweep_late(late));
                    let swept = match timeout(STUCK, &mut turn).await {
                        Ok(swept) => swept,
                        Err(_) => {
                            drop(quick);
                            turn.await
                        }
                    };
                    (project, swept)
                });
            }
            tokio::select! {
                changed = late.changed() => {
                    changed.expect("the sweeps never end");
                    waiting = Late::by_project(&late.borrow_and_update());
                }
                Some((project, (expired, left))) = turns.next() => {
                    taken.remove(&project);
                    if expired > 0 {
                        tracing::info!(expired, project, "leases have ended");
                    }
                    // A sweep may have told of them meanwhile.
                    if !left.is_empty() {
                        waiting.entry(project).or_insert(left);
                    }
                }
            }
        }
    }

    /// Makes jobs ready when their time comes.
    async fn wake_on(&self) {
        let mut part = self.part("making jobs ready whose time has come");
        loop {
            let next = part.note(self.jobs.sweep_due().await).flatten();
            // One that stays due is just being changed by somebody else.
            let seconds = next.map_or(INTERVAL.as_secs_f64(), |seconds| seconds.clamp(0.0, INTERVAL.as_secs_f64()));
            sleep(PAUSE).await;
            self.jobs.until_due(Duration::from_secs_f64(seconds).saturating_sub(PAUSE)).await;
        }
    }

    /// Sees to it that statements are planned for tables as large as they are.
    async fn learn_on(&self) {
        let mut part = self.part("telling the planner of tables that grow");
        loop {
            if part.note(self.jobs.refresh_statistics().await).unwrap_or(false) {
                tracing::debug!("tables have grown, and were analyzed");
            }
            sleep(INTERVAL).await;
        }
    }

    /// Looks for clients that fell silent, and forgets what need not be known any longer.
    async fn tidy_on(&self) {
        let mut silent = self.part("noticing clients that fell silent");
        let mut answers = self.part("forgetting what was answered to requests with an Idempotency-Key");
        let mut counts = self.part("adding up how many jobs there are");
        loop {
            silent.note(self.clients.deactivate_silent(self.client_timeout_seconds).await);
            answers.note(self.jobs.tidy().await);
            counts.note(self.projects.compact_counts().await);
            sleep(SILENCE).await;
        }
    }
}
