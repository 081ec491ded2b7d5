//! `window.lua` against `window.rs`: the same calls at the same times, and every answer is compared.

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use redis::{Script, Value};
use whatsnext::limits::{
    Standing, Verdict,
    window::{Ask, Decision, Log, MAX_LENGTH_MS, decide},
};

use super::{Private, WINDOW_LUA};

const LIVES: &str = include_str!("lives.lua");

const DRIVE: &str = include_str!("drive.lua");

/// When a step happens, as seen from the one before.
#[derive(Debug, Clone, Copy)]
enum When {
    /// So many milliseconds later.
    Later(u64),
    /// So many ‰ of the first window's length later.
    Part(u64),
    /// When the step before was told to come again, or so much sooner or later.
    Told(i64),
    /// When the first window is empty, or so much sooner or later.
    Empty(i64),
    /// The clock was set back, by so many ‰ of the first window's length.
    Back(u64),
}

/// What is asked of one window: its limit and weight, and which of its lengths.
#[derive(Debug, Clone, Copy)]
struct Part {
    limit: u32,
    weight: u32,
    other_length: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// So many ask for the same, one after the other.
    Decide(When, usize, Vec<Part>),
    Reset(Vec<bool>),
}

/// A sequence: when it begins, each window's two lengths, the steps.
#[derive(Debug, Clone)]
struct Sequence {
    start_ms: u64,
    lengths: Vec<(u64, u64)>,
    steps: Vec<Step>,
}

/// A random number, spent choice by choice. Choosing from numbers is much faster than strategies within strategies, and there are many steps.
struct Random(u64);

impl Random {
    /// One of so many.
    fn below(&mut self, count: u64) -> u64 {
        let chosen = self.0 % count;
        self.0 /= count;
        chosen
    }

    /// Mostly one.
    fn times(&mut self) -> usize {
        let several = 2 + self.below(30);
        if self.below(4) == 0 { usize::try_from(several).unwrap() } else { 1 }
    }

    fn length_ms(&mut self) -> u64 {
        match self.below(4) {
            0 => 1 + self.below(40),
            1 => 40 + self.below(3_000),
            2 => 60_000,
            _ => MAX_LENGTH_MS,
        }
    }

    fn when(&mut self) -> When {
        match self.below(19) {
            0..6 => When::Later(self.below(4)),
            6..12 => When::Part(self.below(300)),
            12 => When::Part(900 + self.below(2_100)),
            13..17 => When::Told(i64::try_from(self.below(3)).unwrap() - 1),
            17 => When::Empty(i64::try_from(self.below(3)).unwrap() - 1),
            _ => When::Back(self.below(2_500)),
        }
    }

    /// Mostly the same limit, and a weight that often fits.
    fn part(&mut self, limit: u32) -> Part {
        let asked = match self.below(11) {
            0..8 => limit,
            8 => limit / 2,
            9 => limit * 2,
            _ => self.up_to(limit),
        };
        let weight = match self.below(18) {
            0..8 => 1,
            8 => 0,
            9..15 => 1 + self.up_to(limit / 4),
            _ => 1 + self.up_to(limit),
        };
        Part { limit: asked, weight, other_length: self.below(10) == 9 }
    }

    fn up_to(&mut self, most: u32) -> u32 {
        u32::try_from(self.below(u64::from(most) + 1)).unwrap()
    }

    fn step(&mut self, parts: [u64; 3], limits: &[u32]) -> Step {
        match self.below(61) {
            60 => Step::Reset(limits.iter().map(|_| self.below(2) == 1).collect()),
            _ => Step::Decide(self.when(), self.times(), limits.iter().zip(parts).map(|(limit, part)| Random(part).part(*limit)).collect()),
        }
    }
}

