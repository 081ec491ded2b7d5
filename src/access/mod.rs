//! Who may do what: keys and how they are checked, permissions, and where a request comes from.
//!
//! | module | what |
//! | --- | --- |
//! | [`key`] | API keys and short-lived tokens: how they are written, and read |
//! | [`address`] | where a request comes from, behind trusted proxies |
//! | [`permission`] | scopes, roles, grants, and what follows from them |
//! | [`proxy_protocol`] | the same from load balancers that do not speak HTTP |

pub mod address;
mod base62;
pub mod key;
pub mod permission;
pub mod proxy_protocol;

pub use address::{ClientAddress, ForwardedHeader, TrustedProxies};
pub use key::{Key, KeyId, Malformed, Token};
pub use permission::{Decision, Grants, Power, Role, Scope, Scopes, Visible};
