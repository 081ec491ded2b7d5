//! Projects: what tasks and jobs belong to.

mod model;
mod store;

pub use model::{Content, Project, Stats, Status};
pub use store::Store;