fn sequences(limits: impl Strategy<Value = u32>, count: std::ops::Range<usize>) -> impl Strategy<Value = Sequence> {
    let windows = proptest::collection::vec((limits, any::<(u64, u64)>()), 1..4);
    let steps = proptest::collection::vec(any::<(u64, [u64; 3])>(), count);
    (any::<u64>(), windows, steps).prop_map(|(start, windows, steps)| {
        let mut start = Random(start);
        let limits: Vec<u32> = windows.iter().map(|(limit, _)| *limit).collect();
        Sequence {
            // The low 32 bits of a time begin again now and then; nobody must notice.
            start_ms: if start.below(2) == 0 { 1_764_000_000_000 } else { ((400 + start.below(20)) << 32) - start.below(200) },
            lengths: windows.iter().map(|(_, (one, other))| (Random(*one).length_ms(), Random(*other).length_ms())).collect(),
            steps: steps.into_iter().map(|(step, parts)| Random(step).step(parts, &limits)).collect(),
        }
    })
}

/// A step at its time.
struct Timed {
    now_ms: u64,
    what: What,
}

enum What {
    Decide(usize, Vec<Ask>),
    Reset(Vec<bool>),
}

/// Finds the times of the steps with a model of its own: they depend on what it answers.
fn schedule(sequence: &Sequence) -> Vec<Timed> {
    let mut logs = vec![Log::default(); sequence.lengths.len()];
    let (mut now, mut told, mut empty) = (sequence.start_ms, 0, 0);
    let mut timed = Vec::new();
    for step in &sequence.steps {
        let what = match step {
            Step::Reset(which) => {
                logs.iter_mut().zip(which).filter(|(_, which)| **which).for_each(|(log, _)| log.reset());
                What::Reset(which.clone())
            }
            Step::Decide(when, times, parts) => {
                let part = |thousandths: u64| sequence.lengths[0].0 * thousandths / 1_000;
                now = match *when {
                    When::Later(ms) => now + ms,
                    When::Part(thousandths) => now + part(thousandths),
                    When::Told(more) => now + (told + more).max(0).unsigned_abs(),
                    When::Empty(more) => now + (empty + more).max(0).unsigned_abs(),
                    When::Back(thousandths) => now - part(thousandths),
                };
                let lengths = sequence.lengths.iter().zip(parts);
                let asks: Vec<Ask> = lengths
                    .map(|(lengths, part)| Ask {
                        limit: part.limit,
                        length_ms: if part.other_length { lengths.1 } else { lengths.0 },
                        weight: part.weight,
                    })
                    .collect();
                let (_, decision) = decide_each(now, *times, &mut logs, &asks);
                told = if let Verdict::After(ms) = decision.verdict { i64::try_from(ms).unwrap() } else { 0 };
                empty = decision.standings[0].map_or(0, |standing| i64::try_from(standing.reset_ms).unwrap());
                What::Decide(*times, asks)
            }
        };
        timed.push(Timed { now_ms: now, what });
    }
    timed
}

/// Decides for so many, one after the other: how many were admitted, and the first decision that was none, or the last.
fn decide_each(now_ms: u64, times: usize, logs: &mut [Log], asks: &[Ask]) -> (usize, Decision) {
    let mut decide = || decide(now_ms, &mut logs.iter_mut().zip(asks.iter().copied()).collect::<Vec<_>>());
    let mut decision = decide();
    let mut admitted = 0;
    while decision.verdict == Verdict::Admits {
        admitted += 1;
        if admitted == times {
            break;
        }
        decision = decide();
    }
    (admitted, decision)
}

/// How much was compared, so that a test which compares nothing does not pass.
#[derive(Debug, Default)]
struct Seen {
    decisions: u32,
    in_part: u32,
    windows: u32,
    refused: u32,
    never: u32,
    gone: u32,
}

