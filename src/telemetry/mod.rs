//! What the process says about itself.

mod logs;
pub mod metrics;

pub use logs::{Guard, init};
