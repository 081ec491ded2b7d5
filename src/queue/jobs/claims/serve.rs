//! Serving the claims of one project.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesOrdered};
use tokio::time::{Instant, sleep_until};

use super::{
    Claim, Claims, Head, Serving, Wish,
    marks::Marks,
    round::{Found, Round},
    turn::Turn,
};
use crate::{
    postgres::{Row, query::claims as sql},
    queue::{Error, Result, jobs::Resources},
};

/// How many claims one transaction serves.
const TOGETHER: usize = 64;

/// How long those that are parked wait before it is looked again without anybody ringing: from so long to twice as long.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);

/// How many claims must have arrived for a round to begin while another one is under way. Fewer wait for it to end, and for more.
const MANY: usize = 16;

impl Claims {
    /// Serves a project as long as anybody claims.
    pub(super) async fn serve(self, project_id: i64) {
        let mut serving = Serving { queues: self.queues.clone(), project_id, is_done: false };
        let bell = self.jobs.bells.hear(project_id);
        let marks = Mutex::default();
        // Those that are served next, those that wait for a bell, and the rounds that are under way.
        let (mut next, mut parked, mut rounds) = (VecDeque::new(), Vec::new(), FuturesOrdered::new());
        let mut turn = Turn::default();
        let mut look_again = next_look();
        loop {
            let is_late = Instant::now() >= look_again;
            let mut is_time = !parked.is_empty() && (is_late || bell.rings());
            if is_time && next.is_empty() && rounds.is_empty() {
                (is_time, look_again) = (false, next_look());
                bell.has_rung();
                let may_have_grown = bell.have_clients_grown() || is_late;
                next.extend(self.look_again(project_id, &mut parked, may_have_grown).await);
            }
            let has_room = rounds.is_empty() || (rounds.len() == 1 && turn.has_begun());
            let enough = if rounds.is_empty() { 1 } else { MANY.saturating_sub(next.len()) };
            // Those that are parked come before those that arrive meanwhile.
            if has_room && !is_time {
                let is_idle = rounds.is_empty() && next.is_empty() && parked.is_empty();
                let Some(new) = self.arrived(project_id, enough, is_idle) else {
                    serving.is_done = true;
                    return;
                };
                next.extend(new);
            }
            if has_room && !next.is_empty() && (rounds.is_empty() || next.len() >= MANY) {
                let is_there = |claim: &Claim| !claim.answer.is_closed();
                let claims: Vec<Claim> = next.drain(..next.len().min(TOGETHER)).filter(is_there).collect();
                if !claims.is_empty() {
                    turn = turn.behind();
                    rounds.push_back(self.round(project_id, &marks, claims, turn.clone()));
                }
                continue;
            }
            if rounds.is_empty() && parked.is_empty() {
                continue;
            }
            let first = parked.iter().map(|claim: &Claim| claim.until).min();
            tokio::select! {
                Some(left) = rounds.next() => parked.extend(left),
                () = turn.begun(), if !turn.has_begun() => continue,
                () = bell.wait(), if has_room && !is_time => continue,
                () = sleep_until(look_again), if !is_time && first.is_some() => continue,
                () = sleep_until(first.unwrap_or(look_again)), if first.is_some() => {}
                () = self.closing.cancelled(), if first.is_some() => {}
            }
            let now = Instant::now();
            let is_over = |claim: &Claim| claim.until <= now || claim.answer.is_closed() || self.closing.is_cancelled();
            for claim in parked.extract_if(.., |claim| is_over(claim)) {
                drop(claim.answer.send(Ok(self.handover(Vec::new()))));
            }
        }
    }

    /// Takes of those that are parked whoever there may be something for, in the order in which they came.
    async fn look_again(&self, project_id: i64, parked: &mut Vec<Claim>, may_have_grown: bool) -> Vec<Claim> {
        let heads = self.heads(project_id, parked).await.unwrap_or_default();
        if may_have_grown {
            self.measure(&heads, parked).await.unwrap_or_default();
        }
        // Whoever came first is served first, also if it has been served in vain before.
        parked.sort_by_key(|claim| claim.number);
        let is_hopeful = |claim: &mut Claim| heads.iter().any(|head| claim.could_take(head, claim.limit()));
        let hopeful: Vec<Claim> = parked.extract_if(.., is_hopeful).collect();
        self.jobs.tally.woken.add(hopeful.len() as u64);
        hopeful
    }

