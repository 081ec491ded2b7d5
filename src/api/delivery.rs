//! Answers that hand over jobs.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::{Body, Frame, SizeHint};
use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse,
    registry::{MetaResponses, Registry},
    types::Type,
};

use serde::Serialize;

use super::{
    edge::Bulk,
    reply::{self, Reply},
};
use crate::{http::Connection, queue::jobs::Receipt};

/// The answer to a claim. Unless its bytes are given to the connection's socket while the client is still there, what was claimed goes back.
pub(super) struct Handed<B> {
    body: B,
    receipt: Receipt,
    connection: Connection,
}

impl<B> Handed<B> {
    pub(super) fn over(connection: &Connection, body: B, receipt: Receipt) -> Self {
        Self { body, receipt, connection: connection.clone() }
    }
}

impl<B: Serialize + Send> IntoResponse for Handed<B> {
    fn into_response(self) -> Response {
        let mut response = reply::json(StatusCode::OK, &self.body);
        let inner = response.take_body().into();
        let delivery = Delivery { inner, receipt: Some(self.receipt), connection: self.connection };
        response.set_body(poem::Body::from(delivery.boxed()));
        response.extensions_mut().insert(Bulk::Done);
        response
    }
}

impl<B: Type> ApiResponse for Handed<B> {
    fn meta() -> MetaResponses {
        Reply::<B>::meta()
    }

    fn register(registry: &mut Registry) {
        B::register(registry);
    }
}

/// A body that passes its [`Receipt`] on to the connection together with its last bytes. Dropped before that, the job goes back.
struct Delivery {
    inner: BoxBody<Bytes, io::Error>,
    receipt: Option<Receipt>,
    connection: Connection,
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        let is_last = matches!(frame, Poll::Ready(Some(Ok(_)))) && self.inner.is_end_stream();
        if let Some(mut receipt) = self.receipt.take_if(|_| is_last) {
            self.connection.when_sent(move || receipt.delivered());
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
