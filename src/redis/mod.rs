//! Redis: what servers share besides the database. It may be away; nothing here waits for it longer than [`BUDGET`].
//!
//! It is one server, a cluster, or a master that sentinels know; [`SetupError::Form`] lists the forms of its URL.
//!
//! Requests send what they ask over one connection that all of them share, pipelined ([`Redis::attempt`]). The first that fails or gets no answer in
//! time opens the *breaker*: from then on attempts are refused at once, and one task looks whether Redis is back ([`Redis::watch`]). So a Redis that is
//! slow or away costs its budget once, and then nothing. Any error opens it, so also those by which Redis says that it cannot serve now: `READONLY`,
//! `LOADING`, `OOM`, `MASTERDOWN`, `CLUSTERDOWN`, and slots that move more often than it makes sense to follow.
//!
//! Time counts only while Redis answers nobody. As long as answers come in (each to a batch of requests) it is the server that has much to do, and going on
//! without Redis would make its limits inexact at the very moment when they matter. In a cluster it is the key's node that has to answer, not any.
//!
//! A cluster is there only if each of its nodes takes writes, since limits that hold for some keys and not for others are none. The cluster itself
//! sees it the same way, unless it is told otherwise (`cluster-require-full-coverage no`).
//!
//! Redis may come back with less than it knew: empty, or as a replica that had not heard of the last writes. So before a server goes back to it, it
//! takes there what happened meanwhile ([`Redis::watch`]).

mod connection;
pub mod messages;
mod stats;
mod url;
mod watch;
mod way;

use std::{
    fmt::Display,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::RedisError;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::watch as channel,
    time::{Instant, timeout},
};
use uuid::Uuid;

use crate::config::{AuthoritiesError, Settings, read_authorities};
use connection::Link;
use stats::Counts;
use way::{Address, Authorities, Way};

pub use ::redis::cluster_routing::Slot;
pub use connection::Connection;
pub use stats::Stats;

/// How long a request waits while Redis answers nobody.
pub const BUDGET: Duration = Duration::from_millis(50);

/// The settings that [`Redis::reload`] takes.
pub const RELOADED: &[&str] = &["redis_url", "redis_ca_file"];

/// How often whoever waits looks whether Redis has answered anybody else. Timers ring a millisecond or two late.
const TICK: Duration = Duration::from_millis(5);

/// How much of the budget the time between two looks may use up: a server that gets no processor for a while has not waited all that time.
const TICK_AT_MOST: Duration = Duration::from_millis(7);

