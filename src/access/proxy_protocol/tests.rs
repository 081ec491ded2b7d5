use proptest::{collection, prelude::*, sample};

use super::*;

fn header(source: Option<&str>, consumed: usize) -> Parsed {
    Parsed::Header { source: source.map(|source| source.parse().unwrap()), consumed }
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2.as_slice(), &[command, family], &length, rest].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];

fn ipv6() -> Vec<u8> {
    let [source, destination] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
    [&source[..], &destination, &[0xdc, 0x04, 0x01, 0xbb]].concat()
}

#[test]
fn version_1_is_read_as_the_specification_has_it() {
    let tcp4 = "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(parse(tcp4.as_bytes()), header(Some("255.255.255.255:65535"), 56));
    let tcp6 = "PROXY TCP6 2001:db8::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 1 0\r\nGET / HTTP/1.1\r\n";
    assert_eq!(parse(tcp6.as_bytes()), header(Some("[2001:db8::1]:1"), 68));
    assert_eq!(parse(b"PROXY UNKNOWN\r\n"), header(None, 15));
    let longest = format!("PROXY UNKNOWN {0} {0} 65535 65535\r\n", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    assert_eq!((longest.len(), parse(longest.as_bytes())), (MAX_V1, header(None, MAX_V1)));
}

#[test]
fn version_1_is_read_strictly() {
    for wrong in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +5632 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 00 443\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 2001:db8::1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 2001:db8::1 56324 443\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY TCP4 \u{661}92.0.2.1 192.0.2.2 56324 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "proxy UNKNOWN\r\n",
        "POST / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
        " PROXY UNKNOWN\r\n",
    ] {
        let padded = format!("{wrong}{}", " ".repeat(MAX_V1));
        assert_eq!(parse(padded.as_bytes()), Parsed::Invalid, "{wrong:?}");
    }
}

#[test]
fn version_1_ends_within_107_bytes() {
    let of = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert_eq!(parse(of(MAX_V1).as_bytes()), header(None, MAX_V1));
    assert_eq!(parse(of(MAX_V1 + 1).as_bytes()), Parsed::Invalid);
    assert_eq!(parse(&of(MAX_V1 + 1).as_bytes()[..MAX_V1 - 1]), Parsed::NeedMore);
    assert_eq!(parse(&of(MAX_V1 + 1).as_bytes()[..MAX_V1]), Parsed::Invalid);
}

#[test]
fn version_2_is_read_as_the_specification_has_it() {
    assert_eq!(parse(&binary(0x21, 0x11, &IPV4)), header(Some("192.0.2.1:56324"), 28));
    assert_eq!(parse(&binary(0x21, 0x12, &IPV4)), header(Some("192.0.2.1:56324"), 28));
    assert_eq!(parse(&binary(0x21, 0x21, &ipv6())), header(Some("[2001:db8::1]:56324"), 52));
    assert_eq!(parse(&binary(0x21, 0x31, &[0; 216])), header(None, 232));
    assert_eq!(parse(&binary(0x21, 0x00, b"")), header(None, 16));
    assert_eq!(parse(&[&binary(0x21, 0x11, &IPV4)[..], b"GET /"].concat()), header(Some("192.0.2.1:56324"), 28));
}

#[test]
fn a_health_check_of_the_load_balancer_is_its_own() {
    assert_eq!(parse(&binary(0x20, 0x00, b"")), header(None, 16));
    assert_eq!(parse(&binary(0x20, 0x11, &IPV4)), header(None, 28));
    // Addresses must be ignored, also where there are too few bytes of them.
    assert_eq!(parse(&binary(0x20, 0x11, b"\0")), header(None, 17));
}

#[test]
fn extensions_are_skipped() {
    let tlv = [&IPV4[..], &[0x05, 0, 4, 1, 2, 3, 4], b"whatever"].concat();
    assert_eq!(parse(&binary(0x21, 0x11, &tlv)), header(Some("192.0.2.1:56324"), 43));
}

#[test]
fn version_2_is_read_strictly() {
    for (command, family, length) in [
        (0x11, 0x11, 12),
        (0x31, 0x11, 12),
        (0x22, 0x11, 12),
        (0x2f, 0x11, 12),
        (0x21, 0x11, 11),
        (0x21, 0x21, 35),
        (0x21, 0x31, 215),
        (0x21, 0x01, 12),
        (0x21, 0x10, 12),
        (0x21, 0x13, 12),
        (0x21, 0x41, 12),
        (0x20, 0xf1, 12),
        (0x21, 0x11, MAX_V2 - 15),
        (0x20, 0x00, 65535),
    ] {
        let bytes = binary(command, family, &vec![0; length]);
        assert_eq!(parse(&bytes), Parsed::Invalid, "{command:x} {family:x} {length}");
        assert_eq!(parse(&bytes[..16]), Parsed::Invalid, "and it is known before the rest is read");
    }
    assert_eq!(parse(&binary(0x21, 0x11, &vec![0; MAX_V2 - 16])), header(Some("0.0.0.0:0"), MAX_V2));
    assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\r"), Parsed::Invalid);
    assert_eq!(parse(b"\r\n\r\nGET"), Parsed::Invalid);
}

/// Headers of both versions, with whatever comes after them.
fn headers() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let v1 = (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| {
        let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
        format!("PROXY {family} {address} {address} {port} 80\r\n").into_bytes()
    });
    let v2 = (
        sample::select(&[0x20_u8, 0x21][..]),
        sample::select(&[0_u8, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32][..]),
        collection::vec(any::<u8>(), 216..300),
    )
        .prop_map(|(command, family, rest)| binary(command, family, &rest));
    (prop_oneof![v1, v2], collection::vec(any::<u8>(), 0..50)).prop_map(|(mut header, after)| {
        let length = header.len();
        header.extend(after);
        (header, length)
    })
}

/// Bytes that look like a header for a while.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    (headers(), 0_usize..60, any::<u8>()).prop_map(|((mut bytes, _), at, byte)| {
        let at = at.min(bytes.len() - 1);
        bytes[at] = byte;
        bytes
    })
}

proptest! {
    #[test]
    fn a_header_is_found_where_it_ends_and_no_earlier((bytes, length) in headers()) {
        for end in 0..length {
            prop_assert_eq!(parse(&bytes[..end]), Parsed::NeedMore, "{}", end);
        }
        let Parsed::Header { consumed, .. } = parse(&bytes) else { panic!("{bytes:?}") };
        prop_assert_eq!(consumed, length);
        for end in length..=bytes.len() {
            prop_assert_eq!(parse(&bytes[..end]), parse(&bytes));
        }
    }

    #[test]
    fn what_was_said_once_stays_true(bytes in prop_oneof![broken(), collection::vec(any::<u8>(), 0..200)]) {
        let mut said = Parsed::NeedMore;
        for end in 0..=bytes.len() {
            let now = parse(&bytes[..end]);
            prop_assert!(said == Parsed::NeedMore || now == said, "{:?} after {:?}", now, said);
            if let Parsed::Header { consumed, .. } = now {
                prop_assert!(consumed <= end);
            }
            said = now;
        }
    }

    #[test]
    fn the_source_is_the_one_that_was_written(address: IpAddr, port: u16) {
        let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {address} {address} {port} 80\r\n");
        prop_assert_eq!(parse(line.as_bytes()), Parsed::Header { source: Some(SocketAddr::new(address, port)), consumed: line.len() });
    }
}
