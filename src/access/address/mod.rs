//! Where a request comes from: the address that limits count, found behind any number of trusted proxies.
//!
//! # The walk
//!
//! A peer that is not a trusted proxy **is** the address, whatever its headers say. If it is one, the configured header is read from the
//! right, where the nearest proxy wrote, to the first address that is not a trusted proxy: that one is the client, and nothing to the left
//! of it is looked at, since the client could have written it. If every address is a trusted proxy, the one furthest to the left that was
//! looked at is.
//!
//! Whatever is not an address (`unknown`, `_hidden`, an empty element, garbage) ends the walk at the last trusted proxy. Such requests
//! share that proxy's limits; the alternative would be to believe what is further to the left, and let a client choose whose limits it uses
//! up.
//!
//! Only one header is read, the one that the proxies are known to set. Proxies set one of the two and hand the other through as the client
//! wrote it, so reading both, or the other where one is missing, would be to believe the client.
//!
//! The walk reads from the right and never needs what is to the left of the element it is at. So it costs no more for an endless header (at
//! most [`MAX_ELEMENTS`] elements and [`MAX_BYTES`] bytes are looked at; what lies beyond ends the walk), and nothing that a client writes,
//! such as a quotation mark that is never closed, changes how that which proxies append to it is read.

mod forwarded;
mod list;

use std::{
    fmt::{self, Display, Formatter},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::{self, FromStr},
};

use ipnet::{IpNet, Ipv4Net};

use crate::config::ForwardedBy;
use list::{Element, FromTheRight};

/// How many elements are looked at, over all lines of the header together.
pub const MAX_ELEMENTS: usize = 64;

/// How many bytes are looked at, over all lines of the header together.
pub const MAX_BYTES: usize = 8 * 1024;

impl ForwardedBy {
    /// The header's name in lower case, if it is a header.
    #[must_use]
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::XForwardedFor => Some("x-forwarded-for"),
            Self::Forwarded => Some("forwarded"),
            Self::ProxyProtocol => None,
        }
    }
}

/// The proxies whose word is taken for where a request comes from.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// Neither an address nor a network in CIDR notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network such as 10.0.0.0/8")]
pub struct NotANetwork(String);

impl TrustedProxies {
    /// These networks, in CIDR notation, or single addresses.
    ///
    /// # Errors
    ///
    /// The first that is neither.
    pub fn new<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<Self, NotANetwork> {
        networks.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an address is a trusted proxy's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether anybody at all (of IPv4 or of IPv6) is trusted, and so can be whoever they like.
    #[must_use]
    pub fn are_everybody(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }

    /// The address of whoever sent a request, by a header: the module's walk. `lines` are the values of the header that trusted proxies set, in the
    /// order in which they came. IPv4 addresses mapped to IPv6 are given back as IPv4.
    pub fn client<'a, L>(&self, peer: IpAddr, header: ForwardedBy, lines: L) -> IpAddr
    where
        L: IntoIterator<Item = &'a [u8], IntoIter: DoubleEndedIterator>,
    {
        let mut nearest = peer.to_canonical();
        if !self.contains(nearest) {
            return nearest;
        }
        let quoted = header == ForwardedBy::Forwarded;
        let parse = if quoted { forwarded::address } else { node };
        let mut bytes = MAX_BYTES;
        let mut elements = MAX_ELEMENTS;
        for line in lines.into_iter().rev() {
            for element in FromTheRight::new(line, quoted, &mut bytes) {
                let Element::Whole(element) = element else { return nearest };
                let Some(left) = elements.checked_sub(1) else { return nearest };
                elements = left;
                let Some(address) = parse(element) else { return nearest };
                nearest = address.to_canonical();
                if !self.contains(nearest) {
                    return nearest;
                }
            }
        }
        nearest
    }
}

fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let network = match text.parse() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| NotANetwork(text.to_owned()))?),
    };
    // Addresses are compared as IPv4 where they are IPv4, so a network of mapped addresses must be too.
    Ok(match network {
        IpNet::V6(mapped) if mapped.prefix_len() >= 96 => match mapped.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new(address, mapped.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        _ => network,
    })
}

/// Reads an element of `X-Forwarded-For`: an address, in brackets or not, with a port or without.
fn node(element: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(element).ok()?;
    if let Some(inside) = text.strip_prefix('[') {
        let (address, port) = inside.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().ok().filter(|_| is_port).map(IpAddr::V6);
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (address, port) = text.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port)).map(IpAddr::V4)
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What limits count as one address: an IPv4 address, or a /64 of IPv6, which is the least that anybody is given and all of which one
/// machine can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAddress {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Display for ClientAddress {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => Display::fmt(address, formatter),
            Self::V6(upper) => write!(formatter, "{}/64", Ipv6Addr::from_bits(u128::from(*upper) << 64)),
        }
    }
}

impl FromStr for TrustedProxies {
    type Err = NotANetwork;

    /// Networks separated by commas, or none.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        Self::new(text.split(',').map(str::trim).filter(|network| !network.is_empty()))
    }
}

#[cfg(test)]
mod tests;
