//! `window.lua` against `window.rs`: the same calls at the same times, and every answer is compared.

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use redis::{Script, Value};
use whatsnext::limits::{
    Standing, Verdict,
    window::{Ask, Log, decide},
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
    Decide(When, Vec<Part>),
    Reset(Vec<bool>),
}

/// A sequence: when it begins, each window's two lengths, the steps.
#[derive(Debug, Clone)]
struct Sequence {
    start_ms: u64,
    lengths: Vec<(u64, u64)>,
    steps: Vec<Step>,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => (0_u64..4).prop_map(When::Later),
        6 => (0_u64..300).prop_map(When::Part),
        1 => (900_u64..3_000).prop_map(When::Part),
        4 => (-1_i64..2).prop_map(When::Told),
        1 => (-1_i64..2).prop_map(When::Empty),
        1 => (0_u64..2_500).prop_map(When::Back),
    ]
}

/// Steps of windows with these limits: mostly the same limit, and weights that often fit.
fn steps(limits: Vec<u32>, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let part = |limit: u32| {
        let limits = prop_oneof![8 => Just(limit), 1 => Just(limit / 2), 1 => Just(limit * 2), 1 => 0..=limit];
        let weights = prop_oneof![
            1 => Just(0_u32), 8 => Just(1), 6 => 1..=limit.div_ceil(4), 3 => 1..=limit + 1,
        ];
        (limits, weights, prop::bool::weighted(0.1)).prop_map(|(limit, weight, other_length)| Part { limit, weight, other_length })
    };
    let windows = limits.len();
    let parts = limits.into_iter().map(part).collect::<Vec<_>>();
    let step = prop_oneof![
        60 => (when(), parts).prop_map(|(when, parts)| Step::Decide(when, parts)),
        1 => proptest::collection::vec(any::<bool>(), windows).prop_map(Step::Reset),
    ];
    proptest::collection::vec(step, count)
}

fn sequences(limit: impl Strategy<Value = u32> + Clone, count: std::ops::Range<usize>) -> impl Strategy<Value = Sequence> {
    // The low 32 bits of a time start again now and then; windows of all lengths must not notice.
    let start = prop_oneof![Just(1_764_000_000_000_u64), (400_u64..420, 0_u64..200).prop_map(|(round, before)| (round << 32) - before)];
    let length = prop_oneof![1_u64..40, 40_u64..3_000, Just(60_000), Just(2_000_000_000)];
    (1_usize..4).prop_flat_map(move |windows| {
        let limits = proptest::collection::vec(limit.clone(), windows);
        let lengths = proptest::collection::vec((length.clone(), length.clone()), windows);
        let steps = limits.prop_flat_map({
            let count = count.clone();
            move |limits| steps(limits, count.clone())
        });
        (start.clone(), lengths, steps).prop_map(|(start_ms, lengths, steps)| Sequence { start_ms, lengths, steps })
    })
}

/// A step at its time.
struct Timed {
    now_ms: u64,
    what: What,
}

enum What {
    Decide(Vec<Ask>),
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
            Step::Decide(when, parts) => {
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
                let decision = decide(now, &mut logs.iter_mut().zip(asks.iter().copied()).collect::<Vec<_>>());
                told = if let Verdict::After(ms) = decision.verdict { i64::try_from(ms).unwrap() } else { 0 };
                empty = decision.standings[0].map_or(0, |standing| i64::try_from(standing.reset_ms).unwrap());
                What::Decide(asks)
            }
        };
        timed.push(Timed { now_ms: now, what });
    }
    timed
}

/// How much was compared, so that a test which compares nothing does not pass.
#[derive(Debug, Default)]
struct Seen {
    decisions: u32,
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
            What::Decide(asks) => {
                call.arg("decide").arg(now_ms);
                for Ask { limit, length_ms, weight } in asks {
                    call.arg(limit).arg(length_ms).arg(weight);
                }
            }
            What::Reset(which) => {
                call.arg("reset").arg(now_ms);
                which.iter().for_each(|which| drop(call.arg(u8::from(*which))));
            }
        }
    }
    let mut connection = private.client.get_connection().unwrap();
    redis::cmd("DEL").arg(&keys).exec(&mut connection).unwrap();
    let answers: Vec<(bool, Vec<i64>, Vec<bool>)> =
        call.invoke::<Value>(&mut connection).and_then(|value| Ok(redis::from_redis_value(value)?)).unwrap();

    let mut logs = vec![Log::default(); keys.len()];
    // The length that each window's key is kept for: that of its last charge.
    let mut kept = vec![0; keys.len()];
    for (step, (Timed { now_ms, what }, (admits, answer, gone))) in timed.iter().zip(&answers).enumerate() {
        for ((log, kept), _) in logs.iter_mut().zip(&kept).zip(gone).filter(|(_, gone)| **gone) {
            let look = Ask { limit: 1, length_ms: *kept, weight: 0 };
            prop_assert_eq!(decide(*now_ms, &mut [(log, look)]).standings[0].unwrap().reset_ms, 0, "step {} forgets too early", step);
            seen.gone += 1;
            log.reset();
        }
        let asks = match what {
            What::Decide(asks) => asks,
            What::Reset(which) => {
                logs.iter_mut().zip(which).filter(|(_, which)| **which).for_each(|(log, _)| log.reset());
                continue;
            }
        };
        let decision = decide(*now_ms, &mut logs.iter_mut().zip(asks.iter().copied()).collect::<Vec<_>>());
        let expected: Vec<i64> = decision.standings.iter().flat_map(numbers).collect();
        prop_assert_eq!(&expected, answer, "step {} at {} asked {:?}", step, now_ms, asks);
        prop_assert_eq!(*admits, decision.verdict == Verdict::Admits, "step {} at {} asked {:?}", step, now_ms, asks);
        if *admits {
            kept.iter_mut().zip(asks).filter(|(_, ask)| ask.limit > 0 && ask.weight > 0).for_each(|(kept, ask)| *kept = ask.length_ms);
        }
        seen.decisions += 1;
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
    let seen = hold(4_000, sequences(1_u32..12, 20..60));
    assert!(seen.decisions > 100_000 && seen.windows > 200_000, "{seen:?}");
    assert!(seen.refused > 20_000 && seen.never > 2_000 && seen.gone > 1_000, "{seen:?}");
}

#[test]
fn large_windows_decide_as_their_model_does() {
    let seen = hold(200, sequences(prop_oneof![50_u32..400, 5_000_u32..10_000], 80..160));
    assert!(seen.decisions > 15_000 && seen.refused > 2_000, "{seen:?}");
}
