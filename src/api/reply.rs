//! Answers, written by serde straight into bytes: the order of the fields is theirs, and JSON that is stored as text goes out as it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use poem::{
    IntoResponse, Response,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::queue::{
    Listing,
    jobs::{Answer, Submitted},
};

/// The header that tells how many things a list has on all its pages.
pub const TOTAL_COUNT: &str = "X-Total-Count";

const JSON: &str = "application/json";

/// 200 with a body.
#[derive(Debug)]
pub struct Reply<T>(pub T);

/// 201 with a body and where the new thing is.
#[derive(Debug)]
pub struct Created<T> {
    /// The new thing.
    pub body: T,
    /// Its path.
    pub location: String,
}

impl<T: Serialize> Created<T> {
    /// The same, as it is kept for a request that may come again.
    pub(super) fn to_answer(&self) -> Answer {
        let body = serde_json::to_string(&self.body).expect("answers are plain data");
        Answer { location: self.location.clone(), body }
    }
}

/// 201, of now or of a request that came before.
#[derive(Debug)]
pub struct Submission<T>(pub Submitted<Created<T>>);

impl<T: Serialize + Send> IntoResponse for Submission<T> {
    fn into_response(self) -> Response {
        match self.0 {
            Submitted::Now(created) => created.into_response(),
            Submitted::Before(Answer { location, body }) => {
                let body = RawValue::from_string(body).expect("what is kept is JSON");
                Created { body, location }.into_response()
            }
        }
    }
}

impl<T: Type> ApiResponse for Submission<T> {
    fn meta() -> MetaResponses {
        Created::<T>::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// 200 with a page of a list.
#[derive(Debug)]
pub struct Paged<T>(pub Listing<T>);

/// 204.
#[derive(Debug)]
pub struct Gone;

/// What every answer says to whoever keeps or shows it.
pub(super) fn protect(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = Bytes::from(serde_json::to_vec(body).expect("answers are plain data"));
    Response::builder().status(status).content_type(JSON).body(in_pieces(bytes))
}

/// A body of these bytes. A large one is sent piece by piece, so that a connection is not idle for hyper while most of it is still to be sent.
pub(super) fn in_pieces(bytes: Bytes) -> poem::Body {
    if bytes.len() > PIECE { Pieces(bytes).boxed().into() } else { poem::Body::from(bytes) }
}

/// How much of a body hyper is given at a time.
const PIECE: usize = 64 * 1024;

/// A large body. hyper lets go of a body when it has taken its last frame; from one in pieces it takes no more than it has room to send.
struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let length = self.0.len().min(PIECE);
        let piece = self.0.split_to(length);
        // The last one must not keep the memory of all of them.
        let piece = if self.0.is_empty() { Bytes::copy_from_slice(&piece) } else { piece };
        if self.0.is_empty() {
            self.0 = Bytes::new();
        }
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

impl<T: Serialize + Send> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

impl<T: Serialize + Send> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = json(StatusCode::CREATED, &self.body);
        let location = HeaderValue::from_str(&self.location).expect("paths of ids are ASCII");
        response.headers_mut().insert(header::LOCATION, location);
        response
    }
}

impl<T: Serialize + Send> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        let mut response = json(StatusCode::OK, &self.0.items);
        response.headers_mut().insert(TOTAL_COUNT, HeaderValue::from(self.0.total));
        response
    }
}

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl<T: Type> ApiResponse for Reply<T> {
    fn meta() -> MetaResponses {
        response(200, "Done.", vec![MetaMediaType { content_type: JSON, schema: T::schema_ref() }], Vec::new())
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Type> ApiResponse for Created<T> {
    fn meta() -> MetaResponses {
        let location = text_header("Location", "The path of what was made.", String::schema_ref());
        response(201, "Made.", vec![MetaMediaType { content_type: JSON, schema: T::schema_ref() }], vec![location])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Type> ApiResponse for Paged<T> {
    fn meta() -> MetaResponses {
        let total = text_header(TOTAL_COUNT, "How many there are on all pages together.", i64::schema_ref());
        let content = vec![MetaMediaType { content_type: JSON, schema: Vec::<T>::schema_ref() }];
        response(200, "A page of the list, in the order of ids.", content, vec![total])
    }

    fn register(registry: &mut Registry) {
        Vec::<T>::register(registry);
    }
}

impl ApiResponse for Gone {
    fn meta() -> MetaResponses {
        response(204, "Deleted.", Vec::new(), Vec::new())
    }

    fn register(_registry: &mut Registry) {}
}

fn response(status: u16, description: &'static str, content: Vec<MetaMediaType>, headers: Vec<MetaHeader>) -> MetaResponses {
    MetaResponses { responses: vec![MetaResponse { description, status: Some(status), status_range: None, content, headers }] }
}

pub(super) fn text_header(name: &str, description: &str, schema: poem_openapi::registry::MetaSchemaRef) -> MetaHeader {
    MetaHeader { name: name.to_owned(), description: Some(description.to_owned()), required: true, deprecated: false, schema }
}
