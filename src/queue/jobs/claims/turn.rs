//! Rounds of one project follow each other: while one takes jobs, the next one locks its clients and counts what they hold, which takes as long.

use tokio_util::sync::CancellationToken;

/// When a round may take jobs: after those before it, in their order. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    before: CancellationToken,
    begun: CancellationToken,
    over: CancellationToken,
}

impl Default for Turn {
    /// The turn of a round that is over.
    fn default() -> Self {
        let over = CancellationToken::new();
        over.cancel();
        Self { before: over.clone(), begun: over.clone(), over }
    }
}

impl Turn {
    /// The turn after this one.
    pub(super) fn behind(&self) -> Self {
        Self { before: self.over.clone(), begun: CancellationToken::new(), over: CancellationToken::new() }
    }

    /// Until those before it are over.
    pub(super) async fn wait(&self) {
        self.before.cancelled().await;
    }

    /// It takes jobs.
    pub(super) fn begin(&self) {
        self.begun.cancel();
    }

    /// Until it takes jobs.
    pub(super) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether it takes jobs, or has.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// It is over: the next one's turn.
    pub(super) fn end(&self) {
        self.begun.cancel();
        self.over.cancel();
    }
}
