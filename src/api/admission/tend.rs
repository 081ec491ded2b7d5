//! What a gate does besides letting requests in.

use std::time::Duration;

use tokio::time::sleep;

use super::{Gate, Issued};

/// How often changes of keys are copied to Redis again, and last uses written.
const RECONCILE: Duration = Duration::from_secs(5);

impl Gate {
    /// Copies changes of keys to Redis that may not have arrived, and writes when keys were last used. Never ends.
    pub async fn tend(&self) {
        loop {
            sleep(RECONCILE).await;
            self.reconcile().await;
            self.learn().await;
            self.0.last_used.write(&self.0.keys).await;
        }
    }

    /// Takes to Redis what happened without it: changes of keys, and what this server has admitted by itself.
    pub async fn take_over(&self) {
        tokio::join!(self.reconcile(), self.0.decider.take_over());
    }

    async fn reconcile(&self) {
        match self.0.keys.reconcile().await {
            Ok(changed) => self.0.issued.add(changed),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "keys could not be reconciled");
                // Some may be missed.
                self.0.issued.is_old();
            }
        }
    }

    /// Learns which keys there are, and what servers share, if it does not know.
    pub async fn learn(&self) {
        if let Err(error) = self.0.keys.proofs.prepare().await {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "the fleet's secret could not be read");
        }
        if self.0.issued.wants_all()
            && let Ok(ids) = self.0.keys.store.good_ids(Issued::MOST).await
        {
            self.0.issued.set(ids);
        }
    }
}
