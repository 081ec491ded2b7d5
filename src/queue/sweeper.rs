//! What every server does now and then, whatever is asked of it. None leads: what one has locked the others pass over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Result, clients, jobs, projects};

/// How long between two sweeps at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many times as long as a sweep took the next one waits, and how long at most: a lost client's jobs are offered again within five seconds of their leases.
const SPARED: u32 = 4;
const LONGEST: Duration = Duration::from_secs(3);

/// How long at least: jobs that become due one after the other are swept together.
const PAUSE: Duration = Duration::from_millis(10);

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
        tokio::join!(self.sweep_on(), self.prune_on());
    }

    /// Walks by all jobs and forgets the old ones, at a pace that leaves the database to others.
    async fn prune_on(&self) {
        let Some(age) = self.retention else { return };
        let mut after = 0;
        loop {
            let pause = match self.jobs.prune(after, age).await {
                Ok((deleted, next)) => {
                    if deleted > 0 {
                        tracing::info!(deleted, "finished jobs were forgotten");
                    }
                    after = next.unwrap_or(0);
                    if next.is_some() { STEP } else { ROUND }
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(error, "old jobs could not be forgotten; it is tried again");
                    ROUND
                }
            };
            sleep(pause).await;
        }
    }

    async fn sweep_on(&self) {
        let mut listened = None;
        loop {
            let began = Instant::now();
            let next = match self.sweep(&mut listened).await {
                Ok(next) => next,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(error, "a sweep failed; the next one does what it left");
                    None
                }
            };
            let interval = next.map_or(INTERVAL, |seconds| Duration::from_secs_f64(seconds.clamp(0.0, INTERVAL.as_secs_f64())));
            // Where a sweep takes long, because nothing that ended can be vacuumed, the next one waits.
            let took = began.elapsed();
            sleep(interval.saturating_sub(took).max(PAUSE).max((took * SPARED).min(LONGEST))).await;
        }
    }

    /// Does what is to be done now. Returns in how many seconds the next job is due.
    async fn sweep(&self, listened: &mut Option<Instant>) -> Result<Option<f64>> {
        let swept = self.jobs.sweep().await?;
        if swept.expired > 0 {
            tracing::info!(expired = swept.expired, "leases have ended");
        }
        if listened.is_none_or(|last| last.elapsed() >= SILENCE) {
            *listened = Some(Instant::now());
            self.clients.deactivate_silent(self.client_timeout_seconds).await?;
            self.jobs.tidy().await?;
            self.projects.compact_counts().await?;
        }
        self.jobs.next_due().await
    }
}
