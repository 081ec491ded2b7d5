//! The audit log: who did what, from where, and what came of it. JSON lines with the field names of the Elastic Common Schema.
//!
//! Whoever has something to record hands it over ([`Audit::record`]) and never waits; a thread of its own (tracing-appender) writes. What it cannot take, or
//! cannot write, is counted ([`Audit::lost`]), and the count is a line as soon as lines can be written again.
//!
//! Each line has a number and carries the hash of the line before it (`chain.rs`): a line that was changed, moved or taken away is found by [`verify`]. A
//! process has one chain at a time, which the next one continues; processes that share a folder have chains of their own (`files.rs`).

mod chain;
mod event;
mod files;
mod folds;
mod verify;
mod writer;

use std::{
    io::{self, Write as _},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::Utc;
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::{AuditFailure, Settings};

use folds::{Fold, Folds};
use writer::Writer;

pub use chain::{Anchor, Seal};
pub use event::{AUTHENTICATION_FAILED, Category, Event, FoldedBy, Kind, Outcome, PERMISSION_DENIED};
pub use folds::Subject;
pub use verify::{Allowed, Chain, Report, STARTED, STOPPED, verify};

/// How many lines wait to be written at most: some megabytes, or a second or so at the rate at which a server can make them.
const WAITING: usize = 16_384;

/// For how long refusals are counted before the count is written.
const FOLDED_FOR: Duration = Duration::from_secs(60);

/// How long the last lines may take to be written when a process ends.
const LAST: Duration = Duration::from_secs(5);

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write the audit log in {folder} (audit_log_dir): {error}. Give it a folder that this user may write in; \"\" is for no audit log"
)]
pub struct OpenError {
    folder: String,
    #[source]
    error: io::Error,
}

/// The audit log; clones are the same one. [`Audit::default`] records nothing.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Log>>);

struct Log {
    writer: NonBlocking,
    /// Ends the thread that writes.
    guard: Mutex<Option<WorkerGuard>>,
    folds: Folds,
    handed_over: AtomicU64,
    tally: Arc<Tally>,
}

/// What the thread that writes tells everybody else.
struct Tally {
    written: AtomicU64,
    /// Could not be written.
    failed: AtomicU64,
    /// Could not be handed over.
    dropped: OnceLock<ErrorCounter>,
    /// Whether the last attempt to write has failed.
    is_failing: AtomicBool,
    head: Mutex<Option<Anchor>>,
    on_failure: AuditFailure,
    /// Cancelled when a line was lost and none may be.
    stop: CancellationToken,
}

impl Tally {
    fn new(on_failure: AuditFailure) -> Self {
        Self {
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: OnceLock::new(),
            is_failing: AtomicBool::new(false),
            head: Mutex::new(None),
            on_failure,
            stop: CancellationToken::new(),
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped.get().map_or(0, |counter| counter.dropped_lines() as u64)
    }

    fn has_failed(&self, count: u64) {
        self.failed.fetch_add(count, Ordering::Relaxed);
        self.look();
    }

    /// Whether there is reason to stop.
    fn look(&self) {
        if self.on_failure == AuditFailure::Stop && self.lost() > 0 {
            self.stop.cancel();
        }
    }

    fn lost(&self) -> u64 {
        self.failed.load(Ordering::Relaxed) + self.dropped()
    }
}

impl Audit {
    /// Goes on with the audit log of the configured folder, or begins one. With no folder there is none.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if the folder is none that can be written in. A full disk is one only with `audit_failure=stop`.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let folder = &settings.audit_log_dir;
        if folder.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let tally = Arc::new(Tally::new(settings.audit_failure));
        let (seal, kept_days) = (Seal::new(settings.audit_key.expose_secret()), settings.audit_retention_days);
        let mut writer = Writer::new(folder, seal, kept_days, tally.clone());
        match writer.open() {
            Err(error) if settings.audit_failure == AuditFailure::Stop || !is_full(&error) => {
                return Err(OpenError { folder: folder.display().to_string(), error });
            }
            Err(error) => {
                tally.is_failing.store(true, Ordering::Relaxed);
                tracing::error!(%error, folder = %folder.display(), "the audit log cannot be written: lines are lost");
            }
            Ok(()) => {}
        }
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).thread_name("audit");
        let (writer, guard) = builder.finish(writer);
        tally.dropped.get_or_init(|| writer.error_counter());
        Ok(Self(Some(Arc::new(Log {
            writer,
            guard: Mutex::new(Some(guard)),
            folds: Folds::default(),
            handed_over: AtomicU64::new(0),
            tally,
        }))))
    }

    /// Records something. Never waits.
    pub fn record(&self, event: &Event<'_>) {
        let Some(log) = &self.0 else { return };
        log.handed_over.fetch_add(1, Ordering::Relaxed);
        // It counts what it cannot take, and says that all is well.
        let _ = log.writer.clone().write_all(&event.to_json(Utc::now()));
        log.tally.look();
    }

    /// Records a refusal, unless this subject had many of them a moment ago: those are counted, and the count is recorded by [`Audit::tend`]. `event` is asked
    /// for only if it is to be recorded; it names who is known.
    pub fn refuse<'a>(&self, subject: Subject, action: &'static str, event: impl FnOnce() -> Event<'a>) {
        let Some(log) = &self.0 else { return };
        if let Some(event) = log.folds.note(subject, action, event) {
            self.record(&event);
        }
    }

    /// Records each minute how many refusals were not told one by one. Never ends.
    pub async fn tend(&self) {
        loop {
            sleep(FOLDED_FOR).await;
            self.tell_folded();
        }
    }

    fn tell_folded(&self) {
        let Some(log) = &self.0 else { return };
        for Fold { address, user, key, by, action, count, since } in log.folds.take() {
            let (folded, folded_by, since) = (Some(count), Some(by), Some(since));
            self.record(&Event { source: address, user, key, folded, folded_by, since, ..Event::refusal(action) });
        }
    }

    /// How many lines were lost since the process began, because the disk was full, or too slow.
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |log| log.tally.lost())
    }

    /// How many lines were written since the process began.
    pub fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, |log| log.tally.written.load(Ordering::Relaxed))
    }

    /// The last line that was written, if any was: with its hash, whoever keeps it elsewhere can tell later whether it is still there.
    pub fn head(&self) -> Option<Anchor> {
        self.0.as_ref()?.tally.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing may be done any more because it would not be recorded (`audit_failure=stop`).
    pub fn has_stopped(&self) -> bool {
        self.0.as_ref().is_some_and(|log| log.tally.on_failure == AuditFailure::Stop && log.tally.stop.is_cancelled())
    }

    /// Waits until that is so.
    pub async fn stopped(&self) {
        match &self.0 {
            Some(log) => log.tally.stop.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Writes what is still to be written, and this at last, and ends. Returns how many lines were lost.
    pub async fn close(&self, last: &Event<'_>) -> u64 {
        self.tell_folded();
        self.record(last);
        let Some(log) = &self.0 else { return 0 };
        let deadline = Instant::now() + LAST;
        let is_settled = || self.written() + self.lost() >= log.handed_over.load(Ordering::Relaxed);
        while !is_settled() && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        let unwritten = if is_settled() { 0 } else { log.handed_over.load(Ordering::Relaxed) - self.written() - self.lost() };
        drop(log.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
        let lost = self.lost() + unwritten;
        if lost > 0 {
            tracing::error!(lost, "lines of the audit log are lost");
        }
        lost
    }
}

/// Whether there is no room, which may be otherwise in a moment.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
