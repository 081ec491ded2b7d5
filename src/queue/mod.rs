//! The queue: projects hold tasks, a job is one task with parameters, clients run jobs.
//!
//! | module | what |
//! | --- | --- |
//! | [`projects`], [`tasks`], [`clients`] | each a `model` (no I/O) and a `store` (its SQL) |
//! | [`jobs`] | submitting, changing, claiming; `graph` keeps what waits for what, `handover` loses no claimed job |
//! | [`Retry`], [`Policy`] | how often a job is tried |
//! | [`Bells`], [`Wire`] | that there may be something to claim, here and on other servers |
//! | `lasting` | what follows from a change is done also for whoever has gone in the moment of its commit |
//! | [`Sweeper`] | what time brings |
//! | [`Error`] | what can go wrong, as a caller may know it |
//!
//! Every change is one statement or one transaction. The rules of the graph are in [`jobs::graph`].

mod bells;
pub mod clients;
mod error;
pub mod jobs;
mod lasting;
mod owner;
pub mod projects;
mod retry;
mod sweeper;
pub mod tasks;

pub use crate::postgres::{Listing, Page, no_number};
pub use bells::{Bells, Wire};
pub use error::{Error, Result, Thing};
pub use owner::Owner;
pub use retry::{Policy, Retry};
pub use sweeper::{Sweeper, Sweeps};
