//! Spans: what was done for whom, as part of which trace, and how long it took. They are handed to whoever exports them, or dropped if that is too slow.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::mpsc;

use super::Counter;

/// How many spans wait to be exported.
const WAITING: usize = 4096;

/// The part of a trace that one request to this server is.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace's id; not 0.
    pub trace: u128,
    /// The span's own id; not 0.
    pub id: u64,
    /// The span that it belongs to, if a client said so.
    pub parent: Option<u64>,
    /// What was done.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// What else there is to say of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether the server failed.
    pub has_failed: bool,
}

/// What a span can say.
#[derive(Debug, Clone)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Where spans go; clones are the same.
#[derive(Debug, Clone)]
pub struct Spans {
    sender: mpsc::Sender<Span>,
    dropped: Arc<Counter>,
}

impl Spans {
    /// Where spans go, and where they come out.
    pub fn new() -> (Self, mpsc::Receiver<Span>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, dropped: Arc::default() }, receiver)
    }

    /// Hands one over. Never waits: what there is no room for is dropped.
    pub fn export(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.dropped.one();
        }
    }

    /// How many there was no room for.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
