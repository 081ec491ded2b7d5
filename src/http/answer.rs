//! The body of an answer on its way out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};

use super::{
    connection::{Connection, Outbox, Slip},
    places::Place,
    streams::Progress,
};

/// A body that knows what became of its pieces.
///
/// Over HTTP/2 it gives the next piece, and ends, only when the one before was taken. So its stream lasts until all of it was sent, and holds no more
/// than one piece for a client whose window is closed.
pub(super) struct Answer {
    body: BoxBody<Bytes, io::Error>,
    connection: Connection,
    outbox: Outbox,
    /// Over HTTP/2.
    stream: Option<(Arc<Progress>, Place)>,
}

impl Answer {
    pub(super) fn new(
        body: BoxBody<Bytes, io::Error>,
        connection: Connection,
        outbox: Outbox,
        stream: Option<(Arc<Progress>, Place)>,
    ) -> Self {
        Self { body, connection, outbox, stream }
    }

    fn piece(&self, bytes: Bytes) -> Piece {
        let progress = self.stream.as_ref().map(|(progress, _)| progress.clone());
        if let Some(progress) = &progress {
            progress.give(bytes.len());
        }
        let mut piece = Piece { bytes, slip: self.outbox.slip(&self.connection), outbox: self.outbox.clone(), progress };
        piece.advance(0);
        piece
    }
}

impl Body for Answer {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, io::Error>>> {
        if let Some((progress, _)) = &self.stream {
            ready!(progress.poll_taken(context));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|bytes| self.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.stream.as_ref().is_none_or(|(progress, _)| progress.is_taken())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a body.
pub(super) struct Piece {
    bytes: Bytes,
    slip: Option<Slip>,
    outbox: Outbox,
    progress: Option<Arc<Progress>>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    /// Whatever writes the piece says so with this: when bytes are in a buffer that is written next, or have been written.
    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(progress) = &self.progress {
            progress.take(count);
        }
        if let Some(slip) = self.slip.take_if(|_| self.bytes.is_empty()) {
            self.outbox.put(slip);
        }
    }
}
