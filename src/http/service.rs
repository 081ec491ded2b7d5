//! What answers requests.

use std::{net::IpAddr, ops::ControlFlow};

use bytes::Bytes;
use poem::{
    Request, Response,
    http::{HeaderMap, Method, Uri, Version},
};

/// A request's head, and who sent it.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Head<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub version: Version,
    pub headers: &'a HeaderMap,
    /// The other side of the connection.
    pub peer: IpAddr,
}

/// An answer that is whole.
pub type Whole = poem::http::Response<Bytes>;

/// Answers requests in two steps, so that who floods a server costs it no more than a look at the head: making poem's request of hyper's, and hyper's answer of
/// poem's, takes as long as all of a refusal.
pub trait Service: Send + Sync + 'static {
    /// What was found out about a request that is let in.
    type Met: Send;

    /// Looks at a request's head, and waits for nothing: what goes on, or the answer to who is not let in.
    fn meet(&self, head: &Head<'_>) -> ControlFlow<Whole, Self::Met>;

    /// Hears of a client that was turned away before its first request, since it showed no certificate that is good, and why in a word.
    fn uncertified(&self, _client: IpAddr, _reason: &'static str) {}

    /// Answers a request that was let in.
    fn answer(&self, request: Request, met: Self::Met) -> impl Future<Output = Response> + Send;
}
