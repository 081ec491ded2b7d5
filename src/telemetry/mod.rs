//! What the process says about itself.

mod logs;
pub mod metrics;
pub mod otlp;

pub use logs::{Guard, init};
