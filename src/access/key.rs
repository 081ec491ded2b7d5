//! API keys and short-lived tokens: how they are written, and read.
//!
//! ```text
//! wn_01JD8Q6Y2ZK7V3N5R9T1W4X6B8_4fVq…43 characters…x0aB3dE9
//!    └ id: a UUIDv7            └ secret: 32 random bytes  └ CRC-32 of everything before it
//! ```
//!
//! Every key has one spelling. One character more, less or other is no key: surrounding space, another case, a letter that only looks like
//! one. So a key that was mistyped, cut off or made up is refused by looking at it, and what is compared, hashed and cached is always the
//! same text.
//!
//! The checksum is no protection, since everybody can calculate it. It tells a key from a typing error, and lets scanners of source code be
//! sure.

use std::{
    fmt::{self, Debug, Display, Formatter},
    str::{self, FromStr},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::base62;

/// A regular expression that finds keys, for scanners of source code and logs. A match is a key if its checksum is right ([`Key::parse`]).
///
/// It has no word boundaries, since keys are also found inside of longer words: `url=https://x:wn_…@host`, `KEY_wn_…`.
pub const KEY_PATTERN: &str = "wn_[0-7][0-9A-HJKMNP-TV-Z]{25}_[0-9A-Za-z]{49}";

/// A regular expression that finds tokens.
pub const TOKEN_PATTERN: &str = "wnt_[0-9A-Za-z]{49}";

const KEY_PREFIX: &[u8; 3] = b"wn_";
const TOKEN_PREFIX: &[u8; 4] = b"wnt_";

const ID_END: usize = KEY_PREFIX.len() + KeyId::LENGTH;
const KEY_LENGTH: usize = ID_END + 1 + base62::SECRET + base62::CHECKSUM;
const TOKEN_LENGTH: usize = TOKEN_PREFIX.len() + base62::SECRET + base62::CHECKSUM;

const ASCII: &str = "it is made of ASCII";

/// What was read is not a key, token or id. It does not say why: who holds a real one does not need to know, and everybody else must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is malformed")]
pub struct Malformed;

/// What a key is called: not a secret. Sorts by the time at which it was made.
///
/// 128 bits in Crockford's base32, 26 upper-case characters. Where Crockford lets a reader take `O` for `0` or `l` for `1`, this does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(Uuid);

impl KeyId {
    /// Characters.
    pub const LENGTH: usize = 26;

    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    /// What each character stands for: 32 for one that is none of them.
    const DIGITS: [u8; 256] = {
        let mut digits = [32; 256];
        let mut digit = 0;
        while digit < 32 {
            digits[Self::ALPHABET[digit as usize] as usize] = digit;
            digit += 1;
        }
        digits
    };

    /// A new id, which will not be made again.
    #[must_use]
    pub fn make() -> Self {
        Self(Uuid::now_v7())
    }

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        // 26 characters hold 130 bits: the first must not have more than three.
        if text.len() != Self::LENGTH || text[0] > b'7' {
            return Err(Malformed);
        }
        let value = text.iter().try_fold(0_u128, |value, character| {
            let digit = Self::DIGITS[usize::from(*character)];
            if digit < 32 { Ok((value << 5) | u128::from(digit)) } else { Err(Malformed) }
        })?;
        Ok(Self(Uuid::from_u128(value)))
    }

    fn write(self) -> [u8; Self::LENGTH] {
        let mut value = self.0.as_u128();
        let mut text = [0; Self::LENGTH];
        for character in text.iter_mut().rev() {
            *character = Self::ALPHABET[(value & 31) as usize];
            value >>= 5;
        }
        text
    }
}

impl From<Uuid> for KeyId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<KeyId> for Uuid {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for KeyId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for KeyId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::parse(text.as_bytes())
    }
}

impl Display for KeyId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.pad(str::from_utf8(&self.write()).expect(ASCII))
    }
}

