//! How much may come in: exact sliding windows that all servers share.
//!
//! In every interval of a window's length, wherever it begins, at most `limit` are admitted. A refusal costs nothing. What is asked of several windows
//! of one subject is decided as one: all of them are charged, or none is.
//!
//! [`window`] says what a decision is, without any I/O; `window.lua` is the same on one Redis string, and a test drives both with the same calls.
//! [`store`] is the way to it, `admit.lua` the one script call that a request costs: it reads Redis's own clock, and can look at the subject's record in
//! the same call, so that what was verified and what is charged belong to the same moment.
//!
//! [`refused`] remembers who is over a limit, so that a flood costs Redis nothing. [`local`] is what a server does by itself while Redis is away.

pub mod local;
pub mod refused;
pub mod store;
pub mod window;

pub use local::{Kind, Local, Owed};
pub use refused::Refused;
pub use store::{Admission, Admissions, Error, Guard, Limits, Question, Window};
pub use window::{Standing, Verdict};
