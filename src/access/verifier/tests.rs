use std::time::Duration;

use futures_util::{FutureExt, future::join_all};
use tokio::time::{sleep, timeout};

use super::{super::KeyId, *};

/// Long enough for whatever is to happen, however slow the machine.
const LONG: Duration = Duration::from_secs(60);

fn key() -> (Key, KeyHash) {
    let key = Key::generate(KeyId::make());
    let hash = KeyHash::of(&key);
    (key, hash)
}

fn stored(version: i64, hash: &KeyHash) -> Option<Stored<'_>> {
    Some(Stored { version, hash })
}

/// Keeps a verifier from running anything for as long as it lives.
async fn hold(verifier: &Verifier) -> OwnedSemaphorePermit {
    let permits = u32::try_from(verifier.0.all_permits).unwrap();
    Arc::clone(&verifier.0.permits).acquire_many_owned(permits).await.unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, wait).await.expect("it happens");
}

/// Starts verifying a key, and returns when it waits for its answer.
async fn start(verifier: &Verifier, key: &Key, hash: &KeyHash) -> task::JoinHandle<Result<bool, Busy>> {
    let waiting = || verifier.0.shared().values().map(|answer| answer.receiver_count()).sum::<usize>();
    let before = waiting();
    let (theirs, key, hash) = (verifier.clone(), key.clone(), hash.clone());
    let started = tokio::spawn(async move { theirs.verify(&key, stored(1, &hash)).await });
    until(|| waiting() > before).await;
    started
}

