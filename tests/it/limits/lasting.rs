//! What windows leave in Redis: how much, for how long, and what they make of what they find there.

use std::time::Duration;

use redis::{
    Arg, AsyncCommands, Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use whatsnext::limits::{Admission, Error, Verdict, Window, window::MAX_LIMIT};

use super::{Private, admitted, refused, window};

async fn time_to_live(connection: &mut MultiplexedConnection, key: &str) -> i64 {
    connection.pttl::<_, i64>(key).await.unwrap()
}

async fn bytes(connection: &mut MultiplexedConnection, key: &str) -> usize {
    cmd("MEMORY").arg("USAGE").arg(key).query_async(connection).await.unwrap()
}

#[tokio::test]
async fn an_admission_takes_at_most_five_bytes() {
    let private = Private::new();
    let mut connection = private.connect().await;
    for limit in [1_000, 10_000] {
        let name = if limit == 1_000 { "few" } else { "many" };
        let windows = [Window { name, ..window(limit, 600_000) }];
        let key = private.limits.window_key("k", name);
        for _ in 0..limit / 500 {
            let calls = (0..500).map(|_| {
                let (mut connection, limits) = (connection.clone(), &private.limits);
                async move { admitted(limits.admit(&mut connection, "k", None, &windows).await.unwrap()) }
            });
            futures_util::future::join_all(calls).await;
        }
        let full = bytes(&mut connection, &key).await;
        assert!(full <= 5 * limit as usize, "{full} bytes for {limit} admissions");
    }
}

#[tokio::test]
async fn a_refusal_writes_nothing_and_a_look_makes_nothing() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let limits = &private.limits;
    let both = [window(3, 60_000), Window { name: "wide", ..window(10, 120_000) }];
    let standings = limits.standing(&mut connection, "k", &both).await.unwrap();
    assert_eq!(standings.iter().map(|standing| standing.unwrap().remaining).collect::<Vec<_>>(), [3, 10]);
    assert_eq!(private.keys(), Vec::<String>::new(), "a look makes nothing");

    for _ in 0..3 {
        admitted(limits.admit(&mut connection, "k", None, &both).await.unwrap());
    }
    let keys = ["api", "wide"].map(|name| limits.window_key("k", name));
    let before: Vec<Vec<u8>> = connection.mget(&keys).await.unwrap();
    let lives = [time_to_live(&mut connection, &keys[0]).await, time_to_live(&mut connection, &keys[1]).await];
    tokio::time::sleep(Duration::from_millis(5)).await;
    for _ in 0..1_000 {
        let (standings, _) = refused(limits.admit(&mut connection, "k", None, &both).await.unwrap());
        assert_eq!(standings[1].unwrap().remaining, 7, "a window that would admit is not charged where another refuses");
    }
    limits.standing(&mut connection, "k", &both).await.unwrap();
    assert_eq!(connection.mget::<_, Vec<Vec<u8>>>(&keys).await.unwrap(), before);
    for (key, life) in keys.iter().zip(lives) {
        assert!(time_to_live(&mut connection, key).await < life, "a refusal does not prolong");
    }
}

