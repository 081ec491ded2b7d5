//! Whether a key is the one whose hash is stored: argon2 at a bounded cost, and as seldom as possible.
//!
//! # What it costs at most
//!
//! A run takes 15 ms of a processor and 19 MiB. So many run at a time as there are permits, on threads that may block; so many wait as
//! there are places; everybody else is told that the server is [`Busy`], at once. A caller who goes away while waiting gives the place
//! back. The memory is used again while runs follow each other, and given back when there is nothing more to do.
//!
//! # How seldom
//!
//! Requests that bring the same key at the same time share one run; it is not the first one's own, so it goes on if that one goes away. Its
//! answer is remembered (in `verified.rs`) before anybody can start another. So there is one run for a key and its hash on a server, as
//! long as the key is among the last 10,000.
//!
//! # What timing tells
//!
//! A key whose id is unknown is compared with a dummy, in the same way and at the same cost as a wrong one of a known id. The answer takes
//! as long, is shared, and is remembered as long. (Where a stored hash has other parameters than new ones have, it takes another time; ids
//! are not secrets.)

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task,
};

use super::{
    Key, KeyHash,
    hash::Memory,
    verified::{Question, Verified},
};
use crate::measure::Counter;

/// Too many keys wait to be verified, or the server is stopping. Trying again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many keys are being verified")]
pub struct Busy;

/// What is stored of a key, as far as it takes to verify it.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Of the key's record.
    pub version: i64,
    /// Of the key.
    pub hash: &'a KeyHash,
}

/// Verifies keys. One a server; clones are the same one.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    verified: Verified,
    /// The runs that others can share, and where their answer will be.
    shared: Mutex<HashMap<Question, Arc<watch::Sender<Option<bool>>>>>,
    /// As many as may run or wait.
    places: Arc<Semaphore>,
    /// As many as may run.
    permits: Arc<Semaphore>,
    all_permits: usize,
    all_places: usize,
    memory: Memory,
    dummy: KeyHash,
    counts: Counts,
}

/// Counted as it happens.
#[derive(Default)]
struct Counts {
    runs: Counter,
    remembered: Counter,
    believed: Counter,
    busy: Counter,
}

/// What a verifier has done since the start.
#[derive(Debug, Clone, Copy)]
pub struct Stats {
    /// How many times a key was compared with a hash.
    pub runs: u64,
    /// How many times it was remembered that a key is right.
    pub remembered: u64,
    /// How many keys were believed because another server had verified them.
    pub believed: u64,
    /// How many times there was too much to do.
    pub busy: u64,
}

impl Verifier {
    /// `runs` at a time (at least one), each of them a processor's work, and `waiting` more.
    #[must_use]
    pub fn new(runs: usize, waiting: usize) -> Self {
        let runs = runs.max(1);
        Self(Arc::new(Inner {
            verified: Verified::new(),
            shared: Mutex::default(),
            places: Arc::new(Semaphore::new(runs + waiting)),
            permits: Arc::new(Semaphore::new(runs)),
            all_permits: runs,
            all_places: runs + waiting,
            memory: Memory::default(),
            dummy: KeyHash::dummy(),
            counts: Counts::default(),
        }))
    }

    /// The version of the record for which a key was last found right on this server. If the record has that version still, the key is
    /// right; if not, ask [`verify`](Self::verify). Takes about a microsecond.
    #[must_use]
    pub fn verified_version(&self, key: &Key) -> Option<i64> {
        self.0.verified.version(key).inspect(|_| self.0.counts.remembered.one())
    }

    /// Whether a key is the one that is stored. `None` where none is stored under its id: no, after the same work.
    ///
    /// It says nothing about whether the key has expired or been revoked: that is for the caller to look at **afterwards**, so that it
    /// takes the right key to be told.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn verify(&self, key: &Key, stored: Option<Stored<'_>>) -> Result<bool, Busy> {
        let inner = &self.0;
        let hash = stored.map_or(&inner.dummy, |stored| stored.hash);
        let question = inner.verified.question(key, hash);
        let is_right = match inner.ask(question, key, hash, stored.map(|stored| stored.version))? {
            Answer::Known(is_right) => is_right,
            Answer::Coming(mut answer) => answer.wait_for(Option::is_some).await.map_err(|_| Busy)?.ok_or(Busy)?,
        };
        let Some(stored) = stored.filter(|_| is_right) else { return Ok(false) };
        // The run may have been started for, or the answer remembered from, another version with the same hash.
        inner.verified.is_right(&question, stored.version);
        Ok(true)
    }

    /// Notes that a key is right without looking, because another server has.
    pub fn believe(&self, key: &Key, stored: Stored<'_>) {
        self.0.counts.believed.one();
        self.0.verified.is_right(&self.0.verified.question(key, stored.hash), stored.version);
    }

    /// Hashes a new key.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn hash(&self, key: &Key) -> Result<KeyHash, Busy> {
        let place = self.0.place()?;
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.map_err(|_| Busy)?;
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        task::spawn_blocking(move || inner.work(place, permit, |memory| KeyHash::with(&key, memory))).await.map_err(|_| Busy)
    }

    /// How many times a key was compared with a hash, since the start.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.0.counts.runs.get()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counts { runs, remembered, believed, busy } = &self.0.counts;
        Stats { runs: runs.get(), remembered: remembered.get(), believed: believed.get(), busy: busy.get() }
    }
}

