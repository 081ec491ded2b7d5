//! The model of an exact sliding window: a log of the times of what was admitted.
//!
//! No I/O and no clock of its own: every call says what time it is, in milliseconds. An admission at time *t* counts until *t* + length, at which it no
//! longer does; so any interval `[s, s + length)` holds at most `limit`.
//!
//! - **The limit may change** with every call and counts at once, for what is in the log too.
//! - **The length may change** as well. A charge forgets what is outside of the length of that moment, so a window that becomes longer knows only
//!   what its shorter self still knew.
//! - **A clock that steps back** takes the log with it: the newest admission is then as of now, and the distances stay. So nobody is admitted early and
//!   nobody waits longer than a length. A clock that jumps ahead cannot be told from time that passed.

use std::collections::VecDeque;

/// The largest limit of a window: its log takes four bytes an admission in Redis.
pub const MAX_LIMIT: u32 = 10_000_000;

/// The longest window, some 23 days: times are kept as their low 32 bits.
pub const MAX_LENGTH_MS: u64 = 2_000_000_000;

/// What is asked of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// How many it may hold. 0 is off: then nothing is limited, charged or known.
    pub limit: u32,
    /// Its length.
    pub length_ms: u64,
    /// How many come at once. 0 takes nothing and only looks whether one could come.
    pub weight: u32,
}

/// What a window says to what was asked. The greatest of several is what they say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// There is room.
    Admits,
    /// There is room in so many milliseconds, and not earlier, if nothing else comes in before.
    After(u64),
    /// There is never room for so much at once.
    Never,
}

/// How a window stands after a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The limit that was in force.
    pub limit: u32,
    /// How many more could come now.
    pub remaining: u32,
    /// In how many milliseconds the window is empty if nothing else comes.
    pub reset_ms: u64,
    /// What it said itself. One that admits is not charged either where another refuses.
    pub verdict: Verdict,
}

/// What several windows said together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether all of them admit, and if not, when they would.
    pub verdict: Verdict,
    /// How each stands, in the order asked; nothing for one that is off.
    pub standings: Vec<Option<Standing>>,
}

/// What a window has admitted, oldest first.
///
/// Its times are the clock's plus `ahead`, which grows when the clock steps back, so that the log's time never does.
#[derive(Debug, Clone, Default)]
pub struct Log {
    times: VecDeque<u64>,
    ahead: u64,
}

/// Decides over all windows: charges every one if all of them admit, and none otherwise.
pub fn decide(now_ms: u64, windows: &mut [(&mut Log, Ask)]) -> Decision {
    let on = |ask: &Ask| ask.limit > 0;
    let mut looks = Vec::with_capacity(windows.len());
    for (log, ask) in windows.iter_mut() {
        looks.push(on(ask).then(|| log.look(now_ms, ask)));
    }
    let verdict = looks.iter().flatten().map(|standing| standing.verdict).max().unwrap_or(Verdict::Admits);
    if verdict == Verdict::Admits {
        for ((log, ask), standing) in windows.iter_mut().zip(&mut looks) {
            if ask.weight > 0 {
                *standing = standing.map(|standing| log.charge(now_ms, ask, standing));
            }
        }
    }
    Decision { verdict, standings: looks }
}

impl Log {
    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// How many of those that it has admitted count in a window of this length.
    pub fn count(&self, now_ms: u64, length_ms: u64) -> u32 {
        let time = now_ms + self.ahead;
        u32::try_from(self.times.len() - self.times.partition_point(|then| then + length_ms <= time)).unwrap_or(u32::MAX)
    }

    /// The log's time, after a clock that went back has been made up for.
    fn settle(&mut self, now_ms: u64) -> u64 {
        if let Some(newest) = self.times.back() {
            self.ahead = self.ahead.max(newest.saturating_sub(now_ms));
        }
        now_ms + self.ahead
    }

    /// How the window stands before it is charged.
    fn look(&mut self, now_ms: u64, ask: &Ask) -> Standing {
        let time = self.settle(now_ms);
        let outside = self.times.partition_point(|then| then + ask.length_ms <= time);
        let count = self.times.len() - outside;
        let (limit, needed) = (ask.limit as usize, ask.weight.max(1) as usize);
        let verdict = if needed > limit {
            Verdict::Never
        } else if count + needed <= limit {
            Verdict::Admits
        } else {
            // So many must leave, and this is the last of them.
            let leaving = count + needed - limit;
            Verdict::After(self.times[outside + leaving - 1] + ask.length_ms - time)
        };
        Standing {
            limit: ask.limit,
            remaining: u32::try_from(limit.saturating_sub(count)).unwrap_or(u32::MAX),
            reset_ms: self.times.back().map_or(0, |newest| (newest + ask.length_ms).saturating_sub(time)),
            verdict,
        }
    }

