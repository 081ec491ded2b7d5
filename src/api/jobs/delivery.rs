//! The answer that hands over a job.

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

use super::wire::{Fetched, FetchedJob};
use crate::{
    api::{
        edge::Bulk,
        reply::{self, Reply},
    },
    http::Connection,
    queue::jobs::Handover,
};

/// The answer to a claim. Unless its bytes are given to the connection's socket while the client is still there, the job goes back.
pub struct Handed {
    handover: Handover,
    connection: Connection,
}

impl Handed {
    pub(super) fn over(connection: &Connection, handover: Handover) -> Self {
        Self { handover, connection: connection.clone() }
    }
}

impl IntoResponse for Handed {
    fn into_response(self) -> Response {
        let claim = &self.handover.claim;
        let fetched = Fetched {
            job: claim.claimed.as_ref().map(FetchedJob::from),
            num_pending: claim.num_pending,
            num_waiting: claim.num_waiting,
            count_capped: claim.count_capped.then_some(true),
        };
        let mut response = reply::json(StatusCode::OK, &fetched);
        let inner = response.take_body().into();
        let delivery = Delivery { inner, handover: Some(self.handover), connection: self.connection };
        response.set_body(poem::Body::from(delivery.boxed()));
        response.extensions_mut().insert(Bulk::Done);
        response
    }
}

impl ApiResponse for Handed {
    fn meta() -> MetaResponses {
        Reply::<Fetched>::meta()
    }

    fn register(registry: &mut Registry) {
        Fetched::register(registry);
    }
}

/// A body that passes its [`Handover`] on to the connection together with its last bytes. Dropped before that, the job goes back.
struct Delivery {
    inner: BoxBody<Bytes, io::Error>,
    handover: Option<Handover>,
    connection: Connection,
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        let is_last = matches!(frame, Poll::Ready(Some(Ok(_)))) && self.inner.is_end_stream();
        if let Some(mut handover) = self.handover.take_if(|_| is_last) {
            self.connection.when_sent(move || handover.delivered());
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
