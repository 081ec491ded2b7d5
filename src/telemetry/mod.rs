//! What the process says about itself.

mod logs;

pub use logs::{Guard, init};
