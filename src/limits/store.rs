//! The windows in Redis, where all servers share them.
//!
//! # Keys
//!
//! | key | type | what |
//! | --- | --- | --- |
//! | `{prefix}:{<subject>}:w:<name>` | string | a window; `window.lua` says what is in it. Gone by itself at most 1.25 lengths after its last admission |
//! | `{prefix}:{<subject>}:record` | hash | what is known of the subject; the key store writes it, [`Limits::admit`] only reads it |
//! | `{prefix}:{<subject>}:tokens` | sorted set | what was given out in the subject's name, by when it ends in ms; read only as well |
//!
//! The braces around the subject are literal: they are the hash tag that keeps all keys of a subject in one slot of a Redis Cluster.
//!
//! # Fields of a record that a decision reads
//!
//! | field | | |
//! | --- | --- | --- |
//! | `version` | required | a decimal number; a caller that has verified another one is told so |
//! | `expires_at_ms` | optional | Unix time in ms by Redis's clock, from which the subject is gone |
//! | `dead` | optional | with any value: the subject was revoked |
//! | `limit` | optional | the subject's own limit, for windows that say [`Window::own_limit`]; 0 is off |
//!
//! A record that is of another type, without a version, or with a number that is none is as good as missing.
//!
//! # When Redis fails
//!
//! An error is never an admission. One call is one script, which Redis runs by itself, so nothing is lost between looking and charging. A call whose
//! answer got lost may have been charged. If Redis runs out of memory, or is a replica that takes no writes, in the middle of charging several
//! windows, the first of them stay charged: too much, never too little. A Redis that is told to evict keys (`maxmemory-policy` other than `noeviction`)
//! can forget a window that is in use.

use std::{sync::LazyLock, time::Duration};

use ::redis::{RedisError, Script, ServerErrorKind, aio::ConnectionLike, cmd};

use super::window::{MAX_LENGTH_MS, MAX_LIMIT, Standing, Verdict};
use crate::redis;

const ADMIT: &str = concat!(include_str!("window.lua"), include_str!("admit.lua"));

static ADMIT_HASH: LazyLock<String> = LazyLock::new(|| Script::new(ADMIT).get_hash().to_owned());

/// One of a subject's windows, and what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its name among the subject's windows; one call names each at most once.
    pub name: &'static str,
    /// How many it may hold, at most [`MAX_LIMIT`]. 0 is off.
    pub limit: u32,
    /// Its length: from 1 to [`MAX_LENGTH_MS`], parts of a millisecond left out.
    pub length: Duration,
    /// How many come at once. 0 takes nothing and only looks whether one could come; if not, that is a refusal too.
    pub weight: u32,
    /// Whether the subject's own limit, if its record has one, goes before this one. Without a [`Guard`] no record is read.
    pub own_limit: bool,
}

/// What must be true of the subject's record for a request to come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The version of the record that the caller has verified.
    pub version: i64,
    /// The digest of the token that was presented in place of the subject's key, which must not have ended.
    pub token: Option<[u8; 32]>,
}

/// What is asked of a subject.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose record and windows it is about: any text that is not empty and does not begin with `}`.
    pub subject: &'a str,
    /// What must be true of the record; without that none is read.
    pub guard: Option<Guard>,
    /// The windows, which are all charged, or none.
    pub windows: &'a [Window],
    /// How many ask it, one after the other.
    pub times: usize,
}

/// Whether a request may come in. Only [`Admission::Admitted`] has charged anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// There is no record of the subject: it may be unknown, or Redis may have lost it.
    Missing,
    /// The subject was revoked, or has expired; or its token has.
    Gone,
    /// The record has another version than the one that was verified.
    Stale,
    /// A window is full.
    Refused {
        /// How each window stands, in the order asked; nothing for one that is off.
        standings: Vec<Option<Standing>>,
        /// When all windows would admit the same, and not earlier; nothing if a weight is greater than its limit.
        retry_after_ms: Option<u64>,
    },
    /// It may come in, and was charged to every window.
    Admitted {
        /// How each window stands, in the order asked; nothing for one that is off.
        standings: Vec<Option<Standing>>,
    },
}

/// What was decided of several who asked the same, one after the other at the same moment.
#[derive(Debug)]
pub struct Admissions {
    /// So many came in.
    admitted: usize,
    /// What the next one was told, or the last if all came in.
    end: Admission,
    /// What each of them was charged to each window.
    weights: Vec<u32>,
}

impl Admissions {
    /// What was decided of the one at this place, from 0.
    pub fn of(&self, place: usize) -> Admission {
        let before_the_last = u32::try_from(self.admitted.saturating_sub(place + 1)).unwrap_or(u32::MAX);
        match &self.end {
            Admission::Admitted { standings } | Admission::Refused { standings, .. } if place < self.admitted => {
                let then = standings.iter().zip(&self.weights).map(|(standing, weight)| {
                    let remaining = |last: u32| last.saturating_add(weight.saturating_mul(before_the_last));
                    standing.map(|last| Standing { remaining: remaining(last.remaining), verdict: Verdict::Admits, ..last })
                });
                Admission::Admitted { standings: then.collect() }
            }
            end => end.clone(),
        }
    }
}

