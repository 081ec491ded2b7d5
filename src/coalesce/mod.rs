//! Coalescing: what many ask at the same time is asked for all of them. Nobody waits if nobody else asks.
//!
//! | module | what |
//! | --- | --- |
//! | `together` | the same question is asked once |
//! | `batch` | different questions are asked in one call |

mod batch;
mod together;

pub use batch::{Ask, Batches};
pub use together::Together;
