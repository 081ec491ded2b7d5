//! Who may do what: keys and how they are checked, permissions, and where a request comes from.
//!
//! | module | what |
//! | --- | --- |
//! | [`key`] | API keys and short-lived tokens: how they are written, and read |
//! | [`hash`] | what is stored of a key's secret |
//! | [`verifier`] | whether a key is the one whose hash is stored, at a bounded cost, and remembered |
//! | [`permission`] | scopes, roles, grants, and what follows from them |
//! | [`address`] | where a request comes from, behind trusted proxies |
//! | [`proxy_protocol`] | the same from load balancers that do not look into HTTP |

pub mod address;
mod base62;
pub mod hash;
pub mod key;
pub mod permission;
pub mod proxy_protocol;
mod verified;
pub mod verifier;

pub use address::{ClientAddress, ForwardedHeader, TrustedProxies};
pub use hash::KeyHash;
pub use key::{Key, KeyId, Malformed, Token};
pub use permission::{Decision, Grants, Power, Role, Scope, Scopes, Visible};
pub use verifier::{Busy, Stored, Verifier};