/// There is no decision, and so no admission.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A window is asked for that cannot be kept.
    #[error(
        "the window {name} is asked for twice, has a limit over {MAX_LIMIT}, or a length that is not between 1 ms and {MAX_LENGTH_MS} ms"
    )]
    Window {
        /// Its name.
        name: &'static str,
    },
    /// Redis, or the way to it.
    #[error("Redis did not decide")]
    Redis(#[from] RedisError),
    /// Redis answered something that the script does not answer.
    #[error("Redis decided something that cannot be understood")]
    Answer,
}

impl redis::Failure for Error {
    fn is_of_redis(&self) -> bool {
        match self {
            Self::Window { .. } => false,
            Self::Redis(_) | Self::Answer => true,
        }
    }
}

/// The windows of all subjects under one prefix.
#[derive(Debug, Clone)]
pub struct Limits {
    prefix: String,
}

impl Limits {
    /// The windows under this prefix (`redis_key_prefix`).
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The key of a subject's record.
    ///
    /// A subject is any text that is not empty and does not begin with `}`.
    pub fn record_key(&self, subject: &str) -> String {
        redis::key(&self.prefix, subject, "record")
    }

    /// The key of what was given out in a subject's name.
    pub fn tokens_key(&self, subject: &str) -> String {
        redis::key(&self.prefix, subject, "tokens")
    }

    /// The key of a subject's window.
    pub fn window_key(&self, subject: &str, name: &str) -> String {
        redis::key(&self.prefix, subject, &["w:", name].concat())
    }

    /// Whether a request of this subject may come in, by its record (if there is a guard) and by all of the windows. One round trip.
    ///
    /// # Errors
    ///
    /// [`Error`], which is never an admission.
    pub async fn admit(
        &self,
        connection: &mut (impl ConnectionLike + Send),
        subject: &str,
        guard: Option<Guard>,
        windows: &[Window],
    ) -> Result<Admission, Error> {
        let question = Question { subject, guard, windows, times: 1 };
        let admissions = self.admit_all(connection, &[question]).await?;
        admissions.first().map(|one| one.of(0)).ok_or(Error::Answer)
    }

    /// The same for many questions, one after the other at the same moment, and for so many who ask each. One round trip for all of them. In a cluster all
    /// subjects must be of one slot.
    ///
    /// # Errors
    ///
    /// [`Error`], which is no admission of any of them.
    pub async fn admit_all(
        &self,
        connection: &mut (impl ConnectionLike + Send),
        questions: &[Question<'_>],
    ) -> Result<Vec<Admissions>, Error> {
        questions.iter().try_for_each(Question::check)?;
        let asked: Vec<&Question<'_>> = questions.iter().filter(|question| !question.is_off()).collect();
        let mut answers = if asked.is_empty() { Vec::new() } else { run(connection, &self.keys(&asked), &asked).await? }.into_iter();
        let admissions = questions.iter().map(|question| {
            let Question { windows, times, .. } = question;
            let (admitted, end) = if question.is_off() {
                (*times, Admission::Admitted { standings: vec![None; windows.len()] })
            } else {
                decided(&answers.next().ok_or(Error::Answer)?, *times, windows.len())?
            };
            Ok(Admissions { admitted, end, weights: windows.iter().map(|window| window.weight).collect() })
        });
        admissions.collect()
    }

    /// The keys of what is asked, in the order of the script.
    fn keys(&self, asked: &[&Question<'_>]) -> Vec<String> {
        let keys = asked.iter().flat_map(|Question { subject, guard, windows, .. }| {
            let record = guard.map(|_| self.record_key(subject));
            let tokens = guard.and_then(|guard| guard.token).map(|_| self.tokens_key(subject));
            record.into_iter().chain(tokens).chain(windows.iter().map(|window| self.window_key(subject, window.name)))
        });
        keys.collect()
    }

    /// How these windows stand, as they are asked about but with nothing taken.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn standing(
        &self,
        connection: &mut (impl ConnectionLike + Send),
        subject: &str,
        windows: &[Window],
    ) -> Result<Vec<Option<Standing>>, Error> {
        let looks: Vec<Window> = windows.iter().map(|window| Window { weight: 0, ..*window }).collect();
        match self.admit(connection, subject, None, &looks).await? {
            Admission::Admitted { standings } | Admission::Refused { standings, .. } => Ok(standings),
            Admission::Missing | Admission::Gone | Admission::Stale => Err(Error::Answer),
        }
    }

    /// Charges a window with what was admitted elsewhere: its weight, or as much of that as there is room for.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn charge(&self, connection: &mut (impl ConnectionLike + Send), subject: &str, window: Window) -> Result<(), Error> {
        if let Admission::Refused { standings, .. } = self.admit(connection, subject, None, &[window]).await? {
            let weight = standings.iter().flatten().map(|standing| standing.remaining).min().unwrap_or(0);
            self.admit(connection, subject, None, &[Window { weight, ..window }]).await?;
        }
        Ok(())
    }

