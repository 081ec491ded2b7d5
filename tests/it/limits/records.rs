//! The subject's record, read in the same call.

use redis::{AsyncCommands, aio::MultiplexedConnection, cmd};
use whatsnext::limits::{Admission, Guard, Question, Window, window::MAX_LIMIT};

use super::{Private, admitted, refused, window};

const GUARD: Option<Guard> = Some(Guard { version: 7, token: None });

struct Subject {
    private: Private,
    connection: MultiplexedConnection,
}

impl Subject {
    async fn new() -> Self {
        let private = Private::new();
        let connection = private.connect().await;
        Self { private, connection }
    }

    /// Writes the record anew.
    async fn record(&mut self, fields: &[(&str, &str)]) {
        let key = self.private.limits.record_key("k");
        self.connection.del::<_, ()>(&key).await.unwrap();
        if !fields.is_empty() {
            self.connection.hset_multiple::<_, _, _, ()>(&key, fields).await.unwrap();
        }
    }

    async fn admit(&mut self, windows: &[Window]) -> Admission {
        self.private.limits.admit(&mut self.connection, "k", GUARD, windows).await.unwrap()
    }

    async fn now_ms(&mut self) -> u64 {
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut self.connection).await.unwrap();
        seconds * 1_000 + micros / 1_000
    }
}

#[tokio::test]
async fn only_the_record_that_was_verified_is_admitted_and_nothing_else_is_charged() {
    let mut subject = Subject::new().await;
    let now = subject.now_ms().await;
    let (past, future) = ((now - 1).to_string(), (now + 60_000).to_string());
    let cases: &[(&[(&str, &str)], Admission)] = &[
        (&[], Admission::Missing),
        (&[("limit", "5")], Admission::Missing),
        (&[("version", "7"), ("limit", "many")], Admission::Missing),
        (&[("version", "7"), ("limit", "-1")], Admission::Missing),
        (&[("version", "7"), ("limit", "nan")], Admission::Missing),
        (&[("version", "7"), ("limit", "0.5")], Admission::Missing),
        (&[("version", "7"), ("limit", "")], Admission::Missing),
        (&[("version", "7"), ("expires_at_ms", "soon")], Admission::Missing),
        (&[("version", "7"), ("expires_at_ms", "nan")], Admission::Missing),
        (&[("version", "7"), ("dead", "1")], Admission::Gone),
        (&[("dead", "1")], Admission::Gone),
        (&[("version", "8"), ("dead", "1"), ("expires_at_ms", &future)], Admission::Gone),
        (&[("version", "7"), ("expires_at_ms", &past)], Admission::Gone),
        (&[("version", "8"), ("expires_at_ms", &past)], Admission::Gone),
        (&[("version", "8")], Admission::Stale),
        (&[("version", "8"), ("expires_at_ms", &future)], Admission::Stale),
        (&[("version", "")], Admission::Stale),
        (&[("version", "70")], Admission::Stale),
    ];
    for (record, expected) in cases {
        subject.record(record).await;
        for windows in [&[window(3, 60_000)][..], &[]] {
            assert_eq!(subject.admit(windows).await, *expected, "{record:?}");
        }
    }
    subject.record(&[]).await;
    let key = subject.private.limits.record_key("k");
    subject.connection.set::<_, _, ()>(&key, "7").await.unwrap();
    assert_eq!(subject.admit(&[window(3, 60_000)]).await, Admission::Missing, "a record of another type");

    subject.record(&[("version", "7"), ("expires_at_ms", &future), ("secret", "opaque")]).await;
    let standings = admitted(subject.admit(&[window(3, 60_000)]).await);
    assert_eq!(standings[0].unwrap().remaining, 2, "nothing of all that was charged");
    assert_eq!(admitted(subject.admit(&[]).await), []);
}

