//! New settings for a server that runs.
//!
//! Each part that can take new settings tries them before it lets go of the old ones. What it cannot take, or what cannot be read, leaves the old in use, is
//! logged, and is tried again until it works: secrets are changed in several places, and not all at once.

use std::{error::Error, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::config::{Effective, Settings};

/// How often what could not be taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

type Failure = Box<dyn Error + Send + Sync>;
type Taken = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// The parts of a server that take new settings.
#[derive(Default)]
pub struct Reload(Vec<Part>);

struct Part {
    name: &'static str,
    /// The settings that it takes.
    settings: &'static [&'static str],
    take: Box<dyn Fn(Arc<Settings>) -> Taken + Send + Sync>,
}

/// What became of new settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// They are in force.
    All,
    /// Some are not.
    NotAll,
}

impl Reload {
    /// The same with one more part, which takes these settings. `take` leaves everything as it is if it fails.
    #[must_use]
    pub fn with<F>(
        mut self,
        name: &'static str,
        settings: &'static [&'static str],
        take: impl Fn(Arc<Settings>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.0.push(Part { name, settings, take: Box::new(move |settings| Box::pin(take(settings))) });
        self
    }

    /// Reads the settings and gives them to all parts each time that `asked` says so; `told` hears what became of it at first, and when that changes. Says in
    /// the log which settings are others than those that the server started with, and are taken by no part. Ends when `asked` has nothing more to say.
    pub async fn run<E: Error + Send + Sync + 'static>(
        &self,
        started: &Effective,
        mut asked: impl AsyncFnMut() -> Option<()>,
        read: impl Fn() -> Result<Effective, E>,
        told: impl Fn(Reloaded),
    ) {
        let mut waiting: Vec<&Part> = Vec::new();
        let mut is_untold = false;
        loop {
            let is_again = tokio::select! {
                biased;
                asked = asked() => match asked {
                    None => return,
                    Some(()) => {
                        waiting = self.0.iter().collect();
                        is_untold = true;
                        false
                    }
                },
                () = sleep(RETRY), if !waiting.is_empty() => true,
            };
            let before = waiting.len();
            match read() {
                Ok(effective) => {
                    if std::mem::take(&mut is_untold) {
                        self.warn_of_others(started, &effective);
                    }
                    waiting = take(&Arc::new(effective.settings), waiting, is_again).await;
                }
                Err(error) if is_again => tracing::debug!(error = &error as &dyn Error, "the settings cannot be read"),
                Err(error) => {
                    let error: &dyn Error = &error;
                    tracing::error!(
                        error,
                        "the new settings cannot be read: the old ones stay in use, and they are tried again every second"
                    );
                }
            }
            match (is_again, waiting.is_empty()) {
                (_, true) => {
                    tracing::info!("the settings were read again and are in force");
                    told(Reloaded::All);
                }
                (false, false) => told(Reloaded::NotAll),
                (true, false) if waiting.len() < before => tracing::info!("some of the new settings are in force"),
                (true, false) => {}
            }
        }
    }

    /// Of settings that were changed and that no part takes.
    fn warn_of_others(&self, started: &Effective, now: &Effective) {
        let is_taken = |name: &str| self.0.iter().any(|part| part.settings.contains(&name));
        let names: Vec<_> = now.differing(started).into_iter().filter(|name| !is_taken(name)).collect();
        if !names.is_empty() {
            tracing::warn!(settings = names.join(", "), "settings were changed that need a restart: until then the old ones stay in use");
        }
    }
}

/// Returns the parts that could not take the settings.
async fn take<'a>(settings: &Arc<Settings>, parts: Vec<&'a Part>, is_again: bool) -> Vec<&'a Part> {
    let mut failed = Vec::new();
    for part in parts {
        let Err(error) = (part.take)(settings.clone()).await else { continue };
        let (error, name): (&(dyn Error + 'static), _) = (&*error, part.name);
        match is_again {
            false => tracing::error!(
                error,
                "new settings for {name} do not work: the old ones stay in use, and these are tried again every second"
            ),
            true => tracing::debug!(error, "new settings for {name} do not work yet"),
        }
        failed.push(part);
    }
    failed
}