    /// Looks what clients have now, of those that could have taken more when they were last looked at if they had had it.
    async fn measure(&self, heads: &[Head], claims: &mut [Claim]) -> Result<()> {
        let is_short = |claim: &&mut Claim| {
            let with = |limit| heads.iter().any(|head| claim.could_take(head, limit));
            claim.is_parked && !with(claim.limit()) && with(claim.wish.limit)
        };
        let mut short: HashMap<String, Vec<&mut Claim>> = HashMap::new();
        for claim in claims.iter_mut().filter(is_short) {
            short.entry(claim.wish.client_id.clone()).or_default().push(claim);
        }
        if short.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = short.keys().map(String::as_str).collect();
        let client = self.jobs.database.client().await?;
        for row in sql::SIZES.all(&client, &[&ids]).await? {
            let has = Resources { cpu: row.get("available_cpu"), accelerators: row.get("available_accelerators") };
            for claim in short.get_mut(row.get::<_, &str>("id")).into_iter().flatten() {
                claim.has = has;
            }
        }
        Ok(())
    }

    /// What each task's most urgent ready job needs, of those that the largest of these claims would take.
    async fn heads(&self, project_id: i64, claims: &[Claim]) -> Result<Vec<Head>> {
        let most = |of: fn(&Resources) -> i32| claims.iter().map(|claim| of(&claim.wish.limit)).max().unwrap_or_default();
        let (cpu, accelerators) = (most(|limit| limit.cpu), most(|limit| limit.accelerators));
        let client = self.jobs.database.client().await?;
        let rows = sql::HEADS.all(&client, &[&project_id, &cpu, &accelerators]).await?;
        let head = |row: &Row| Head {
            task_id: row.get("task_id"),
            needs: Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") },
        };
        Ok(rows.iter().map(head).collect())
    }

    /// Answers what can be answered; returns the rest, in the same order.
    async fn round(&self, project_id: i64, marks: &Mutex<Marks>, claims: Vec<Claim>, turn: Turn) -> Vec<Claim> {
        self.jobs.tally.rounds.observe(claims.len() as u64);
        let wishes: Vec<Wish> = claims.iter().map(|claim| claim.wish.clone()).collect();
        let newcomers = claims.iter().filter(|claim| !claim.is_parked).map(|claim| claim.wish.client_id.as_str()).collect();
        let round = Round { project_id, wishes: &wishes, newcomers, marks, turn: &turn };
        let found = loop {
            match self.jobs.database.transaction(&round).await.transpose() {
                Some(found) => break found,
                None => turn.wait().await,
            }
        };
        // Also if it has failed before: the next one must not come before its time.
        turn.wait().await;
        turn.end();
        let mut left = Vec::new();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let is_transient = matches!(&error, Error::Database(error) if error.is_transient());
                let error = Arc::new(error);
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
        for (claim, Found { jobs, has, is_there }) in claims.into_iter().zip(found) {
            match jobs {
                Ok(jobs) if jobs.is_empty() && is_there => left.push(Claim { has, is_parked: true, ..claim }),
                // Nothing for who has signed off. If the request is gone already, the handover comes back here and is dropped.
                Ok(jobs) => {
                    self.jobs.tally.granted.add(jobs.len() as u64);
                    drop(claim.answer.send(Ok(self.handover(jobs))));
                }
                Err(error) => drop(claim.answer.send(Err(error))),
            }
        }
        left
    }
}

/// When those who wait look again though nobody rang.
fn next_look() -> Instant {
    Instant::now() + LOOK_AGAIN.mul_f64(1.0 + jitter())
}

/// From 0 to 1, another one each time.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}
