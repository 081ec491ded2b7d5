//! Jobs: one task with parameters each, and what waits for what.
//!
//! | module | what |
//! | --- | --- |
//! | `model` | what a job is; no I/O |
//! | `store` | reading jobs |
//! | `submit`, `update`, `delete` | adding (`once`, if that is asked for), replacing and deleting jobs |
//! | [`graph`] | what that does to the jobs below them |
//! | `claim` | fetching the next job; `plenty` spares it from counting what is many, `begin` from walking past what is dead |
//! | [`claims`] | claims of registered clients, with leases, served together; waiting for jobs |
//! | `group` | changes that are made together |
//! | `handover` | putting back a claimed job that nobody received |
//! | [`attempts`] | who has a job, until when, and what came of it |
//! | `transition` | a job's way to another status, by a report, a cancellation, a retry (`stop`), or because time has passed (`sweep`; `alarm` tells when) |
//! | `explain` | what a job waits for |
//! | `prune` | forgetting what was finished long ago |
//! | `tally` | all of it in numbers |

mod alarm;
pub mod attempts;
mod begin;
mod claim;
pub mod claims;
mod delete;
mod explain;
pub mod graph;
mod group;
mod handover;
mod model;
mod once;
mod plenty;
mod prune;
mod stop;
mod store;
mod submit;
mod sweep;
mod tally;
mod transition;
mod update;

pub use attempts::{Attempt, AttemptStatus, Beat, Left, Outcome, Reason, Report};
pub use claim::{Claimed, Fetched, Resources};
pub use claims::{Claims, Granted, Wish};
pub use explain::{Explanation, Wait};
pub use handover::{Handover, Receipt};
pub use model::{Change, Dependencies, Filter, Job, NewJob, Parent, Status, UnknownStatus};
pub use once::{Answer, Once, Submitted};
pub use prune::Pruned;
pub use store::Store;
pub use sweep::{Late, Swept};
pub use tally::Stats;