#[tokio::test]
async fn a_subject_is_gone_from_the_millisecond_on_that_it_expires() {
    let mut subject = Subject::new().await;
    let end = subject.now_ms().await + 150;
    subject.record(&[("version", "7"), ("expires_at_ms", &end.to_string())]).await;
    let windows = [Window { weight: 0, ..window(3, 60_000) }];
    loop {
        let before = subject.now_ms().await;
        let answer = subject.admit(&windows).await;
        let after = subject.now_ms().await;
        match answer {
            Admission::Gone => {
                assert!(after >= end);
                break;
            }
            _ => assert!(before < end, "admitted {} ms after its end", before - end),
        }
    }
}

#[tokio::test]
async fn a_token_is_looked_at_in_the_same_call_and_must_not_have_ended() {
    let mut subject = Subject::new().await;
    let guard = Some(Guard { version: 7, token: Some([9; 32]) });
    let (limits, key) = (subject.private.limits.clone(), subject.private.limits.tokens_key("k"));
    let windows = [window(3, 60_000)];
    subject.record(&[("version", "7")]).await;
    let asked = async |subject: &mut Subject| limits.admit(&mut subject.connection, "k", guard, &windows).await.unwrap();
    assert_eq!(asked(&mut subject).await, Admission::Gone, "there is none");
    let now = subject.now_ms().await;
    let _: () = subject.connection.zadd(&key, &[8_u8; 32][..], now + 60_000).await.unwrap();
    assert_eq!(asked(&mut subject).await, Admission::Gone, "another one's");
    let _: () = subject.connection.zadd(&key, &[9_u8; 32][..], now).await.unwrap();
    assert_eq!(asked(&mut subject).await, Admission::Gone, "it has ended");
    let _: () = subject.connection.zadd(&key, &[9_u8; 32][..], now + 60_000).await.unwrap();
    assert_eq!(admitted(asked(&mut subject).await)[0].unwrap().remaining, 2, "nothing of all that was charged");
    subject.record(&[("version", "8")]).await;
    assert_eq!(asked(&mut subject).await, Admission::Stale);
    subject.record(&[("version", "7"), ("dead", "1")]).await;
    assert_eq!(asked(&mut subject).await, Admission::Gone);
    subject.record(&[("version", "7")]).await;
    let _: () = subject.connection.set(&key, "what is this").await.unwrap();
    assert_eq!(asked(&mut subject).await, Admission::Gone, "tokens of another type");
}

#[tokio::test]
async fn the_subjects_own_limit_goes_before_that_of_windows_which_take_it() {
    let mut subject = Subject::new().await;
    let own = Window { own_limit: true, ..window(3, 60_000) };
    let both = [own, Window { name: "report", ..window(3, 60_000) }];
    let limits = |standings: Vec<Option<whatsnext::limits::Standing>>| {
        standings.iter().map(|standing| standing.map(|standing| (standing.limit, standing.remaining))).collect::<Vec<_>>()
    };
    subject.record(&[("version", "7"), ("limit", "2")]).await;
    assert_eq!(limits(admitted(subject.admit(&both).await)), [Some((2, 1)), Some((3, 2))]);
    // Raised and lowered under the same version, then taken away.
    subject.record(&[("version", "7"), ("limit", "10")]).await;
    assert_eq!(limits(admitted(subject.admit(&both).await)), [Some((10, 8)), Some((3, 1))]);
    subject.record(&[("version", "7"), ("limit", "2")]).await;
    assert_eq!(limits(refused(subject.admit(&both).await).0), [Some((2, 0)), Some((3, 1))]);
    subject.record(&[("version", "7"), ("limit", "0")]).await;
    assert_eq!(limits(admitted(subject.admit(&both).await)), [None, Some((3, 0))]);
    subject.record(&[("version", "7")]).await;
    assert_eq!(limits(admitted(subject.admit(&[own]).await)), [Some((3, 0))]);
    // The script's largest limit is that of everybody else.
    let largest = [u64::from(MAX_LIMIT) - 1, MAX_LIMIT.into(), u64::from(MAX_LIMIT) + 1].map(|limit| limit.to_string());
    let largest = [&largest[0], &largest[1], &largest[2], "99999999999999999999"];
    for (used, (limit, expected)) in (4..).zip(largest.into_iter().zip([MAX_LIMIT - 1, MAX_LIMIT, MAX_LIMIT, MAX_LIMIT])) {
        subject.record(&[("version", "7"), ("limit", limit)]).await;
        assert_eq!(limits(admitted(subject.admit(&[own]).await)), [Some((expected, expected - used))], "{limit}");
    }
}

