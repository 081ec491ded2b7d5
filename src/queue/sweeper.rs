//! What every server does now and then, whatever is asked of it. None leads: what one has locked the others pass over.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Error, clients,
    jobs::{self, Pruned},
    projects,
};

/// How long between two sweeps at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many times as long as a sweep took the next one waits, and how long at most: a lost client's jobs are offered again within five seconds of their leases.
const SPARED: u32 = 4;
const LONGEST: Duration = Duration::from_secs(3);

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
}

impl Sweeper {
    /// Does all of it again and again. Never ends.
    pub async fn run(&self) {
        tokio::join!(self.sweep_on(), self.wake_on(), self.tidy_on(), self.prune_on(), self.learn_on());
    }

    /// Walks by all jobs and forgets the old ones, at a pace that leaves the database to others. What cannot be forgotten is passed by, and tried again
    /// the next time round; the log tells of it once.
    async fn prune_on(&self) {
        let Some(age) = self.retention else { return };
        let mut after = 0;
        let (mut failing, mut told) = (HashSet::new(), HashSet::new());
        loop {
            let pause = match self.jobs.prune(after, age).await {
                Ok(Pruned { deleted, next, failures }) => {
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
                Err(error) => {
                    failed(&error);
                    ROUND
                }
            };
            sleep(pause).await;
        }
    }

    /// Takes back what leases that have ended were for.
    async fn sweep_on(&self) {
        loop {
            let began = Instant::now();
            match self.jobs.sweep_leases().await {
                Ok(swept) if swept.expired > 0 => tracing::info!(expired = swept.expired, "leases have ended"),
                Ok(_) => {}
                Err(error) => failed(&error),
            }
            // Where a sweep takes long, because nothing that ended can be vacuumed, the next one waits.
            let took = began.elapsed();
            sleep(INTERVAL.saturating_sub(took).max((took * SPARED).min(LONGEST))).await;
        }
    }

    /// Makes jobs ready when their time comes.
    async fn wake_on(&self) {
        loop {
            let next = self.jobs.sweep_due().await.unwrap_or_else(|error| {
                failed(&error);
                None
            });
            // One that stays due is just being changed by somebody else.
            let seconds = next.map_or(INTERVAL.as_secs_f64(), |seconds| seconds.clamp(0.0, INTERVAL.as_secs_f64()));
            sleep(Duration::from_secs_f64(seconds).max(PAUSE)).await;
        }
    }

    /// Sees to it that statements are planned for tables as large as they are.
    async fn learn_on(&self) {
        loop {
            match self.jobs.refresh_statistics().await {
                Ok(true) => tracing::debug!("tables have grown, and were analyzed"),
                Ok(false) => {}
                Err(error) => failed(&error),
            }
            sleep(INTERVAL).await;
        }
    }

    /// Looks for clients that fell silent, and forgets what need not be known any longer.
    async fn tidy_on(&self) {
        loop {
            for done in [
                self.clients.deactivate_silent(self.client_timeout_seconds).await.map(drop),
                self.jobs.tidy().await,
                self.projects.compact_counts().await,
            ] {
                if let Err(error) = done {
                    failed(&error);
                }
            }
            sleep(SILENCE).await;
        }
    }
}

fn failed(error: &Error) {
    let error: &dyn std::error::Error = error;
    tracing::debug!(error, "what is done now and then failed; the next time does what it left");
}
