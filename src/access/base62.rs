//! How keys and tokens spell random bytes and their checksum: base62, a fixed number of characters, exactly one spelling each.

use zeroize::Zeroize;

/// In ASCII's order, so that spellings of the same length sort as what they stand for.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of 32 bytes: 62^43 is the first power of 62 above 2^256, by 2 %.
pub(super) const SECRET: usize = 43;

/// Characters of a CRC-32.
pub(super) const CHECKSUM: usize = 6;

/// 2^256 - 1, the last one that stands for 32 bytes.
const LAST: &[u8; SECRET] = b"yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1";

/// Writes 32 bytes, the first the most significant, and zeroes them.
pub(super) fn write(bytes: &mut [u8; 32], text: &mut [u8; SECRET]) {
    for character in text.iter_mut().rev() {
        let mut rest = 0;
        for byte in bytes.iter_mut() {
            let value = (rest << 8) | u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *character = ALPHABET[rest as usize];
    }
    bytes.zeroize();
}

/// Whether this is how some 32 bytes are written.
pub(super) fn is_secret(text: &[u8]) -> bool {
    text.len() == SECRET && text.iter().all(u8::is_ascii_alphanumeric) && text <= LAST.as_slice()
}

/// The CRC-32 (ISO-HDLC, as in zip and gzip) of everything before it.
pub(super) fn checksum(text: &[u8]) -> [u8; CHECKSUM] {
    let mut value = crc32fast::hash(text);
    let mut checksum = [0; CHECKSUM];
    for character in checksum.iter_mut().rev() {
        *character = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    checksum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(mut bytes: [u8; 32]) -> [u8; SECRET] {
        let mut text = [0; SECRET];
        write(&mut bytes, &mut text);
        assert_eq!(bytes, [0; 32], "what was written is zeroed");
        text
    }

    #[test]
    fn the_smallest_and_the_largest_are_spelled_as_expected() {
        assert_eq!(&written([0; 32]), b"0000000000000000000000000000000000000000000");
        assert_eq!(&written([255; 32]), LAST);
    }

    #[test]
    fn nothing_above_the_largest_is_accepted() {
        assert!(is_secret(LAST));
        let mut above = *LAST;
        above[SECRET - 1] += 1;
        assert!(!is_secret(&above));
        assert!(!is_secret(&[b'z'; SECRET]));
    }

    #[test]
    fn a_checksum_is_the_well_known_one() {
        // CRC-32/ISO-HDLC of "123456789" is cbf43926.
        let value = checksum(b"123456789")
            .iter()
            .fold(0_u64, |value, character| value * 62 + ALPHABET.iter().position(|known| known == character).unwrap() as u64);
        assert_eq!(value, 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn spellings_sort_as_the_bytes_do(a: [u8; 32], b: [u8; 32]) {
            prop_assert_eq!(written(a).cmp(&written(b)), a.cmp(&b));
            prop_assert!(is_secret(&written(a)));
        }

        #[test]
        fn only_letters_and_digits_spell_a_secret(bytes: [u8; 32], at in 0..SECRET, byte: u8) {
            let mut text = written(bytes);
            text[at] = byte;
            prop_assert_eq!(is_secret(&text), byte.is_ascii_alphanumeric() && text <= *LAST);
        }
    }
}
