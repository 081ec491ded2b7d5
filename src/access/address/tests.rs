use proptest::{collection, prelude::*, sample};

use super::{ForwardedBy::*, *};

fn client(peer: &str, header: ForwardedBy, lines: &[&str]) -> String {
    let proxies: TrustedProxies = "10.0.0.0/8, 2001:db8:ff::/48, 192.0.2.7".parse().unwrap();
    proxies.client(peer.parse().unwrap(), header, lines.iter().map(|line| line.as_bytes())).to_string()
}

#[test]
fn a_header_from_whoever_is_not_trusted_is_ignored() {
    assert_eq!(client("203.0.113.9", XForwardedFor, &["198.51.100.1"]), "203.0.113.9");
    assert_eq!(client("203.0.113.9", Forwarded, &["for=198.51.100.1"]), "203.0.113.9");
    assert_eq!(client("::ffff:203.0.113.9", XForwardedFor, &["198.51.100.1"]), "203.0.113.9");
    let nobody = TrustedProxies::default();
    assert_eq!(nobody.client([127, 0, 0, 1].into(), XForwardedFor, [&b"198.51.100.1"[..]]), IpAddr::from([127, 0, 0, 1]));
}

#[test]
fn the_first_address_from_the_right_that_is_not_trusted_is_the_client() {
    assert_eq!(client("10.1.1.1", XForwardedFor, &["1.1.1.1, 198.51.100.1, 10.2.2.2,192.0.2.7"]), "198.51.100.1");
    assert_eq!(client("::ffff:10.1.1.1", XForwardedFor, &["198.51.100.1:4711"]), "198.51.100.1");
    assert_eq!(client("10.1.1.1", XForwardedFor, &["[2001:db8::1]:4711, [2001:db8:ff::2]"]), "2001:db8::1");
    assert_eq!(client("10.1.1.1", XForwardedFor, &["2001:db8::1", "::ffff:10.2.2.2"]), "2001:db8::1");
    assert_eq!(client("10.1.1.1", Forwarded, &[r#"for=1.1.1.1, for="[2001:db8::1]:4711";proto=https, for="10.2.2.2:80""#]), "2001:db8::1");
}

#[test]
fn several_lines_are_one_list() {
    assert_eq!(client("10.1.1.1", XForwardedFor, &["1.1.1.1", "198.51.100.1", "10.2.2.2"]), "198.51.100.1");
    assert_eq!(client("10.1.1.1", XForwardedFor, &["1.1.1.1, 198.51.100.1", "10.2.2.2, 10.3.3.3"]), "198.51.100.1");
}

#[test]
fn where_there_are_only_proxies_the_furthest_is_the_client() {
    assert_eq!(client("10.1.1.1", XForwardedFor, &[]), "10.1.1.1");
    assert_eq!(client("10.1.1.1", XForwardedFor, &["10.3.3.3, 10.2.2.2"]), "10.3.3.3");
}

#[test]
fn what_is_not_an_address_ends_the_walk_at_the_last_proxy() {
    for wrong in [
        "",
        "unknown",
        "_hidden",
        "unix:",
        "localhost",
        "198.51.100.1 x",
        "198.51.100.1\0",
        "198.51.100.256",
        "198.51.100.01",
        "[198.51.100.1]",
        "[::1",
        "::1]",
        "fe80::1%eth0",
        "198.51.100.1:",
        "198.51.100.1:+80",
        "198.51.100.1:123456",
        "\u{661}98.51.100.1",
        "0xc6.51.100.1",
        "3325256705",
    ] {
        assert_eq!(client("10.1.1.1", XForwardedFor, &[&format!("1.1.1.1, {wrong}, 10.2.2.2")]), "10.2.2.2", "{wrong:?}");
        assert_eq!(client("10.1.1.1", XForwardedFor, &["1.1.1.1", wrong]), "10.1.1.1", "{wrong:?}");
        assert_eq!(client("10.1.1.1", Forwarded, &[&format!("for=1.1.1.1, for={wrong}, for=10.2.2.2")]), "10.2.2.2", "{wrong:?}");
    }
}

#[test]
fn the_other_header_is_never_read() {
    assert_eq!(client("10.1.1.1", XForwardedFor, &[r#""198.51.100.1""#]), "10.1.1.1");
    // What a client writes in one header is not believed because the proxy writes the other.
    assert_eq!(client("10.1.1.1", XForwardedFor, &["for=1.1.1.1"]), "10.1.1.1");
    assert_eq!(client("10.1.1.1", Forwarded, &["1.1.1.1"]), "10.1.1.1");
}

#[test]
fn a_string_that_the_client_leaves_open_does_not_hide_it() {
    for opened in [r#"for=1.1.1.1;x=""#, r#"""#, r#"for="1.1.1.1"#, r#"for=1.1.1.1, x="\"#] {
        assert_eq!(client("10.1.1.1", Forwarded, &[&format!("{opened}, for=198.51.100.1;by=\"10.1.1.1:80\"")]), "198.51.100.1", "{opened}");
    }
}

#[test]
fn an_endless_header_ends_the_walk() {
    let proxies = vec!["10.2.2.2"; MAX_ELEMENTS - 1].join(",");
    assert_eq!(client("10.1.1.1", XForwardedFor, &[&format!("1.1.1.1,{proxies}")]), "1.1.1.1");
    assert_eq!(client("10.1.1.1", XForwardedFor, &[&format!("1.1.1.1,10.3.3.3,{proxies}")]), "10.3.3.3");
    let wide = format!("1.1.1.1,{}10.2.2.2", " ".repeat(MAX_BYTES));
    assert_eq!(client("10.1.1.1", XForwardedFor, &[&wide]), "10.1.1.1");
    let lines: Vec<&str> = std::iter::once("1.1.1.1").chain(std::iter::repeat_n("10.2.2.2", 5000)).collect();
    assert_eq!(client("10.1.1.1", XForwardedFor, &lines), "10.2.2.2");
    // An address that is cut is not taken for a shorter one: 8 KiB end in the middle of 251.1.1.1.
    let cut = format!("251.1.1.1{}, 10.2.2.2", " ".repeat(MAX_BYTES - "51.1.1.1, 10.2.2.2".len()));
    assert_eq!(client("10.1.1.1", XForwardedFor, &[&cut]), "10.2.2.2");
}

#[test]
fn ipv6_counts_by_networks_and_mapped_addresses_as_ipv4() {
    let of = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::"));
    assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
    assert_eq!(of("::ffff:198.51.100.1"), of("198.51.100.1"));
    assert_ne!(of("198.51.100.1"), of("198.51.100.2"));
    assert_eq!(of("2001:db8:1:2:3:4:5:6").to_string(), "2001:db8:1:2::/64");
    assert_eq!(of("::ffff:198.51.100.1").to_string(), "198.51.100.1");
    assert_eq!(of("::1").to_string(), "::/64");
}

#[test]
fn networks_are_read_strictly() {
    for wrong in ["10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "localhost", "10.0.0.1:80", "10.0.0.0/8/8", "*"] {
        assert_eq!(TrustedProxies::new([wrong]).unwrap_err(), NotANetwork(wrong.to_owned()));
    }
    let mapped: TrustedProxies = "::ffff:10.0.0.0/104".parse().unwrap();
    assert!(mapped.contains([10, 1, 2, 3].into()) && !mapped.contains([11, 1, 2, 3].into()));
    assert!(!mapped.are_everybody() && TrustedProxies::new(["0.0.0.0/0"]).unwrap().are_everybody());
    assert!(!TrustedProxies::new(["::/0"]).unwrap().contains([10, 1, 2, 3].into()));
}

#[test]
fn the_header_is_named_as_the_setting_has_it() {
    for header in [XForwardedFor, Forwarded] {
        assert_eq!(serde_json::from_value::<ForwardedBy>(header.header().unwrap().into()).unwrap(), header);
    }
}

fn element() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        (0_u8..4).prop_map(|last| format!("10.0.0.{last}")),
        "[ -~]{0,12}"
    ]
}

proptest! {
    #[test]
    fn nothing_that_a_client_sends_changes_what_its_proxy_appends(
        sent in collection::vec(".{0,40}", 0..4),
        header in sample::select(&[XForwardedFor, Forwarded][..]),
    ) {
        let appended = match header {
            XForwardedFor => "198.51.100.1, 10.2.2.2",
            Forwarded => r#"for="198.51.100.1:1", for=10.2.2.2;by="[::1]""#,
            ProxyProtocol => unreachable!("it is no header"),
        };
        // A proxy appends to the last line, or adds one.
        let mut lines: Vec<&str> = sent.iter().map(String::as_str).collect();
        lines.push(appended);
        prop_assert_eq!(client("10.1.1.1", header, &lines), "198.51.100.1");
        let line = format!("{}, {appended}", sent.join(", "));
        prop_assert_eq!(client("10.1.1.1", header, &[&line]), "198.51.100.1");
    }

    #[test]
    fn the_client_is_the_peer_or_one_of_the_addresses_given(elements in collection::vec(element(), 0..8)) {
        let line = elements.join(",");
        let found = client("10.1.1.1", XForwardedFor, &[&line]);
        let mut given = line.split(',').filter_map(|element| node(element.trim_matches([' ', '\t']).as_bytes()));
        prop_assert!(found == "10.1.1.1" || given.any(|address| address.to_canonical().to_string() == found), "{} in {}", found, line);
    }

    #[test]
    fn ports_and_brackets_change_nothing(address: IpAddr, port: u16) {
        let bracketed = if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        prop_assert_eq!(node(bracketed.as_bytes()), Some(address));
        prop_assert_eq!(node(address.to_string().as_bytes()), Some(address));
    }
}
