//! Jobs: one task with parameters each, and what waits for what.
//!
//! | module | what |
//! | --- | --- |
//! | `model` | what a job is; no I/O |
//! | `store` | reading jobs |
//! | `submit` | adding jobs, with what they depend on |
//! | [`graph`] | changing and deleting jobs, and what that does to the jobs below them |
//! | `claim` | taking the next job; `plenty` spares it from counting what is many |
//! | `handover` | putting back a claimed job that nobody received |

mod claim;
pub mod graph;
mod handover;
mod model;
mod plenty;
mod store;
mod submit;

pub use claim::{Claim, Claimed, Resources};
pub use handover::Handover;
pub use model::{Change, Dependencies, Filter, Job, NewJob, Parent, Status, UnknownStatus};
pub use store::Store;
