//! The body of an answer on its way out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body_util::{Full, combinators::BoxBody};
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
    body: Source,
    /// Over HTTP/2.
    stream: Option<(Arc<Progress>, Place)>,
}

/// Where its pieces come from.
enum Source {
    /// It is one piece, or none.
    Whole(Full<Bytes>),
    /// They are made one after the other, and somebody may want to know what became of them.
    Made { body: BoxBody<Bytes, io::Error>, connection: Connection, outbox: Outbox },
}

impl Answer {
    pub(super) fn new(
        body: BoxBody<Bytes, io::Error>,
        connection: Connection,
        outbox: Outbox,
        stream: Option<(Arc<Progress>, Place)>,
    ) -> Self {
        Self { body: Source::Made { body, connection, outbox }, stream }
    }

    /// A body of one piece.
    pub(super) fn whole(bytes: Bytes, stream: Option<(Arc<Progress>, Place)>) -> Self {
        Self { body: Source::Whole(Full::new(bytes)), stream }
    }

    /// Leaves out the body.
    pub(super) fn leave_out(&mut self) {
        self.body = Source::Whole(Full::default());
    }

    fn piece(&self, bytes: Bytes) -> Piece {
        let progress = self.stream.as_ref().map(|(progress, _)| progress.clone());
        if let Some(progress) = &progress {
            progress.give(bytes.len());
        }
        let slip = match &self.body {
            Source::Whole(_) => None,
            Source::Made { connection, outbox, .. } => outbox.slip(connection).map(|slip| (slip, outbox.clone())),
        };
        let mut piece = Piece { bytes, slip, progress };
        piece.advance(0);
        piece
    }
}

impl Source {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Made { body, .. } => Pin::new(body).poll_frame(context),
        }
    }
}

impl Body for Answer {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, io::Error>>> {
        if let Some((progress, _)) = &self.stream {
            ready!(progress.poll_taken(context));
        }
        let frame = ready!(self.body.poll_frame(context));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|bytes| self.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        let is_all = match &self.body {
            Source::Whole(body) => body.is_end_stream(),
            Source::Made { body, .. } => body.is_end_stream(),
        };
        is_all && self.stream.as_ref().is_none_or(|(progress, _)| progress.is_taken())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Whole(body) => body.size_hint(),
            Source::Made { body, .. } => body.size_hint(),
        }
    }
}

/// A piece of a body.
pub(super) struct Piece {
    bytes: Bytes,
    slip: Option<(Slip, Outbox)>,
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
        if let Some((slip, outbox)) = self.slip.take_if(|_| self.bytes.is_empty()) {
            outbox.put(slip);
        }
    }
}
