//! Who is over a limit, remembered for a moment: a flood of refusals is answered without asking Redis, and without writing each answer anew.

use std::{
    hash::Hash,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use super::Standing;

/// How long. A limit that was raised, a window that was reset, or room that was free earlier, is noticed after this time. Nobody is told to wait for less
/// (`Retry-After` is in whole seconds), so whoever waits as long as they are told is never refused from memory.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How long whoever asks anew may take, while everybody else is still told the old answer.
const ASKING: Duration = Duration::from_millis(100);

/// How many are remembered.
const SUBJECTS: usize = 10_000;

/// A refusal, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How each window stands, in the order asked.
    pub standings: Vec<Option<Standing>>,
    /// When it would be admitted.
    pub retry_after_ms: Option<u64>,
}

/// What was refused a moment ago: `K` says to whom and what, `A` is what they are told.
pub struct Refused<K, A>(Cache<K, Arc<Remembered<A>>>);

/// What is known of whom.
#[derive(Debug, PartialEq, Eq)]
pub enum Memory<A> {
    /// They are told this.
    Refused(A),
    /// They were refused a moment ago; somebody has to ask whether they still are.
    Past,
    /// Nothing.
    Nothing,
}

struct Remembered<A> {
    since: Instant,
    /// Whether somebody asks anew.
    asked: AtomicBool,
    refusal: Refusal,
    /// They are told in whole seconds how long to wait: the number that they were told at first, and, while it is remembered, one or two less.
    told: [OnceLock<A>; 3],
}

impl<K: Eq + Hash, A: Clone> Default for Refused<K, A> {
    fn default() -> Self {
        Self(Cache::new(SUBJECTS))
    }
}

impl<K: Eq + Hash, A: Clone> Refused<K, A> {
    /// What they are told at this time, in the words of `tell`.
    pub fn get(&self, key: &K, now: Instant, tell: impl FnOnce(&Refusal) -> A) -> Memory<A> {
        self.0.get(key).map_or(Memory::Nothing, |remembered| remembered.at(now, tell, || remembered.asked.load(Ordering::Relaxed)))
    }

    /// The same for somebody who will ask if it is past. It is past for one of all who come at that time.
    pub fn get_or_ask(&self, key: &K, now: Instant, tell: impl FnOnce(&Refusal) -> A) -> Memory<A> {
        self.0.get(key).map_or(Memory::Nothing, |remembered| remembered.at(now, tell, || remembered.asked.swap(true, Ordering::Relaxed)))
    }

    /// Remembers it.
    pub fn put(&self, key: K, now: Instant, refusal: Refusal) {
        self.0.insert(key, Arc::new(Remembered { since: now, asked: AtomicBool::new(false), refusal, told: Default::default() }));
    }

    /// Forgets it.
    pub fn forget(&self, key: &K) {
        self.0.remove(key);
    }
}

