//! Clients: the machines that run jobs.

mod model;
mod store;

pub use model::{Change, Client, Content};
pub use store::Store;