/// The settings do not describe Redis. The URL is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL has none of the forms, or something in it is wrong.
    #[error(
        "redis_url is not of the form redis://[user:password@]host:port/number (or rediss://, redis+unix://), \
         redis+cluster://[user:password@]host:port,host:port (or rediss+cluster://), or \
         redis+sentinel://[user:password@]host:port,host:port/master-name/number[?sentinel_password=…] (or rediss+sentinel://)"
    )]
    Form(#[source] Option<RedisError>),
    /// The authorities to trust cannot be loaded.
    #[error("redis_ca_file: {0}")]
    Authorities(#[from] AuthoritiesError),
    /// Keys of one subject would be in different slots of a cluster.
    #[error("redis_key_prefix must not contain {{ or }}: braces say which keys a cluster keeps together")]
    Prefix,
}

/// What is risky about the way to Redis, if anything is.
pub fn warning(settings: &Settings) -> Option<String> {
    url::is_open(settings.redis_url.expose_secret()).then(|| {
        "Redis is on another machine and redis_url is not rediss…: whoever sits between can read its password, let themselves in and lift limits".to_owned()
    })
}

/// New settings are of no use.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They do not describe Redis.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// What they describe cannot be used.
    #[error("Redis cannot be used with them: {}", reason(.0))]
    Unusable(#[from] Error),
}

/// An error with what caused it.
fn reason(error: &Error) -> String {
    match error {
        Error::Command(cause) => cause.to_string(),
        error => error.to_string(),
    }
}

/// An error of Redis or on the way to it. Its text is for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command failed.
    #[error("a Redis command failed")]
    Command(#[from] RedisError),
    /// No connection could be had.
    #[error("no connection to Redis")]
    Pool(#[from] deadpool_redis::PoolError),
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// It is known to be away.
    #[error(transparent)]
    Away(#[from] Away),
    /// No sentinel knows a server that is the master.
    #[error("no sentinel names a server that is the master")]
    NoMaster,
    /// Keys in some slots cannot be reached.
    #[error("the cluster does not serve all slots")]
    Slots,
}

/// Redis is away, or too slow, or does not do what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct Away;

/// The way to Redis; cheap to clone.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    timeout: Duration,
    prefix: Arc<str>,
}

struct Shared {
    /// Of the way, with the file of the authorities that it believes.
    target: RwLock<(SecretString, PathBuf)>,
    way: channel::Sender<Arc<Way>>,
    line: RwLock<Line>,
    /// How many servers were alive when Redis last told; at least one.
    servers: AtomicUsize,
    /// This server, as the others see it in Redis.
    server: Uuid,
    counts: Counts,
}

/// What is used now.
enum Line {
    /// Nobody has connected yet.
    Unused,
    /// The breaker is open.
    Away,
    /// Redis was found again; what happened without it is being taken there.
    Found(Link),
    /// All is well. With the address of the master, if that may change.
    Up(Link, Option<Address>),
}

/// Why something that was asked of Redis has no answer.
pub trait Failure: std::error::Error + 'static {
    /// Whether Redis or the way to it failed. If not, only this one question has no answer, and nothing follows for others.
    fn is_of_redis(&self) -> bool {
        true
    }
}

impl Failure for RedisError {}

/// What one request asks of Redis.
pub struct Attempt {
    link: Link,
    node: usize,
    redis: Redis,
}

impl Redis {
    /// Makes ready to connect. Nothing can be asked until [`Redis::connect`].
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the settings do not describe Redis.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        if settings.redis_key_prefix.contains(['{', '}']) {
            return Err(SetupError::Prefix);
        }
        let timeout = Duration::from_millis(settings.redis_timeout_milliseconds);
        let shared = Shared {
            target: RwLock::new((settings.redis_url.clone(), settings.redis_ca_file.clone())),
            way: channel::Sender::new(Arc::new(Way::to(settings.redis_url.expose_secret(), authorities(settings)?, timeout)?)),
            line: RwLock::new(Line::Unused),
            servers: AtomicUsize::new(1),
            server: Uuid::new_v4(),
            counts: Counts::default(),
        };
        Ok(Self { shared: Arc::new(shared), timeout, prefix: settings.redis_key_prefix.as_str().into() })
    }

    /// Goes over to another URL, if it is another one and if Redis does over a new connection what it is asked. What is being asked is answered over the old one. To one that
    /// knows nothing of this server it goes as to one that has forgotten ([`Redis::watch`]).
    ///
    /// # Errors
    ///
    /// [`ReloadError`] if it does not; then everything stays as it was.
    pub async fn reload<F: Future<Output = ()>>(&self, settings: &Settings, take_over: impl Fn() -> F) -> Result<(), ReloadError> {
        let (url, authorities_file) = (settings.redis_url.expose_secret(), &settings.redis_ca_file);
        let is_known = {
            let target = self.shared.target.read().unwrap_or_else(PoisonError::into_inner);
            url == target.0.expose_secret() && *authorities_file == target.1
        };
        if is_known && authorities_file.as_os_str().is_empty() {
            return Ok(());
        }
        let way = Arc::new(Way::to(url, authorities(settings).map_err(SetupError::from)?, self.timeout)?);
        let found = self.find(&way).await?;
        self.shared.way.send_replace(way);
        *self.shared.target.write().unwrap_or_else(PoisonError::into_inner) = (settings.redis_url.clone(), authorities_file.clone());
        // What was admitted without Redis must be charged there first.
        match found.has_forgotten || self.link(false).is_none() {
            true => self.adopt(found, &take_over).await,
            false => self.set(found.into_line()),
        }
        Ok(())
    }

    fn way(&self) -> Arc<Way> {
        self.shared.way.borrow().clone()
    }

    /// The name of a key that belongs to a subject. The braces around the subject are the hash tag that keeps all of its keys in one slot of a cluster.
    ///
    /// A subject is any text that is not empty and does not begin with `}`.
    pub fn key(&self, subject: &str, name: &str) -> String {
        key(&self.prefix, subject, name)
    }

    /// What the names of all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether Redis answers over the connection that all requests share; of a cluster, each node that takes writes.
    ///
    /// # Errors
    ///
    /// Any [`Error`] if it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut connection = self.link(false).ok_or(Away)?.connection;
        timeout(self.timeout, redis::cmd("PING").query_async::<()>(&mut connection)).await??;
        Ok(())
    }

    /// A way to ask something about a subject, unless Redis is known to be away.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub fn attempt(&self, subject: &str) -> Result<Attempt, Away> {
        self.attempt_over(self.link(false), subject)
    }

    /// As [`Redis::attempt`], but also while Redis was found again and this server has not gone back to it yet. For what must be there before.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub fn early_attempt(&self, subject: &str) -> Result<Attempt, Away> {
        self.attempt_over(self.link(true), subject)
    }

    /// The slot of a subject's keys, in a cluster. One call may ask for keys of one slot, or for any where there are none.
    pub fn slot(&self, subject: impl Display) -> Option<Slot> {
        match &*self.shared.line.read().unwrap_or_else(PoisonError::into_inner) {
            Line::Up(link, _) | Line::Found(link) => link.nodes.slot(|| self.key(&subject.to_string(), "")),
            Line::Unused | Line::Away => None,
        }
    }

    fn attempt_over(&self, link: Option<Link>, subject: &str) -> Result<Attempt, Away> {
        let link = link.ok_or(Away)?;
        let node = link.nodes.with(|| self.key(subject, ""));
        Ok(Attempt { link, node, redis: self.clone() })
    }

    /// How many servers there were when Redis last told.
    pub fn servers(&self) -> usize {
        self.shared.servers.load(Ordering::Relaxed)
    }

    /// What requests use, or already may.
    fn link(&self, early: bool) -> Option<Link> {
        match &*self.shared.line.read().unwrap_or_else(PoisonError::into_inner) {
            Line::Up(link, _) => Some(link.clone()),
            Line::Found(link) if early => Some(link.clone()),
            _ => None,
        }
    }

    /// `failed` is the connection over which something failed, if there was one. Of one that is no longer used nothing follows.
    fn open_breaker(&self, failed: Option<&Link>, error: &(dyn std::error::Error + 'static)) {
        let mut line = self.shared.line.write().unwrap_or_else(PoisonError::into_inner);
        if let (Some(failed), Line::Found(link) | Line::Up(link, _)) = (failed, &*line)
            && !Arc::ptr_eq(&failed.nodes, &link.nodes)
        {
            return;
        }
        if matches!(std::mem::replace(&mut *line, Line::Away), Line::Unused | Line::Up(..)) {
            self.shared.counts.went_away();
            tracing::warn!(error, "Redis is away: each server goes on with its share of the limits");
        }
    }
}

