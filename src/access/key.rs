//! API keys and short-lived tokens: how they are written, and read.
//!
//! ```text
//! wn_01JD8Q6Y2ZK7V3N5R9T1W4X6B8_4fVq…43 characters…x0aB3dE9
//!    └ id: a UUIDv7            └ secret: 32 random bytes  └ CRC-32 of everything before it
//! ```
//!
//! Every key has one spelling. One character more, less or other is no key: surrounding space, another case, a letter that only looks like one. So a key that was
//! mistyped, cut off or made up is refused by looking at it, and what is compared, hashed and cached is always the same text.
//!
//! The checksum is no protection, since everybody can calculate it. It tells a key from a typing error, and lets scanners of source code be sure.

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
            let digit = Self::ALPHABET.binary_search(character).map_err(|_| Malformed)?;
            Ok((value << 5) | digit as u128)
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
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    /// Puts the right checksum at the end of a text, so that only what is before it can be wrong.
    fn sealed(text: &[u8]) -> String {
        let checked = &text[..text.len() - base62::CHECKSUM];
        let checksum = base62::checksum(checked);
        String::from_utf8([checked, &checksum].concat()).unwrap()
    }

    fn key() -> Key {
        Key::generate(KeyId::make())
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = key();
        let read = Key::parse(key.expose()).unwrap();
        assert_eq!((read.id(), read.expose()), (key.id(), key.expose()));
        assert_eq!(key.expose().len(), 79);
        let token = Token::generate();
        let read = Token::parse(token.expose()).unwrap();
        assert_eq!((read.expose(), read.digest()), (token.expose(), token.digest()));
        assert_eq!(token.expose().len(), 53);
    }

    #[test]
    fn no_two_keys_are_the_same() {
        let id = KeyId::make();
        let keys: HashSet<String> = (0..1000).map(|_| Key::generate(id).expose().to_owned()).collect();
        let ids: HashSet<KeyId> = (0..1000).map(|_| KeyId::make()).collect();
        assert_eq!((keys.len(), ids.len()), (1000, 1000));
    }

    #[test]
    fn neither_secret_nor_checksum_is_printed() {
        let (key, token) = (key(), Token::generate());
        assert_eq!(format!("{key:?}"), format!("Key({})", key.id()));
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn space_around_a_key_is_not_forgiven() {
        let key = key();
        for wrong in [" K", "K ", "K\n", "K\r\n", "\u{feff}K", "K\0", "\"K\"", "Bearer K", "KK", ""] {
            assert_eq!(Key::parse(&wrong.replace('K', key.expose())).unwrap_err(), Malformed, "{wrong:?}");
        }
    }

    #[test]
    fn look_alikes_are_not_forgiven() {
        // Fullwidth, Arabic-Indic and mathematical digits; Cyrillic letters; the letters that Crockford reads as digits.
        let key = key();
        for alike in ["\u{ff10}", "\u{0660}", "\u{1d7ce}", "\u{0430}", "\u{0410}", "\u{017f}", "\u{212a}", "O", "I", "L", "U"] {
            for at in [4, 40, 78] {
                let wrong = format!("{}{alike}{}", &key.expose()[..at], &key.expose()[at + 1..]);
                assert!(Key::parse(&wrong).is_err() || wrong == key.expose(), "{wrong}");
            }
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id: KeyId = "01JD8Q6Y2ZK7V3N5R9T1W4X6B8".parse().unwrap();
        assert_eq!(id.to_string(), "01JD8Q6Y2ZK7V3N5R9T1W4X6B8");
        assert_eq!(format!("{:?}", KeyId::from(Uuid::max())), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(Uuid::from("00000000000000000000000011".parse::<KeyId>().unwrap()).as_u128(), 33);
        for wrong in [
            "01jd8q6y2zk7v3n5r9t1w4x6b8",
            "O1JD8Q6Y2ZK7V3N5R9T1W4X6B8",
            "01JD8Q6Y2ZK7V3N5R9T1W4X6BI",
            "01JD8Q6Y2ZK7V3N5R9T1W4X6BL",
            "01JD8Q6Y2ZK7V3N5R9T1W4X6BU",
            "81JD8Q6Y2ZK7V3N5R9T1W4X6B8",
            "Z1JD8Q6Y2ZK7V3N5R9T1W4X6B8",
            "01JD8Q6Y2ZK7V3N5R9T1W4X6B",
            "01JD8Q6Y2ZK7V3N5R9T1W4X6B80",
            "01JD8Q6Y-ZK7V3N5R9T1W4X6B8",
            "",
        ] {
            assert_eq!(wrong.parse::<KeyId>(), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_stored_as_it_is_shown() {
        let id = KeyId::make();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<KeyId>(&json).unwrap(), id);
        serde_json::from_str::<KeyId>(&json.to_lowercase()).unwrap_err();
    }

    #[test]
    fn a_secret_above_256_bits_is_refused_even_with_the_right_checksum() {
        let key = key();
        let with = |secret: &[u8; 43]| sealed(&[&key.expose().as_bytes()[..30], secret, b"______"].concat());
        Key::parse(&with(b"yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1")).unwrap();
        Key::parse(&with(b"yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp2")).unwrap_err();
        Key::parse(&with(b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz")).unwrap_err();
    }

    #[test]
    fn what_is_stored_or_of_another_kind_is_no_key() {
        Key::parse("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g").unwrap_err();
        Key::parse(Token::generate().expose()).unwrap_err();
        Token::parse(key().expose()).unwrap_err();
        Key::parse(&"wn_".repeat(3000)).unwrap_err();
        Key::parse(&key().id().to_string()).unwrap_err();
    }

    #[test]
    fn scanners_find_keys_and_tokens_in_their_surroundings() {
        let pattern = Regex::new(&format!("{KEY_PATTERN}|{TOKEN_PATTERN}")).unwrap();
        for _ in 0..200 {
            let (key, token) = (key(), Token::generate());
            let text = format!("curl https://key:{}@host; export KEY=\"{}\\n\"", key.expose(), token.expose());
            let found: Vec<&str> = pattern.find_iter(&text).map(|found| found.as_str()).collect();
            assert_eq!(found, [key.expose(), token.expose()]);
        }
    }

    proptest! {
        #[test]
        fn one_other_byte_makes_no_key(at in 0_usize..79, byte: u8) {
            let key = key();
            let mut text = key.expose().as_bytes().to_vec();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            // CRC-32 finds every change of a single byte.
            prop_assert!(String::from_utf8(text).map_or(true, |text| Key::parse(&text).is_err()));
        }

        #[test]
        fn what_is_read_as_a_key_is_found_by_scanners_and_written_the_same(at in 0_usize..73, byte in 0_u8..128) {
            let mut text = key().expose().as_bytes().to_vec();
            text[at] = byte;
            let text = sealed(&text);
            let pattern = Regex::new(&format!("^{KEY_PATTERN}$")).unwrap();
            match Key::parse(&text) {
                Ok(key) => {
                    prop_assert!(pattern.is_match(&text));
                    prop_assert_eq!(key.expose(), &text);
                    prop_assert_eq!(key.id().to_string(), &text[3..29]);
                }
                // Of all that a scanner finds only secrets above 256 bits are no keys.
                Err(Malformed) => prop_assert!(!pattern.is_match(&text) || text.as_bytes()[30] >= b'y'),
            }
        }

        #[test]
        fn nothing_makes_reading_panic(text: String) {
            let _ = (Key::parse(&text), Token::parse(&text), text.parse::<KeyId>());
        }

        #[test]
        fn ids_sort_as_they_are_spelled(a: u128, b: u128) {
            let [a, b] = [a, b].map(|value| KeyId::from(Uuid::from_u128(value)));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.to_string().parse::<KeyId>(), Ok(a));
        }
    }
}
