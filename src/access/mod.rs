//! Who may do what: keys and how they are checked, permissions, and where a request comes from.
//!
//! | module | what |
//! | --- | --- |
//! | [`key`] | API keys and short-lived tokens: how they are written, and read |

mod base62;
pub mod key;

pub use key::{Key, KeyId, Malformed, Token};
