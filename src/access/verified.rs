//! What is known already: keys that turned out to be right, and for a moment those that turned out to be wrong.
//!
//! Neither keys nor hashes are kept, only HMAC-SHA256 of them under a secret that was made when the server started and that dies with it.
//! So what is remembered tells nothing about keys, cannot be used on another server, and how long looking it up takes tells at most
//! something of digests that nobody else can calculate.
//!
//! A key is right or wrong **for a stored hash**. That never changes, so nothing of this can be out of date: a key whose hash was replaced
//! is asked about anew. Whether it has expired or been revoked is not kept here but in its record, of which the version is kept that it was
//! last found right for.
//!
//! # Why remembering wrong keys is safe
//!
//! A machine that was forgotten keeps sending a key that is no longer there, and so do all those that were installed with it, each from an
//! address of its own. Each time would cost an argon2 run. So a wrong key is remembered for [`WRONG_FOR`]:
//!
//! - It cannot lock anybody out: what is remembered is this very text for this very hash, so the right key is never among it, nor one that
//!   is made later.
//! - It cannot be used to push out anything else: wrong keys have a place of their own, and of a fixed size. Whoever floods it makes the
//!   server as fast as it would be without it.
//! - It does not tell whether an id exists: known and unknown ids are remembered in the same way, after the same work.
//! - It does not spare the caller anything: the failure counts against their address as any other.

use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use quick_cache::sync::Cache;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Key, KeyHash};

/// How many keys that are right are remembered. Together they take about 2 MB.
const RIGHT: usize = 10_000;

/// How many questions whose answer was no are remembered.
const WRONG: usize = 1_000;

/// How long they are.
pub(super) const WRONG_FOR: Duration = Duration::from_secs(1);

type Digest = [u8; 32];

/// Whether a key is the one whose hash is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Question {
    key: Digest,
    hash: Digest,
}

#[derive(Debug, Clone, Copy)]
struct Right {
    hash: Digest,
    version: i64,
}

/// Remembers answers.
pub(super) struct Verified {
    /// Has seen the server's secret and nothing else.
    mac: Hmac<Sha256>,
    /// By the key's digest.
    right: Cache<Digest, Right>,
    wrong: Cache<Question, Instant>,
}

impl Verified {
    pub(super) fn new() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).expect("the operating system gives random bytes");
        let mac = Hmac::new_from_slice(&*secret).expect("HMAC takes secrets of any length");
        Self { mac, right: Cache::new(RIGHT), wrong: Cache::new(WRONG) }
    }

    pub(super) fn question(&self, key: &Key, hash: &KeyHash) -> Question {
        Question { key: self.digest(key.expose()), hash: self.digest(hash.as_str()) }
    }

    fn digest(&self, text: &str) -> Digest {
        self.mac.clone().chain_update(text).finalize().into_bytes().into()
    }

    /// The version for which a key was last found right.
    pub(super) fn version(&self, key: &Key) -> Option<i64> {
        self.right.get(&self.digest(key.expose())).map(|right| right.version)
    }

    /// The answer, if it is known at this time.
    pub(super) fn answer(&self, question: &Question, now: Instant) -> Option<bool> {
        if self.right.get(&question.key).is_some_and(|right| right.hash == question.hash) {
            return Some(true);
        }
        let since = self.wrong.get(question)?;
        (now.saturating_duration_since(since) < WRONG_FOR).then_some(false)
    }

    /// Remembers that a key is right, of a version of its record. Who comes last is believed, not who has the highest version: after a
    /// restore from a backup versions start again further down.
    pub(super) fn is_right(&self, question: &Question, version: i64) {
        self.right.insert(question.key, Right { hash: question.hash, version });
    }

    /// Remembers that a key is wrong, for a moment.
    pub(super) fn is_wrong(&self, question: Question, now: Instant) {
        self.wrong.insert(question, now);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::KeyId, *};

    fn key() -> Key {
        Key::generate(KeyId::make())
    }

    #[test]
    fn a_right_key_is_remembered_with_the_version_last_seen() {
        let (verified, key, hash) = (Verified::new(), key(), KeyHash::dummy());
        let question = verified.question(&key, &hash);
        let now = Instant::now();
        assert_eq!((verified.version(&key), verified.answer(&question, now)), (None, None));
        for version in [4, 5, 5, 3] {
            verified.is_right(&question, version);
            assert_eq!((verified.version(&key), verified.answer(&question, now)), (Some(version), Some(true)));
        }
        assert_eq!(verified.version(&Key::generate(key.id())), None);
    }

    #[test]
    fn a_hash_that_was_replaced_is_asked_about_anew() {
        let (verified, key, [old, new]) = (Verified::new(), key(), [KeyHash::dummy(), KeyHash::dummy()]);
        let [old, new] = [&old, &new].map(|hash| verified.question(&key, hash));
        let now = Instant::now();
        verified.is_right(&old, 1);
        assert_eq!(verified.answer(&new, now), None);
        verified.is_right(&new, 2);
        assert_eq!((verified.answer(&old, now), verified.answer(&new, now)), (None, Some(true)));
    }

    #[test]
    fn a_wrong_key_is_remembered_for_a_moment_and_only_for_its_hash() {
        let (verified, key, now) = (Verified::new(), key(), Instant::now());
        let question = verified.question(&key, &KeyHash::dummy());
        verified.is_wrong(question, now);
        assert_eq!(verified.answer(&question, now), Some(false));
        assert_eq!(verified.answer(&question, now + WRONG_FOR - Duration::from_millis(1)), Some(false));
        assert_eq!(verified.answer(&question, now + WRONG_FOR), None);
        assert_eq!(verified.answer(&verified.question(&key, &KeyHash::dummy()), now), None);
        assert_eq!(verified.version(&key), None);
    }

    #[test]
    fn wrong_keys_push_no_right_one_out() {
        let (verified, key, hash, now) = (Verified::new(), key(), KeyHash::dummy(), Instant::now());
        verified.is_right(&verified.question(&key, &hash), 1);
        for _ in 0..3 * WRONG {
            verified.is_wrong(verified.question(&Key::generate(key.id()), &hash), now);
        }
        assert_eq!(verified.version(&key), Some(1));
        assert!(verified.wrong.len() <= WRONG);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (verified, hash) = (Verified::new(), KeyHash::dummy());
        let id = KeyId::make();
        for _ in 0..RIGHT + 2_000 {
            verified.is_right(&verified.question(&Key::generate(id), &hash), 1);
        }
        assert!(verified.right.len() <= RIGHT);
    }

    #[test]
    fn two_servers_digest_the_same_key_differently() {
        let (key, hash) = (key(), KeyHash::dummy());
        assert_ne!(Verified::new().question(&key, &hash), Verified::new().question(&key, &hash));
    }
}
