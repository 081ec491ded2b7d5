//! What is left of a request's body when the request has been answered.
//!
//! Most refusals are decided by a request's head alone. Its client may be sending the body still, or not have begun: if the connection were closed at once, the
//! client would find it reset and never read the answer. So over HTTP/1.1 a little of the rest is read, and thrown away. If that was all of it, the connection
//! goes on.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::{Body, Frame, SizeHint};
use poem::{
    Request,
    http::{HeaderMap, header},
};
use tokio::time::timeout;

/// How many bytes are thrown away at most.
const LIMIT: usize = 64 * 1024;

/// How long they may take to come.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the rest of a body is left when nobody wants it any more.
pub(super) struct Rest(Arc<Mutex<Option<BoxBody<Bytes, io::Error>>>>);

/// Whether a body comes without being asked for: who expects to be asked (`Expect`) sends nothing after a refusal.
pub(super) fn is_coming(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::EXPECT)
}

impl Rest {
    /// Takes care of the rest of this request's body.
    pub(super) fn of(request: &mut Request) -> Self {
        let body: BoxBody<Bytes, io::Error> = request.take_body().into();
        let rest = Self(Arc::default());
        request.set_body(poem::Body::from(Watched { body: Some(body), rest: rest.0.clone() }.boxed()));
        rest
    }

    /// What there is to be done about it after the request was answered.
    pub(super) fn drained(self) -> Option<impl Future<Output = ()> + Send> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(drain)
    }
}

/// Reads a body that nobody wants, within the limits. Then hyper goes on with the connection, or closes it.
pub(super) async fn drain(mut body: impl Body<Data = Bytes> + Unpin + Send) {
    let read = async {
        let mut length = 0;
        while length <= LIMIT
            && let Some(Ok(frame)) = body.frame().await
        {
            length += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_default();
}

/// A body on its way to whoever wants it.
struct Watched {
    /// Until all of it was read.
    body: Option<BoxBody<Bytes, io::Error>>,
    rest: Arc<Mutex<Option<BoxBody<Bytes, io::Error>>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