impl<A: Clone> Remembered<A> {
    fn at(&self, now: Instant, tell: impl FnOnce(&Refusal) -> A, is_asked: impl FnOnce() -> bool) -> Memory<A> {
        let passed = now.saturating_duration_since(self.since);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let at_first = self.refusal.retry_after_ms;
        if passed >= REMEMBERED {
            // The first of those who were told to wait may be back. They wait for whoever asks, and are not refused once more meanwhile.
            let is_due = at_first.is_some_and(|wait| wait <= passed_ms);
            if is_due || passed >= REMEMBERED + ASKING || !is_asked() {
                return Memory::Past;
            }
        }
        let now = at_first.map(|wait| wait.saturating_sub(passed_ms));
        let seconds = |wait: Option<u64>| wait.map_or(0, |wait| wait.div_ceil(1000));
        let less = usize::try_from(seconds(at_first) - seconds(now)).unwrap_or(usize::MAX);
        let told = &self.told[less.min(self.told.len() - 1)];
        Memory::Refused(told.get_or_init(|| tell(&Refusal { standings: self.refusal.standings.clone(), retry_after_ms: now })).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_a_second_which_everybody_was_told_to_wait() {
        let (refused, start) = (Refused::default(), Instant::now());
        for (name, retry_after_ms) in [("short", Some(300)), ("long", Some(30_000)), ("never", None)] {
            refused.put(name, start, Refusal { standings: Vec::new(), retry_after_ms });
        }
        let at = |name, ms| refused.get(&name, start + Duration::from_millis(ms), |refusal| refusal.retry_after_ms);
        assert_eq!([at("short", 299), at("short", 300), at("short", 999)], [1, 0, 0].map(|wait| Memory::Refused(Some(wait))));
        assert_eq!(at("short", 1000), Memory::Past);
        assert_eq!((at("never", 999), at("never", 1000)), (Memory::Refused(None), Memory::Past));
        assert_eq!((at("long", 999), at("long", 1000), at("other", 0)), (Memory::Refused(Some(29_001)), Memory::Past, Memory::Nothing));
    }

    #[test]
    fn when_it_is_past_one_asks_and_the_others_are_told_meanwhile() {
        let (refused, start) = (Refused::default(), Instant::now());
        refused.put((), start, Refusal { standings: Vec::new(), retry_after_ms: Some(30_000) });
        let at = |ms| start + Duration::from_millis(ms);
        let ask = |ms| refused.get_or_ask(&(), at(ms), |_| "wait");
        let look = |ms| refused.get(&(), at(ms), |_| "wait");
        assert_eq!((look(1000), look(1000)), (Memory::Past, Memory::Past), "whoever only looks has not asked");
        assert_eq!(
            [ask(1000), ask(1000), look(1050), ask(1099)],
            [Memory::Past, Memory::Refused("wait"), Memory::Refused("wait"), Memory::Refused("wait")]
        );
        assert_eq!((ask(1100), ask(1100)), (Memory::Past, Memory::Past), "nobody has heard of it");
        refused.put((), at(1100), Refusal { standings: Vec::new(), retry_after_ms: Some(30_000) });
        assert_eq!((ask(2099), ask(2100), ask(2100)), (Memory::Refused("wait"), Memory::Past, Memory::Refused("wait")));
    }

    #[test]
    fn whoever_waited_as_long_as_they_were_told_asks_whoever_else_does() {
        let (refused, start) = (Refused::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (first_told_ms, wait_ms) in [(0, 80), (0, 999), (0, 1000), (40, 1040), (99, 1099), (600, 1600), (0, 1001)] {
            refused.put((), start, Refusal { standings: Vec::new(), retry_after_ms: Some(wait_ms) });
            let Memory::Refused(told) = refused.get(&(), at(first_told_ms), |refusal| refusal.retry_after_ms) else {
                panic!("it is remembered after {first_told_ms} ms")
            };
            let back_ms = first_told_ms + told.unwrap().div_ceil(1000).max(1) * 1000;
            for _ in 0..3 {
                assert_eq!(refused.get_or_ask(&(), at(back_ms), |_| None), Memory::Past, "told after {first_told_ms} ms of {wait_ms}");
            }
        }
    }

    #[test]
    fn what_is_told_is_made_once_for_each_second_to_wait() {
        let (refused, start) = (Refused::default(), Instant::now());
        refused.put((), start, Refusal { standings: Vec::new(), retry_after_ms: Some(2_500) });
        let at = |ms| {
            let mut made = false;
            let told = refused.get(&(), start + Duration::from_millis(ms), |refusal| {
                made = true;
                refusal.retry_after_ms.map(|wait| wait.div_ceil(1000))
            });
            (told, made)
        };
        let told = |seconds| Memory::Refused(Some(seconds));
        assert_eq!([at(0), at(499), at(500), at(999)], [(told(3), true), (told(3), false), (told(2), true), (told(2), false)]);
    }
}
