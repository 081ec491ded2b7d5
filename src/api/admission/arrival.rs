//! A request as it comes to the gate, read once and without any I/O.

use std::net::IpAddr;

use poem::http::{HeaderMap, HeaderValue};

use super::{Class, Inner, Subject, credentials};
use crate::{
    access::{ClientAddress, Key, KeyId, Token},
    api::Error,
    http::Head,
};

/// Where a request comes from, what it is counted as, and what it presents.
#[derive(Clone)]
pub struct Arrival {
    ip: IpAddr,
    pub(super) address: ClientAddress,
    pub(super) class: Class,
    pub(super) credential: Credential,
}

/// What a request presents.
#[derive(Clone)]
pub(super) enum Credential {
    /// Nothing, or nothing that counts since everybody may come in.
    Nothing,
    /// A key, and the version of its record for which this server has verified it, if it has.
    Key(Key, Option<i64>),
    /// A token with its digest.
    Token([u8; 32]),
    /// What may be a key of the configuration.
    Text(String),
    /// What cannot be a key.
    Unreadable,
    /// Two different ones.
    Several(Error),
}

impl Arrival {
    /// The address that it comes from, all of it.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The id of the key that it presents, whether it is that key or not.
    pub fn claimed_key(&self) -> Option<KeyId> {
        match &self.credential {
            Credential::Key(key, _) => Some(key.id()),
            _ => None,
        }
    }

    /// Whether it presents a token.
    pub fn has_token(&self) -> bool {
        matches!(self.credential, Credential::Token(_))
    }
}

impl Inner {
    pub(super) fn arrival(&self, head: &Head<'_>) -> Arrival {
        let class = Class::of(head.method, head.uri.path());
        let ip = self.address(head);
        Arrival { ip, address: ip.into(), class, credential: self.credential(head.headers) }
    }

    fn credential(&self, headers: &HeaderMap) -> Credential {
        if self.is_open {
            return Credential::Nothing;
        }
        let text = match credentials::presented(headers) {
            Err(error) => return Credential::Several(error),
            Ok(None) => return Credential::Nothing,
            Ok(Some(None)) => return Credential::Unreadable,
            Ok(Some(Some(text))) => text,
        };
        if let Ok(key) = Key::parse(&text) {
            let version = self.verifier.verified_version(&key);
            return Credential::Key(key, version);
        }
        match Token::parse(&text) {
            Ok(token) => Credential::Token(token.digest()),
            Err(_) if self.configured().is_empty() => Credential::Unreadable,
            Err(_) => Credential::Text(text.into_owned()),
        }
    }

    fn address(&self, &Head { peer, headers, .. }: &Head<'_>) -> IpAddr {
        let Some(header) = self.forwarded.header().filter(|_| self.proxies.contains(peer)) else { return peer.to_canonical() };
        let lines: Vec<&[u8]> = headers.get_all(header).iter().map(HeaderValue::as_bytes).collect();
        self.proxies.client(peer, self.forwarded, lines)
    }

    /// Whose window it is that decides, if that is known without asking anybody.
    pub(super) fn subject(&self, arrival: &Arrival) -> Option<Subject> {
        match &arrival.credential {
            Credential::Nothing => Some(Subject::Address(arrival.address)),
            Credential::Key(key, Some(_)) => Some(Subject::Key(key.id())),
            Credential::Token(digest) => self.held.get(digest).map(|held| Subject::Key(held.key)),
            Credential::Key(_, None) | Credential::Text(_) | Credential::Unreadable | Credential::Several(_) => None,
        }
    }
}
