//! Serving the claims of one project.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::{Instant, sleep_until};

use super::{
    ANYTHING, Claim, Claims, Head, Wish,
    marks::Marks,
    outlook::{Occasion, View},
    round::{Found, Round},
};
use crate::queue::{Error, jobs::Resources};

/// How many claims one transaction serves.
const TOGETHER: usize = 64;

impl Claims {
    /// Serves a project as long as anybody claims.
    pub(super) async fn serve(self, project_id: i64) {
        let mut serving = Serving { queues: self.queues.clone(), project_id, is_done: false };
        let bell = self.jobs.bells.hear(project_id);
        let marks = Mutex::default();
        let mut parked: Vec<Claim> = Vec::new();
        let mut view = View::new(self.outlook.clone(), project_id, bell.clone());
        loop {
            let Some(new) = self.arrived(project_id, parked.is_empty()) else {
                serving.is_done = true;
                return;
            };
            let (has_rung, is_time) = (bell.has_rung(), view.is_time());
            if (has_rung || is_time) && !parked.is_empty() {
                parked.extend(new);
                let occasion = if has_rung { Occasion::Bell } else { Occasion::Time };
                parked = self.look_again(&mut view, occasion, is_time, &marks, parked).await;
            } else {
                let mut new = new.into_iter().peekable();
                while new.peek().is_some() {
                    parked.extend(self.round(project_id, &marks, new.by_ref().take(TOGETHER).collect()).await);
                }
            }
            let now = Instant::now();
            let is_over = |claim: &Claim| claim.until <= now || claim.answer.is_closed() || self.closing.is_cancelled();
            for claim in parked.extract_if(.., |claim| is_over(claim)) {
                drop(claim.answer.send(Ok(self.handover(Vec::new()))));
            }
            if let Some(first) = parked.iter().map(|claim| claim.until).min() {
                tokio::select! {
                    () = bell.wait() => {}
                    () = self.closing.cancelled() => {}
                    () = sleep_until(first) => {}
                    () = sleep_until(view.next()) => {}
                }
            }
        }
    }

