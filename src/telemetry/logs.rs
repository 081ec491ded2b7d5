//! Logs: lines on standard error, as text or JSON, written by a thread of their own so that a request never waits for them.

use std::io::IsTerminal as _;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::LogFormat;

/// Keeps the writing thread; what is buffered is written when this is dropped.
#[must_use = "logs are lost when this is dropped"]
pub struct Guard(#[expect(dead_code, reason = "it works when it is dropped")] WorkerGuard);

/// Starts logging for the whole process.
///
/// # Errors
///
/// When `filter` is not one.
pub fn init(format: LogFormat, filter: &str) -> Result<Guard, ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(true).with_span_list(false)).init(),
    }
    Ok(Guard(guard))
}
