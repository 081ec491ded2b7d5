//! Bells: who waits for jobs of a project hears that there may be some.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};

/// The bells of all projects in which anybody waits here; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    bells: Arc<Mutex<HashMap<i64, Weak<Bell>>>>,
    elsewhere: Option<mpsc::UnboundedSender<i64>>,
}

/// The bell of one project.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    notify: Notify,
}

impl Bells {
    /// Bells that are to be rung on other servers too: their projects come out of the channel.
    pub fn with_others(elsewhere: mpsc::UnboundedSender<i64>) -> Self {
        Self { elsewhere: Some(elsewhere), ..Self::default() }
    }

    /// There may be something to claim, here and elsewhere.
    pub fn ring(&self, project_id: i64) {
        self.ring_here(project_id);
        if let Some(elsewhere) = &self.elsewhere {
            // Nobody listens any more only when the server stops.
            elsewhere.send(project_id).ok();
        }
    }

    /// There may be something to claim, as another server says.
    pub fn ring_here(&self, project_id: i64) {
        if let Some(bell) = self.find(project_id) {
            bell.ring();
        }
    }

    /// Everybody looks: what was rung elsewhere may have got lost.
    pub fn ring_all_here(&self) {
        let bells: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        for bell in bells {
            bell.ring();
        }
    }

    /// Somebody came, which is no reason for those who wait to look again.
    pub(super) fn nudge(&self, project_id: i64) {
        if let Some(bell) = self.find(project_id) {
            bell.notify.notify_one();
        }
    }

    /// The bell of a project, there as long as somebody holds it.
    pub(super) fn hear(&self, project_id: i64) -> Arc<Bell> {
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

impl Bell {
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether it has rung since it was last asked.
    pub(super) fn has_rung(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Until something happens.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }
}
