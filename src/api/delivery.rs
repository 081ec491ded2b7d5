//! The body of an answer that hands over a job.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};

use crate::queue::jobs::Handover;

/// Tells the [`Handover`] that the job was delivered when the connection takes the bytes to send them. Dropped before that (the client
/// is gone, the server gives up), the job goes back.
pub(super) struct Delivery {
    inner: BoxBody<Bytes, io::Error>,
    handover: Handover,
}

impl Delivery {
    pub(super) fn new(body: poem::Body, handover: Handover) -> Self {
        Self { inner: body.into(), handover }
    }
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = frame {
            self.handover.delivered();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
