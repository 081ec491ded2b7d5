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