#[tokio::test]
async fn what_another_server_has_verified_takes_no_run_here_and_holds_for_that_hash_alone() {
    let verifier = Verifier::new(1, 0);
    let ((key, hash), (_, other)) = (key(), key());
    let held = hold(&verifier).await;
    verifier.believe(&key, stored(3, &hash).unwrap());
    assert_eq!(verifier.verified_version(&key), Some(3));
    assert_eq!(verifier.verify(&key, stored(4, &hash)).await, Ok(true));
    assert_eq!((verifier.runs(), verifier.verified_version(&key)), (0, Some(4)));
    drop(held);
    assert_eq!(verifier.verify(&key, stored(5, &other)).await, Ok(false));
    assert_eq!(verifier.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_the_same_key_share_one_run() {
    let verifier = Verifier::new(2, 10);
    let (key, hash) = key();
    for _ in 0..3 {
        let together = join_all((0..200).map(|_| {
            let (verifier, key, hash) = (verifier.clone(), key.clone(), hash.clone());
            tokio::spawn(async move { verifier.verify(&key, stored(7, &hash)).await })
        }));
        assert!(together.await.into_iter().all(|answer| answer.unwrap() == Ok(true)));
    }
    assert_eq!((verifier.runs(), verifier.verified_version(&key)), (1, Some(7)));
}

#[tokio::test]
async fn a_new_version_with_the_same_hash_needs_no_run() {
    let verifier = Verifier::new(1, 10);
    let (key, hash) = key();
    assert_eq!(verifier.verified_version(&key), None);
    for version in [1, 2, 9] {
        assert_eq!(verifier.verify(&key, stored(version, &hash)).await, Ok(true));
        assert_eq!(verifier.verified_version(&key), Some(version));
    }
    assert_eq!(verifier.runs(), 1);
    // But a new hash does, as does a record that is gone.
    assert_eq!(verifier.verify(&key, stored(10, &KeyHash::of(&key))).await, Ok(true));
    assert_eq!(verifier.verify(&key, None).await, Ok(false));
    assert_eq!(verifier.runs(), 3);
}

#[tokio::test]
async fn a_wrong_secret_is_no_more_than_an_unknown_id() {
    let verifier = Verifier::new(1, 10);
    let (key, hash) = key();
    let wrong = Key::generate(key.id());
    for (runs, stored) in [(1, stored(1, &hash)), (2, None)] {
        assert_eq!(verifier.verify(&wrong, stored).await, Ok(false));
        assert_eq!(verifier.runs(), runs);
        assert_eq!(verifier.verify(&wrong, stored).await, Ok(false));
        assert_eq!(verifier.runs(), runs, "it is remembered for a moment");
        assert_eq!(verifier.verified_version(&wrong), None);
    }
    assert_eq!(verifier.verify(&key, stored(1, &hash)).await, Ok(true));
    assert_eq!(verifier.verify(&wrong, stored(1, &hash)).await, Ok(false));
}

#[tokio::test]
async fn a_key_that_is_made_after_it_was_tried_is_right_at_once() {
    let verifier = Verifier::new(1, 10);
    let (key, hash) = key();
    assert_eq!(verifier.verify(&key, None).await, Ok(false));
    assert_eq!(verifier.verify(&key, stored(1, &hash)).await, Ok(true));
}

#[tokio::test]
async fn who_finds_no_place_to_wait_is_told_at_once() {
    let verifier = Verifier::new(1, 1);
    let keys = [key(), key(), key()];
    let held = hold(&verifier).await;
    let mut waiting = Vec::new();
    for (key, hash) in &keys[..2] {
        waiting.push(start(&verifier, key, hash).await);
    }
    let (key, hash) = &keys[2];
    assert_eq!(verifier.verify(key, stored(1, hash)).await, Err(Busy));
    assert_eq!(verifier.verify(key, None).await, Err(Busy));
    assert_eq!(verifier.hash(key).await.unwrap_err(), Busy);
    // Who brings a key that is waited for already takes no place.
    waiting.push(start(&verifier, &keys[0].0, &keys[0].1).await);
    drop(held);
    for answer in join_all(waiting).await {
        assert_eq!(answer.unwrap(), Ok(true));
    }
    assert_eq!(verifier.verify(key, stored(1, hash)).await, Ok(true));
    assert_eq!(verifier.runs(), 3);
}

#[tokio::test]
async fn a_key_that_is_known_is_known_however_busy_the_server() {
    let verifier = Verifier::new(1, 0);
    let (key, hash) = key();
    assert_eq!(verifier.verify(&key, stored(1, &hash)).await, Ok(true));
    let _held = hold(&verifier).await;
    let other = Key::generate(key.id());
    let _other = start(&verifier, &other, &hash).await;
    assert_eq!(verifier.verify(&Key::generate(key.id()), stored(1, &hash)).await, Err(Busy));
    assert_eq!(verifier.verify(&key, stored(2, &hash)).await, Ok(true));
}

#[tokio::test]
async fn who_goes_away_while_waiting_gives_the_place_back() {
    let verifier = Verifier::new(1, 1);
    let (key, hash) = key();
    let held = hold(&verifier).await;
    for _ in 0..20 {
        let started = start(&verifier, &Key::generate(key.id()), &hash).await;
        started.abort();
        until(|| verifier.0.places.available_permits() == 2).await;
    }
    assert!(verifier.0.shared().is_empty());
    drop(held);
    assert_eq!(verifier.verify(&key, stored(1, &hash)).await, Ok(true));
    assert_eq!(verifier.runs(), 1);
}

#[tokio::test]
async fn a_run_goes_on_without_whoever_started_it() {
    let verifier = Verifier::new(1, 1);
    let (key, hash) = key();
    let held = hold(&verifier).await;
    let first = start(&verifier, &key, &hash).await;
    let second = start(&verifier, &key, &hash).await;
    first.abort();
    drop(held);
    assert_eq!(second.await.unwrap(), Ok(true));
    assert_eq!(verifier.runs(), 1);
    // Also if nobody is left when it is running already.
    let other = Key::generate(key.id());
    let started = start(&verifier, &other, &hash).await;
    until(|| verifier.runs() == 2).await;
    started.abort();
    until(|| verifier.0.shared().is_empty()).await;
    assert_eq!(verifier.0.places.available_permits(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_given_back_when_there_is_nothing_to_do() {
    let verifier = Verifier::new(2, 100);
    let (key, hash) = key();
    let all = join_all((0..20).map(|_| {
        let (verifier, key, hash) = (verifier.clone(), Key::generate(key.id()), hash.clone());
        tokio::spawn(async move { verifier.verify(&key, stored(1, &hash)).await })
    }));
    assert!(all.await.into_iter().all(|answer| answer.unwrap() == Ok(false)));
    until(|| verifier.0.places.available_permits() == 102).await;
    assert_eq!((verifier.runs(), verifier.0.memory.kept().len()), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_come_and_go_leave_nothing_behind() {
    let verifier = Verifier::new(2, 8);
    let keys: Vec<_> = (0..4).map(|_| key()).collect();
    let hectic = join_all((0..400_u64).map(|n| {
        let (verifier, (key, hash)) = (verifier.clone(), keys[n as usize % 4].clone());
        tokio::spawn(timeout(Duration::from_micros(n * 97 % 30_000), async move { verifier.verify(&key, stored(1, &hash)).await }))
    }));
    for answer in hectic.await {
        assert!(matches!(answer.unwrap(), Ok(Ok(true)) | Err(_)));
    }
    until(|| verifier.0.shared().is_empty() && verifier.0.places.available_permits() == 10).await;
    assert_eq!(verifier.0.permits.available_permits(), 2);
    assert!(verifier.runs() <= 4, "{} runs for 4 keys", verifier.runs());
}

#[tokio::test]
async fn a_hash_made_here_is_the_keys() {
    let verifier = Verifier::new(1, 1);
    let key = Key::generate(KeyId::make());
    let hash = verifier.hash(&key).await.unwrap();
    assert_eq!(verifier.runs(), 0);
    assert_eq!(verifier.verify(&key, stored(1, &hash)).await, Ok(true));
    assert_eq!(verifier.verify(&Key::generate(key.id()), stored(1, &hash)).await, Ok(false));
}

#[test]
fn a_server_that_is_stopping_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = runtime.handle().clone();
    drop(runtime);
    let _stopped = handle.enter();
    let verifier = Verifier::new(1, 1);
    let (key, hash) = key();
    for stored in [stored(1, &hash), None] {
        assert_eq!(verifier.verify(&key, stored).now_or_never(), Some(Err(Busy)));
    }
    assert!(verifier.0.shared().is_empty());
    assert_eq!(verifier.0.places.available_permits(), 2);
}
