//! What the process says about itself, and what the audit log keeps.

pub mod audit;
mod logs;
pub mod metrics;
pub mod otlp;

pub use logs::{Guard, init};