#[tokio::test]
async fn a_window_lives_as_long_as_it_counts() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let key = private.limits.window_key("k", "api");
    let mut last = 0;
    // Longer, shorter, and again: the first is laid out anew as it grows, the later ones are not.
    for (length_ms, times) in [(1_000, 1), (1_000, 40), (60_000, 1), (2_000, 1), (2_000, 1), (600_000, 1), (10, 1)] {
        for _ in 0..times {
            admitted(private.limits.admit(&mut connection, "k", None, &[window(100, length_ms)]).await.unwrap());
        }
        last = length_ms;
        let life = time_to_live(&mut connection, &key).await;
        let length = i64::try_from(length_ms).unwrap();
        assert!((length - 5..=2 * length + 5).contains(&life), "{life} ms for a window of {length} ms");
    }
    tokio::time::sleep(Duration::from_millis(last + 20)).await;
    assert_eq!(private.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_window_counts_as_an_empty_one_and_is_replaced() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let limits = &private.limits;
    let key = limits.window_key("k", "api");
    let windows = [window(2, 60_000)];
    admitted(limits.admit(&mut connection, "k", None, &windows).await.unwrap());
    let good: Vec<u8> = connection.get(&key).await.unwrap();
    let mut another_layout = good.clone();
    another_layout[0] ^= 1;
    let mut too_many = good.clone();
    too_many[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut no_room = good[..44].to_vec();
    no_room[4..16].copy_from_slice(&[0; 12]);
    let strings = [b"".to_vec(), b"garbage".to_vec(), vec![0; 44], vec![255; 4_000], another_layout, too_many, no_room];
    let mut cases: Vec<redis::Cmd> = strings.iter().map(|string| cmd("SET").arg(&key).arg(string).to_owned()).collect();
    cases.push(cmd("LPUSH").arg(&key).arg("x").to_owned());
    cases.push(cmd("HSET").arg(&key).arg("x").arg(1).to_owned());
    cases.push(cmd("ZADD").arg(&key).arg(1).arg("x").to_owned());
    for case in cases {
        connection.del::<_, ()>(&key).await.unwrap();
        case.exec_async(&mut connection).await.unwrap();
        let look = limits.standing(&mut connection, "k", &windows).await.unwrap();
        assert_eq!(look[0].unwrap().remaining, 2);
        for remaining in [1, 0] {
            let standings = admitted(limits.admit(&mut connection, "k", None, &windows).await.unwrap());
            assert_eq!(standings[0].unwrap().remaining, remaining);
        }
        refused(limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        assert!(time_to_live(&mut connection, &key).await > 0);
    }
}

/// Nobody does this, and nothing good comes of it, but not for longer than a length.
#[tokio::test]
async fn a_window_that_something_has_cut_is_whole_again_after_a_length() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let key = private.limits.window_key("k", "api");
    let windows = [window(10, 100)];
    for length in [44, 46, 50, 60, 79] {
        for _ in 0..10 {
            admitted(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        }
        let whole: Vec<u8> = connection.get(&key).await.unwrap();
        connection.set::<_, _, ()>(&key, &whole[..length]).await.unwrap();
        for weight in [1, 3, 7] {
            let answer = private.limits.admit(&mut connection, "k", None, &[Window { weight, ..windows[0] }]).await;
            assert!(!matches!(answer, Ok(Admission::Admitted { .. })), "{answer:?}");
        }
        tokio::time::sleep(Duration::from_millis(110)).await;
        for _ in 0..10 {
            admitted(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        }
        refused(private.limits.admit(&mut connection, "k", None, &windows).await.unwrap());
        private.limits.reset(&mut connection, "k", &["api"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_limit_and_a_reset_count_at_once() {
    let private = Private::new();
    let (mut connection, mut other) = (private.connect().await, private.connect().await);
    let limits = &private.limits;
    for _ in 0..5 {
        admitted(limits.admit(&mut connection, "k", None, &[window(5, 60_000)]).await.unwrap());
    }
    refused(limits.admit(&mut connection, "k", None, &[window(5, 60_000)]).await.unwrap());
    assert_eq!(admitted(limits.admit(&mut other, "k", None, &[window(7, 60_000)]).await.unwrap())[0].unwrap().remaining, 1);
    refused(limits.admit(&mut connection, "k", None, &[window(3, 60_000)]).await.unwrap());
    assert_eq!(limits.reset(&mut other, "k", &["api", "other"]).await.unwrap(), 1);
    assert_eq!(admitted(limits.admit(&mut connection, "k", None, &[window(3, 60_000)]).await.unwrap())[0].unwrap().remaining, 2);
    assert_eq!(limits.reset(&mut other, "k", &[]).await.unwrap(), 0);
}

#[tokio::test]
async fn windows_that_are_off_or_too_small_or_too_large() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let limits = &private.limits;
    let off = [window(0, 60_000), Window { name: "on", weight: 4, ..window(3, 60_000) }];
    assert_eq!(admitted(limits.admit(&mut connection, "k", None, &off[..1]).await.unwrap()), [None]);
    let (standings, retry_after_ms) = refused(limits.admit(&mut connection, "k", None, &off).await.unwrap());
    assert_eq!((standings[0], standings[1].unwrap().verdict, retry_after_ms), (None, Verdict::Never, None));
    assert_eq!(admitted(limits.admit(&mut connection, "k", None, &[]).await.unwrap()), []);
    for wrong in [window(MAX_LIMIT + 1, 60_000), window(1, 0), window(1, 2_000_000_001)] {
        assert!(matches!(limits.admit(&mut connection, "k", None, &[wrong]).await, Err(Error::Window { name: "api" })));
    }
    let twice = [window(1, 60_000), window(1, 60_000)];
    assert!(matches!(limits.admit(&mut connection, "k", None, &twice).await, Err(Error::Window { name: "api" })));
    assert_eq!(private.keys(), Vec::<String>::new());
    let largest = Window { weight: 100_000, ..window(MAX_LIMIT, 2_000_000_000) };
    assert_eq!(admitted(limits.admit(&mut connection, "k", None, &[largest]).await.unwrap())[0].unwrap().remaining, MAX_LIMIT - 100_000);
}

/// A connection to a Redis that has forgotten every script, and how many round trips were made on it.
struct Forgetful(MultiplexedConnection, usize);

impl ConnectionLike for Forgetful {
    fn req_packed_command<'a>(&'a mut self, call: &'a Cmd) -> RedisFuture<'a, Value> {
        self.1 += 1;
        let by_hash = matches!(call.args_iter().next(), Some(Arg::Simple(b"EVALSHA")));
        let other = cmd("EVALSHA").arg("0".repeat(40)).arg(0).to_owned();
        Box::pin(async move { self.0.req_packed_command(if by_hash { &other } else { call }).await })
    }

    fn req_packed_commands<'a>(&'a mut self, calls: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(calls, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test]
async fn a_redis_that_does_not_know_the_script_is_sent_it_in_one_trip_more() {
    let private = Private::new();
    let mut connection = Forgetful(private.connect().await, 0);
    let standings = admitted(private.limits.admit(&mut connection, "k", None, &[window(3, 60_000)]).await.unwrap());
    assert_eq!(standings[0].unwrap().remaining, 2);
    assert_eq!(connection.1, 2);
    let standings = admitted(private.limits.admit(&mut connection.0, "k", None, &[window(3, 60_000)]).await.unwrap());
    assert_eq!(standings[0].unwrap().remaining, 1);
}

#[tokio::test]
async fn an_error_is_not_an_admission() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let user = private.limits.window_key("user", "acl");
    // A user who may read but not write, as on a replica.
    let rules = ["on", "nopass", "~*", "+@all", "-set", "-setrange"];
    cmd("ACL").arg("SETUSER").arg(&user).arg(&rules).exec_async(&mut connection).await.unwrap();
    let mut reader = private.connect().await;
    cmd("AUTH").arg(&user).arg("any").exec_async(&mut reader).await.unwrap();
    let answer = private.limits.admit(&mut reader, "k", None, &[window(3, 60_000)]).await;
    cmd("ACL").arg("DELUSER").arg(&user).exec_async(&mut connection).await.unwrap();
    assert!(matches!(answer, Err(Error::Redis(_))), "{answer:?}");
    let standings = private.limits.standing(&mut connection, "k", &[window(3, 60_000)]).await.unwrap();
    assert_eq!(standings[0].unwrap().remaining, 3);
    assert!(matches!(private.limits.admit(&mut connection, "k", None, &[window(3, 60_000)]).await, Ok(Admission::Admitted { .. })));
}

#[tokio::test]
async fn what_was_admitted_elsewhere_is_charged_as_far_as_there_is_room() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let charge = Window { weight: 7, ..window(10, 60_000) };
    for remaining in [3, 0, 0] {
        private.limits.charge(&mut connection, "k", charge).await.unwrap();
        assert_eq!(private.limits.standing(&mut connection, "k", &[charge]).await.unwrap()[0].unwrap().remaining, remaining);
    }
}
