//! Bells: who waits for jobs of a project hears that there may be some.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::redis::{Redis, messages::TOGETHER};

/// The bells of all projects in which anybody waits here; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    bells: Arc<Mutex<HashMap<i64, Weak<Bell>>>>,
    elsewhere: Option<mpsc::Sender<Rung>>,
}

/// The bell of one project.
#[derive(Debug, Default)]
pub(in crate::queue) struct Bell {
    rung: AtomicBool,
    clients_have_grown: AtomicBool,
    notify: Notify,
}

/// What was rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rung {
    /// The bell of a project.
    Project(i64),
    /// All of them, because of a client.
    Clients,
}

/// [`Rung::Clients`] on the wire.
const CLIENTS: &str = "clients";

impl Bells {
    /// There may be something to claim, here and elsewhere.
    pub fn ring(&self, project_id: i64) {
        self.ring_here(project_id);
        if let Some(elsewhere) = &self.elsewhere {
            // If others cannot be told fast enough, which they cannot without Redis, they look by themselves.
            elsewhere.try_send(Rung::Project(project_id)).ok();
        }
    }

    /// A client has more than before, here and elsewhere: what was too large for it may not be any more, whatever project it waits in.
    pub fn ring_for_clients(&self) {
        self.ring_all_here();
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.try_send(Rung::Clients).ok();
        }
    }

    /// There may be something to claim, as another server says.
    fn ring_here(&self, project_id: i64) {
        if let Some(bell) = self.find(project_id) {
            bell.ring();
        }
    }

    /// Everybody looks, also at what clients have.
    fn ring_all_here(&self) {
        let bells: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        for bell in bells {
            bell.clients_have_grown.store(true, Ordering::Release);
            bell.ring();
        }
    }

    /// Somebody came, which is no reason for those who wait to look again.
    pub(in crate::queue) fn nudge(&self, project_id: i64) {
        if let Some(bell) = self.find(project_id) {
            bell.notify.notify_one();
        }
    }

    /// The bell of a project, there as long as somebody holds it.
    pub(in crate::queue) fn hear(&self, project_id: i64) -> Arc<Bell> {
        let bell = Arc::new(Bell::default());
        let mut bells = self.lock();
        bells.retain(|_, bell| bell.strong_count() > 0);
        bells.insert(project_id, Arc::downgrade(&bell));
        bell
    }

    fn find(&self, project_id: i64) -> Option<Arc<Bell>> {
        self.lock().get(&project_id).and_then(Weak::upgrade)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Weak<Bell>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it may be silent before it is asked whether anybody can be heard.
const SILENCE: Duration = Duration::from_secs(5);

/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How many projects wait to be told of.
const WAITING: usize = 4096;

/// The channel on which servers tell each other.
const CHANNEL: &str = "ready";

/// Passes on what is rung here to other servers, and what is rung there to these bells. Nothing depends on it but how soon somebody looks.
pub struct Wire {
    bells: Bells,
    rung: mpsc::Receiver<Rung>,
    redis: Redis,
    /// Whose messages need not be heard.
    server: Uuid,
}

impl Wire {
    /// Bells, and the wire to those of other servers.
    pub fn new(redis: Redis) -> (Bells, Self) {
        let (sender, rung) = mpsc::channel(WAITING);
        let bells = Bells { elsewhere: Some(sender), ..Bells::default() };
        (bells.clone(), Self { bells, rung, redis, server: Uuid::new_v4() })
    }

    /// Never ends.
    pub async fn run(self) {
        let Self { bells, rung, redis, server } = self;
        let (probe, probes) = mpsc::channel(1);
        tokio::join!(send(&redis, server, rung, probes), hear(&redis, server, &bells, probe));
    }
}

async fn send(redis: &Redis, server: Uuid, mut rung: mpsc::Receiver<Rung>, mut probes: mpsc::Receiver<()>) {
    let mut sender = redis.sender(CHANNEL);
    let mut rings = Vec::new();
    loop {
        rings.clear();
        tokio::select! {
            count = rung.recv_many(&mut rings, TOGETHER) => if count == 0 { return },
            Some(()) = probes.recv() => {}
        }
        // Many jobs of a project that end at once are one reason to look.
        rings.sort_unstable();
        rings.dedup();
        let message = |ring: &Rung| match ring {
            Rung::Project(project) => format!("{server} {project}"),
            Rung::Clients => format!("{server} {CLIENTS}"),
        };
        let mut messages: Vec<String> = rings.iter().map(message).collect();
        if messages.is_empty() {
            messages.push(format!("{server} ?"));
        }
        if let Err(error) = sender.send(&messages).await {
            {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "other servers were not told that there are jobs: they look by themselves");
            }
            sleep(PAUSE).await;
        }
    }
}

async fn hear(redis: &Redis, server: Uuid, bells: &Bells, probe: mpsc::Sender<()>) {
    loop {
        if let Ok(mut messages) = redis.messages(CHANNEL).await {
            // What was rung before was not heard.
            bells.ring_all_here();
            let mut is_silent = false;
            loop {
                match timeout(SILENCE, messages.next()).await {
                    Ok(Some(message)) => {
                        is_silent = false;
                        match message.split_once(' ').filter(|(from, _)| *from != server.to_string()) {
                            Some((_, CLIENTS)) => bells.ring_all_here(),
                            Some((_, project)) => drop(project.parse().map(|project| bells.ring_here(project))),
                            None => {}
                        }
                    }
                    Ok(None) => break,
                    // Not even its own probe was heard.
                    Err(_) if is_silent => break,
                    Err(_) => {
                        is_silent = true;
                        probe.try_send(()).ok();
                    }
                }
            }
        }
        sleep(PAUSE).await;
    }
}

impl Bell {
    pub(in crate::queue) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether it has rung, which it then still has.
    pub(in crate::queue) fn rings(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Whether it has rung since this was last asked.
    pub(in crate::queue) fn has_rung(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether a client may have more than when this was last asked.
    pub(in crate::queue) fn have_clients_grown(&self) -> bool {
        self.clients_have_grown.swap(false, Ordering::AcqRel)
    }

    /// Until something happens.
    pub(in crate::queue) async fn wait(&self) {
        self.notify.notified().await;
    }
}