    /// Empties these windows of a subject, at once for every server. Returns how many of them held anything.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`].
    pub async fn reset(&self, connection: &mut (impl ConnectionLike + Send), subject: &str, names: &[&str]) -> Result<u64, Error> {
        if names.is_empty() {
            return Ok(0);
        }
        let keys: Vec<String> = names.iter().map(|name| self.window_key(subject, name)).collect();
        Ok(cmd("DEL").arg(&keys).query_async(connection).await?)
    }
}

impl Question<'_> {
    fn check(&self) -> Result<(), Error> {
        for (i, Window { name, limit, length, .. }) in self.windows.iter().enumerate() {
            let is_twice = self.windows[..i].iter().any(|window| window.name == *name);
            if is_twice || *limit > MAX_LIMIT || !(1..=u128::from(MAX_LENGTH_MS)).contains(&length.as_millis()) {
                return Err(Error::Window { name });
            }
        }
        Ok(())
    }

    /// Whether the answer is known without asking.
    fn is_off(&self) -> bool {
        self.guard.is_none() && self.windows.iter().all(|window| window.limit == 0)
    }
}

/// Runs the script by its hash; where Redis does not know it (it was restarted, or is another one since), sends it along: one round trip more, once.
/// [`Script`] itself would load it first and then run it, which is two, and in a cluster loads it everywhere.
async fn run(connection: &mut (impl ConnectionLike + Send), keys: &[String], asked: &[&Question<'_>]) -> Result<Vec<Vec<i64>>, RedisError> {
    let call = |how: &str, script: &str| {
        let mut call = cmd(how);
        call.arg(script).arg(keys.len()).arg(keys);
        for Question { guard, windows, times, .. } in asked {
            call.arg(windows.len());
            match guard {
                Some(Guard { version, token }) => call.arg(version).arg(token.as_ref().map_or(&[][..], |digest| digest)),
                None => call.arg("").arg(""),
            };
            call.arg(times);
            for Window { limit, length, weight, own_limit, .. } in *windows {
                call.arg(limit).arg(length.as_millis().to_string()).arg(weight).arg(u32::from(*own_limit));
            }
        }
        call
    };
    match call("EVALSHA", &ADMIT_HASH).query_async(connection).await {
        Err(error) if error.kind() == ServerErrorKind::NoScript.into() => call("EVAL", ADMIT).query_async(connection).await,
        answer => answer,
    }
}

/// Reads the script's answer: how many of so many were admitted, and what was decided of the one after them, or of the last.
fn decided(answer: &[i64], times: usize, windows: usize) -> Result<(usize, Admission), Error> {
    match answer {
        [-1] => return Ok((0, Admission::Missing)),
        [-2] => return Ok((0, Admission::Gone)),
        [-3] => return Ok((0, Admission::Stale)),
        _ => {}
    }
    let [admitted, standings @ ..] = answer else { return Err(Error::Answer) };
    let admitted = usize::try_from(*admitted).map_err(|_| Error::Answer)?;
    let standings = standings.chunks(4).map(standing).collect::<Result<Vec<_>, _>>()?;
    if standings.len() != windows {
        return Err(Error::Answer);
    }
    let verdict = standings.iter().flatten().map(|standing| standing.verdict).max().unwrap_or(Verdict::Admits);
    let end = match verdict {
        Verdict::Admits if admitted == times => Admission::Admitted { standings },
        Verdict::After(ms) if admitted < times => Admission::Refused { standings, retry_after_ms: Some(ms) },
        Verdict::Never if admitted < times => Admission::Refused { standings, retry_after_ms: None },
        _ => return Err(Error::Answer),
    };
    Ok((admitted, end))
}

fn standing(answer: &[i64]) -> Result<Option<Standing>, Error> {
    let [limit, remaining, reset_ms, verdict] = *answer else { return Err(Error::Answer) };
    if limit == 0 {
        return Ok(None);
    }
    let number = |value: i64| u32::try_from(value).map_err(|_| Error::Answer);
    let milliseconds = |value: i64| u64::try_from(value).map_err(|_| Error::Answer);
    Ok(Some(Standing {
        limit: number(limit)?,
        remaining: number(remaining)?,
        reset_ms: milliseconds(reset_ms)?,
        verdict: match verdict {
            0 => Verdict::Admits,
            -1 => Verdict::Never,
            ms => Verdict::After(milliseconds(ms)?),
        },
    }))
}

#[cfg(test)]
mod tests;
