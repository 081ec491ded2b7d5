//! What windows belong to.

use std::fmt::{self, Display, Formatter};

use crate::{
    access::{ClientAddress, KeyId},
    limits::Kind,
};

/// What a window belongs to. As text it is the name under which Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A key.
    Key(KeyId),
    /// A key of the configuration, by its place there.
    Configured(usize),
    /// Whoever comes from an address.
    Address(ClientAddress),
    /// Whoever comes from an address and says to have a key.
    KeyAt(ClientAddress, KeyId),
}

impl Subject {
    /// Of what kind it is for a server that is alone.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Key(_) | Self::Configured(_) => Kind::Key,
            Self::Address(_) | Self::KeyAt(..) => Kind::Address,
        }
    }
}

impl Display for Subject {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => Display::fmt(id, formatter),
            Self::Configured(place) => write!(formatter, "c:{place}"),
            Self::Address(address) => write!(formatter, "a:{address}"),
            Self::KeyAt(address, id) => write!(formatter, "a:{address}:{id}"),
        }
    }
}
