//! What is stored of a key: argon2id (RFC 9106) of all of its text, as a PHC string.
//!
//! New hashes have the parameters that OWASP's "Password Storage Cheat Sheet" recommends first: 19 MiB, two passes, one lane. A secret of
//! 256 random bits would be safe behind a single SHA-256; argon2id is what lets nobody have to argue about it. It is paid for once per key
//! and server ([`super::verifier`]).
//!
//! A stored hash is not believed to be cheap: one that a fault or an attacker put there must not take gigabytes or minutes to look at. See
//! [`KeyHash::parse`].

use std::{
    fmt::{self, Debug, Formatter},
    sync::{Mutex, MutexGuard, PoisonError},
};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Key;

/// Of new hashes. KiB.
const MEMORY: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Of stored hashes that are looked at, KiB.
const MAX_MEMORY: u32 = 65_536;
const MAX_LANES: u32 = 4;

/// KiB times passes: from the least that OWASP recommends (7,168 × 5) to what takes about 50 ms.
const WORK: std::ops::RangeInclusive<u64> = 35_840..=131_072;

/// Longer ones are not even parsed. Those made here have 97 characters.
const MAX_LENGTH: usize = 160;

const LENGTH: usize = 32;

const IN_BOUNDS: &str = "the parameters were checked";

/// A hash that is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored hash is not argon2id with acceptable parameters")]
pub struct Unacceptable;

/// The stored hash of a key: a PHC string whose parameters are acceptable.
#[derive(Clone)]
pub struct KeyHash {
    text: Box<str>,
    params: Params,
    salt: Salt,
    hash: [u8; LENGTH],
}

impl KeyHash {
    /// Hashes a key with a new salt. Takes about 15 ms and 19 MiB: for commands. A server uses [`super::Verifier::hash`].
    #[must_use]
    pub fn of(key: &Key) -> Self {
        Self::with(key, &Memory::default())
    }

    pub(super) fn with(key: &Key, memory: &Memory) -> Self {
        let salt = Salt::generate();
        let params = Params::new(MEMORY, PASSES, LANES, Some(LENGTH)).expect(IN_BOUNDS);
        let hash = *calculate(key, &params, &salt, memory);
        Self::made(params, salt, hash)
    }

    /// The hash of nothing, which costs as much as any other: what a key is compared with whose id is unknown.
    pub(super) fn dummy() -> Self {
        let mut hash = [0; LENGTH];
        getrandom::fill(&mut hash).expect("the operating system gives random bytes");
        Self::made(Params::new(MEMORY, PASSES, LANES, Some(LENGTH)).expect(IN_BOUNDS), Salt::generate(), hash)
    }

    fn made(params: Params, salt: Salt, hash: [u8; LENGTH]) -> Self {
        let text = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).expect(IN_BOUNDS),
            salt: Some(salt),
            hash: Some(Output::new(&hash).expect(IN_BOUNDS)),
        };
        Self { text: text.to_string().into(), params, salt, hash }
    }

    /// Reads a stored hash.
    ///
    /// # Errors
    ///
    /// [`Unacceptable`], if it is anything but argon2id of version 0x13 with a hash of 32 bytes, no other parameters than `m`, `t` and `p`,
    /// at most 64 MiB and four lanes, and between a little less and about three times the work of a new one.
    pub fn parse(text: &str) -> Result<Self, Unacceptable> {
        if text.len() > MAX_LENGTH {
            return Err(Unacceptable);
        }
        let parsed = PasswordHash::new(text).map_err(|_| Unacceptable)?;
        let is_argon2id = parsed.algorithm.as_str() == Algorithm::Argon2id.as_str() && parsed.version == Some(Version::V0x13.into());
        if !is_argon2id || !parsed.params.iter().map(|(name, _)| name).eq(["m", "t", "p"].map(|name| name.parse().expect("it is a name"))) {
            return Err(Unacceptable);
        }
        let params = Params::try_from(&parsed).map_err(|_| Unacceptable)?;
        let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
        if params.m_cost() > MAX_MEMORY || params.p_cost() > MAX_LANES || !WORK.contains(&work) {
            return Err(Unacceptable);
        }
        let (Some(salt), Some(hash)) = (parsed.salt, parsed.hash) else { return Err(Unacceptable) };
        let hash = hash.as_bytes().try_into().map_err(|_| Unacceptable)?;
        Ok(Self { text: text.into(), params, salt, hash })
    }

    /// Whether it has the parameters that new ones have.
    #[must_use]
    pub fn is_current(&self) -> bool {
        (self.params.m_cost(), self.params.t_cost(), self.params.p_cost()) == (MEMORY, PASSES, LANES)
    }

    /// The PHC string, to be stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is this key's. Takes as long, and as much memory, as it says.
    pub(super) fn is_of(&self, key: &Key, memory: &Memory) -> bool {
        calculate(key, &self.params, &self.salt, memory).ct_eq(&self.hash).into()
    }
}

impl Debug for KeyHash {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyHash")
    }
}

fn calculate(key: &Key, params: &Params, salt: &Salt, memory: &Memory) -> Zeroizing<[u8; LENGTH]> {
    let mut hash = Zeroizing::new([0; LENGTH]);
    let mut blocks = memory.take(params.block_count());
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(key.expose().as_bytes(), salt, &mut *hash, &mut blocks[..])
        .expect(IN_BOUNDS);
    memory.keep(blocks);
    hash
}