impl Debug for KeyId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, formatter)
    }
}

/// A key, with its secret. It cannot be printed but by [`expose`](Key::expose), and its memory is zeroed when it is dropped.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    text: Text<KEY_LENGTH>,
}

impl Key {
    /// A new key with a new secret.
    ///
    /// # Panics
    ///
    /// If the operating system has no random bytes to give.
    #[must_use]
    pub fn generate(id: KeyId) -> Self {
        let mut text = Text::zeroed();
        text.0[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
        text.0[KEY_PREFIX.len()..ID_END].copy_from_slice(&id.write());
        text.0[ID_END] = b'_';
        text.finish();
        Self { id, text }
    }

    /// Reads a key. Takes no time to speak of, whatever it is given.
    ///
    /// # Errors
    ///
    /// [`Malformed`], also if only the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        if bytes.len() != KEY_LENGTH || !bytes.starts_with(KEY_PREFIX) || bytes[ID_END] != b'_' || !is_finished(bytes) {
            return Err(Malformed);
        }
        let id = KeyId::parse(&bytes[KEY_PREFIX.len()..ID_END])?;
        Ok(Self { id, text: Text::copied(bytes) })
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// All of it, to be shown to whom it belongs to, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose()
    }
}

impl FromStr for Key {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::parse(text)
    }
}

impl Debug for Key {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({})", self.id)
    }
}

/// A short-lived token: a secret without a name, found by its digest. It cannot be printed either.
#[derive(Clone)]
pub struct Token(Text<TOKEN_LENGTH>);

impl Token {
    /// A new token.
    ///
    /// # Panics
    ///
    /// If the operating system has no random bytes to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = Text::zeroed();
        text.0[..TOKEN_PREFIX.len()].copy_from_slice(TOKEN_PREFIX);
        text.finish();
        Self(text)
    }

    /// Reads a token.
    ///
    /// # Errors
    ///
    /// [`Malformed`], also if only the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        if bytes.len() != TOKEN_LENGTH || !bytes.starts_with(TOKEN_PREFIX) || !is_finished(bytes) {
            return Err(Malformed);
        }
        Ok(Self(Text::copied(bytes)))
    }

    /// What it is stored as: SHA-256 of all of it. Nothing slower is needed, since 256 random bits cannot be tried out; and looking it up
    /// gives away by its timing at most something of the digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }

    /// All of it, to be shown to whom it belongs to, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl FromStr for Token {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::parse(text)
    }
}

impl Debug for Token {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

/// What ends with a secret and a checksum. In a place of its own, so that moving it leaves no copy behind.
#[derive(Clone)]
struct Text<const LENGTH: usize>(Box<Zeroizing<[u8; LENGTH]>>);

impl<const LENGTH: usize> Text<LENGTH> {
    fn zeroed() -> Self {
        Self(Box::new(Zeroizing::new([0; LENGTH])))
    }

    fn copied(bytes: &[u8]) -> Self {
        let mut text = Self::zeroed();
        text.0.copy_from_slice(bytes);
        text
    }

    /// Writes a random secret and the checksum behind what is there already.
    fn finish(&mut self) {
        let (checked, checksum) = self.0.split_at_mut(LENGTH - base62::CHECKSUM);
        let secret = checked.last_chunk_mut().expect("it is long enough for a secret");
        let mut random = [0; 32];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        base62::write(&mut random, secret);
        checksum.copy_from_slice(&base62::checksum(checked));
    }

    fn expose(&self) -> &str {
        str::from_utf8(&**self.0).expect(ASCII)
    }
}

/// Whether a text ends as [`Text::finish`] makes it end.
fn is_finished(text: &[u8]) -> bool {
    let (checked, checksum) = text.split_at(text.len() - base62::CHECKSUM);
    base62::is_secret(&checked[checked.len() - base62::SECRET..]) && checksum == base62::checksum(checked)
}

#[cfg(test)]
mod tests;
