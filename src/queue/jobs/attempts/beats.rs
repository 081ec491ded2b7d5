//! Heartbeats. They come to all jobs that run, also to those that somebody is changing or deleting for a while, so they wait for no lock, and without a connection.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};

use super::stale;
use crate::{
    postgres::{
        Row,
        query::{Params, attempts as sql},
    },
    queue::{Error, Result, Thing, jobs::Store},
};

/// How long it is tried again while somebody else holds an attempt.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long between two tries: first so long, then twice as long each time.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// That a client is still at it.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Attempt")]
pub struct Beat {
    pub job_id: i64,
    pub number: i32,
    pub progress: Option<f64>,
    pub message: Option<String>,
    /// The last lines so far.
    pub log_tail: Option<String>,
    /// How long the lease lasts from now on, if not as before.
    pub lease_seconds: Option<i32>,
}

/// What is left of an attempt after a heartbeat.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of Attempt")]
pub struct Left {
    pub job_id: i64,
    pub number: i32,
    pub lease_expires_at: Option<DateTime<Utc>>,
    pub cancel_requested: bool,
}

impl Store {
    /// Extends a lease.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Stale`], [`Error::Held`].
    pub async fn heartbeat(&self, beat: &Beat) -> Result<Left> {
        if let Some(left) = self.heartbeats(std::slice::from_ref(beat), None).await?.pop() {
            return Ok(left);
        }
        let job = self.get(beat.job_id).await?;
        let attempt = self.attempt(beat.job_id, beat.number).await?;
        Err(stale(&attempt, job.attempt, job.status))
    }

    /// Extends many leases, or those of them that are this client's. What is over, or somebody else's, is missing in what comes back.
    ///
    /// # Errors
    ///
    /// [`Error::Held`]; the other leases are extended then.
    pub async fn heartbeats(&self, beats: &[Beat], client_id: Option<&str>) -> Result<Vec<Left>> {
        let (mut left, mut beats) = (Vec::with_capacity(beats.len()), beats.iter().collect::<Vec<_>>());
        let mut tries = Tries::new();
        loop {
            let beaten = Beaten::of(&self.beat(&beats, client_id).await?);
            left.extend(beaten.left);
            beats.retain(|beat| beaten.held.contains(&(beat.job_id, beat.number)));
            match beaten.held.into_iter().next() {
                Some(held) => tries.pause(held).await?,
                None => return Ok(left),
            }
        }
    }

    /// Extends all leases of a client.
    ///
    /// # Errors
    ///
    /// [`Error::Held`]; the other leases are extended then.
    pub async fn heartbeat_of_client(&self, client_id: &str) -> Result<Vec<Left>> {
        let mut tries = Tries::new();
        loop {
            let client = self.database.client().await?;
            let beaten = Beaten::of(&sql::HEARTBEAT_OF_CLIENT.all(&client, &[&client_id]).await?);
            drop(client);
            match beaten.held.into_iter().next() {
                Some(held) => tries.pause(held).await?,
                None => return Ok(beaten.left),
            }
        }
    }

    async fn beat(&self, beats: &[&Beat], client_id: Option<&str>) -> Result<Vec<Row>> {
        let jobs: Vec<i64> = beats.iter().map(|beat| beat.job_id).collect();
        let numbers: Vec<i32> = beats.iter().map(|beat| beat.number).collect();
        let progress: Vec<Option<f64>> = beats.iter().map(|beat| beat.progress).collect();
        let messages: Vec<Option<&str>> = beats.iter().map(|beat| beat.message.as_deref()).collect();
        let leases: Vec<Option<i32>> = beats.iter().map(|beat| beat.lease_seconds).collect();
        let tails: Vec<Option<&str>> = beats.iter().map(|beat| beat.log_tail.as_deref()).collect();
        let params: Params<'_> = &[&jobs, &numbers, &progress, &messages, &leases, &tails, &client_id];
        let client = self.database.client().await?;
        Ok(sql::HEARTBEAT.all(&client, params).await?)
    }
}

/// What came of heartbeats.
struct Beaten {
    left: Vec<Left>,
    /// The jobs and numbers of attempts that somebody else holds.
    held: HashSet<(i64, i32)>,
}

impl Beaten {
    fn of(rows: &[Row]) -> Self {
        let (held, extended): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get("is_held"));
        Self {
            left: extended.into_iter().map(left).collect(),
            held: held.into_iter().map(|row| (row.get("job_id"), row.get("number"))).collect(),
        }
    }
}

/// Trying again, as long as there is hope.
struct Tries {
    until: Instant,
    pause: Duration,
}

impl Tries {
    fn new() -> Self {
        Self { until: Instant::now() + PATIENCE, pause: PAUSE }
    }

    /// Waits until the next try, for an attempt that is held.
    async fn pause(&mut self, (job, number): (i64, i32)) -> Result<()> {
        if Instant::now() + self.pause > self.until {
            return Err(Error::Held(Thing::Attempt { job, number }));
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

fn left(row: &Row) -> Left {
    Left {
        job_id: row.get("job_id"),
        number: row.get("number"),
        lease_expires_at: row.get("lease_expires_at"),
        cancel_requested: row.get("cancel_requested"),
    }
}