enum Answer {
    Known(bool),
    Coming(watch::Receiver<Option<bool>>),
}

impl Inner {
    /// Answers a question from memory, joins those who wait for its answer, or starts looking for it.
    fn ask(self: &Arc<Self>, question: Question, key: &Key, hash: &KeyHash, version: Option<i64>) -> Result<Answer, Busy> {
        // What is remembered is looked at under the lock: an answer is remembered before its run is taken out of those that can be shared.
        let mut shared = self.shared();
        if let Some(known) = self.verified.answer(&question, Instant::now()) {
            return Ok(Answer::Known(known));
        }
        let free = match shared.entry(question) {
            Entry::Occupied(run) => return Ok(Answer::Coming(run.get().subscribe())),
            Entry::Vacant(free) => free,
        };
        let place = self.place()?;
        let (answer, receiver) = watch::channel(None);
        let answer = Arc::clone(free.insert(Arc::new(answer)));
        // Before the run: a runtime that is shutting down drops it at once, and that takes the lock.
        drop(shared);
        let run = Run { inner: Arc::clone(self), question, version, answer };
        task::spawn(run.go(key.clone(), hash.clone(), place));
        Ok(Answer::Coming(receiver))
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Busy> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            self.counts.busy.one();
            Busy
        })
    }

    /// Works with the memory kept for it, and gives permit and place back, in that order.
    fn work<T>(&self, place: OwnedSemaphorePermit, permit: OwnedSemaphorePermit, work: impl FnOnce(&Memory) -> T) -> T {
        let done = work(&self.memory);
        let running = self.all_permits - self.permits.available_permits();
        let here = self.all_places - self.places.available_permits();
        if here <= running {
            self.memory.free();
        }
        drop(permit);
        drop(place);
        done
    }

    fn shared(&self) -> MutexGuard<'_, HashMap<Question, Arc<watch::Sender<Option<bool>>>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that can be shared until it is dropped.
struct Run {
    inner: Arc<Inner>,
    question: Question,
    /// Of the record that it was started for, if there is one.
    version: Option<i64>,
    answer: Arc<watch::Sender<Option<bool>>>,
}

impl Run {
    async fn go(self, key: Key, hash: KeyHash, place: OwnedSemaphorePermit) {
        let Some(permit) = self.permit().await else { return };
        let inner = Arc::clone(&self.inner);
        let compared = task::spawn_blocking(move || {
            inner.counts.runs.one();
            inner.work(place, permit, |memory| hash.is_of(&key, memory))
        });
        let Ok(is_right) = compared.await else { return };
        match self.version.filter(|_| is_right) {
            Some(version) => self.inner.verified.is_right(&self.question, version),
            None => self.inner.verified.is_wrong(self.question, Instant::now()),
        }
        self.answer.send_replace(Some(is_right));
    }

    /// Waits for its turn. `None` as soon as nobody waits for the answer any more.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let mut permit = pin!(Arc::clone(&self.inner.permits).acquire_owned());
        loop {
            tokio::select! {
                biased;
                () = self.answer.closed() => {
                    // Under the lock nobody joins.
                    let mut shared = self.inner.shared();
                    if self.answer.receiver_count() == 0 {
                        shared.remove(&self.question);
                        self.inner.memory.free();
                        return None;
                    }
                }
                permit = &mut permit => return permit.ok(),
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // If it was given up it has been removed, and there may be another in its place.
        if let Entry::Occupied(run) = self.inner.shared().entry(self.question)
            && Arc::ptr_eq(run.get(), &self.answer)
        {
            run.remove();
        }
    }
}

#[cfg(test)]
mod tests;
