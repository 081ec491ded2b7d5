//! Who may do what: keys and how they are checked, permissions, and where a request comes from.
//!
//! | module | what |
//! | --- | --- |
//! | [`key`] | API keys and short-lived tokens: how they are written, and read |
//! | [`permission`] | scopes, roles, grants, and what follows from them |

mod base62;
pub mod key;
pub mod permission;

pub use key::{Key, KeyId, Malformed, Token};
pub use permission::{Decision, Grants, Power, Role, Scope, Scopes, Visible};