/// One call decides about many subjects as many calls would: what is wrong with one is told to it alone.
#[tokio::test]
async fn questions_of_one_call_do_not_meet() {
    let private = Private::new();
    let mut connection = private.connect().await;
    let mut record = async |subject: &str, fields: &[(&str, &str)]| {
        connection.hset_multiple::<_, _, _, ()>(private.limits.record_key(subject), fields).await.unwrap();
    };
    record("good", &[("version", "7"), ("limit", "2")]).await;
    record("other", &[("version", "8")]).await;
    record("dead", &[("version", "7"), ("dead", "1")]).await;
    let ([own, alone, off], token) = ([true, false, false].map(|own_limit| Window { own_limit, ..window(5, 60_000) }), Some([7; 32]));
    let (own, alone, off) = ([own], [alone, Window { name: "second", ..alone }], [Window { limit: 0, ..off }]);
    let ask = |subject, guard, windows, times| Question { subject, guard, windows, times };
    let questions = [
        ask("unknown", GUARD, &own[..], 1),
        ask("good", GUARD, &own, 1),
        ask("address", None, &off, 3),
        ask("dead", GUARD, &own, 1),
        ask("address", None, &alone, 3),
        ask("other", GUARD, &own, 1),
        ask("good", Some(Guard { version: 7, token }), &own, 1),
        ask("good", GUARD, &[], 1),
        ask("good", GUARD, &own, 4),
        ask("address", None, &alone[..1], 3),
    ];
    let answers = private.limits.admit_all(&mut connection, &questions).await.unwrap();
    let remaining = |place: usize, of: usize| -> Option<Vec<Option<u32>>> {
        let Admission::Admitted { standings } = answers[place].of(of) else { return None };
        Some(standings.iter().map(|standing| standing.map(|standing| standing.remaining)).collect())
    };
    assert_eq!([0, 3, 5, 6].map(|place| answers[place].of(0)), [Admission::Missing, Admission::Gone, Admission::Stale, Admission::Gone]);
    assert_eq!(remaining(1, 0), Some(vec![Some(1)]), "its own limit is 2");
    assert_eq!((0..3).map(|of| remaining(2, of)).collect::<Vec<_>>(), vec![Some(vec![None]); 3], "a window that is off");
    assert_eq!((0..3).map(|of| remaining(4, of)).collect::<Vec<_>>(), [4, 3, 2].map(|left| Some(vec![Some(left); 2])));
    assert_eq!(remaining(7, 0), Some(vec![]), "its record is good, and nothing else is asked");
    assert_eq!(
        (0..4).map(|of| remaining(8, of)).collect::<Vec<_>>(),
        [Some(vec![Some(0)]), None, None, None],
        "one was left by the one before"
    );
    assert!(matches!(answers[8].of(1), Admission::Refused { .. }), "{:?}", answers[8]);
    assert_eq!((0..3).map(|of| remaining(9, of)).collect::<Vec<_>>(), [Some(vec![Some(1)]), Some(vec![Some(0)]), None]);
    let standings = private.limits.standing(&mut connection, "address", &alone).await.unwrap();
    let left: Vec<u32> = standings.iter().flatten().map(|standing| standing.remaining).collect();
    assert_eq!(left, [0, 2], "a question that was refused in part charged what it was admitted for, in its window");
}
