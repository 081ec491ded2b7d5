//! Keys that stand in the configuration (`api_keys`), as the Python server had them.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::LONG_KEY;

/// The configured keys, of which only digests are kept. All of them may do everything.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConfiguredKeys {
    digests: Vec<[u8; 32]>,
    is_any_short: bool,
}

impl ConfiguredKeys {
    /// Those of a comma-separated list.
    pub fn new(list: &SecretString) -> Self {
        let keys = || list.expose_secret().split(',').map(str::trim).filter(|key| !key.is_empty());
        Self { digests: keys().map(digest).collect(), is_any_short: keys().any(|key| key.chars().count() < LONG_KEY) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether there is one among them that may be found by trying ([`LONG_KEY`]).
    pub fn is_any_short(&self) -> bool {
        self.is_any_short
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Which of the keys this is, if any. Takes as long whichever it is, and whether it is one.
    pub fn position(&self, presented: &str) -> Option<usize> {
        let presented = digest(presented);
        let mut found = None;
        for (position, key) in self.digests.iter().enumerate() {
            if bool::from(key.ct_eq(&presented)) {
                found = Some(position);
            }
        }
        found
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_key_is_found_whole_or_not_at_all() {
        let keys = ConfiguredKeys::new(&SecretString::from(" one, two ,,three"));
        assert_eq!(["one", "two", "three"].map(|key| keys.position(key)), [Some(0), Some(1), Some(2)]);
        for wrong in ["", " ", ",", "one,two", " one", "ONE", "on"] {
            assert_eq!(keys.position(wrong), None, "{wrong:?}");
        }
        assert!(ConfiguredKeys::new(&SecretString::from(" , ")).is_empty());
        let long = "a".repeat(LONG_KEY);
        assert!(keys.is_any_short() && ConfiguredKeys::new(&format!("{long},{}", &long[1..]).into()).is_any_short());
        assert!(!ConfiguredKeys::new(&format!("{long}, {long}").into()).is_any_short());
    }
}
