//! By the real clock, with callers that come at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Script;
use tokio::sync::Barrier;
use whatsnext::limits::{Admission, Verdict};

use super::{Private, WINDOW_LUA, admitted, refused, window};

/// Comes before the script: notes the time that Redis tells it, in microseconds.
const NOTED: &str = "
local micros, real = nil, redis
local redis = {pcall = real.pcall, call = function(command, ...)
  local answer = real.call(command, ...)
  if command == 'TIME' then micros = answer[1] * 1000000 + answer[2] end
  return answer
end}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_that_come_at_once_exactly_the_limit_comes_in() {
    let private = Arc::new(Private::new());
    let barrier = Arc::new(Barrier::new(8));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (private, barrier) = (private.clone(), barrier.clone());
            tokio::spawn(async move {
                let connection = private.connect().await;
                barrier.wait().await;
                let calls = (0..125).map(|_| {
                    let (mut connection, private) = (connection.clone(), &private);
                    async move { private.limits.admit(&mut connection, "k", None, &[window(100, 60_000)]).await.unwrap() }
                });
                let answers = futures_util::future::join_all(calls).await;
                answers.iter().filter(|answer| matches!(answer, Admission::Admitted { .. })).count()
            })
        })
        .collect();
    let mut in_all = 0;
    for caller in callers {
        in_all += caller.await.unwrap();
    }
    assert_eq!(in_all, 100);
}

/// Callers that never stop asking. Any 101 admissions in a row are at least a length apart, which is to say that no interval of the length holds more than
/// 100 wherever it begins. And whenever one is refused, the last 1.01 lengths hold 100, which is to say that the limit can be used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_interval_of_the_length_holds_more_than_the_limit_and_all_of_it_can_be_used() {
    const LIMIT: usize = 100;
    const LENGTH_MS: u64 = 1_000;
    let private = Arc::new(Private::new());
    let admit = include_str!("../../../src/limits/admit.lua");
    let script = Arc::new(Script::new(&format!("{NOTED}{WINDOW_LUA}local function admit()\n{admit}end\nreturn {{admit()[1][1], micros}}")));
    let in_all = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0_u64..8)
        .map(|caller| {
            let (private, script, in_all) = (private.clone(), script.clone(), in_all.clone());
            tokio::spawn(async move {
                let mut connection = private.connect().await;
                let key = private.limits.window_key("k", "api");
                let (mut admitted, mut refused) = (Vec::new(), Vec::new());
                while in_all.load(Ordering::Relaxed) < 3 * LIMIT + LIMIT / 2 {
                    let mut call = script.key(&key);
                    call.arg(1).arg("").arg("").arg(1).arg(LIMIT).arg(LENGTH_MS).arg(1).arg(0);
                    let (outcome, micros): (i64, u64) = call.invoke_async(&mut connection).await.unwrap();
                    let calls = (admitted.len() + refused.len()) as u64;
                    if outcome == 1 {
                        in_all.fetch_add(1, Ordering::Relaxed);
                        admitted.push(micros);
                    } else {
                        refused.push(micros);
                    }
                    // In the first window they come spread over it, so that no position is like another.
                    if refused.is_empty() {
                        tokio::time::sleep(Duration::from_millis((calls * 7 + caller * 3) % 50)).await;
                    }
                }
                (admitted, refused)
            })
        })
        .collect();
    let (mut admitted, mut refused) = (Vec::new(), Vec::new());
    for caller in callers {
        let times = caller.await.unwrap();
        admitted.extend(times.0);
        refused.extend(times.1);
    }
    admitted.sort_unstable();
    let least = admitted.windows(LIMIT + 1).map(|times| times[LIMIT] - times[0]).min().unwrap();
    assert!(least >= LENGTH_MS * 1_000, "{} came within {least} µs", LIMIT + 1);
    assert!(refused.len() > 1_000, "they did not ask often");
    for time in refused {
        let (from, to) = (time - LENGTH_MS * 1_010, time + 1);
        let held = admitted.partition_point(|then| *then <= to) - admitted.partition_point(|then| *then < from);
        assert!(held >= LIMIT, "one was refused where the last {} ms held {held}", LENGTH_MS * 101 / 100);
    }
}

/// Whoever comes back when told is admitted; whoever comes a little earlier is not.
#[tokio::test]
async fn when_to_come_again_is_exact() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let windows = [window(2, 300)];
    for round in 0..4 {
        let begin = Instant::now();
        admitted(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
        admitted(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        let (standings, retry_after_ms) = refused(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        let wait = Duration::from_millis(retry_after_ms.unwrap());
        assert_eq!(standings[0].unwrap().verdict, Verdict::After(retry_after_ms.unwrap()));
        let told = Instant::now();
        if round % 2 == 0 {
            let early = wait.saturating_sub(Duration::from_millis(40));
            tokio::time::sleep(early).await;
            let answer = private.limits.admit(&mut connection, "k", None, &windows).await.unwrap();
            assert!(begin.elapsed() >= Duration::from_millis(300) || matches!(answer, Admission::Refused { .. }), "{answer:?}");
        }
        tokio::time::sleep(wait.saturating_sub(told.elapsed())).await;
        admitted(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        private.limits.reset(&mut connection, "k", &["api"]).await.unwrap();
    }
}