    /// The claims that arrived since. If there are none, and nobody is parked, the project is served no longer.
    fn arrived(&self, project_id: i64, is_idle: bool) -> Option<Vec<Claim>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = mem::take(queues.entry(project_id).or_default());
        if arrived.is_empty() && is_idle {
            queues.remove(&project_id);
            return None;
        }
        Some(arrived)
    }

    /// Serves all that just came, and those that are parked as long as there is anything that they could have. Returns who is left, in the order in which
    /// they came.
    async fn look_again(
        &self,
        view: &mut View,
        mut occasion: Occasion,
        mut is_time: bool,
        marks: &Mutex<Marks>,
        mut claims: Vec<Claim>,
    ) -> Vec<Claim> {
        for claim in claims.iter_mut().filter(|claim| claim.watch.has_more()) {
            claim.room = ANYTHING;
        }
        let mut left = Vec::new();
        // Tasks of which others hold what there is: all who are parked would find that too, one round after the other.
        let mut held = HashSet::new();
        loop {
            // While the database is away, those that just came are told so.
            let mut heads = if self.closing.is_cancelled() { Vec::new() } else { view.heads(occasion, largest(&claims)).await.to_vec() };
            heads.retain(|head| !held.contains(&head.task_id));
            // However often it rings: nobody is told of everything that gives a client more room.
            if mem::take(&mut is_time) {
                measure(view, occasion, &heads, &mut claims).await;
            }
            // Now that there is something, nobody waits for other projects.
            occasion = Occasion::Bell;
            let is_hopeful = |claim: &mut Claim| !claim.is_parked || heads.iter().any(|head| claim.could_take(head, claim.limit()));
            let together: Vec<Claim> = claims.extract_if(.., is_hopeful).take(TOGETHER).collect();
            if together.is_empty() {
                break;
            }
            let count = together.len();
            self.jobs.tally.woken.add(together.iter().filter(|claim| claim.is_parked).count() as u64);
            let unserved = self.round(view.project_id(), marks, together).await;
            if unserved.len() == count {
                let is_held = |head: &&Head| unserved.iter().any(|claim| claim.could_take(head, claim.limit()));
                held.extend(heads.iter().filter(is_held).map(|head| head.task_id));
            }
            left.extend(unserved);
        }
        left.append(&mut claims);
        left.sort_by_key(|claim| claim.number);
        left
    }

    /// Answers what can be answered, in one transaction; returns the rest, in the same order.
    async fn round(&self, project_id: i64, marks: &Mutex<Marks>, mut claims: Vec<Claim>) -> Vec<Claim> {
        claims.retain(|claim| !claim.answer.is_closed());
        if claims.is_empty() {
            return claims;
        }
        self.jobs.tally.rounds.observe(claims.len() as u64);
        let wishes: Vec<Wish> = claims.iter().map(|claim| claim.wish.clone()).collect();
        let are_new = claims.iter().map(|claim| !claim.is_parked).collect();
        let found = self.jobs.database.transaction(&Round { project_id, wishes: &wishes, are_new, marks }).await;
        let mut left = Vec::new();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let (is_transient, error) = (error.is_transient(), Arc::new(error));
                for claim in claims {
                    // Whoever waits may live to see the database again.
                    if claim.is_parked && is_transient {
                        left.push(claim);
                    } else {
                        drop(claim.answer.send(Err(Error::Shared(error.clone()))));
                    }
                }
                return left;
            }
        };
        for (claim, Found { jobs, room, is_there }) in claims.into_iter().zip(found) {
            match jobs {
                Ok(jobs) if jobs.is_empty() && is_there => left.push(Claim { room, is_parked: true, ..claim }),
                // Nothing for who has signed off. If the request is gone already, the handover comes back here and is dropped.
                Ok(jobs) => {
                    self.jobs.tally.granted.add(jobs.len() as u64);
                    // Whoever got them will say something of them.
                    jobs.iter().for_each(|granted| self.jobs.remember(&granted.job));
                    drop(claim.answer.send(Ok(self.handover(jobs))));
                }
                Err(error) => drop(claim.answer.send(Err(error))),
            }
        }
        left
    }
}

/// Looks what clients have left, of those that could take something if they had more than when they were last looked at.
async fn measure(view: &mut View, occasion: Occasion, heads: &[Head], claims: &mut [Claim]) {
    let is_short = |claim: &&mut Claim| {
        let with = |limit| heads.iter().any(|head| claim.could_take(head, limit));
        claim.is_parked && !with(claim.limit()) && with(claim.wish.limit)
    };
    let mut short: HashMap<String, Vec<&mut Claim>> = HashMap::new();
    for claim in claims.iter_mut().filter(is_short) {
        short.entry(claim.wish.client_id.clone()).or_default().push(claim);
    }
    if short.is_empty() {
        return;
    }
    let room = view.room(occasion, short.keys().cloned().collect()).await;
    for (client, claims) in short {
        if let Some(room) = room.get(&client) {
            claims.into_iter().for_each(|claim| claim.room = *room);
        }
    }
}

/// The most that any of these claims would take.
fn largest(claims: &[Claim]) -> Resources {
    let most = |of: fn(&Resources) -> i32| claims.iter().map(|claim| of(&claim.wish.limit)).max().unwrap_or_default();
    Resources { cpu: most(|limit| limit.cpu), accelerators: most(|limit| limit.accelerators) }
}

/// Sees to it that a project is served anew if the task that served it was ended by a panic.
struct Serving {
    queues: Arc<Mutex<HashMap<i64, Vec<Claim>>>>,
    project_id: i64,
    is_done: bool,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_done {
            self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.project_id);
        }
    }
}