impl Attempt {
    /// The shared connection.
    pub fn connection(&self) -> Connection {
        self.link.connection.clone()
    }

    /// Waits for an answer, for as long as a request may. If there is none, or it is an error of Redis, nobody asks again until Redis is back.
    ///
    /// # Errors
    ///
    /// [`Away`]; also for a question that cannot be asked.
    pub async fn answer<T, E: Failure>(self, asked: impl Future<Output = Result<T, E>>) -> Result<T, Away> {
        let Self { link, node, redis } = self;
        let began = Instant::now();
        let mut asked = pin!(asked);
        let (mut last, mut quiet) = (link.nodes.last_answer(node), Duration::ZERO);
        loop {
            let looked = Instant::now();
            match timeout(TICK, &mut asked).await {
                Ok(Ok(answer)) => {
                    link.nodes.note_answer(node);
                    redis.shared.counts.answers.observe_time(began.elapsed());
                    return Ok(answer);
                }
                Ok(Err(error)) if error.is_of_redis() => redis.open_breaker(Some(&link), &error),
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "something was asked that Redis cannot be asked")
                }
                Err(elapsed) => {
                    let now = link.nodes.last_answer(node);
                    quiet = if now == last { quiet + looked.elapsed().min(TICK_AT_MOST) } else { Duration::ZERO };
                    last = now;
                    if quiet + TICK / 2 < BUDGET && began.elapsed() < redis.timeout {
                        continue;
                    }
                    redis.open_breaker(Some(&link), &elapsed);
                }
            }
            return Err(Away);
        }
    }
}

fn authorities(settings: &Settings) -> Result<Authorities, AuthoritiesError> {
    let file = &settings.redis_ca_file;
    if file.as_os_str().is_empty() {
        return Ok(Authorities::default());
    }
    Ok(Authorities(Some(read_authorities(file)?.0)))
}

/// The name of a subject's key under a prefix ([`Redis::key`]).
pub fn key(prefix: &str, subject: &str, name: &str) -> String {
    [prefix, ":{", subject, "}:", name].concat()
}

#[cfg(test)]
mod tests;