fn compare(private: &Private, script: &Script, sequence: &Sequence, seen: &mut Seen) -> Result<(), TestCaseError> {
    let timed = schedule(sequence);
    let mut call = script.prepare_invoke();
    let keys: Vec<String> = (0..sequence.lengths.len()).map(|i| private.limits.window_key("model", &i.to_string())).collect();
    call.key(&keys);
    for Timed { now_ms, what } in &timed {
        match what {
            What::Decide(times, asks) => {
                call.arg("decide").arg(now_ms).arg(times);
                for Ask { limit, length_ms, weight } in asks {
                    call.arg(limit).arg(length_ms).arg(weight);
                }
            }
            What::Reset(which) => {
                call.arg("reset").arg(now_ms);
                for which in which {
                    call.arg(u8::from(*which));
                }
            }
        }
    }
    let mut connection = private.client.get_connection().unwrap();
    redis::cmd("DEL").arg(&keys).exec(&mut connection).unwrap();
    let answers: Vec<(Vec<i64>, Vec<bool>)> =
        call.invoke::<Value>(&mut connection).and_then(|value| Ok(redis::from_redis_value(value)?)).unwrap();

    let mut logs = vec![Log::default(); keys.len()];
    // The length that each window's key is kept for: that of its last charge.
    let mut kept = vec![0; keys.len()];
    for (step, (Timed { now_ms, what }, (answer, gone))) in timed.iter().zip(&answers).enumerate() {
        for ((log, kept), _) in logs.iter_mut().zip(&kept).zip(gone).filter(|(_, gone)| **gone) {
            let look = Ask { limit: 1, length_ms: *kept, weight: 0 };
            prop_assert_eq!(decide(*now_ms, &mut [(log, look)]).standings[0].unwrap().reset_ms, 0, "step {} forgets too early", step);
            seen.gone += 1;
            log.reset();
        }
        let (times, asks) = match what {
            What::Decide(times, asks) => (*times, asks),
            What::Reset(which) => {
                logs.iter_mut().zip(which).filter(|(_, which)| **which).for_each(|(log, _)| log.reset());
                continue;
            }
        };
        let (admitted, decision) = decide_each(*now_ms, times, &mut logs, asks);
        let mut expected = vec![i64::try_from(admitted).unwrap()];
        expected.extend(decision.standings.iter().flat_map(numbers));
        prop_assert_eq!(&expected, answer, "step {} at {} asked {} times {:?}", step, now_ms, times, asks);
        if admitted > 0 {
            kept.iter_mut().zip(asks).filter(|(_, ask)| ask.limit > 0 && ask.weight > 0).for_each(|(kept, ask)| *kept = ask.length_ms);
        }
        seen.decisions += 1;
        seen.in_part += u32::from(0 < admitted && admitted < times);
        seen.windows += u32::try_from(decision.standings.iter().flatten().count()).unwrap();
        seen.refused += u32::from(matches!(decision.verdict, Verdict::After(_)));
        seen.never += u32::from(decision.verdict == Verdict::Never);
    }
    Ok(())
}

fn numbers(standing: &Option<Standing>) -> [i64; 4] {
    let Some(Standing { limit, remaining, reset_ms, verdict }) = *standing else { return [0; 4] };
    let verdict = match verdict {
        Verdict::Admits => 0,
        Verdict::After(ms) => i64::try_from(ms).unwrap(),
        Verdict::Never => -1,
    };
    [limit.into(), remaining.into(), i64::try_from(reset_ms).unwrap(), verdict]
}

fn hold(cases: u32, sequences: impl Strategy<Value = Sequence>) -> Seen {
    let private = Private::new();
    let script = Script::new(&format!("{LIVES}{WINDOW_LUA}{DRIVE}"));
    let seen = std::cell::RefCell::new(Seen::default());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let held = runner.run(&sequences, |sequence| compare(&private, &script, &sequence, &mut seen.borrow_mut()));
    held.unwrap_or_else(|error| panic!("{error}"));
    // The keys' lives were taken from them.
    redis::cmd("DEL").arg(private.keys()).exec(&mut private.client.get_connection().unwrap()).unwrap();
    seen.into_inner()
}

#[test]
fn small_windows_decide_as_their_model_does() {
    let seen = hold(2_500, sequences(1_u32..12, 20..60));
    assert!(seen.decisions > 80_000 && seen.windows > 140_000, "{seen:?}");
    assert!(seen.refused > 16_000 && seen.never > 2_000 && seen.gone > 1_000 && seen.in_part > 1_000, "{seen:?}");
}

#[test]
fn large_windows_decide_as_their_model_does() {
    let seen = hold(200, sequences(prop_oneof![50_u32..400, 5_000_u32..10_000], 80..160));
    assert!(seen.decisions > 15_000 && seen.refused > 2_000, "{seen:?}");
}
