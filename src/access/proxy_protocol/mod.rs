//! The PROXY protocol, versions 1 and 2: how a load balancer that does not look into HTTP says whose connection it hands on.
//!
//! Source: "The PROXY protocol, Versions 1 & 2", <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Section numbers below are
//! its own.
//!
//! The header comes before everything else on a connection, TLS included. A server that expects it must expect it on **every** connection
//! and only from its load balancers, never guess: whoever may leave it out may also make it up. [`parse`] therefore knows no "there is
//! none".

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

/// The longest header of version 1, its line end included (section 2.1).
pub const MAX_V1: usize = 107;

/// The longest header of version 2 that is accepted. The specification allows 64 KiB of extensions (TLVs), which are skipped here; those in
/// use (TLS names, cloud endpoints) are far shorter.
pub const MAX_V2: usize = 4096;

const V1: &[u8] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// What the beginning of a connection turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// So far it may be a header. Ask again with more, which will come soon or never: wait with a time-out.
    NeedMore,
    /// A header.
    Header {
        /// Whose connection it is. `None`: the peer's own (a health check, or somebody who cannot be named).
        source: Option<SocketAddr>,
        /// Length in bytes; what comes after them is the connection's own.
        consumed: usize,
    },
    /// No header, whatever may follow. The connection must be closed.
    Invalid,
}

/// Reads the header at the beginning of a connection. Asked again with more bytes it says the same, once it has said anything but
/// `NeedMore`; and it says that about fewer than [`MAX_V2`] bytes only.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let parsed = match bytes.first() {
        None => Some(Parsed::NeedMore),
        Some(b'P') => v1(bytes),
        Some(_) => v2(bytes),
    };
    parsed.unwrap_or(Parsed::Invalid)
}

/// Section 2.1, human-readable: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`. `None` is invalid.
fn v1(bytes: &[u8]) -> Option<Parsed> {
    let common = bytes.len().min(V1.len());
    if bytes[..common] != V1[..common] {
        return None;
    }
    let seen = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return (bytes.len() < MAX_V1).then_some(Parsed::NeedMore);
    };
    let line = seen[..end].strip_prefix(V1)?;
    let source = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        // What follows on the line must be ignored.
        None
    } else {
        Some(v1_source(str::from_utf8(line).ok()?)?)
    };
    Some(Parsed::Header { source, consumed: end + 2 })
}

fn v1_source(line: &str) -> Option<SocketAddr> {
    let mut parts = line.split(' ');
    let family = parts.next()?;
    let (source, destination) = (parts.next()?, parts.next()?);
    let port = v1_port(parts.next()?)?;
    v1_port(parts.next()?)?;
    if parts.next().is_some() {
        return None;
    }
    let address = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            IpAddr::V4(source.parse().ok()?)
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            IpAddr::V6(source.parse().ok()?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Decimal, without a sign or leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Section 2.2, binary. `None` is invalid.
fn v2(bytes: &[u8]) -> Option<Parsed> {
    let common = bytes.len().min(V2.len());
    if bytes[..common] != V2[..common] {
        return None;
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        let is_command = bytes.get(12).is_none_or(|command| matches!(command, 0x20 | 0x21));
        let is_family = bytes.get(13).is_none_or(|family| addresses(*family).is_some());
        let is_short = bytes.get(14).is_none_or(|length| usize::from(*length) << 8 <= MAX_V2 - V2_FIXED);
        return (is_command && is_family && is_short).then_some(Parsed::NeedMore);
    };
    let [.., command, family, high, low] = *fixed;
    let is_proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return None,
    };
    let needed = addresses(family)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 - V2_FIXED || (is_proxied && length < needed) {
        return None;
    }
    let Some(rest) = rest.get(..length) else { return Some(Parsed::NeedMore) };
    let source = if is_proxied { v2_source(family, rest)? } else { None };
    Some(Parsed::Header { source, consumed: V2_FIXED + length })
}

/// How many bytes the addresses of a family and transport take. `None` where there is no such combination.
fn addresses(family: u8) -> Option<usize> {
    match family {
        0x00 => Some(0),
        0x11 | 0x12 => Some(12),
        0x21 | 0x22 => Some(36),
        0x31 | 0x32 => Some(216),
        _ => None,
    }
}

/// Source address and port of what is proxied; none for sockets of the proxy's own machine and for families that it does not name.
/// A datagram's address (QUIC, ended at the load balancer) is as good as a stream's.
fn v2_source(family: u8, rest: &[u8]) -> Option<Option<SocketAddr>> {
    let port = |at: usize| rest.get(at..at + 2).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port));
    Some(match family >> 4 {
        1 => Some(SocketAddr::new(IpAddr::from(*rest.first_chunk::<4>()?), port(8)?)),
        2 => Some(SocketAddr::new(IpAddr::from(*rest.first_chunk::<16>()?), port(32)?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
