//! Who may do what: keys and how they are checked, permissions, and where a request comes from.
//!
//! | module | what |
//! | --- | --- |
//! | [`key`] | API keys and short-lived tokens: how they are written, and read |
//! | [`configured`] | keys that stand in the configuration |
//! | [`hash`] | what is stored of a key's secret |
//! | [`verifier`] | whether a key is the one whose hash is stored, at a bounded cost, and remembered |
//! | [`permission`] | scopes, roles, grants, and what follows from them |
//! | [`keys`] | keys in both stores: changed in PostgreSQL, then copied to where every server looks |
//! | [`proof`] | what servers leave for each other of keys that they have verified |
//! | [`record`] | what a server must know of a key to let it in |
//! | [`store`] | keys and users in PostgreSQL, which is the truth about them |
//! | [`live`] | the copy of keys in Redis, which servers look at with every request |
//! | [`tokens`] | short-lived tokens, which are in Redis only |
//! | [`address`] | where a request comes from, behind trusted proxies |
//! | [`proxy_protocol`] | the same from load balancers that do not look into HTTP |

pub mod address;
mod base62;
pub mod configured;
mod error;
pub mod hash;
pub mod key;
pub mod keys;
pub mod live;
pub mod permission;
pub mod proof;
pub mod proxy_protocol;
pub mod record;
pub mod store;
pub mod tokens;
mod verified;
pub mod verifier;

pub use address::{ClientAddress, TrustedProxies};
pub use configured::ConfiguredKeys;
pub use error::{Error, Result};
pub use hash::KeyHash;
pub use key::{Key, KeyId, Malformed, Token};
pub use keys::Keys;
pub use permission::{Bounds, Decision, Grants, Power, Role, Scope, Scopes, Visible};
pub use proof::Proofs;
pub use record::{Owner, Record};
pub use store::{KeyInfo, NewKey, Store, User};
pub use tokens::{HeldToken, Tokens};
pub use verifier::{Busy, Stored, Verifier};
