//! Heartbeats. They come to all jobs that run, also to those that somebody is changing or deleting for a while, so they wait for no lock, and without a connection.
//! (So they have no place among those who wait for it: a sweep that does may end a lease first that was beaten for in its last moment.)

use std::{
    collections::HashSet,
    slice,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::time::sleep;

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
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

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
    /// Whether somebody held it all the time, so that it was not extended.
    pub is_held: bool,
}

impl Store {
    /// Extends a lease.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Stale`], [`Error::Held`].
    pub async fn heartbeat(&self, beat: &Beat) -> Result<Left> {
        match self.heartbeats(slice::from_ref(beat), None).await?.pop() {
            Some(left) if left.is_held => Err(Error::Held(Thing::Attempt { job: left.job_id, number: left.number })),
            Some(left) => Ok(left),
            None => {
                let job = self.get(beat.job_id).await?;
                let attempt = self.attempt(beat.job_id, beat.number).await?;
                Err(stale(&attempt, job.attempt, job.status))
            }
        }
    }

    /// Extends many leases, or those of them that are this client's. What is over, or somebody else's, is missing in what comes back.
    pub async fn heartbeats(&self, beats: &[Beat], client_id: Option<&str>) -> Result<Vec<Left>> {
        let left = self.beat(beats.iter(), client_id).await?;
        self.beat_again(left, beats, client_id).await
    }

    /// Extends all leases of a client.
    pub async fn heartbeat_of_client(&self, client_id: &str) -> Result<Vec<Left>> {
        let client = self.database.client().await?;
        let rows = sql::HEARTBEAT_OF_CLIENT.all(&client, &[&client_id]).await?;
        drop(client);
        let left: Vec<Left> = rows.iter().map(left).collect();
        let beats: Vec<Beat> = left.iter().map(|left| Beat { job_id: left.job_id, number: left.number, ..Beat::default() }).collect();
        self.beat_again(left, &beats, Some(client_id)).await
    }

    /// Tries again, for those that somebody held, as long as there is hope.
    async fn beat_again(&self, mut left: Vec<Left>, beats: &[Beat], client_id: Option<&str>) -> Result<Vec<Left>> {
        let (until, mut pause) = (Instant::now() + PATIENCE, PAUSE);
        loop {
            let held: HashSet<(i64, i32)> = left.extract_if(.., |left| left.is_held).map(|left| (left.job_id, left.number)).collect();
            if held.is_empty() {
                return Ok(left);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let again = beats.iter().filter(|beat| held.contains(&(beat.job_id, beat.number)));
            left.extend(self.beat(again, client_id).await?);
            if Instant::now() + pause > until {
                return Ok(left);
            }
        }
    }

    async fn beat<'a>(&self, beats: impl Iterator<Item = &'a Beat>, client_id: Option<&str>) -> Result<Vec<Left>> {
        let beats: Vec<&Beat> = beats.collect();
        let jobs: Vec<i64> = beats.iter().map(|beat| beat.job_id).collect();
        let numbers: Vec<i32> = beats.iter().map(|beat| beat.number).collect();
        let progress: Vec<Option<f64>> = beats.iter().map(|beat| beat.progress).collect();
        let messages: Vec<Option<&str>> = beats.iter().map(|beat| beat.message.as_deref()).collect();
        let leases: Vec<Option<i32>> = beats.iter().map(|beat| beat.lease_seconds).collect();
        let tails: Vec<Option<&str>> = beats.iter().map(|beat| beat.log_tail.as_deref()).collect();
        let params: Params<'_> = &[&jobs, &numbers, &progress, &messages, &leases, &tails, &client_id];
        let client = self.database.client().await?;
        Ok(sql::HEARTBEAT.all(&client, params).await?.iter().map(left).collect())
    }
}

fn left(row: &Row) -> Left {
    Left {
        job_id: row.get("job_id"),
        number: row.get("number"),
        lease_expires_at: row.get("lease_expires_at"),
        cancel_requested: row.get("cancel_requested"),
        is_held: row.get("is_held"),
    }
}
