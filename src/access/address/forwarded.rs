//! An element of the header `Forwarded`, RFC 7239.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str,
};

use super::is_port;

/// The longest node that is an address: `[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:` and an obfuscated port of some length.
const MAX_NODE: usize = 128;

/// The address that an element's `for` gives, if it gives one, once, and the whole element is as section 4 has it:
///
/// ```text
/// forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
/// forwarded-pair    = token "=" ( token / quoted-string )
/// ```
pub(super) fn address(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    loop {
        if let [b';', after @ ..] = rest {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return found;
        }
        let (name, after) = token(rest)?;
        let value = after.strip_prefix(b"=")?;
        let mut buffer = [0; MAX_NODE];
        let (value, after) = match value {
            [b'"', inside @ ..] => quoted(inside, &mut buffer)?,
            _ => token(value).map(|(value, after)| (Some(value), after))?,
        };
        if name.eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            found = Some(node(value?)?);
        }
        if !matches!(after, [] | [b';', ..]) {
            return None;
        }
        rest = after;
    }
}

/// Splits a token (RFC 9110, section 5.6.2) off.
fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !is_token(*byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Splits what is left of a quoted string off, its backslashes taken away. `None` inside where it is too long to be an address.
fn quoted<'a, 'b>(text: &'a [u8], buffer: &'b mut [u8; MAX_NODE]) -> Option<(Option<&'b [u8]>, &'a [u8])> {
    let mut rest = text;
    let mut length = 0;
    loop {
        let (byte, after) = match rest {
            [b'"', after @ ..] => return Some((buffer[..].get(..length), after)),
            [b'\\', byte @ (b'\t' | b' '..=b'~' | 0x80..), after @ ..] => (byte, after),
            [byte @ (b'\t' | b' '..=b'[' | b']'..=b'~' | 0x80..), after @ ..] => (byte, after),
            _ => return None,
        };
        if let Some(place) = buffer.get_mut(length) {
            *place = *byte;
        }
        length += 1;
        rest = after;
    }
}

/// Reads a node, section 6, that is an address: `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]`, `[2001:db8::1]:_port`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let (address, port) = match text.strip_prefix('[') {
        Some(inside) => {
            let (address, port) = inside.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), port)
        }
    };
    let is_right = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => is_port(port) || port.strip_prefix('_').is_some_and(is_obfuscated),
    };
    is_right.then_some(address)
}

fn is_obfuscated(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn gives(element: &str, expected: &str) {
        assert_eq!(address(element.as_bytes()), Some(expected.parse().unwrap()), "{element}");
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        gives("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60");
        gives(r#"For="[2001:db8:cafe::17]:4711""#, "2001:db8:cafe::17");
        gives(r#"for="192.0.2.43:47011""#, "192.0.2.43");
        gives(r#"for="[2001:db8:cafe::17]""#, "2001:db8:cafe::17");
        for hidden in [r#"for="_gazonk""#, "for=unknown", "for=_hidden", "for=_SEVKISEK", r#"for="unknown:80""#] {
            assert_eq!(address(hidden.as_bytes()), None, "{hidden}");
        }
    }

    #[test]
    fn the_whole_grammar_is_understood() {
        gives(r#"FOR="192\.0\.2\.1:_a.b-C_1""#, "192.0.2.1");
        gives(r#";;by=_x;for=192.0.2.1;;host="a\"b;for=1\\";"#, "192.0.2.1");
        gives(&format!(r#"secret="{}";for=192.0.2.1"#, "x".repeat(1000)), "192.0.2.1");
        gives("x=\"\u{e9}\t \";for=192.0.2.1", "192.0.2.1");
    }

    #[test]
    fn what_is_not_in_the_grammar_is_no_address() {
        for wrong in [
            "",
            "192.0.2.1",
            "by=192.0.2.1",
            "for=",
            "for",
            "=192.0.2.1",
            "for=192.0.2.1 ;proto=http",
            "for= 192.0.2.1",
            "for =192.0.2.1",
            "for=192.0.2.1:80",
            "for=[2001:db8::1]",
            "for=2001:db8::1",
            r#"for="2001:db8::1""#,
            r#"for="[192.0.2.1]""#,
            r#"for="192.0.2.1"#,
            r#"for="192.0.2.1"x"#,
            r#"for="192.0.2.1:123456""#,
            r#"for="192.0.2.1:""#,
            r#"for="192.0.2.1:_""#,
            r#"for="[fe80::1%eth0]""#,
            "for=192.0.2.1;for=192.0.2.2",
            "for=192.0.2.1;For=192.0.2.1",
            "for=192.0.2.1;proto",
            "for=192.0.2.1;host=a b",
            "for=0300.0.2.1",
            "for=192.0.2",
            "for=3221225985",
            "f\u{43e}r=192.0.2.1",
            "for=\u{661}92.0.2.1",
            "for=\"192.0.2.1\u{0}\"",
            "for=\"192.0.2.1\\\u{0}\"",
            "for=192.0.2.1\r\nx: y",
        ] {
            assert_eq!(address(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(address(format!(r#"for="192.0.2.1:_{}""#, "x".repeat(200)).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn every_address_is_read_as_it_was_written(given: IpAddr, port: Option<u16>) {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            let node = if given.is_ipv6() { format!("[{given}]{port}") } else { format!("{given}{port}") };
            prop_assert_eq!(address(format!("proto=http;for=\"{node}\"").as_bytes()), Some(given));
        }

        #[test]
        fn nothing_makes_reading_panic(element: Vec<u8>) {
            address(&element);
            address(&[b"for=\"", &element[..]].concat());
        }
    }
}