/// The memory that hashing has used and will use again, which spares the kernel's zeroing of it: with 46 MiB a hash takes 19 ms instead of
/// 51.
#[derive(Default)]
pub(super) struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    fn take(&self, blocks: usize) -> Vec<Block> {
        let mut kept = self.kept().pop().unwrap_or_default();
        if kept.len() < blocks {
            // Not `resize`, which would copy what is not needed.
            kept = vec![Block::new(); blocks];
        }
        kept
    }

    fn keep(&self, blocks: Vec<Block>) {
        self.kept().push(blocks);
    }

    /// Gives all that is not in use back.
    pub(super) fn free(&self) {
        let kept = std::mem::take(&mut *self.kept());
        drop(kept);
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordVerifier;
    use proptest::prelude::*;

    use super::{super::KeyId, *};

    fn key() -> Key {
        Key::generate(KeyId::make())
    }

    #[test]
    fn a_hash_is_its_keys_and_no_others() {
        let (key, memory) = (key(), Memory::default());
        let hash = KeyHash::of(&key);
        let stored = KeyHash::parse(hash.as_str()).unwrap();
        assert!(stored.is_current());
        // Also in memory that has been used.
        for _ in 0..2 {
            assert!(stored.is_of(&key, &memory));
            assert!(!stored.is_of(&Key::generate(key.id()), &memory));
        }
        assert_eq!(memory.kept().len(), 1);
        assert_eq!(hash.as_str().len(), 97);
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        Argon2::default().verify_password(key.expose().as_bytes(), hash.as_str()).unwrap();
    }

    #[test]
    fn neither_hash_nor_salt_is_printed() {
        assert_eq!(format!("{:?}", KeyHash::dummy()), "KeyHash");
    }

    #[test]
    fn nobody_has_the_key_of_the_dummy() {
        assert!(!KeyHash::dummy().is_of(&key(), &Memory::default()));
        assert_ne!(KeyHash::dummy().as_str(), KeyHash::dummy().as_str());
        assert!(KeyHash::parse(KeyHash::dummy().as_str()).unwrap().is_current());
    }

    fn stored(algorithm: &str, version: &str, params: &str, rest: &str) -> Result<KeyHash, Unacceptable> {
        KeyHash::parse(&format!("${algorithm}{version}${params}${rest}"))
    }

    const REST: &str = "c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";

    #[test]
    fn what_owasp_recommends_is_accepted() {
        for params in ["m=47104,t=1,p=1", "m=19456,t=2,p=1", "m=12288,t=3,p=1", "m=9216,t=4,p=1", "m=7168,t=5,p=1", "m=65536,t=2,p=4"] {
            assert!(stored("argon2id", "$v=19", params, REST).is_ok(), "{params}");
        }
    }

    #[test]
    fn a_stored_hash_cannot_take_gigabytes_or_minutes() {
        for params in [
            "m=4194304,t=1,p=1",
            "m=4294967295,t=4294967295,p=1",
            "m=65537,t=1,p=1",
            "m=65536,t=3,p=1",
            "m=8,t=131072,p=1",
            "m=8,t=4294967295,p=1",
            "m=65536,t=2,p=5",
            "m=8,t=1,p=1",
            "m=35839,t=1,p=1",
            "m=19456,t=0,p=1",
            "m=19456,t=2,p=0",
            "m=0,t=2,p=1",
            "m=-1,t=2,p=1",
            "m=019456,t=2,p=1",
            "m=19456,t=2",
            "t=2,m=19456,p=1",
            "m=19456,m=19456,t=2,p=1",
            "m=19456,t=2,p=1,data=AAAA",
            "m=19456,t=2,p=1,keyid=AAAA",
            "",
        ] {
            assert_eq!(stored("argon2id", "$v=19", params, REST).unwrap_err(), Unacceptable, "{params}");
        }
    }

    #[test]
    fn nothing_but_argon2id_is_accepted() {
        let params = "m=19456,t=2,p=1";
        for (algorithm, version, rest) in [
            ("argon2i", "$v=19", REST),
            ("argon2d", "$v=19", REST),
            ("scrypt", "$v=19", REST),
            ("argon2id", "$v=16", REST),
            ("argon2id", "", REST),
            ("argon2id", "$v=19", ""),
            ("argon2id", "$v=19", "c2FsdHNhbHRzYWx0c2FsdA"),
            ("argon2id", "$v=19", "c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"),
            ("argon2id", "$v=19", "c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA"),
            ("argon2id", "$v=19", "c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g$"),
        ] {
            assert_eq!(stored(algorithm, version, params, rest).unwrap_err(), Unacceptable, "{algorithm}{version} {rest}");
        }
        for text in ["", "$", "$argon2id", key().expose(), &"$".repeat(100_000)] {
            assert_eq!(KeyHash::parse(text).unwrap_err(), Unacceptable);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_stored_makes_reading_panic(at in 0_usize..97, byte in 0_u8..128, text: String) {
            let mut stored = KeyHash::dummy().as_str().as_bytes().to_vec();
            stored[at] = byte;
            if let Ok(hash) = KeyHash::parse(str::from_utf8(&stored).unwrap()) {
                prop_assert!(hash.params.m_cost() <= MAX_MEMORY);
                prop_assert_eq!(hash.as_str().as_bytes(), &stored);
            }
            prop_assert!(KeyHash::parse(&text).is_err());
        }
    }
}
