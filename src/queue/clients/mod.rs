//! Clients: the machines that run jobs.

mod model;
mod store;

pub use model::{Change, Client, Content, Owner};
pub use store::Store;
