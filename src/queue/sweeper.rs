//! What every server does now and then, whatever is asked of it. None leads: what one has locked the others pass over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Result, clients, jobs};

/// How long between two sweeps at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long at least: jobs that become due one after the other are swept together.
const PAUSE: Duration = Duration::from_millis(10);

/// How long between two looks for clients that fell silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Sweeps.
#[derive(Clone)]
pub struct Sweeper {
    /// Leases end, jobs become due.
    pub jobs: jobs::Store,
    /// Clients fall silent.
    pub clients: clients::Store,
    /// After how many seconds.
    pub client_timeout_seconds: u32,
}

impl Sweeper {
    /// Sweeps again and again. Never ends.
    pub async fn run(&self) {
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
            sleep(interval.saturating_sub(began.elapsed()).max(PAUSE)).await;
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
        }
        self.jobs.next_due().await
    }
}
