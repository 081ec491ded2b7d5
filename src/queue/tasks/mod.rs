//! Tasks: what jobs are made of, and what a machine must have to run them.

mod model;
mod store;

pub use model::{Change, Content, Task};
pub use store::Store;
