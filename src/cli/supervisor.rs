//! Telling the service manager how the process is doing (`sd_notify(3)`): with systemd, `Type=notify` and `WatchdogSec=`. Without one nothing is told.

use sd_notify::NotifyState;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// Says that the server is ready, and that it stops when it does; in between, if that is asked for, that it lives, twice in the time after which it
/// would be taken for dead.
pub(super) fn inform(stop: CancellationToken) {
    tell(NotifyState::Ready);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = live() => {}
        }
        tell(NotifyState::Stopping);
        // Stopping takes its time, and a process that hangs meanwhile is still to be noticed.
        live().await;
    });
}

async fn live() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut beat = interval(patience / 2);
    loop {
        beat.tick().await;
        tell(NotifyState::Watchdog);
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager cannot be told how the server is doing");
    }
}
