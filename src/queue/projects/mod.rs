//! Projects: what tasks and jobs belong to.

mod model;
mod store;

pub use model::{Busy, Content, Overview, Project, Stats, Status};
pub use store::Store;
