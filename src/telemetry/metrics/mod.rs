//! Metrics as Prometheus reads them: the text, and what the process says of itself. What is counted, and under which names, is in `app`.

mod process;
mod text;

pub use process::{Process, describe};
pub use text::{Family, Label, MEDIA_TYPE, Text};
