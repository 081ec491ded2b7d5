//! Lines that hold on to each other.
//!
//! A line is an object of JSON whose last four members are ours: the chain that it belongs to, its number in it, the hash of the line before it, and its own,
//! which is of everything that stands before that member. So to change a line without being found, all that follow must be changed as well; to take one away
//! also leaves a number out.
//!
//! Without a key the hash is SHA-256: who can write the files can compute all of it anew, and only whoever kept a line's hash elsewhere ([`Anchor`]) will know.
//! With a key (`audit_key`) it is HMAC-SHA256, which takes the key. Neither tells that lines are missing at the end.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The hash of a line.
pub(super) type Hash = [u8; 32];

/// The last line of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Its number; lines are numbered from 1.
    pub(super) line: u64,
    pub(super) hash: Hash,
}

impl Head {
    /// Before the first line.
    pub(super) const NONE: Self = Self { line: 0, hash: [0; 32] };
}

/// How lines are hashed.
#[derive(Clone)]
pub struct Seal(Option<Zeroizing<Vec<u8>>>);

impl Seal {
    /// With this key; with none if it is empty.
    pub fn new(key: &str) -> Self {
        Self(Some(key).filter(|key| !key.is_empty()).map(|key| Zeroizing::new(key.as_bytes().to_vec())))
    }

    /// Whether there is a key.
    pub fn is_keyed(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn of(&self, text: &[u8]) -> Hash {
        match &self.0 {
            None => Sha256::digest(text).into(),
            Some(key) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
                mac.update(text);
                mac.finalize().into_bytes().into()
            }
        }
    }

    /// Whether a chain of this name is under this seal.
    pub(super) fn is_of(&self, chain: &str) -> bool {
        if self.is_keyed() { chain.starts_with(&self.prefix()) } else { !is_keyed(chain) }
    }

    /// What the names of chains under this seal begin with. It tells keys apart, and nothing of them.
    pub(super) fn prefix(&self) -> String {
        match &self.0 {
            None => String::new(),
            Some(_) => format!("{}-", &hex(&self.of(b"whatsnext audit chain"))[..8]),
        }
    }
}

/// Whether a chain of this name is under a key, whichever.
pub(super) fn is_keyed(chain: &str) -> bool {
    chain.contains('-')
}

/// A line that is known to have been in a chain: `CHAIN:LINE:HASH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The chain.
    pub chain: String,
    /// The line's number.
    pub line: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.chain, self.line, self.hash)
    }
}

impl FromStr for Anchor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let (Some(chain), Some(line), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("write it as CHAIN:LINE:HASH");
        };
        let line = line.parse().map_err(|_| "what stands between the colons is no number")?;
        unhex(hash).ok_or("the hash must have 64 hexadecimal digits")?;
        Ok(Self { chain: chain.to_owned(), line, hash: hash.to_owned() })
    }
}

/// What stands before a line's hash.
const HASH: &str = ",\"whatsnext.audit.hash\":\"";

/// Adds to `lines` the line that follows `head` and says `event` (an object of JSON). Returns the new head.
pub(super) fn append(lines: &mut Vec<u8>, event: &[u8], chain: &str, head: &Head, seal: &Seal) -> Head {
    let (start, line) = (lines.len(), head.line + 1);
    lines.extend_from_slice(event.strip_suffix(b"}").unwrap_or(event));
    let place = format!(
        ",\"whatsnext.audit.chain\":\"{chain}\",\"whatsnext.audit.line\":{line},\"whatsnext.audit.previous\":\"{}\"",
        hex(&head.hash)
    );
    lines.extend_from_slice(place.as_bytes());
    let hash = seal.of(&lines[start..]);
    lines.extend_from_slice(format!("{HASH}{}\"}}\n", hex(&hash)).as_bytes());
    Head { line, hash }
}

/// A line that was read.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) chain: String,
    pub(super) action: String,
    pub(super) line: u64,
    pub(super) previous: Hash,
    /// As it says itself.
    pub(super) hash: Hash,
    /// The line up to which it says that files were removed.
    pub(super) removed_to: Option<u64>,
    /// Whether its hash is as it says.
    pub(super) is_whole: bool,
}

impl Link {
    /// Reads a line, without its end. Nothing if it is none of a chain.
    pub(super) fn parse(line: &[u8], seal: &Seal) -> Option<Self> {
        #[derive(Deserialize)]
        struct Members {
            #[serde(rename = "event.action")]
            action: String,
            #[serde(rename = "whatsnext.audit.chain")]
            chain: String,
            #[serde(rename = "whatsnext.audit.line")]
            line: u64,
            #[serde(rename = "whatsnext.audit.previous")]
            previous: String,
            #[serde(rename = "whatsnext.audit.removed_to")]
            removed_to: Option<u64>,
        }
        let Members { action, chain, line: number, previous, removed_to } = serde_json::from_slice(line).ok()?;
        let hash = line.strip_suffix(b"\"}")?;
        let (rest, hash) = hash.split_at_checked(hash.len().checked_sub(64)?)?;
        let text = rest.strip_suffix(HASH.as_bytes())?;
        let hash = unhex(std::str::from_utf8(hash).ok()?)?;
        Some(Self { chain, action, line: number, previous: unhex(&previous)?, hash, removed_to, is_whole: seal.of(text) == hash })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Hash> {
    let digits = Some(text.as_bytes()).filter(|digits| digits.len() == 64)?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        // Written in one way only.
        let digit = |at: usize| char::from(pair[at]).to_digit(16).filter(|_| !pair[at].is_ascii_uppercase());
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_any_changed_byte_is_seen() {
        for seal in [Seal::new(""), Seal::new("key")] {
            let mut lines = Vec::new();
            let head = append(&mut lines, br#"{"event.action":"x"}"#, "1", &Head { line: 4, hash: [7; 32] }, &seal);
            let line = lines.strip_suffix(b"\n").expect("a line end");
            let link = Link::parse(line, &seal).expect("a line");
            assert_eq!((link.chain.as_str(), link.line, link.previous, link.hash, link.is_whole), ("1", 5, [7; 32], head.hash, true));
            for at in 0..line.len() {
                let mut changed = line.to_vec();
                changed[at] ^= 1;
                assert!(Link::parse(&changed, &seal).is_none_or(|link| !link.is_whole), "{}", String::from_utf8_lossy(&changed));
            }
        }
    }

    #[test]
    fn who_has_another_key_makes_other_hashes_and_other_chains() {
        let seals = [Seal::new(""), Seal::new("one"), Seal::new("two")];
        let each = |of: &dyn Fn(&Seal) -> String| seals.iter().map(of).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!((each(&|seal| hex(&seal.of(b"x"))), each(&Seal::prefix)), (3, 3));
    }
}