    /// Writes down what was admitted. The window has admitted it.
    fn charge(&mut self, now_ms: u64, ask: &Ask, before: Standing) -> Standing {
        let time = self.settle(now_ms);
        while self.times.front().is_some_and(|then| then + ask.length_ms <= time) {
            self.times.pop_front();
        }
        self.times.extend((0..ask.weight).map(|_| time));
        Standing { remaining: before.remaining - ask.weight, reset_ms: ask.length_ms, ..before }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(limit: u32, length_ms: u64, weight: u32) -> Ask {
        Ask { limit, length_ms, weight }
    }

    /// One window, asked for one thing: what it says, what remains, when it is empty.
    fn say(log: &mut Log, now_ms: u64, ask: Ask) -> (Verdict, u32, u64) {
        let standing = decide(now_ms, &mut [(log, ask)]).standings[0].unwrap();
        (standing.verdict, standing.remaining, standing.reset_ms)
    }

    #[test]
    fn what_is_admitted_counts_for_a_length() {
        let mut log = Log::default();
        let one = ask(2, 100, 1);
        assert_eq!(say(&mut log, 1_000, one), (Verdict::Admits, 1, 100));
        assert_eq!(say(&mut log, 1_040, one), (Verdict::Admits, 0, 100));
        assert_eq!(say(&mut log, 1_099, one), (Verdict::After(1), 0, 41));
        assert_eq!(say(&mut log, 1_100, one), (Verdict::Admits, 0, 100));
        assert_eq!(say(&mut log, 1_100, one), (Verdict::After(40), 0, 100));
    }

    #[test]
    fn a_weight_waits_until_enough_have_left() {
        let mut log = Log::default();
        for now in [0, 10, 20] {
            say(&mut log, now, ask(3, 100, 1));
        }
        assert_eq!(say(&mut log, 30, ask(3, 100, 2)).0, Verdict::After(80));
        assert_eq!(say(&mut log, 30, ask(3, 100, 3)).0, Verdict::After(90));
        assert_eq!(say(&mut log, 30, ask(3, 100, 4)).0, Verdict::Never);
        assert_eq!(say(&mut log, 109, ask(3, 100, 2)).0, Verdict::After(1));
        assert_eq!(say(&mut log, 110, ask(3, 100, 2)).0, Verdict::Admits);
    }

    #[test]
    fn a_weight_of_zero_takes_nothing_but_can_be_refused() {
        let mut log = Log::default();
        assert_eq!(say(&mut log, 0, ask(1, 100, 0)), (Verdict::Admits, 1, 0));
        say(&mut log, 0, ask(1, 100, 1));
        assert_eq!(say(&mut log, 60, ask(1, 100, 0)), (Verdict::After(40), 0, 40));
    }

    #[test]
    fn a_limit_counts_at_once() {
        let mut log = Log::default();
        say(&mut log, 0, ask(4, 100, 3));
        assert_eq!(say(&mut log, 1, ask(2, 100, 1)), (Verdict::After(99), 0, 99));
        assert_eq!(say(&mut log, 1, ask(5, 100, 1)), (Verdict::Admits, 1, 100));
        log.reset();
        assert_eq!(say(&mut log, 1, ask(2, 100, 1)), (Verdict::Admits, 1, 100));
    }

    #[test]
    fn a_clock_that_steps_back_takes_the_log_with_it() {
        let mut log = Log::default();
        say(&mut log, 100_000, ask(2, 100, 1));
        say(&mut log, 100_050, ask(2, 100, 1));
        assert_eq!(say(&mut log, 7_000, ask(2, 100, 1)), (Verdict::After(50), 0, 100));
        assert_eq!(say(&mut log, 7_050, ask(2, 100, 1)), (Verdict::Admits, 0, 100));
        assert_eq!(say(&mut log, 7_100, ask(2, 100, 2)).0, Verdict::After(50));
    }

    #[test]
    fn all_windows_are_charged_or_none() {
        let (mut wide, mut narrow) = (Log::default(), Log::default());
        let mut both = |now, weight| {
            let decision = decide(now, &mut [(&mut wide, ask(10, 1_000, weight)), (&mut narrow, ask(2, 100, weight))]);
            (decision.verdict, decision.standings.iter().map(|standing| standing.unwrap().remaining).collect::<Vec<_>>())
        };
        assert_eq!(both(0, 2), (Verdict::Admits, vec![8, 0]));
        assert_eq!(both(10, 1), (Verdict::After(90), vec![8, 0]));
        assert_eq!(both(10, 3), (Verdict::Never, vec![8, 0]));
        assert_eq!(both(100, 1), (Verdict::Admits, vec![7, 1]));
    }

    #[test]
    fn the_longest_wait_is_that_of_all() {
        let (mut long, mut short, mut off) = (Log::default(), Log::default(), Log::default());
        let mut all = |now| decide(now, &mut [(&mut short, ask(1, 100, 1)), (&mut long, ask(1, 900, 1)), (&mut off, ask(0, 900, 1))]);
        assert_eq!(all(0).verdict, Verdict::Admits);
        let refused = all(50);
        assert_eq!(refused.verdict, Verdict::After(850));
        assert_eq!(refused.standings[0].unwrap().verdict, Verdict::After(50));
        assert_eq!(refused.standings[2], None);
        assert_eq!(all(899).verdict, Verdict::After(1));
        assert_eq!(all(900).verdict, Verdict::Admits);
    }

    /// What anybody would write who needs neither speed nor memory: every admission of all time, on a clock that only runs forward.
    #[derive(Default)]
    struct Naive(Vec<u64>);

    impl Naive {
        fn count(&self, now: u64, length_ms: u64) -> usize {
            self.0.iter().filter(|then| **then + length_ms > now).count()
        }

        fn has_room(&self, now: u64, ask: &Ask) -> bool {
            self.count(now, ask.length_ms) + ask.weight.max(1) as usize <= ask.limit as usize
        }

        fn standing(&self, now: u64, ask: &Ask) -> Standing {
            // Waits a millisecond at a time; in two lengths everything has left.
            let wait = (0..=2 * ask.length_ms).find(|wait| self.has_room(now + wait, ask));
            Standing {
                limit: ask.limit,
                remaining: ask.limit.saturating_sub(self.count(now, ask.length_ms).try_into().unwrap()),
                reset_ms: (0..).find(|wait| self.count(now + wait, ask.length_ms) == 0).unwrap(),
                verdict: wait.map_or(Verdict::Never, |wait| if wait == 0 { Verdict::Admits } else { Verdict::After(wait) }),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn the_model_is_a_log_that_keeps_everything(
            lengths in (1_u64..60, 1_u64..60),
            steps in proptest::collection::vec((0_u64..30, (0_u32..8, 0_u32..5), (0_u32..8, 0_u32..5)), 1..60),
        ) {
            let (mut model, mut naive) = ((Log::default(), Log::default()), (Naive::default(), Naive::default()));
            let mut now = 0;
            for (wait, first, second) in steps {
                now += wait;
                let asks = [ask(first.0, lengths.0, first.1), ask(second.0, lengths.1, second.1)];
                let decision = decide(now, &mut [(&mut model.0, asks[0]), (&mut model.1, asks[1])]);
                let mut naive = [&mut naive.0, &mut naive.1];
                let admits = naive.iter().zip(&asks).all(|(log, ask)| ask.limit == 0 || log.has_room(now, ask));
                prop_assert_eq!(admits, decision.verdict == Verdict::Admits);
                for ((log, ask), standing) in naive.iter_mut().zip(&asks).zip(&decision.standings) {
                    let Some(standing) = standing else {
                        prop_assert_eq!(ask.limit, 0);
                        continue;
                    };
                    let verdict = log.standing(now, ask).verdict;
                    if admits {
                        log.0.extend((0..ask.weight).map(|_| now));
                    }
                    prop_assert_eq!(*standing, Standing { verdict, ..log.standing(now, ask) });
                }
            }
        }

        /// Limits that change, a clock that steps either way, one that runs: no true interval of the length holds more than the greatest limit.
        #[test]
        fn no_interval_holds_more_than_the_limit(
            length_ms in 1_u64..60,
            steps in proptest::collection::vec((0_u64..20, -40_i64..40, any::<prop::sample::Index>(), 1_u32..8, 1_u32..4), 1..80),
        ) {
            let (mut log, mut truth, mut clock) = (Log::default(), 0_u64, 1_000_000_u64);
            let mut admitted: Vec<u64> = Vec::new();
            for (wait, step, rarely, limit, weight) in steps {
                truth += wait;
                // A step ahead would age the log, which nothing can prevent; so here it only goes back.
                clock = clock + wait - if rarely.index(10) == 0 { step.unsigned_abs() } else { 0 };
                if decide(clock, &mut [(&mut log, ask(limit, length_ms, weight))]).verdict == Verdict::Admits {
                    admitted.extend((0..weight).map(|_| truth));
                    let inside = admitted.iter().filter(|then| **then + length_ms > truth).count();
                    prop_assert!(inside <= limit as usize, "{inside} of {limit}");
                }
            }
        }
    }
}
